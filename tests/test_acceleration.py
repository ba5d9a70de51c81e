"""A faster copy says the same."""

from __future__ import annotations

import copy
import functools
import threading
import time

import pytest
import torch
from torch import nn

from visionkit import acceleration
from visionkit.acceleration import Graphs, accelerated, fold_norms
from visionkit.backbones import CSP
from visionkit.blocks import ConvNorm
from visionkit.errors import UserError
from visionkit.heads import DenseInstance, LinearClassification, ObjectLocalization, SemanticSegmentation
from visionkit.model import VisionModel
from visionkit.necks import PAFPN
from visionkit.ops import boxes as box_ops
from visionkit.preprocess import Preprocess
from visionkit.recording import warm_up
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
def test_where_suppression_waits_only_the_network_is_recorded(model, monkeypatch):
    monkeypatch.setattr(box_ops, "_kernel", lambda device: None)
    faster = accelerated(copy.deepcopy(model).cuda(), "fp16")
    found = faster.decoded(IMAGES.cuda(), SIZES.cuda())
    assert faster.decoded.refused
    assert len(faster.outputs.recorded) == 1
    expected = VisionModel.decoded(faster, IMAGES.cuda(), SIZES.cuda())
    torch.testing.assert_close(found["instance"]["boxes"], expected["instance"]["boxes"], rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
def test_decoding_of_a_head_of_ones_own_is_not_recorded(model, monkeypatch):
    monkeypatch.setattr(LinearClassification, "__module__", "mine")
    assert "decoded" not in vars(accelerated(copy.deepcopy(model).cuda(), "fp16"))


@pytest.mark.gpu
def test_more_shapes_than_are_recorded_are_launched(monkeypatch):
    monkeypatch.setattr(acceleration, "_MOST_SHAPES", 1)
    graphs = Graphs(lambda images, sizes: {"sum": images.float().sum() + sizes.sum()})
    for count in (1, 2, 1):
        images = torch.ones(count, 3, 8, 8, dtype=torch.uint8, device="cuda")
        assert graphs(images, SIZES[:count])["sum"].item() == images.sum() + SIZES[:count].sum()
    assert len(graphs.recorded) == 1


def test_of_two_threads_one_at_a_time_forbids_waiting(monkeypatch):
    """Torch's mode is one for all: put back while another has changed it, it would stay changed."""
    mode = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: mode[0])
    monkeypatch.setattr(
        torch.cuda, "set_sync_debug_mode", lambda one: mode.__setitem__(0, 2 if one == "error" else one)
    )
    threads = [threading.Thread(target=warm_up, args=(lambda: time.sleep(0.01),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mode == [0]


@pytest.mark.gpu
def test_what_waits_for_the_device_is_launched():
    assert torch.cuda.get_sync_debug_mode() == 0
    graphs = Graphs(lambda images, sizes: {"sum": images.float().sum() if images.any() else images.float().amax()})
    images = torch.ones(1, 3, 8, 8, dtype=torch.uint8, device="cuda")
    assert graphs(images, SIZES[:1])["sum"].item() == 192
    assert graphs.refused
    assert not graphs.recorded
    assert torch.cuda.get_sync_debug_mode() == 0
