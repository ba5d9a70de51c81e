"""VisionModel: what it joins, what it refuses, and what its losses are weighted with."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from visionkit.backbones import CSP
from visionkit.errors import ConfigError
from visionkit.heads import DenseDetection, LinearClassification
from visionkit.model import LossWeights, VisionModel
from visionkit.necks import PAFPN
from visionkit.predictions import Classification, Detections
from visionkit.preprocess import Preprocess
from visionkit.structures import Geometry, Targets

SIZE = (64, 96)


def parts():
    torch.manual_seed(0)
    backbone = CSP("nano", width=0.25)
    neck = PAFPN(backbone.out_specs, out_levels=("p3", "p4", "p5"), channels=16)
    heads = {
        "detection": DenseDetection(neck.out_specs, classes=["a", "b"]),
        "classification": LinearClassification(backbone.out_specs, classes=["x", "y", "z"]),
    }
    return backbone, neck, heads


def model_of(**options):
    backbone, neck, heads = parts()
    return VisionModel(backbone, neck, heads, preprocess=Preprocess(SIZE), **options)


def targets_of(count=2):
    boxes = torch.tensor([[[8.0, 8, 40, 40], [50, 20, 90, 60]]]).repeat(count, 1, 1)
    labels = torch.tensor([[0, 1]]).repeat(count, 1)
    sizes = torch.tensor([SIZE] * count)
    return Targets(sizes=sizes, boxes=boxes, labels=labels, class_scores=torch.eye(3)[:count])


def images(count=2):
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_losses_by_head_and_their_weighted_total():
    model = model_of()
    losses = {name: float(value.detach()) for name, value in model(images(), targets_of()).items()}
    assert set(losses) == {
        "detection/classification", "detection/box", "detection/distribution", "classification/cross_entropy", "total",
    }  # fmt: skip
    expected = losses["detection/classification"] + 2 * losses["detection/box"] + 0.5 * losses["detection/distribution"]
    assert losses["total"] == pytest.approx(expected + losses["classification/cross_entropy"], rel=1e-5)
    assert model.needs == {"boxes", "class_scores"}


def test_loss_weights_by_head_and_by_loss():
    _, _, heads = parts()
    losses = {
        name: torch.tensor(value)
        for name, value in {
            "detection/box": 10.0,
            "detection/classification": 1.0,
            "classification/cross_entropy": 3.0,
        }.items()
    }
    assert float(LossWeights(heads)(losses)) == 2 * 10 + 1 + 3
    assert float(LossWeights(heads, {"detection": 0.5})(losses)) == 0.5 * (2 * 10 + 1) + 3
    assert float(LossWeights(heads, {"detection/box": 7.0})(losses)) == 7 * 10 + 1 + 3
    assert float(LossWeights(heads, {"detection/box": 7.0, "detection": 2.0})(losses)) == 2 * (7 * 10 + 1) + 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("detction", r"loss_weights\.detction: no head of that name \(did you mean 'detection'\?\)"),
        ("detction/box", r"no head of that name \(did you mean 'detection/box'\?\)"),
        ("detection/boxx", r"head 'detection' has no such loss \(did you mean 'detection/box'\?\)"),
        ("classification/entropy", "head 'classification' has no such loss"),
    ],
)
def test_weights_of_losses_that_are_not_there_are_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        model_of(loss_weights={name: 2.0})


def test_a_level_that_nobody_gives_is_refused_with_both_sides():
    backbone, neck, heads = parts()
    with pytest.raises(ConfigError, match=r"head 'detection' reads p3, p4, p5, but there are only c2, c3, c4, c5$"):
        VisionModel(backbone, None, heads, preprocess=Preprocess(SIZE))
    with pytest.raises(ConfigError, match="no head; name at least one"):
        VisionModel(backbone, neck, {}, preprocess=Preprocess(SIZE))


def test_a_head_may_read_backbone_and_neck_alike():
    model = model_of()
    assert set(model.features(images())) == {"c2", "c3", "c4", "c5", "p3", "p4", "p5"}


def test_predict_gives_each_heads_prediction_of_each_image():
    model = model_of().eval()
    geometries = [Geometry((64, 96), SIZE, (1.0, 1.0)), Geometry((32, 96), SIZE, (1.0, 1.0))]
    sizes = torch.tensor([[64, 96], [32, 96]])
    found = model.predict(images(), sizes, geometries)
    assert len(found) == 2
    for one in found:
        assert isinstance(one["detection"], Detections)
        assert isinstance(one["classification"], Classification)
    assert found[1]["detection"].boxes[:, 3].max(initial=0) <= 32


class _Watched(torch.nn.Module):
    """A head that writes down when it is asked and when it answers; `early`: it can be asked beforehand."""

    def __init__(self, name, early, log):
        super().__init__()
        self.name, self.log = name, log
        self.levels, self.needs, self.classes = ("c5",), frozenset({"class_scores"}), ("x",)
        if early:
            self.start_finish = lambda decoded, geometries: log.append(f"{name} asked") or partial(self.finish, decoded)

    def forward(self, features, sizes):
        return features["c5"]

    def decode(self, raw, sizes):
        return {"scores": raw}

    def finish(self, decoded, geometries=()):
        self.log.append(f"{self.name} answers")
        return [self.name + str(i) for i in range(len(decoded["scores"]))]


def test_every_head_is_asked_before_one_is_waited_for():
    log = []
    backbone, _, _ = parts()
    heads = {name: _Watched(name, early, log) for name, early in (("a", True), ("b", False), ("c", True))}
    model = VisionModel(backbone, None, heads, preprocess=Preprocess(SIZE)).eval()
    found = model.predict(images(), torch.tensor([SIZE] * 2), [Geometry(SIZE, SIZE, (1.0, 1.0))] * 2)
    assert log == ["a asked", "c asked", "a answers", "b answers", "c answers"]
    assert found == [{"a": "a0", "b": "b0", "c": "c0"}, {"a": "a1", "b": "b1", "c": "c1"}]


def test_predict_in_training_mode_is_refused():
    with pytest.raises(RuntimeError, match=r"call model\.eval\(\) first"):
        model_of().predict(images(), torch.tensor([SIZE] * 2), [Geometry(SIZE, SIZE, (1.0, 1.0))] * 2)


def test_outputs_take_bytes_and_normalise_them():
    model = model_of().eval()
    pixels = images(1)
    with torch.no_grad():
        raw = model.outputs(pixels)
        again = model.outputs(pixels.float() / 255)  # floats are taken as 0..1
        assert torch.equal(raw["classification"], model.outputs(pixels, torch.tensor([SIZE]))["classification"])
    assert set(raw) == {"detection", "classification"}
    assert torch.allclose(raw["classification"], again["classification"], atol=1e-6)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (pixels.float() / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    with torch.no_grad():
        expected, given = model.backbone(normalised)["c2"], model.features(pixels)["c2"]
    assert torch.allclose(given, expected, atol=1e-5)
    assert not torch.allclose(model.backbone(pixels.float())["c2"], expected, atol=1e-2)


def test_memory_format_changes_no_number():
    model = model_of().eval()
    with torch.no_grad():
        plain = model.outputs(images())["classification"]
        model.use_memory_format(torch.channels_last)
        last = model.outputs(images())["classification"]
    assert model.backbone.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(plain, last, atol=1e-5)


def test_names_of_the_state_dict_are_the_parts():
    heads = {name.split(".")[0] for name in model_of().state_dict()}
    assert heads == {"backbone", "neck", "heads", "preprocess"}
