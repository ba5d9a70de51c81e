from __future__ import annotations

from dataclasses import replace

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.data.placement import fit_sample, paint, place_boxes, place_labels
from visionkit.preprocess import Placement, Preprocess
from visionkit.structures import IGNORE_INDEX, Labels


def random_masks(count, size, seed=0):
    rng = np.random.default_rng(seed)
    bitmaps = np.zeros((*size, count), np.uint8, order="F")
    for number in range(count):
        y, x = rng.integers(0, size[0] - 6), rng.integers(0, size[1] - 6)
        bitmaps[y : y + 6, x : x + 6, number] = rng.random((6, 6)) < 0.7
    return tuple(coco_mask.encode(bitmaps))


def test_painting_and_encoding_returns_the_same_masks_also_where_they_overlap():
    masks = random_masks(400, (30, 50))
    painted = paint(masks, (30, 50))
    assert 1 < len(painted.maps) < 200
    assert painted.encode() == list(masks)
    assert painted.encode(np.array([7, 3])) == [masks[7], masks[3]]


def test_one_map_takes_objects_that_do_not_overlap_and_no_more_than_a_byte_counts():
    bitmaps = np.zeros((20, 20, 300), np.uint8, order="F")
    bitmaps.reshape(400, 300, order="F")[np.arange(300), np.arange(300)] = 1
    painted = paint(coco_mask.encode(bitmaps), (20, 20))
    assert len(painted.maps) == 2
    assert painted.encode() == coco_mask.encode(bitmaps)


def test_no_masks():
    painted = paint((), (4, 5))
    assert painted.maps.shape == (0, 4, 5)
    assert painted.encode() == []


def test_labels_follow_by_hand():
    boxes = np.array([[2.0, 2, 6, 6], [8, 0, 10, 10], [0, 0, 10, 10]])
    bitmaps = np.zeros((10, 10, 3), np.uint8, order="F")
    bitmaps[2:6, 2:6, 0] = 1
    bitmaps[:, 8:10, 1] = 1
    bitmaps[:4, :, 2] = 1
    semantic = np.arange(100, dtype=np.uint8).reshape(10, 10)
    labels = Labels(
        size=(10, 10), boxes=boxes, labels=np.arange(3), masks=tuple(coco_mask.encode(bitmaps)), semantic=semantic
    )
    # Columns 0..8 of the image become twice as large, from (x, y) = (4, 10) of a canvas 40 x 30 on.
    placed = place_labels(labels, Placement((10, 10), ((0, 10), (0, 8)), ((10, 30), (4, 20)), (30, 40)))
    assert placed.labels.tolist() == [0, 2]
    # Not cut: the box as it was. Cut: the extent of what is left of the mask, which is lower than the box.
    assert placed.boxes.tolist() == [[8, 14, 16, 22], [4, 10, 20, 18]]
    assert placed.areas.tolist() == [64, 128]
    assert placed.semantic[10, 4:8].tolist() == [0, 0, 1, 1]
    assert placed.semantic[12, 4] == 10
    assert np.count_nonzero(placed.semantic != IGNORE_INDEX) == 20 * 16


def test_the_classes_that_a_set_labels_stay_known_also_of_an_image_without_objects(make_sample):
    known = np.array([True, False, True])
    for objects in (3, 0):
        sample = make_sample(objects=objects)
        fitted, _ = fit_sample(replace(sample, labels=replace(sample.labels, known_classes=known)), Preprocess(128))
        assert fitted.labels.known_classes.tolist() == [True, False, True]
        assert fit_sample(sample, Preprocess(128))[0].labels.known_classes is None


def test_fit_sample_scales_all_labels(make_sample):
    sample = make_sample(size=(48, 64))
    fitted, geometry = fit_sample(sample, Preprocess(128))
    assert fitted.image.shape == (96, 128, 3)
    assert geometry.scale == (2.0, 2.0)
    assert np.array_equal(fitted.labels.boxes, sample.labels.boxes * 2)
    assert np.array_equal(fitted.labels.box, sample.labels.box * 2)
    assert np.array_equal(fitted.labels.bitmaps(), sample.labels.bitmaps().repeat(2, axis=1).repeat(2, axis=2))
    assert np.array_equal(fitted.labels.semantic, sample.labels.semantic.repeat(2, axis=0).repeat(2, axis=1))
    assert np.array_equal(fitted.labels.class_scores, sample.labels.class_scores)
    assert np.array_equal(fitted.labels.labels, sample.labels.labels)


def test_a_centre_crop_that_loses_the_object_leaves_the_box_unknown(make_sample):
    box = np.array([0.0, 0, 5, 5])
    labels = Labels(size=(48, 64), boxes=box[None], labels=np.zeros(1, np.int64), box=box)
    fitted, _ = fit_sample(replace(make_sample(), labels=labels), Preprocess(42, policy="resize_crop"))
    assert fitted.labels.box is None
    assert fitted.labels.boxes.shape == (0, 4)
    assert fitted.labels.known == {"boxes"}


def test_boxes_of_several_images_are_placed_as_those_of_each():
    rng = np.random.default_rng(0)
    placements = [
        Placement((40, 60), ((4, 40), (0, 50)), ((0, 30), (0, 40)), (64, 80)),
        Placement((50, 30), ((0, 50), (3, 30)), ((30, 64), (40, 80)), (64, 80)),
        Placement((20, 20), ((0, 20), (0, 20)), ((30, 64), (0, 40)), (64, 80)),
    ]
    parts = []
    for placement, count in zip(placements, (30, 0, 25), strict=True):
        corners = rng.uniform(0, 0.7, (count, 2)) * placement.original[::-1]
        boxes = np.concatenate([corners, corners + rng.uniform(0, 0.3, (count, 2)) * placement.original[::-1]], axis=1)
        crowd = rng.random(count) < 0.2
        labels = np.arange(count)
        parts.append(Labels(size=placement.original, boxes=boxes, labels=labels, crowd=crowd, ignore=~crowd))
    parts[2] = replace(parts[2], known_classes=np.array([True, False]))
    together = place_boxes(parts, placements)
    each = [place_labels(part, placement) for part, placement in zip(parts, placements, strict=True)]
    assert 20 < len(together.boxes) < 55
    for name in ("boxes", "labels", "crowd", "ignore", "areas"):
        assert np.array_equal(getattr(together, name), np.concatenate([getattr(one, name) for one in each])), name
    assert together.size == (64, 80)
    assert together.known_classes.tolist() == [True, False]
    assert together.known == {"boxes"}
