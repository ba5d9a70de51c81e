from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from visionkit.heads import DenseDetection, LinearClassification, ObjectLocalization, SemanticSegmentation
from visionkit.inspection.evidence import class_activation, class_evidence, class_logits
from visionkit.model import VisionModel
from visionkit.preprocess import Preprocess
from visionkit.structures import FeatureSpec

RED, GREEN = (8, 16), (48, 40)
"""The middles, (row, column), of a bright red and a paler green patch on black."""


class Colours(nn.Module):
    """Cells of 8 x 8 pixels that say how red and how green they are; a bright patch gives the larger values."""

    def __init__(self, strides=(8,)):
        super().__init__()
        self.out_specs = {f"p{stride.bit_length() - 1}": FeatureSpec(2, stride) for stride in strides}

    def forward(self, images):
        return {name: F.avg_pool2d(images[:, :2], spec.stride) for name, spec in self.out_specs.items()}


@pytest.fixture
def images():
    picture = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    picture[0, 0, 0:16, 8:24] = 255
    picture[0, 1, 40:56, 32:48] = 120
    return picture


def built(head, strides=(8,), **arguments):
    backbone = Colours(strides)
    levels = tuple(backbone.out_specs)
    made = head(backbone.out_specs, classes=["red", "green"], levels=levels, **arguments)
    preprocess = Preprocess(64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return VisionModel(backbone, None, {"answer": made}, preprocess=preprocess).eval(), made


def warmest(one):
    return tuple(int(place) for place in np.unravel_index(one.heat.argmax(), one.heat.shape))


def near(place, middle, most=8):
    return all(abs(a - b) <= most for a, b in zip(place, middle, strict=True))


def by_label(found):
    return {one.label: one for one in found["answer"]}


def taught_classifier():
    """Red speaks for the first class and against the second, green the other way round and more."""
    model, head = built(LinearClassification)
    head.linear.weight.data = torch.tensor([[1.0, -3.0], [-1.0, 3.0]])
    head.linear.bias.data.zero_()
    return model


def test_the_evidence_for_a_class_lies_where_its_colour_is(images):
    found = by_label(class_evidence(taught_classifier(), images, (64, 64)))
    # The red patch has the larger activations: who leaves the gradients out finds it in both.
    assert near(warmest(found[0]), RED)
    assert near(warmest(found[1]), GREEN)
    for one, other in ((found[0], GREEN), (found[1], RED)):
        assert one.heat.shape == (64, 64)
        assert one.heat.dtype == np.float32
        assert one.heat[other] == 0  # what speaks against a class is no evidence for it
        assert one.heat.max() > 0


class Pooled(Colours):
    """The colours, and behind them one cell of their means, in which no place is left."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 2, 1, 1))
        self.out_specs = {**self.out_specs, "p6": FeatureSpec(2, 64)}

    def forward(self, images):
        cells = self.weight * F.avg_pool2d(images[:, :2], 8)
        return {"p3": cells, "p6": cells.mean((2, 3), keepdim=True)}


@pytest.mark.parametrize("frozen", [False, True])
def test_behind_a_pooling_to_one_cell_the_evidence_is_told_on_the_map_before_it(images, frozen):
    model = taught_classifier()
    backbone = Pooled().requires_grad_(not frozen)
    head = LinearClassification(backbone.out_specs, classes=["red", "green"], levels=("p6",))
    head.load_state_dict(model.heads["answer"].state_dict())
    pooled = VisionModel(backbone, None, {"answer": head}, preprocess=model.preprocess).eval()
    found = by_label(class_evidence(pooled, images, (64, 64)))
    wanted = by_label(class_evidence(model, images, (64, 64)))
    for label in (0, 1):
        assert found[label].score == pytest.approx(wanted[label].score)
        if frozen:  # no gradient runs through it: what the single cell says is said of the whole image
            assert found[label].heat.min() == pytest.approx(found[label].heat.max())
        else:
            np.testing.assert_allclose(found[label].heat, wanted[label].heat, atol=1e-5)
    assert all(one.grad is None for one in pooled.parameters())


def test_strongest_answers_first_and_with_their_scores(images):
    model = taught_classifier()
    first, second = class_evidence(model, images, (64, 64))["answer"]
    red, green = 4 * 1.0 / 64, 4 * (120 / 255) / 64  # means over 64 cells
    scores = torch.tensor([red - 3 * green, 3 * green - red]).softmax(0)
    assert (first.label, second.label) == (1, 0)
    assert (first.score, second.score) == pytest.approx((float(scores[1]), float(scores[0])))
    assert len(class_evidence(model, images, (64, 64), most=1)["answer"]) == 1


def test_heat_by_hand():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 0.0], [0.0, 1.0]]]])
    gradients = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    # The paper's mean gradients are 1 and −1: differences of the maps, negative ones cut off.
    assert class_activation(maps, gradients, by_place=False).tolist() == [[0.0, 2.0], [3.0, 3.0]]
    assert class_activation(maps, gradients, by_place=True).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert class_activation(maps, -gradients, by_place=True).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_detection_is_not_explained_by_what_looks_alike_elsewhere(images):
    images[0, 0, 0:16, 48:64] = 200  # a second red patch
    found = class_evidence(taught_detector((8,)), images, (64, 64))["answer"]
    assert found[0].heat[RED] > 0
    assert found[0].heat[8, 56] == 0


def test_only_the_part_of_the_canvas_that_holds_image_is_told(images):
    (first, *_) = class_evidence(taught_classifier(), images, (56, 48))["answer"]
    assert first.heat.shape == (56, 48)


def test_a_confident_answer_has_evidence_too(images):
    model = taught_classifier()
    model.heads["answer"].linear.weight.data *= 1e4  # the softmax is 1 to the last bit, its gradient 0
    found = by_label(class_evidence(model, images, (64, 64)))
    assert near(warmest(found[1]), GREEN)
    assert found[1].score == 1


def test_localization_tells_the_box_beside_the_evidence(images):
    model, head = built(ObjectLocalization, depth=0)
    nn.init.dirac_(head.enter[0][0].weight)
    head.class_attention.weight.data.zero_()
    head.linear.weight.data = torch.tensor([[1.0, -3.0, 0.0, 0.0], [-1.0, 3.0, 0.0, 0.0]])
    head.linear.bias.data.zero_()
    found = by_label(class_evidence(model, images, (64, 64)))
    assert near(warmest(found[0]), RED)
    assert near(warmest(found[1]), GREEN)
    boxes = head.decode(model.outputs(images)["answer"], torch.tensor([[64, 64]]))["boxes"][0]
    for label in (0, 1):
        np.testing.assert_allclose(found[label].box, boxes[label].detach().numpy(), atol=1e-4)


def taught_detector(strides):
    """Cells see the class of their colour, and boxes of eight strides around them."""
    model, head = built(DenseDetection, strides, depth=1, bins=16)
    nn.init.dirac_(head.score_tower.convs[0].weight)
    head.score.weight.data = 8 * torch.eye(2)[:, :, None, None]
    head.score.bias.data.fill_(-3.0)
    head.distance.weight.data.zero_()
    return model


@pytest.mark.parametrize("strides", [(8,), (8, 16)])
def test_the_strongest_detection_of_each_class(images, strides):
    found = class_evidence(taught_detector(strides), images, (64, 64))["answer"]
    assert [one.label for one in found] == [0, 1]
    assert found[0].score > found[1].score > 0.05
    for one, middle in zip(found, (RED, GREEN), strict=True):
        assert near(warmest(one), middle)
        left, top, right, bottom = one.box
        assert left < middle[1] < right
        assert top < middle[0] < bottom


def test_where_nothing_is_detected_nothing_is_told(images):
    model = taught_detector((8,))
    model.heads["answer"].score.bias.data.fill_(-30.0)
    assert class_evidence(model, images, (64, 64)) == {"answer": []}


def test_semantic_evidence_with_the_regions_that_classes_win(images):
    model, head = built(SemanticSegmentation, depth=0)
    head.score.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, :, None, None]
    head.score.bias.data = torch.tensor([0.0, -0.01])  # what is black counts as red
    images[0, 0, 40:56, 32:48] = 60  # a little red in the green patch, which the green wins
    found = class_evidence(model, images, (64, 64))["answer"]
    assert [one.label for one in found] == [0, 1]
    assert found[0].heat[GREEN] == 0
    assert near(warmest(found[0]), RED)
    assert near(warmest(found[1]), GREEN)
    assert found[1].region[GREEN]
    assert not found[1].region[RED]
    assert found[0].score == pytest.approx(found[0].region.mean())
    assert found[0].score + found[1].score == pytest.approx(1)


def test_every_head_gives_its_class_logits_as_the_interface_says(model):
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    raw = model.outputs(images)
    assert {name: tuple(class_logits(one).shape) for name, one in raw.items()} == {
        "classification": (2, 3), "localization": (2, 3), "detection": (2, 84, 3), "semantic": (2, 3, 16, 16),
        "instance": (2, 84, 3),
    }  # fmt: skip


def test_every_head_of_a_model_is_told_of_and_nothing_is_changed(model):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    found = class_evidence(model, images, (48, 64))
    assert list(found) == list(model.heads)
    for name in ("classification", "localization", "semantic"):
        assert found[name]
        assert all(np.isfinite(one.heat).all() and one.heat.min() >= 0 for one in found[name])
        assert all(one.heat.shape == (48, 64) for one in found[name])
    assert all(one.grad is None for one in model.parameters())
