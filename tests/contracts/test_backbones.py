"""The contract of every backbone. A new one is a row of `CASES`."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from visionkit.backbones import CSP, Plain, Timm, Torchvision
from visionkit.backbones.weights import load_weights
from visionkit.errors import CheckpointError
from visionkit.interfaces import Backbone
from visionkit.structures import FeatureSpec

PLAIN = [
    layer
    for filters in (8, 16, 16, 24)
    for layer in (
        {"conv": {"filters": filters, "kernel": 3, "padding": "same", "activation": "relu"}},
        {"pool": {"size": 2, "padding": "same"}},
    )
]
CASES = {
    "plain": partial(Plain, [*PLAIN, "flatten", "dense", "softmax"], image_size=64),
    "plain, strided": partial(
        Plain,
        [
            {"conv": {"filters": 8, "kernel": 4, "stride": 2}},
            {"batchnorm": {"activation": "relu"}},
            {"conv": {"filters": 8, "kernel": 3, "stride": 2, "padding": 1, "activation": "tanh"}},
            {"pool": {"kind": "average", "size": 3, "stride": 2, "padding": "same"}},
            {"conv": {"filters": 8, "kernel": 7, "stride": 2, "padding": "same", "activation": "sigmoid"}},
        ],
        image_size=(96, 64),
    ),
    "csp_nano": partial(CSP, "nano", width=0.25),
    "resnet18": partial(Torchvision, "resnet18"),
    "mobilenet_v2": partial(Torchvision, "mobilenet_v2"),
    "mobilenet_v3_small dilated": partial(Torchvision, "mobilenet_v3_small", output_stride=16),
    "shufflenet_v2_x0_5": partial(Torchvision, "shufflenet_v2_x0_5"),
    "squeezenet1_1": partial(Torchvision, "squeezenet1_1"),
    "timm lcnet_035": partial(Timm, "lcnet_035"),
    "timm convnext_atto": partial(Timm, "convnext_atto"),
}


@pytest.fixture(params=CASES)
def make(request):
    if request.param.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return CASES[request.param]


def test_has_the_members_of_the_protocol(make):
    backbone = make()
    assert isinstance(backbone, Backbone)
    assert isinstance(backbone, torch.nn.Module)
    assert all(isinstance(spec, FeatureSpec) for spec in backbone.out_specs.values())


def test_levels_are_ordered_fine_to_coarse(make):
    specs = make().out_specs
    numbers = [int(name.removeprefix("c")) for name in specs]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert numbers[0] <= 2 < 4 <= numbers[-1]
    coarsest = max(spec.stride for spec in specs.values())
    assert [spec.stride for spec in specs.values()] == [min(2**number, coarsest) for number in numbers]


@pytest.mark.parametrize("size", [(64, 64), (97, 130), (33, 31)])
def test_out_specs_are_true_on_any_size(make, size):
    backbone = make().eval()
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, *size))
    assert list(features) == list(backbone.out_specs)
    for name, spec in backbone.out_specs.items():
        cells = tuple(-(-side // spec.stride) for side in size)
        assert features[name].shape == (2, spec.channels, *cells), name
        assert features[name].isfinite().all()


def test_every_parameter_gets_a_gradient(make):
    backbone = make()
    sum(level.square().mean() for level in backbone(torch.randn(2, 3, 96, 64)).values()).backward()
    without = [name for name, value in backbone.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


def test_what_is_left_after_trimming_is_unchanged_and_gets_a_gradient(make):
    backbone = make().eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        before = backbone(images)
    kept = list(before)[:-1]
    backbone.trim(kept[-1])
    after = backbone.eval()(images)
    assert list(after) == list(backbone.out_specs) == kept
    assert all(torch.equal(after[name], before[name]) for name in kept)
    sum(level.square().mean() for level in backbone.train()(images).values()).backward()
    learning = {name: value for name, value in backbone.named_parameters() if value.requires_grad}
    assert learning
    assert [name for name, value in learning.items() if value.grad is None] == []


@pytest.mark.parametrize("channels", [1, 5])
def test_takes_images_of_other_channels(make, channels):
    backbone = make(in_channels=channels)
    features = backbone(torch.randn(2, channels, 64, 64))
    assert list(features) == list(backbone.out_specs)
    first = next(backbone.parameters()).detach()
    assert first.shape[1] == channels
    assert 0.01 < float(first.std()) < 1


def test_images_do_not_touch_each_other_in_evaluation(make):
    backbone = make().double().eval()
    images = torch.randn(3, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        together, alone = backbone(images), backbone(images[1:2])
    for name, level in alone.items():
        assert torch.allclose(together[name][1:2], level)


def test_state_dict_round_trip(make):
    first, second = make().eval(), make().eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        second.load_state_dict(first.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(first(images).values(), second(images).values(), strict=True))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_file_round_trip(make, tmp_path, suffix):
    first, second = make(), make()
    with torch.no_grad():
        for value in first.parameters():
            value.add_(0.1)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(first.state_dict(), path)
    else:
        torch.save(first.state_dict(), path)
    load_weights(second, path)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_missing_weights_file_is_refused(make, tmp_path):
    with pytest.raises(CheckpointError, match=r"weights=.*gone\.pth: there is no such file; .*weights=none"):
        make(weights=str(tmp_path / "gone.pth"))


def test_documents_its_arguments(make):
    kind = type(make())
    said = inspect.getdoc(kind)
    assert all(f"{name}:" in said for name in inspect.signature(kind).parameters)


def test_autocast_is_finite(make):
    backbone = make()
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone(torch.randn(2, 3, 64, 64))
    sum(level.float().mean() for level in features.values()).backward()
    assert all(value.grad.isfinite().all() for value in backbone.parameters())
