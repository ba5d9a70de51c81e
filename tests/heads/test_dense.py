"""The dense detection head against numbers worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from visionkit.assigners import TaskAligned
from visionkit.errors import ConfigError
from visionkit.grids import Grid
from visionkit.heads import DenseDetection
from visionkit.ops import boxes as box_ops
from visionkit.structures import FeatureSpec, Geometry, Targets

LN2 = math.log(2)
HALF = [0.0, 0.0, -90.0]
"""Logits over three bins whose expectation is half a stride."""
ONE = [0.0, LN2, 0.0]
"""Probabilities 1/4, 1/2, 1/4: one stride."""


def small_head(logits=None, distances=None, classes=2, stride=8, **options):
    """One level of 2 x 2 cells of 8 px, and what it says instead of looking: by default a half for each class, and
    boxes of 8 px, the cell itself."""
    options = {"gamma": 2.0, **options}  # the exponent by which the numbers of this file are worked
    head = DenseDetection(
        {"p3": FeatureSpec(8, stride)}, classes=list("abcdefgh")[:classes], levels=("p3",), bins=3, **options
    )
    logits = torch.zeros(4, classes) if logits is None else torch.as_tensor(logits, dtype=torch.float32)
    table = torch.tensor([HALF * 4] * 4)
    for (cell, edge), value in (distances or {}).items():
        table[cell, 3 * edge : 3 * edge + 3] = torch.tensor(value)
    raw = {
        "logits": logits[None].requires_grad_(),
        "distances": table[None].requires_grad_(),
        "points": torch.tensor([[0.5, 0.5], [1.5, 0.5], [0.5, 1.5], [1.5, 1.5]]) * stride,
        "strides": torch.full((4, 1), float(stride)),
    }
    head.forward = lambda features, sizes: raw
    head.learned = lambda features: raw
    return head, raw


def targets_of(boxes, labels, **options):
    boxes = torch.tensor(boxes, dtype=torch.float32).view(1, -1, 4)
    marks = {name: torch.tensor([value]) for name, value in options.items() if name in ("crowd", "ignore")}
    rest = {name: value for name, value in options.items() if name not in marks}
    labels = torch.tensor([labels], dtype=torch.long)
    return Targets(sizes=torch.tensor([[16, 16]]), boxes=boxes, labels=labels, **marks, **rest)


def losses(head, targets):
    features = {"p3": torch.zeros(1, 8, 2, 2)}
    return {name: float(value.detach()) for name, value in head.loss(features, targets).items()}


CELL_0 = [0, 0, 8, 8]


def test_the_grid_of_all_levels_by_hand():
    specs = {"p3": FeatureSpec(8, 8), "p4": FeatureSpec(8, 16)}
    head = DenseDetection(specs, classes=["a"], levels=("p3", "p4"))
    raw = head({"p3": torch.randn(1, 8, 2, 3), "p4": torch.randn(1, 8, 1, 2)}, torch.tensor([[16, 24]]))
    expected = [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8]]
    assert raw["points"].tolist() == expected
    assert raw["strides"][:, 0].tolist() == [8] * 6 + [16] * 2
    assert raw["logits"].shape == (1, 8, 1)
    assert raw["distances"].shape == (1, 8, 64)


def test_a_perfect_box_by_hand():
    head, _ = small_head()
    found = losses(head, targets_of([CELL_0], [1]))
    # Eight scores of 1/2: one should be 1, seven 0, and each is a quarter of ln 2.
    assert found["classification"] == pytest.approx(8 * 0.25 * LN2)
    assert found["box"] == pytest.approx(0, abs=1e-6)
    assert found["distribution"] == pytest.approx(LN2)


@pytest.mark.parametrize("stride", [8, 16])
def test_a_box_too_wide_by_hand(stride):
    head, _ = small_head(distances={(0, 2): ONE}, stride=stride)
    found = losses(head, targets_of([[0, 0, stride, stride]], [1]))
    # In strides of 8: (0, 0, 12, 8) overlaps by 2/3, which is what the score should be.
    assert found["classification"] == pytest.approx(((2 / 3 - 0.5) ** 2 + 7 * 0.25) * LN2, rel=1e-5)
    overlap = box_ops.complete_iou(torch.tensor([0.0, 0, 12, 8]), torch.tensor([0.0, 0, 8, 8]))
    assert found["box"] == pytest.approx(1 - float(overlap))
    # Three edges give ln 2; the right one −(ln 1/4 + ln 1/2) / 2.
    assert found["distribution"] == pytest.approx((3 + 1.5) / 4 * LN2)


def test_cells_count_by_their_quality_and_the_weights_add_up_to_the_objects():
    head, _ = small_head(distances={(0, 2): ONE})
    found = losses(head, targets_of([CELL_0, [8, 8, 16, 16]], [1, 0]))
    # Qualities 2/3 and 1 become weights 4/5 and 6/5 of two objects; the second box is perfect.
    overlap = float(box_ops.complete_iou(torch.tensor([0.0, 0, 12, 8]), torch.tensor([0.0, 0, 8, 8])))
    assert found["box"] == pytest.approx(0.8 * (1 - overlap) / 2)
    assert found["distribution"] == pytest.approx((0.8 * 1.125 + 1.2) * LN2 / 2)
    assert found["classification"] == pytest.approx(((2 / 3 - 0.5) ** 2 + 7 * 0.25) * LN2 / 2, rel=1e-5)


def test_a_cell_scores_the_classes_of_all_objects_that_have_its_box():
    logits = torch.zeros(4, 3)
    logits[0] = torch.tensor([logit(0.9), logit(0.8), 0])
    head, _ = small_head(logits, classes=3)
    found = losses(head, targets_of([CELL_0, [8, 8, 16, 16], CELL_0], [1, 2, 0]))
    wanted = -(0.1**2 * math.log(0.9) + 0.2**2 * math.log(0.8))  # of cell 0; cell 3 should say class 2, no more
    assert found["classification"] == pytest.approx((wanted + 10 * 0.25 * LN2) / 3, rel=1e-4)
    assert found["distribution"] == pytest.approx(LN2)
    assert found["box"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("mark", ["crowd", "ignore"])
def test_what_crowd_and_ignored_boxes_cover_is_not_background(mark):
    head, _ = small_head()
    boxes = [CELL_0, [7, 7, 16, 16]]
    plain = losses(head, targets_of(boxes[:1], [1]))["classification"]
    found = losses(head, targets_of(boxes, [1, 0], **{mark: [False, True]}))
    assert plain - found["classification"] == pytest.approx(2 * 0.25 * LN2)  # the two scores of cell 3
    assert found["distribution"] == pytest.approx(LN2)  # it is no object, and is not counted as one
    # It covers the object's own cell as well: that one still counts.
    found = losses(head, targets_of([CELL_0, [0, 0, 16, 16]], [1, 0], **{mark: [False, True]}))
    assert found["classification"] == pytest.approx(2 * 0.25 * LN2)
    assert found["distribution"] == pytest.approx(LN2)


def test_padding_covers_nothing_even_where_it_is_marked():
    head, _ = small_head()
    padded = targets_of([CELL_0, [0, 0, 16, 16]], [1, -1], crowd=[False, True])
    assert losses(head, padded) == losses(head, targets_of([CELL_0], [1]))


def test_classes_that_an_image_does_not_label_are_not_background():
    head, _ = small_head()
    targets = targets_of([CELL_0], [1], known_classes=torch.tensor([[False, True]]))
    assert losses(head, targets)["classification"] == pytest.approx(4 * 0.25 * LN2)


def test_losses_are_divided_by_the_steps_totals():
    head, _ = small_head(distances={(0, 2): ONE})
    own = losses(head, targets_of([CELL_0], [1]))
    fifth = losses(head, targets_of([CELL_0], [1], totals={"boxes": torch.tensor(5.0)}))
    assert fifth == pytest.approx({name: value / 5 for name, value in own.items()})


def test_no_rows_at_all():
    head, _ = small_head()
    found = losses(head, targets_of([], []))
    assert found == pytest.approx({"classification": 2 * LN2, "box": 0, "distribution": 0})


def test_an_object_that_no_cell_answers_for_costs_nothing():
    head, _ = small_head()
    found = losses(head, targets_of([[900, 900, 950, 950]], [0]))
    assert found == pytest.approx({"classification": 2 * LN2, "box": 0, "distribution": 0})


# --------------------------------------------------------------------------------------------------- whole batches
def scene(rows=12, size=64, seed=0, batch=2, classes=3):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(batch, rows, 2, generator=generator) * size
    half = torch.rand(batch, rows, 2, generator=generator) * size / 6 + 1
    boxes = torch.cat([centre - half, centre + half], -1).clamp(0, size)
    labels = torch.randint(0, classes, (batch, rows), generator=generator)
    crowd, ignore = torch.rand(2, batch, rows, generator=generator) < 0.1
    sizes = torch.full((batch, 2), size)
    return Targets(sizes=sizes, boxes=boxes, labels=labels, crowd=crowd, ignore=ignore)


def wide_head(size=64, batch=2, classes=3, **options):
    torch.manual_seed(0)
    specs = {f"p{level}": FeatureSpec(8, 2**level) for level in (3, 4, 5)}
    features = {name: torch.randn(batch, 8, size // spec.stride, size // spec.stride) for name, spec in specs.items()}
    return DenseDetection(specs, classes=[str(k) for k in range(classes)], depth=1, **options), features


def values(head, features, targets):
    return {name: float(value.detach()) for name, value in head.loss(features, targets).items()}


def test_the_order_of_the_objects_changes_nothing():
    head, features = wide_head()
    targets = scene()
    order = torch.randperm(12)
    fields = {name: getattr(targets, name)[:, order] for name in ("boxes", "labels", "crowd", "ignore")}
    expected = values(head, features, targets)
    assert values(head, features, replace(targets, **fields)) == pytest.approx(expected, rel=1e-5)


def test_padding_rows_change_nothing():
    head, features = wide_head()
    targets = scene(rows=8)
    grown = {name: torch.zeros(2, 64, dtype=torch.bool) for name in ("crowd", "ignore")}
    grown |= {"boxes": torch.full((2, 64, 4), 7.0), "labels": torch.full((2, 64), -1)}
    for name, value in grown.items():
        value[:, :8] = getattr(targets, name)
    assert values(head, features, replace(targets, **grown)) == pytest.approx(values(head, features, targets), rel=1e-6)


class _Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that is made, counting storage and not views."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.untyped_storage().nbytes())
        return out


def test_two_thousand_objects_train_in_bounded_memory():
    size, rows = 512, 2048
    head, features = wide_head(size, batch=1)
    targets = scene(rows, size, batch=1)
    with _Largest() as watch:
        found = head.loss(features, targets)
        sum(found.values()).backward()
    assert all(value.isfinite() for value in found.values())
    assert all(value.grad.isfinite().all() for value in head.parameters())
    cells = sum(level.shape[-2] * level.shape[-1] for level in features.values())
    assert cells == 5376
    assert watch.largest < 0.9 * rows * cells  # bytes: not even a truth value for each object and cell
    assert (head.assigner(*assigner_arguments(head, features, targets)).row >= 0).sum() > 1000


def assigner_arguments(head, features, targets):
    raw = head(features, targets.sizes)
    boxes = head._boxes(head._by_edge(raw["distances"]), raw["points"], raw["strides"])
    grids = [Grid(*features[name].shape[-2:], stride) for name, stride in zip(head.levels, head.strides, strict=True)]
    return grids, raw["logits"], boxes, targets.boxes, targets.labels, targets.positive_rows()


def test_each_level_has_norms_of_its_own_and_shares_the_convolutions():
    head, features = wide_head()
    head.loss({**features, "p5": features["p5"] * 50}, scene())["classification"].backward()
    means = [norms[0].running_var.mean() for norms in head.score_tower.norms]
    assert float(means[2]) > 10 * float(means[0])
    assert len(head.score_tower.convs) == 1


def test_first_predictions_are_background_and_about_three_strides():
    head, features = wide_head()
    raw = head.eval()(features, torch.tensor([[64, 64]] * 2))
    assert float(raw["logits"].detach().sigmoid().mean()) == pytest.approx(0.01, abs=0.003)
    bins = head._by_edge(raw["distances"].detach()).softmax(-1) @ head.bin_values
    assert float(bins.mean()) == pytest.approx(3.0, abs=0.3)


# ---------------------------------------------------------------------------------------------------------- decode
def decoded(head, raw, size=(16, 16)):
    return {name: value[0] for name, value in head.decode(raw, torch.tensor([size])).items()}


def logit(probability):
    return math.log(probability / (1 - probability))


def test_decode_by_hand():
    scores = [[0.2, 0.9], [0.8, 0.1], [0.3, 0.0005], [0.0004, 0.0003]]
    head, raw = small_head([[logit(value) for value in row] for row in scores], {(1, 0): ONE})
    found = decoded(head, {name: value.detach() for name, value in raw.items()})
    kept = found["valid"]
    # Below 0.001 nothing is a detection. Cell 1 reaches one stride to the left.
    assert found["scores"][kept].tolist() == pytest.approx([0.9, 0.8, 0.3, 0.2, 0.1])
    assert found["labels"][kept].tolist() == [1, 0, 0, 0, 1]
    expected = [[0, 0, 8, 8], [4, 0, 16, 8], [0, 8, 8, 16], [0, 0, 8, 8], [4, 0, 16, 8]]
    assert torch.allclose(found["boxes"][kept], torch.tensor(expected, dtype=torch.float32))
    assert (found["boxes"].dtype, found["scores"].dtype) == (torch.float32, torch.float32)
    assert (found["labels"].dtype, found["valid"].dtype) == (torch.int64, torch.bool)


def test_decode_suppresses_within_a_class_alone():
    wide = {(0, 2): ONE, (1, 0): ONE}  # (0, 0, 12, 8) and (4, 0, 16, 8): IoU 1/2
    scores = [[logit(0.9), logit(0.6)], [logit(0.8), -9.0], [-9.0, -9.0], [-9.0, -9.0]]
    for threshold, expected in ((0.45, [0.9, 0.6]), (0.55, [0.9, 0.8, 0.6])):
        head, raw = small_head(scores, wide, iou_threshold=threshold)
        found = decoded(head, {name: value.detach() for name, value in raw.items()})
        assert found["scores"][found["valid"]].tolist() == pytest.approx(expected)


def test_decode_keeps_the_best_of_so_many():
    scores = [[logit(0.9), logit(0.6)], [logit(0.8), logit(0.5)], [logit(0.7), logit(0.4)], [-9.0, -9.0]]
    head, raw = small_head(scores, most=2)
    found = decoded(head, {name: value.detach() for name, value in raw.items()})
    assert found["scores"].shape == (2,)
    assert found["scores"].tolist() == pytest.approx([0.9, 0.8])
    head, raw = small_head(scores, candidates=1)
    found = decoded(head, {name: value.detach() for name, value in raw.items()})
    assert found["scores"][found["valid"]].tolist() == pytest.approx([0.9])
    head, raw = small_head(scores, score_threshold=0.65)
    found = decoded(head, {name: value.detach() for name, value in raw.items()})
    assert found["scores"][found["valid"]].tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_decode_stays_on_the_image():
    head, raw = small_head(torch.full((4, 2), 3.0), {(0, 2): ONE, (0, 3): ONE})
    found = decoded(head, {name: value.detach() for name, value in raw.items()}, (16, 10))
    # The centres of cells 1 and 3 lie beside the image, which is 10 px wide.
    boxes = found["boxes"][found["valid"]]
    assert {tuple(box) for box in boxes.tolist()} == {(0, 0, 10, 12), (0, 8, 8, 16)}


def test_decode_is_sorted_and_within_bounds_on_random_maps():
    head, features = wide_head(size=128)
    with torch.no_grad():
        head.score.weight.mul_(100)
        head.distance.weight.mul_(100)
        sizes = torch.tensor([[128, 128], [70, 51]])
        found = head.eval().decode(head(features, sizes), sizes)
    for i, (height, width) in enumerate(sizes.tolist()):
        valid = found["valid"][i]
        count = int(valid.sum())
        assert count > 30
        assert valid[:count].all()
        boxes, scores = found["boxes"][i][valid], found["scores"][i][valid]
        assert (scores[:-1] >= scores[1:]).all()
        assert boxes.min() >= 0
        assert boxes[:, [0, 2]].max() <= width
        assert boxes[:, [1, 3]].max() <= height
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
        assert found["labels"][i].max() < 3


def test_finish_maps_to_original_pixels():
    head, _ = small_head()
    batch = {
        "boxes": torch.tensor([[[4.0, 8, 12, 16], [0, 0, 16, 16]], [[1, 2, 3, 4], [0, 0, 1, 1]]]),
        "scores": torch.tensor([[0.9, 0.5], [0.8, 0.7]]),
        "labels": torch.tensor([[1, 0], [1, 1]]),
        "valid": torch.tensor([[True, True], [False, False]]),
    }
    # (y, x): halved and shifted by 2 px along y, quartered and cut by 1 px along x.
    geometry = Geometry((20, 60), (16, 16), (0.5, 0.25), (2.0, -1.0))
    first, second = head.finish(batch, [geometry, geometry])
    assert first.boxes.tolist() == [[20, 12, 52, 20], [4, 0, 60, 20]]
    assert first.scores.tolist() == pytest.approx([0.9, 0.5])
    assert first.labels.tolist() == [1, 0]
    assert (first.boxes.dtype, first.scores.dtype, first.labels.dtype) == (np.float32, np.float32, np.int64)
    assert len(second) == 0
    assert second.boxes.shape == (0, 4)
    assert first.to_coco(3, [7, 9])[0] == {
        "image_id": 3, "category_id": 9, "bbox": [20, 12, 32, 8], "score": pytest.approx(0.9),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depth": 0}, "depth=0 must be at least 1"),
        ({"bins": 1}, "bins=1 must be at least 2"),
        ({"gamma": -1.0}, "gamma=-1.0 must be at least 0"),
        ({"candidates": 0}, "candidates=0 must be at least 1"),
        ({"most": 0}, "most=0 must be at least 1"),
        ({"score_threshold": 1.5}, "score_threshold=1.5 must be from 0 to 1"),
        ({"iou_threshold": -0.1}, "iou_threshold=-0.1 must be from 0 to 1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        DenseDetection({"p3": FeatureSpec(8, 8)}, classes=["a"], levels=("p3",), **options)


def test_levels_of_different_channels_are_refused():
    specs = {"c3": FeatureSpec(8, 8), "c4": FeatureSpec(16, 16)}
    with pytest.raises(ConfigError, match=r"c3, c4 have \[8, 16\] channels; use a neck"):
        DenseDetection(specs, classes=["a"], levels=("c3", "c4"))


def test_takes_another_assigner():
    head, _ = small_head(assigner=TaskAligned(top=1))
    whole = [0, 0, 16, 16]
    found = losses(head, targets_of([whole], [0]))
    head_of_ten, _ = small_head()
    # All cells overlap the object by a quarter: one positive has the score 1/4, or all four.
    assert found["classification"] == pytest.approx((7 * 0.25 + 1 * 0.0625) * LN2)
    assert losses(head_of_ten, targets_of([whole], [0]))["classification"] == pytest.approx(
        (4 * 0.25 + 4 * 0.0625) * LN2
    )
