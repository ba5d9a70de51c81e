"""A faster copy says the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from visionkit import acceleration
from visionkit.acceleration import DecodedGraphs, Graphs, accelerated, fold_norms
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


def whole(graphs, images, sizes):
    decoded, corrected = graphs(images, sizes)
    return {**decoded, **corrected()}


class OnTheHost:
    """What `_Recorded` is on a GPU, computed anew: each call writes into the memory of the first."""

    def __init__(self, function, images, sizes):
        self.function, self.given = function, self._copied(function(images, sizes))

    def __call__(self, images, sizes):
        self._write(self.given, self.function(images, sizes))
        return self.given

    def _copied(self, given):
        if isinstance(given, dict):
            return {name: self._copied(value) for name, value in given.items()}
        return given.clone() if isinstance(given, torch.Tensor) else given

    def _write(self, memory, values):
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                memory[name].copy_(value)
            elif isinstance(value, dict):
                self._write(memory[name], value)


def decoded_alike(one, other):
    """Are the rows that count the same, to the bit, and whatever counts without them?"""
    for name, tensors in one.items():
        valid = tensors.get("valid")
        assert valid is None or torch.equal(valid, other[name]["valid"])
        for key, value in tensors.items():
            rows = valid if valid is not None and value.shape[:2] == valid.shape else slice(None)
            assert torch.equal(value[rows], other[name][key][rows]), (name, key)


@pytest.fixture
def host_graphs(monkeypatch):
    monkeypatch.setattr(acceleration, "_Recorded", OnTheHost)


def test_decoding_in_the_graph_gives_what_the_heads_decode(model, host_graphs):
    graphs = DecodedGraphs(model.outputs, dict(model.named_heads()))
    for images in (IMAGES, 255 - IMAGES, IMAGES[:1]):
        sizes = SIZES[: len(images)]
        decoded_alike(model.decoded(images, sizes), whole(graphs, images, sizes))
    assert set(graphs.recorded.by_shape) == {(2, 3, 64, 64), (1, 3, 64, 64)}


def test_the_next_replay_does_not_write_into_what_was_given_out(model, host_graphs):
    graphs = DecodedGraphs(model.outputs, dict(model.named_heads()))
    first = whole(graphs, IMAGES, SIZES)
    kept = copy.deepcopy(first)
    whole(graphs, 255 - IMAGES, SIZES)
    decoded_alike(kept, first)


def test_suppression_that_was_not_done_is_done_again(model, host_graphs, monkeypatch):
    monkeypatch.setattr("visionkit.ops.boxes._UNWATCHED_ROUNDS", 1)
    graphs, expected = DecodedGraphs(model.outputs, dict(model.named_heads())), model.decoded(IMAGES, SIZES)
    decodes = []
    decode = DenseInstance.decode
    monkeypatch.setattr(DenseInstance, "decode", lambda *given: decodes.append(1) or decode(*given))
    decoded_alike(expected, whole(graphs, IMAGES, SIZES))
    made = graphs.recorded.by_shape[IMAGES.shape].given
    assert (made["looked"], made["again"].tolist()) == (("instance",), [True])
    assert not torch.equal(made["decoded"]["instance"]["valid"], expected["instance"]["valid"])
    assert len(decodes) == 3  # recorded, replayed, anew


def test_predictions_are_corrected_where_suppression_was_not_done(model, host_graphs, monkeypatch):
    geometries = [Geometry((64, 64), (64, 64), (1.0, 1.0)), Geometry((24, 32), (48, 64), (2.0, 2.0))]
    expected = model.predict(IMAGES, SIZES, geometries)
    graphs = DecodedGraphs(model.outputs, dict(model.named_heads()))
    monkeypatch.setattr(model, "start_decoded", graphs)
    for rounds in (1, 12):
        graphs.recorded.by_shape.clear()
        monkeypatch.setattr("visionkit.ops.boxes._UNWATCHED_ROUNDS", rounds)
        for wanted, found in zip(expected, model.predict(IMAGES, SIZES, geometries), strict=True):
            assert list(found) == list(wanted)
            assert (found["instance"].boxes == wanted["instance"].boxes).all()
            assert (found["instance"].coefficients == wanted["instance"].coefficients).all()
            assert (found["localization"].box == wanted["localization"].box).all()
            assert (found["semantic"].classes == wanted["semantic"].classes).all()


def test_more_shapes_than_may_be_recorded_are_decoded_without(model, host_graphs, monkeypatch):
    monkeypatch.setattr(acceleration, "_MOST_SHAPES", 1)
    graphs = DecodedGraphs(model.outputs, dict(model.named_heads()))
    graphs(IMAGES, SIZES)
    decoded_alike(model.decoded(IMAGES[:1], SIZES[:1]), whole(graphs, IMAGES[:1], SIZES[:1]))
    assert set(graphs.recorded.by_shape) == {IMAGES.shape}


def test_of_many_images_the_network_alone_is_recorded(model, host_graphs, monkeypatch):
    monkeypatch.setattr(acceleration, "_MOST_IMAGES", 1)
    graphs = DecodedGraphs(model.outputs, dict(model.named_heads()), larger=Graphs(model.outputs))
    for images in (IMAGES, IMAGES[:1]):
        sizes = SIZES[: len(images)]
        decoded_alike(model.decoded(images, sizes), whole(graphs, images, sizes))
    assert set(graphs.recorded.by_shape) == {(1, 3, 64, 64)}
    assert set(graphs.larger.recorded.by_shape) == {(2, 3, 64, 64)}


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
def test_graphs_of_decoding_give_what_the_heads_decode(model):
    model = copy.deepcopy(model).cuda()
    graphs = DecodedGraphs(model.outputs, dict(model.named_heads()))
    with torch.inference_mode():
        for count in (2, 1, 2):
            images, sizes = IMAGES[:count].cuda(), SIZES[:count].cuda()
            first = whole(graphs, images, sizes)
            kept = copy.deepcopy(first)
            whole(graphs, 255 - images, sizes)
            decoded_alike(kept, first)
            near(model.decoded(images, sizes), first)


@pytest.mark.gpu
@pytest.mark.parametrize("rounds", [1, 12])
def test_an_accelerated_model_predicts_from_its_graphs(model, monkeypatch, rounds):
    monkeypatch.setattr("visionkit.ops.boxes._UNWATCHED_ROUNDS", rounds)
    faster = accelerated(copy.deepcopy(model).cuda(), "bf16")
    images, sizes = IMAGES.cuda(), SIZES.cuda()
    geometries = [Geometry((64, 64), (64, 64), (1.0, 1.0)), Geometry((24, 32), (48, 64), (2.0, 2.0))]
    graphs = faster.start_decoded
    found = [faster.predict(images, sizes, geometries) for _ in range(3)]
    assert isinstance(graphs, DecodedGraphs)
    assert set(graphs.recorded.by_shape) == {images.shape}
    with torch.inference_mode():
        raw = graphs.outputs(images, sizes)
        decoded = {name: head.decode(raw[name], sizes) for name, head in faster.named_heads()}
        expected = {name: head.finish(decoded[name], geometries) for name, head in faster.named_heads()}
    for predictions in found:
        for i in range(2):
            one = predictions[i]
            assert one["classification"].scores == pytest.approx(expected["classification"][i].scores, abs=1e-3)
            assert (one["semantic"].classes == expected["semantic"][i].classes).mean() > 0.99
            wanted = expected["instance"][i]
            assert len(one["instance"]) == pytest.approx(len(wanted), abs=2)
            assert one["instance"].scores[:5] == pytest.approx(wanted.scores[:5], abs=1e-3)


def near(one, other):
    """Graphs may take other kernels: scores within a hundred-thousandth, as many boxes within two an image."""
    for name, tensors in one.items():
        if name == "instance":
            counts = [decoded[name]["valid"].sum(1) for decoded in (one, other)]
            assert (counts[0] - counts[1]).abs().max() <= 2
            assert torch.allclose(tensors["scores"][:, :5], other[name]["scores"][:, :5], atol=1e-4)
        else:
            assert all(torch.allclose(value, other[name][key], atol=1e-3) for key, value in tensors.items())


class Waiting(LinearClassification):
    def decode(self, raw, sizes):
        return {"scores": super().decode(raw, sizes)["scores"] * sizes.sum().gt(0).item()}


@pytest.mark.gpu
def test_a_head_of_ones_own_may_wait_while_it_decodes(model):
    own = copy.deepcopy(model)
    own.heads["classification"] = Waiting(own.backbone.out_specs, classes=("a", "b", "c"))
    faster = accelerated(own.cuda().eval(), "bf16")
    geometries = [Geometry((64, 64), (64, 64), (1.0, 1.0)), Geometry((24, 32), (48, 64), (2.0, 2.0))]
    for predictions in faster.predict(IMAGES.cuda(), SIZES.cuda(), geometries):
        assert predictions["classification"].scores.sum() == pytest.approx(1, abs=1e-3)
    assert not isinstance(faster.start_decoded, DecodedGraphs)
