"""Panoptic quality on maps worked by hand, and the truth that it is measured against."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionkit.data.readers import Shapes
from visionkit.metrics import PanopticQuality
from visionkit.metrics.panoptic import panoptic_truth
from visionkit.predictions import PanopticMap, Segment
from visionkit.structures import Labels

CLASSES = ("sky", "road", "car", "cat")
"""The semantic map's, which lacks the cat, and the cat."""
THINGS = ("cat", "car")
"""In the order of the labels, which is another one."""
SKY, ROAD, CAR, CAT = range(4)
SIZE = (4, 10)


def mask_of(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[rows, columns] = True
    return mask


def labels_of(semantic, *objects, crowd=(), ignore=()) -> Labels:
    """objects: (name, mask)."""
    count = len(objects)
    flags = [np.isin(np.arange(count), rows) for rows in (crowd, ignore)]
    return Labels(
        size=SIZE,
        boxes=np.tile([0.0, 0.0, 1.0, 1.0], (count, 1)),
        labels=np.array([THINGS.index(name) for name, _ in objects], np.int64),
        crowd=flags[0],
        ignore=flags[1],
        masks=tuple(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for _, mask in objects),
        semantic=semantic.astype(np.uint8),
    )


def says(*segments: tuple[int, np.ndarray]) -> PanopticMap:
    """segments: (label, mask), with ids 7, 14, …: ids need not be 1, 2, …"""
    ids = np.zeros(SIZE, np.int32)
    told = []
    for number, (label, mask) in enumerate(segments, start=1):
        ids[mask] = 7 * number
        told.append(Segment(7 * number, label, label >= CAR, 1.0, int(mask.sum())))
    return PanopticMap(ids, tuple(told))


def scored(prediction: PanopticMap, truth: Labels) -> dict[str, float]:
    metric = PanopticQuality(CLASSES, THINGS)
    metric.update(1, prediction, truth)
    return metric.compute()


ALL = slice(None)
LEFT, RIGHT = mask_of(ALL, slice(0, 5)), mask_of(ALL, slice(5, 10))


def test_quality_by_hand() -> None:
    # Truth: sky on the left, on the right road with a car of two columns.
    car = mask_of(ALL, slice(5, 7))
    semantic = np.where(LEFT, SKY, np.where(car, CAR, ROAD))
    truth = labels_of(semantic, ("car", car))
    # Found: sky of six columns, a car of one of its two, another car, no road.
    found = [(SKY, slice(0, 6)), (CAR, slice(6, 7)), (CAR, slice(8, 9))]
    prediction = says(*[(label, mask_of(ALL, columns)) for label, columns in found])
    # sky: IoU 5/6. car: IoU 1/2 is no match, so one missed and two wrong. road: missed.
    numbers = scored(prediction, truth)
    assert numbers["PQ/sky"] == pytest.approx(5 / 6)
    assert numbers["PQ/car"] == numbers["PQ/road"] == 0.0
    assert np.isnan(numbers["PQ/cat"])
    assert numbers["PQ"] == pytest.approx(5 / 18)
    assert (numbers["SQ_stuff"], numbers["RQ_stuff"]) == pytest.approx((5 / 12, 1 / 2))
    assert numbers["PQ_things"] == 0.0


def test_recognition_and_segmentation_of_several_images() -> None:
    car = mask_of(ALL, slice(0, 4))
    truth = labels_of(np.where(car, CAR, 255), ("car", car))
    metric = PanopticQuality(CLASSES, THINGS)
    metric.update(1, says((CAR, car)), truth)
    metric.update(2, says((CAR, mask_of(ALL, slice(0, 3)))), truth)
    metric.update(3, says((CAR, mask_of(slice(0, 1), slice(0, 4)))), truth)
    numbers = metric.compute()
    # IoUs 1, 3/4, 1/4: SQ (1 + 3/4) / 2, RQ 2 / (2 + 1/2 + 1/2).
    assert numbers["SQ"] == pytest.approx(7 / 8)
    assert numbers["RQ"] == pytest.approx(2 / 3)
    assert numbers["PQ/car"] == numbers["PQ"] == pytest.approx(7 / 12)
    assert np.isnan(numbers["PQ_stuff"]) and metric.reasons["PQ_stuff"] == "no stuff in truth or prediction"


def test_a_class_is_part_of_the_match() -> None:
    truth = labels_of(np.where(LEFT, SKY, 255))
    numbers = scored(says((ROAD, LEFT)), truth)
    assert (numbers["PQ/sky"], numbers["PQ/road"]) == (0.0, 0.0)


def test_void_counts_on_neither_side() -> None:
    truth = labels_of(np.where(LEFT, SKY, 255))
    # On all of the image: without void its IoU is 1.
    assert scored(says((SKY, LEFT | RIGHT)), truth)["PQ/sky"] == 1.0
    # Unmatched, and more than half on void: not counted; half and half: wrong.
    mostly, half = mask_of(ALL, slice(4, 9)), mask_of(ALL, slice(4, 6))
    assert np.isnan(scored(says((SKY, mask_of(ALL, slice(0, 4))), (CAR, mostly)), truth)["PQ/car"])
    assert scored(says((CAR, half)), truth)["PQ/car"] == 0.0


def test_crowds_excuse_predictions_of_their_class_alone() -> None:
    truth = labels_of(np.where(LEFT, SKY, CAR), ("car", RIGHT), crowd=[0])
    inside = mask_of(ALL, slice(6, 9))
    numbers = scored(says((SKY, LEFT), (CAR, inside)), truth)
    assert numbers["PQ/sky"] == 1.0 and np.isnan(numbers["PQ/car"])  # neither missed nor wrong
    assert scored(says((SKY, LEFT), (CAT, inside)), truth)["PQ/cat"] == 0.0
    # A crowd is no void: it lowers the IoU of what reaches into it.
    assert scored(says((SKY, mask_of(ALL, slice(0, 8)))), truth)["PQ/sky"] == pytest.approx(5 / 8)


def test_labels_and_maps_number_the_classes_their_own_way() -> None:
    truth = panoptic_truth(labels_of(np.where(LEFT, ROAD, CAR), ("car", RIGHT)), CLASSES, THINGS)
    assert [CLASSES[label] for label in truth.labels] == ["car", "road"]
    assert (truth.ids[RIGHT] == 1).all() and (truth.ids[LEFT] == 2).all()


def test_things_without_a_mask_are_void() -> None:
    truth = panoptic_truth(labels_of(np.where(LEFT, CAR, ROAD)), CLASSES, THINGS)
    assert (truth.ids[LEFT] == 0).all() and truth.labels.tolist() == [ROAD]


def test_a_pixel_of_two_masks_goes_where_the_semantic_map_says_else_to_the_first() -> None:
    wide = mask_of(ALL, slice(0, 8))
    truth = panoptic_truth(labels_of(np.full(SIZE, CAR), ("cat", wide), ("car", RIGHT)), CLASSES, THINGS)
    assert (truth.ids[RIGHT] == 2).all() and (truth.ids[LEFT] == 1).all()
    truth = panoptic_truth(labels_of(np.full(SIZE, SKY), ("cat", wide), ("car", RIGHT)), CLASSES, THINGS)
    assert (truth.ids[wide] == 1).all() and (truth.ids[~wide] == 2).all()
    truth = panoptic_truth(labels_of(np.full(SIZE, SKY), ("cat", wide), ("cat", wide)), CLASSES, THINGS)
    assert truth.labels.tolist() == [CAT, SKY]  # nothing is left of the second


def test_what_is_ignored_is_void_and_crowds_lie_below() -> None:
    truth = panoptic_truth(labels_of(np.full(SIZE, SKY), ("car", LEFT), ignore=[0]), CLASSES, THINGS)
    assert (truth.ids[LEFT] == 0).all() and truth.labels.tolist() == [SKY]
    middle = mask_of(ALL, slice(4, 7))
    truth = panoptic_truth(labels_of(np.full(SIZE, CAR), ("car", LEFT), ("car", middle), crowd=[0]), CLASSES, THINGS)
    assert (truth.ids[middle] == 2).all() and truth.crowd.tolist() == [True, False]


def test_the_truth_of_scenes_against_itself_is_perfect(tmp_path) -> None:
    reader = Shapes("val", size=64, count=6, cache_folder=tmp_path)
    metric = PanopticQuality(reader.semantic_classes, reader.classes)
    for index, image_id in enumerate(reader.image_ids):
        labels = reader.labels(index)
        truth = panoptic_truth(labels, reader.semantic_classes, reader.classes)
        areas = np.bincount(truth.ids.ravel())
        things = len(labels.labels)
        assert areas[1 : things + 1].tolist() == labels.areas.tolist()
        segments = [Segment(k, int(label), k <= things, 1.0, int(areas[k])) for k, label in enumerate(truth.labels, 1)]
        metric.update(image_id, PanopticMap(truth.ids, tuple(segments)), labels)
    numbers = metric.compute()
    assert {value for value in numbers.values() if not np.isnan(value)} == {1.0}
    assert numbers["PQ_things"] == numbers["PQ_stuff"] == 1.0


def test_images_that_do_not_know_both_are_left_out() -> None:
    metric, truth = PanopticQuality(CLASSES, THINGS), labels_of(np.full(SIZE, SKY))
    for lacking in ("masks", "semantic"):
        metric.update(1, says((SKY, LEFT)), truth.keep(truth.known - {lacking}))
    assert metric.state() == {}


def test_predictions_that_do_not_agree_with_themselves_are_refused() -> None:
    truth, right = labels_of(np.full(SIZE, SKY)), says((SKY, LEFT))
    segment = right.segments[0]
    stray = PanopticMap(right.ids, ())
    twice = PanopticMap(right.ids, (segment, segment))
    empty = PanopticMap(right.ids, (segment, Segment(9, SKY, False, 1.0, 0)))
    for wrong, said in ((stray, "ids of the map"), (twice, "ids of the map"), (empty, "has no pixel")):
        with pytest.raises(ValueError, match=f"image 1: .*{said}"):
            scored(wrong, truth)
    for number in (-1, 0, 1 << 24):
        wrong = PanopticMap(np.full(SIZE, number, np.int32), (Segment(number, SKY, False, 1.0, 40),))
        with pytest.raises(ValueError, match="an id is not a number from 1 to 16777215"):
            scored(wrong, truth)
    with pytest.raises(ValueError, match="a segment's label lies outside the 4 classes"):
        scored(says((4, LEFT)), truth)
    with pytest.raises(ValueError, match=r"a map of \(2, 2\) for an image of \(4, 10\)"):
        scored(PanopticMap(np.zeros((2, 2), np.int32), ()), truth)
    with pytest.raises(ValueError, match="of the things, dog are not among the classes"):
        PanopticQuality(CLASSES, ("cat", "dog"))
