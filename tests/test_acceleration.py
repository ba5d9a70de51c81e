"""A faster copy says the same."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

from visionkit.acceleration import Graphs, accelerated, fold_norms
from visionkit.backbones import CSP
from visionkit.blocks import ConvNorm
from visionkit.errors import UserError
from visionkit.heads import DenseInstance, LinearClassification, ObjectLocalization, SemanticSegmentation
from visionkit.model import VisionModel
from visionkit.necks import PAFPN
from visionkit.preprocess import Preprocess
from visionkit.structures import Geometry


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    backbone = CSP("nano", width=0.25)
    neck = PAFPN(backbone.out_specs, out_levels=("p3", "p4", "p5", "pixels"), channels=32)
    specs = {**backbone.out_specs, **neck.out_specs}
    classes = ("a", "b", "c")
    heads = {
        "classification": LinearClassification(specs, classes=classes),
        "localization": ObjectLocalization(specs, classes=classes),
        "instance": DenseInstance(specs, classes=classes),
        "semantic": SemanticSegmentation(specs, classes=classes),
    }
    made = VisionModel(backbone, neck, heads, preprocess=Preprocess(64)).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return made


IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
SIZES = torch.tensor([[64, 64], [48, 64]])


def difference(one, other):
    """The largest of all raw tensors, relative to the largest value."""
    worst = 0.0
    for head, raw in one.items():
        pairs = [(raw, other[head])] if isinstance(raw, torch.Tensor) else [(raw[key], other[head][key]) for key in raw]
        worst = max([worst, *(((a.float() - b.float()).abs().max() / a.abs().max()).item() for a, b in pairs)])
    return worst


def test_folded_norms_change_nothing_but_rounding(model):
    before = copy.deepcopy(model.state_dict())
    faster = accelerated(model, "fp32")
    assert not any(isinstance(one, nn.BatchNorm2d) for one in faster.backbone.modules())
    with torch.inference_mode():
        assert difference(model.outputs(IMAGES, SIZES), faster.outputs(IMAGES, SIZES)) < 1e-4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_half_precision_is_near_and_its_predictions_are_whole(model):
    faster = accelerated(model, "bf16")
    assert {one.dtype for one in faster.backbone.parameters()} == {torch.bfloat16}
    with torch.inference_mode():
        assert difference(model.outputs(IMAGES, SIZES), faster.outputs(IMAGES, SIZES)) < 0.1
    geometries = [Geometry((64, 64), (64, 64), (1.0, 1.0)), Geometry((24, 32), (48, 64), (2.0, 2.0))]
    for expected, found in zip(*(one.predict(IMAGES, SIZES, geometries) for one in (model, faster)), strict=True):
        assert found["classification"].scores == pytest.approx(expected["classification"].scores, abs=0.02)
        assert found["localization"].scores == pytest.approx(expected["localization"].scores, abs=0.02)
        assert (found["semantic"].classes == expected["semantic"].classes).mean() > 0.8
        assert len(found["instance"]) > 0
        assert found["instance"].boxes.dtype == found["instance"].scores.dtype == "float32"


def test_a_norm_that_is_no_convolutions_next_stays():
    sequence = nn.Sequential(nn.BatchNorm2d(3), ConvNorm(3, 4, 3), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    fold_norms(sequence.eval())
    assert [type(one) for one in sequence[1]] == [nn.Conv2d, nn.Identity, nn.SiLU]
    assert isinstance(sequence[0], nn.BatchNorm2d)
    assert isinstance(sequence[4], nn.BatchNorm2d)


def test_an_unknown_precision_is_named(model):
    with pytest.raises(UserError, match=r"precision=fp61: one of fp32, bf16, fp16 \(did you mean 'fp16'\?\) is wanted"):
        accelerated(model, "fp61")


@pytest.mark.gpu
def test_graphs_give_what_the_model_gives(model):
    model = copy.deepcopy(model).cuda()
    graphs = Graphs(model.outputs)
    with torch.inference_mode():
        for count in (2, 1, 2):
            images, sizes = IMAGES[:count].cuda(), SIZES[:count].cuda()
            first = graphs(images, sizes)
            kept = copy.deepcopy(first)
            graphs(255 - images, sizes)  # must not write into what was given out
            assert difference(first, kept) == 0
            assert difference(first, model.outputs(images, sizes)) < 1e-5


@pytest.mark.gpu
def test_decoding_is_recorded_with_the_network(model):
    """With heads of one's own it is not; where suppression waits for the device, neither, and the answers are alike."""
    faster = accelerated(copy.deepcopy(model).cuda(), "fp16")
    launched = functools.partial(VisionModel.decoded, faster)
    for count in (2, 1, 2):
        images, sizes = IMAGES[:count].cuda(), SIZES[:count].cuda()
        expected = launched(images, sizes)
        found = faster.decoded(images, sizes)
        kept = copy.deepcopy(found)
        faster.decoded(255 - images, sizes)  # must not write into what was given out
        assert {name: list(one) for name, one in found.items()} == {name: list(one) for name, one in expected.items()}
        for head, decoded in found.items():
            for name, value in decoded.items():
                assert torch.equal(value, kept[head][name])
                torch.testing.assert_close(value, expected[head][name], rtol=1e-2, atol=1e-2)
    assert len(faster.decoded.recorded) == 2
    assert not faster.decoded.refused


@pytest.mark.gpu
def test_what_waits_for_the_device_is_launched():
    assert torch.cuda.get_sync_debug_mode() == 0
    graphs = Graphs(lambda images, sizes: {"sum": images.float().sum() if images.any() else images.float().amax()})
    images = torch.ones(1, 3, 8, 8, dtype=torch.uint8, device="cuda")
    assert graphs(images, SIZES[:1])["sum"].item() == 192
    assert graphs.refused
    assert not graphs.recorded
    assert torch.cuda.get_sync_debug_mode() == 0
