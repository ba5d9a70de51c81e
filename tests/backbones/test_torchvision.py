"""torchvision's networks: that they are cut at the right places, and their weights."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from torch import nn

from visionkit.backbones import Torchvision
from visionkit.backbones.torchvision import DILATABLE, NAMES
from visionkit.config import build, compose, configs_folder
from visionkit.errors import CheckpointError, ConfigError

WEIGHTS = Path(__file__).parents[2] / "../shared/data/weights"
FAMILIES = [
    "resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "regnet_x_400mf", "shufflenet_v2_x0_5",
    "convnext_tiny", "densenet121", "squeezenet1_1",
]  # fmt: skip
CHANNELS = {
    "resnet34": [64, 128, 256, 512],
    "resnet50": [256, 512, 1024, 2048],
    "resnext101_32x8d": [256, 512, 1024, 2048],
    "wide_resnet50_2": [256, 512, 1024, 2048],
    "mobilenet_v2": [24, 32, 96, 1280],
    "mobilenet_v3_large": [24, 40, 112, 960],
    "efficientnet_b0": [24, 40, 112, 1280],
    "efficientnet_v2_s": [48, 64, 160, 1280],
    "regnet_y_400mf": [48, 104, 208, 440],
    "shufflenet_v2_x1_0": [24, 116, 232, 1024],
    "convnext_tiny": [96, 192, 384, 768],
    "densenet121": [256, 512, 1024, 1024],
    "squeezenet1_0": [256, 512, 512],
}


@pytest.fixture
def no_initial_values(monkeypatch):
    """Leave new weights as the memory is: large networks are built at once, and take no memory."""
    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)


def whole_network(name, classes=7):
    torch.manual_seed(0)
    whole = torchvision.models.get_model(name, num_classes=classes).eval()
    if name.startswith("squeezenet"):  # as the backbone pads it
        whole.features[0].padding = (1, 1)
        for module in whole.modules():
            if isinstance(module, nn.MaxPool2d):
                module.padding, module.ceil_mode = 1, False
    return whole


def saved(path, network):
    torch.save(network.state_dict(), path)
    return str(path)


# --------------------------------------------------------------------------------------------------- where it is cut
@pytest.mark.parametrize("name", NAMES)
def test_out_specs_of_every_network_are_true_on_odd_sizes(name, no_initial_values):
    node = OmegaConf.to_container(OmegaConf.load(configs_folder() / "backbone" / f"{name}.yaml"))
    assert node.pop("weights") == "${backbone_weights:${weights}}"
    backbone = build(node).eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 33, 31))
    strides = [4, 8, 16] if name.startswith("squeezenet") else [4, 8, 16, 32]
    assert {level: spec.stride for level, spec in backbone.out_specs.items()} == dict(
        zip(("c2", "c3", "c4", "c5"), strides, strict=False)
    )
    channels = [spec.channels for spec in backbone.out_specs.values()]
    assert channels == CHANNELS.get(name, channels)
    assert [tuple(x.shape) for x in features.values()] == [
        (1, count, -(-33 // stride), -(-31 // stride)) for count, stride in zip(channels, strides, strict=True)
    ]


def test_every_network_has_its_configuration_and_says_whether_it_can_be_dilated():
    files = {file.stem: OmegaConf.load(file) for file in (configs_folder() / "backbone").glob("*.yaml")}
    ours = {name: node for name, node in files.items() if node.get("_target_") == "visionkit.backbones.Torchvision"}
    assert sorted(ours) == sorted(NAMES)
    assert all(node.name == name for name, node in ours.items())
    assert all(("output_stride" in node) == name.startswith(DILATABLE) for name, node in ours.items())


@pytest.mark.parametrize(
    ("typed", "spec"),
    [
        (["backbone=convnext_tiny"], (768, 32)),
        (["backbone=mobilenet_v3_small", "model.backbone.output_stride=8"], (576, 8)),
    ],
)
def test_is_chosen_by_name_on_the_command_line(typed, spec, no_initial_values):
    backbone = build(compose("train", ["task=detect", *typed]).model.backbone)
    assert (backbone.out_specs["c5"].channels, backbone.out_specs["c5"].stride) == spec


@pytest.mark.parametrize("name", FAMILIES)
def test_is_torchvisions_own_network_without_its_classifier(name, tmp_path):
    whole = whole_network(name)  # a classifier of other classes does not matter
    backbone = Torchvision(name, weights=saved(tmp_path / "own.pth", whole)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        last = list(backbone(images).values())[-1]
        if name.startswith("squeezenet"):
            logits = whole.classifier(last).flatten(1)
        elif name.startswith("convnext"):
            logits = whole.classifier(last.mean((-2, -1), keepdim=True))
        else:
            classifier = whole.fc if hasattr(whole, "fc") else whole.classifier
            logits = classifier(last.mean((-2, -1)))
        assert logits.std() > 0
        torch.testing.assert_close(logits, whole(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet_b0", "regnet_y_400mf", "convnext_tiny", "densenet121"])
def test_every_parameter_gets_a_gradient_and_no_level_is_changed_by_the_next_stage(name):
    torch.manual_seed(0)
    backbone = Torchvision(name).eval()
    images = torch.randn(2, 3, 64, 64)
    levels = backbone(images)
    sum(level.square().mean() for level in levels.values()).backward()
    assert [key for key, value in backbone.named_parameters() if value.grad is None or not value.grad.any()] == []
    for level in ("c4", "c3", "c2"):
        backbone.trim(level)
        with torch.no_grad():
            assert torch.equal(backbone(images)[level], levels[level])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_is_cut_just_before_the_stride_doubles(name):
    for level, stage in list(Torchvision(name).stages.items())[1:]:
        first = stage[0][0] if name == "resnet18" else stage[0]
        strides = {module.stride for module in first.modules() if isinstance(module, nn.Conv2d)}
        assert (2, 2) in strides, level


def test_building_leaves_statistics_and_mode_as_they_were():
    backbone = Torchvision("mobilenet_v3_small")
    assert all(module.training for module in backbone.modules())
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(int(norm.num_batches_tracked) == 0 and not norm.running_mean.any() for norm in norms)


# ---------------------------------------------------------------------------------------------------------- dilation
def test_a_dilated_resnet_is_torchvisions_own(tmp_path):
    torch.manual_seed(0)
    own = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    backbone = Torchvision("resnet50", weights=saved(tmp_path / "own.pth", own), output_stride=8).eval()
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        body = nn.Sequential(*list(own.children())[:-2])
        torch.testing.assert_close(backbone(images)["c5"], body(images))
    assert [spec.stride for spec in backbone.out_specs.values()] == [4, 8, 8, 8]


@pytest.mark.parametrize(
    "name",
    ["resnet18", "regnet_y_400mf", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5"],
)
def test_a_dilated_network_computes_the_same_at_the_places_of_the_strided_one(name):
    strided = Torchvision(name).double().eval()
    for key, value in strided.named_parameters():
        if ".fc2." in key:
            nn.init.zeros_(value)  # squeeze and excitation averages over the cells, of which there are now more
    images = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        wanted = strided(images)
    for output_stride in (16, 8):
        dilated = Torchvision(name, output_stride=output_stride).double().eval()
        dilated.load_state_dict(strided.state_dict())
        with torch.no_grad():
            for level, x in dilated(images).items():
                stride = strided.out_specs[level].stride
                step = max(1, stride // output_stride)
                assert dilated.out_specs[level].stride == min(stride, output_stride)
                torch.testing.assert_close(x[..., ::step, ::step], wanted[level])


def test_what_cannot_be_dilated_is_refused():
    with pytest.raises(ConfigError, match="convnext_tiny cannot be dilated; use output_stride=32, or one of ResNet"):
        Torchvision("convnext_tiny", output_stride=16)
    with pytest.raises(ConfigError, match="output_stride=4 must be 8, 16 or 32"):
        Torchvision("resnet18", output_stride=4)


# ----------------------------------------------------------------------------------------------------------- weights
@pytest.mark.parametrize("file", ["mobilenet_v2_imagenet_fp16.pth", "squeezenet1_1_imagenet.pth"])
def test_a_published_file_loads(file):
    path = WEIGHTS / file
    if not path.exists():
        pytest.skip("the weights beside the project are not here")
    backbone = Torchvision(file.partition("_imagenet")[0], weights=str(path)).eval()
    assert {value.dtype for value in backbone.parameters()} == {torch.float32}
    saved_state = torch.load(path, weights_only=True)
    first = next(value for name, value in saved_state.items() if name.startswith("features"))
    assert torch.equal(next(backbone.parameters()).detach(), first.float())
    with torch.no_grad():
        assert all(level.isfinite().all() for level in backbone(torch.randn(1, 3, 64, 64)).values())
    with pytest.raises(CheckpointError, match=r"do not fit ResNet \(lacks: "):
        Torchvision("resnet18", weights=str(path))


def test_the_names_in_densenets_published_files_are_understood(tmp_path):
    whole = whole_network("densenet121")
    old = {re.sub(r"(denselayer\d+\.[a-z]+)(\d)", r"\1.\2", name): value for name, value in whole.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    backbone = Torchvision("densenet121", weights=str(tmp_path / "old.pth"))
    layer = whole.features.denseblock4.denselayer16
    assert torch.equal(backbone.stages["c5"].denseblock4.denselayer16.conv2.weight, layer.conv2.weight)


def test_an_unknown_network_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"'resnet5' is none of .*did you mean 'resnet50'"):
        Torchvision("resnet5")
    with pytest.raises(ConfigError, match=r"'vit_b_16' is none of "):
        Torchvision("vit_b_16")


def test_unknown_published_weights_are_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"weights=IMAGENET1K_V3: neither a file nor .*'IMAGENET1K_V[12]'"):
        Torchvision("resnet50", weights="IMAGENET1K_V3")


def test_a_failed_download_says_what_to_fetch(monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", fail)
    with pytest.raises(CheckpointError, match=r"weights=DEFAULT: the download of https.*resnet18.*failed .*no route"):
        Torchvision("resnet18", weights="DEFAULT")


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
