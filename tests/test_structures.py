"""The structures check their own shapes, and say what they know."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from visionkit.predictions import Classification, Detections
from visionkit.structures import Batch, Geometry, Labels, Sample, Targets, boxes_to_original

BOXES = np.array([[1.0, 2, 5, 8], [0, 0, 10, 10], [3, 3, 4, 4]])


def labels_of(**changes):
    return Labels(**{"size": (10, 12), "boxes": BOXES, "labels": np.array([0, 1, 0])} | changes)


# ----------------------------------------------------------------------------------------------------------- labels
def test_what_is_left_out_beside_boxes():
    labels = labels_of()
    assert labels.crowd.tolist() == labels.ignore.tolist() == [False] * 3
    assert labels.areas.tolist() == [24, 100, 1]
    assert labels.areas.dtype == np.float64


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": BOXES.astype(np.float32)},
        {"boxes": BOXES[:, :3]},
        {"boxes": None},
        {"labels": None},
        {"labels": np.array([0, 1])},
        {"labels": np.array([0, 1, 2], np.int32)},
        {"crowd": np.array([0, 0, 1])},
        {"areas": np.ones(2)},
        {"masks": ()},
        {"class_scores": np.ones(3)},
        {"class_scores": np.ones((1, 3), np.float32)},
        {"box": np.ones(4, np.float32)},
        {"semantic": np.zeros((12, 10), np.uint8)},
        {"semantic": np.zeros((10, 12), np.int64)},
    ],
)
def test_wrong_shapes_and_types_are_refused(changes):
    with pytest.raises(ValueError, match=r"Labels"):
        labels_of(**changes)


def test_empty_is_known_and_none_is_not():
    empty = Labels(size=(4, 4), boxes=np.zeros((0, 4)), labels=np.zeros(0, np.int64))
    assert empty.known == {"boxes"}
    assert Labels(size=(4, 4)).known == frozenset()
    assert labels_of(box=np.ones(4), class_scores=np.ones(2, np.float32)).known == {"boxes", "box", "class_scores"}


def test_keep_makes_the_rest_unknown():
    bitmap = np.asfortranarray(np.ones((10, 12), np.uint8))
    labels = labels_of(masks=(coco_mask.encode(bitmap),) * 3, box=np.ones(4))
    assert labels.keep(frozenset({"box"})).known == {"box"}
    assert labels.keep(frozenset({"box"})).areas is None
    assert labels.keep(frozenset({"boxes"})).known == {"boxes"}
    assert labels.keep(frozenset({"boxes", "masks"})).known == {"boxes", "masks"}
    assert labels.keep(frozenset({"masks"})).known == frozenset()  # masks are nothing without their boxes


@pytest.mark.parametrize("rows", [np.array([2, 0]), np.array([True, False, True])])
def test_select_takes_every_field_of_an_object(rows):
    masks = tuple(coco_mask.encode(np.asfortranarray(np.full((10, 12), value, np.uint8))) for value in (0, 1, 1))
    labels = labels_of(masks=masks, areas=np.array([5.0, 6, 7]), crowd=np.array([True, False, False]), box=np.ones(4))
    chosen = labels.select(rows)
    order = [2, 0] if rows.dtype != bool else [0, 2]
    assert chosen.boxes.tolist() == BOXES[order].tolist()
    assert chosen.areas.tolist() == [[5, 6, 7][k] for k in order]
    assert chosen.crowd.tolist() == [k == 0 for k in order]
    assert chosen.bitmaps().reshape(2, -1).any(1).tolist() == [k != 0 for k in order]
    assert chosen.box is labels.box
    assert Labels(size=(3, 3)).select(np.array([0])).boxes is None


def test_bitmaps_of_nothing():
    assert labels_of().bitmaps().shape == (0, 10, 12)


def test_a_sample_of_two_sizes_is_refused():
    with pytest.raises(ValueError, match=r"a\.png: image \(12, 10, 3\) uint8 beside labels of size \(10, 12\)"):
        Sample(np.zeros((12, 10, 3), np.uint8), labels_of(), 1, "a.png")


# --------------------------------------------------------------------------------------------------------- geometry
def test_geometry_by_hand_and_back():
    # (y, x): scaled by 0.5 and 2, moved by 3 and −4.
    geometry = Geometry((20, 30), (13, 56), (0.5, 2.0), (3.0, -4.0))
    boxes = np.array([[2.0, 4, 10, 20]])
    canvas = geometry.to_canvas(boxes)
    assert canvas.tolist() == [[0, 5, 16, 13]]
    assert geometry.to_original(canvas).tolist() == boxes.tolist()
    assert geometry.to_original(np.array([[-50.0, -50, 500, 500]])).tolist() == [[0, 0, 30, 20]]
    assert geometry.to_original(np.zeros((0, 4))).shape == (0, 4)


def test_boxes_of_several_images_go_back_each_by_its_own_geometry():
    geometries = [Geometry((20, 30), (40, 60), (2.0, 2.0)), Geometry((50, 8), (25, 12), (0.5, 1.5), (-3.0, 4.0))]
    boxes = np.random.default_rng(0).uniform(-10, 70, (2, 5, 4))
    found = boxes_to_original(boxes, geometries)
    for rows, one, geometry in zip(found, boxes, geometries, strict=True):
        assert np.array_equal(rows, geometry.to_original(one))
    by_hand = boxes_to_original(np.array([[[7.0, 2, 10, 7]]]), geometries[1:])
    assert by_hand.tolist() == [
        [[2.0, 10.0, 4.0, 20.0]]
    ]  # x: (7 - 4) / 1.5 and (10 - 4) / 1.5; y: (2 + 3) * 2 and (7 + 3) * 2
    assert boxes_to_original(np.zeros((0, 5, 4)), []).shape == (0, 5, 4)


# ---------------------------------------------------------------------------------------------------------- targets
def targets_of(**changes):
    fields = {
        "sizes": torch.tensor([[8, 8]] * 3),
        "known": {"boxes": torch.tensor([True, True, False])},
        "boxes": torch.zeros(3, 4, 4),
        "labels": torch.tensor([[0, 1, 2, -1], [-1, -1, -1, -1], [0, 0, 0, 0]]),
        "crowd": torch.tensor([[False, True, False, False]] + [[False] * 4] * 2),
    }
    return Targets(**fields | changes)


def test_positive_rows_and_counts_by_hand():
    targets = targets_of(ignore=torch.tensor([[False, False, True, False]] + [[False] * 4] * 2))
    assert targets.positive_rows().tolist() == [[True, False, False, False], [False] * 4, [True] * 4]
    assert {name: float(value) for name, value in targets.counts().items()} == {"boxes": 1}


def test_counts_of_each_field():
    semantic = torch.full((3, 2, 2), 255, dtype=torch.uint8)
    semantic[0, 0] = 1
    semantic[2] = 0
    known = {name: torch.tensor([True, True, False]) for name in ("boxes", "class_scores", "semantic")}
    targets = targets_of(known=known, class_scores=torch.zeros(3, 2), semantic=semantic)
    counts = targets.counts()
    assert {name: float(value) for name, value in counts.items()} == {"boxes": 2, "class_scores": 2, "semantic": 2}
    assert all(value.dtype == torch.float32 and value.shape == () for value in counts.values())


def test_the_divisor_is_the_steps_total_and_at_least_one():
    assert float(targets_of().total("boxes")) == 2
    assert float(targets_of(totals={"boxes": torch.tensor(40.0)}).total("boxes")) == 40
    nothing = targets_of(known={"boxes": torch.zeros(3, dtype=torch.bool)})
    assert float(nothing.total("boxes")) == 1
    assert float(targets_of(totals={"boxes": torch.tensor(0.0)}).total("boxes")) == 1


def test_what_is_left_out_of_targets():
    targets = Targets(sizes=torch.tensor([[8, 8]] * 2), boxes=torch.zeros(2, 1, 4), labels=torch.zeros(2, 1).long())
    assert targets.known["boxes"].tolist() == [True, True]
    assert targets.crowd.tolist() == targets.ignore.tolist() == [[False], [False]]
    assert Targets(sizes=torch.tensor([[8, 8]]), known={}).known == {}
    kept = targets_of(class_scores=torch.zeros(3, 2)).known  # what was said is not overruled
    assert kept["boxes"].tolist() == [True, True, False]
    assert kept["class_scores"].tolist() == [True, True, True]
    with pytest.raises(ValueError, match="boxes need labels"):
        Targets(sizes=torch.tensor([[8, 8]]), boxes=torch.zeros(1, 1, 4))


def test_a_batch_moves_with_all_that_it_holds():
    batch = Batch(
        images=torch.zeros(3, 3, 8, 8), targets=targets_of(totals={"boxes": torch.tensor(2.0)}), image_ids=(1,)
    )
    moved = batch.to("meta")
    assert moved.images.device.type == moved.targets.boxes.device.type == "meta"
    assert moved.targets.known["boxes"].device.type == moved.targets.totals["boxes"].device.type == "meta"
    assert moved.targets.ignore.device.type == "meta"
    assert moved.image_ids == (1,)


# ------------------------------------------------------------------------------------------------------ predictions
def test_predictions_of_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"Detections"):
        Detections(np.zeros((2, 4)), np.zeros(2), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"Classification\.scores"):
        Classification(np.zeros((1, 3)))


def test_detections_above_a_score_and_as_coco_rows():
    found = Detections(BOXES.astype(np.float32), np.array([0.9, 0.5, 0.25], np.float32), np.array([1, 0, 1]))
    assert len(found) == 3
    assert found.above(0.5).labels.tolist() == [1, 0]
    assert len(found.above(1.0)) == 0
    rows = found.above(0.5).to_coco(7, ["cat", 90])
    assert rows[0] == {"image_id": 7, "category_id": 90, "bbox": [1, 2, 4, 6], "score": pytest.approx(0.9)}
    assert rows[1]["category_id"] == "cat"
    assert found.boxes[0].tolist() == [1, 2, 5, 8]  # not changed in place
    assert Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)).to_coco(1, [1]) == []


def test_classification_says_its_best():
    (row,) = Classification(np.array([0.25, 0.5, 0.25], np.float32)).to_coco("a", [4, 5, 6])
    assert row == {"image_id": "a", "category_id": 5, "score": 0.5}
