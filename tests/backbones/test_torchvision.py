"""torchvision's networks: that they are cut at the right places, and their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from visionkit.backbones import Torchvision
from visionkit.errors import CheckpointError, ConfigError

WEIGHTS = Path(__file__).parents[2] / "../shared/data/weights"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_is_torchvisions_own_network_without_its_classifier(name, tmp_path):
    whole = torchvision.models.get_model(name, num_classes=7).eval()
    path = tmp_path / "own.pth"
    torch.save(whole.state_dict(), path)  # a classifier of other classes does not matter
    backbone = Torchvision(name, weights=str(path)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = backbone(images)["c5"].mean((-2, -1))
        classifier = whole.fc if name == "resnet18" else whole.classifier
        assert torch.allclose(classifier(pooled), whole(images), atol=1e-5)


def test_the_published_half_precision_file_loads():
    path = WEIGHTS / "mobilenet_v2_imagenet_fp16.pth"
    if not path.exists():
        pytest.skip("the weights beside the project are not here")
    backbone = Torchvision("mobilenet_v2", weights=str(path)).eval()
    assert {value.dtype for value in backbone.parameters()} == {torch.float32}
    saved = torch.load(path, weights_only=True)["features.0.0.weight"]
    assert torch.equal(next(backbone.parameters()).detach(), saved.float())
    with torch.no_grad():
        assert all(level.isfinite().all() for level in backbone(torch.randn(1, 3, 64, 64)).values())
    with pytest.raises(CheckpointError, match=r"do not fit ResNet \(lacks: "):
        Torchvision("resnet18", weights=str(path))


def test_channels_of_the_levels():
    channels = {
        name: [spec.channels for spec in Torchvision(name).out_specs.values()] for name in ("resnet50", "mobilenet_v2")
    }
    assert channels == {"resnet50": [256, 512, 1024, 2048], "mobilenet_v2": [24, 32, 96, 1280]}
    with torch.no_grad():
        levels = Torchvision("resnet50").eval()(torch.randn(1, 3, 97, 130))
    assert [tuple(level.shape[1:]) for level in levels.values()] == [
        (256, 25, 33),
        (512, 13, 17),
        (1024, 7, 9),
        (2048, 4, 5),
    ]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_is_cut_just_before_the_stride_doubles(name):
    for level, stage in list(Torchvision(name).stages.items())[1:]:
        first = stage[0][0] if name == "resnet18" else stage[0]
        strides = {module.stride for module in first.modules() if isinstance(module, torch.nn.Conv2d)}
        assert (2, 2) in strides, level


def test_an_unknown_network_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"'resnet5' is none of .*did you mean 'resnet50'"):
        Torchvision("resnet5")


def test_unknown_published_weights_are_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"weights=IMAGENET1K_V3: neither a file nor .*'IMAGENET1K_V[12]'"):
        Torchvision("resnet50", weights="IMAGENET1K_V3")


def test_weights_of_three_channels_are_refused_for_others_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match=r"weights for 3 channels cannot take 1; use weights=none"):
        Torchvision("resnet18", weights=str(tmp_path / "gone.pth"), in_channels=1)


def test_only_the_first_convolution_is_replaced_for_other_channels():
    backbone = Torchvision("mobilenet_v2", in_channels=5)
    whole = torchvision.models.mobilenet_v2()
    ours = [tuple(value.shape) for value in backbone.state_dict().values()]
    theirs = [tuple(value.shape) for name, value in whole.state_dict().items() if name.startswith("features")]
    assert ours[0] == (32, 5, 3, 3)
    assert ours[1:] == theirs[1:]
