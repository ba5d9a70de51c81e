"""Masks of instances: pasted into original pixels, and encoded as COCO encodes them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionkit.predictions import Instances
from visionkit.structures import Geometry


def instances(boxes, logits, geometry=None, stride=4.0):
    """logits: (N, h, w), those of each mask."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    count, (height, width) = len(boxes), np.shape(logits)[1:]
    size = (int(height * stride), int(width * stride))
    return Instances(
        boxes=boxes,
        scores=np.linspace(0.9, 0.5, count).astype(np.float32),
        labels=np.arange(count),
        coefficients=np.eye(count, dtype=np.float32),
        prototypes=np.asarray(logits, np.float32),
        geometry=geometry or Geometry(size, size, (1.0, 1.0)),
        stride=stride,
    )


def ramp(shape, column):
    """Logits that rise along x and are 0 where `column`, in cells from the canvas's edge, is."""
    return np.tile((np.arange(shape[1]) + 0.5 - column) * 2.0, (shape[0], 1))[None]


def test_a_mask_s_edge_lies_between_the_cells_where_the_logits_say_it_does():
    # 0 is at 1.5 cells of 4 px: pixel 6 is the first one whose centre lies beyond.
    mask = instances([[0, 0, 16, 8]], ramp((2, 4), 1.5)).mask(0)
    assert mask.shape == (8, 16)
    assert mask.dtype == np.bool_
    assert mask.all(axis=0).tolist() == [False] * 6 + [True] * 10
    assert mask.any(axis=0).tolist() == mask.all(axis=0).tolist()


def test_masks_are_mapped_to_original_pixels_in_one_step():
    # The original is twice as large along x, half along y, and was shifted by (y, x) = (4, −2) px of the canvas.
    geometry = Geometry((10, 50), (16, 16), (2.0, 0.5), (4.0, -2.0))
    mask = instances([[0, 0, 50, 10]], ramp((4, 4), 2.0), geometry).mask(0)
    # The edge: 2 cells are 8 px of the canvas, (8 + 2) / 0.5 = 20 px of the original.
    assert mask.shape == (10, 50)
    assert mask.all(axis=0).tolist() == [False] * 20 + [True] * 30
    down = instances([[0, 0, 50, 10]], ramp((4, 4), 2.0).transpose(0, 2, 1), geometry).mask(0)
    assert down.all(axis=1).tolist() == [False] * 2 + [True] * 8  # (8 − 4) / 2


def test_a_mask_is_the_same_whether_its_box_is_narrow_or_wide_also_beside_the_grid():
    rng = np.random.default_rng(0)
    # The canvas is a part of the original: 8 px of it lie to the left of the grid and above, as many beyond.
    geometry = Geometry((40, 56), (24, 40), (1.0, 1.0), (-8.0, -8.0))
    boxes = np.array(
        [[0, 0, 56, 40], [1, 2, 4, 7], [10, 9, 13, 30], [9, 35, 50, 40], [53, 0, 56, 39], [30, 20, 31, 21]]
    )
    logits = np.repeat(rng.normal(size=(1, 6, 10)), len(boxes), axis=0)
    found = instances(boxes, logits, geometry)
    whole = found.mask(0)
    assert 500 < whole.sum() < 2000
    for row, (x1, y1, x2, y2) in enumerate(boxes):
        assert np.array_equal(found.mask(row)[y1:y2, x1:x2], whole[y1:y2, x1:x2])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_masks_mixed_inside_their_boxes_are_those_of_whole_grids_of_logits(dtype):
    rng = np.random.default_rng(1)
    # As beside the grid above; boxes that overlap, lie at the edges, hold one pixel, or nothing.
    geometry = Geometry((40, 56), (24, 40), (1.0, 1.0), (-8.0, -8.0))
    corners = rng.uniform(-4, 60, (60, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).clip(0, [56, 40, 56, 40])
    boxes[:5] = [[0, 0, 56, 40], [0, 0, 3, 3], [50, 36, 56, 40], [20, 20, 21, 21], [30, 10, 30, 30]]
    coefficients = rng.normal(size=(60, 8)).astype(np.float32)
    prototypes = rng.normal(size=(8, 6, 10)).astype(dtype)
    logits = np.einsum("nk,kyx->nyx", coefficients.astype(np.float64), prototypes.astype(np.float64))
    whole = instances(boxes, logits, geometry)
    mixed = replace(whole, coefficients=coefficients, prototypes=prototypes)
    pairs = list(zip(mixed.masks(), whole.masks(), strict=True))
    differing = sum(np.count_nonzero(one != other) for one, other in pairs)
    assert differing <= 1e-4 * sum(other.sum() for _, other in pairs)
    assert sum(other.sum() for _, other in pairs) > 5000
    assert not pairs[4][0].any()
    shown = mixed.select(np.array([3, 0]))
    assert np.array_equal(shown.mask(1), pairs[0][0])
    assert shown.prototypes is prototypes


def test_outside_its_box_an_instance_has_no_pixel():
    found = instances([[2.4, 1.6, 5.5, 3], [7, 7, 7.2, 7.3], [-3, -3, 99, 99]], np.ones((3, 2, 4)))
    mask = found.mask(0)
    assert (mask.sum(), mask[2:3, 2:6].all()) == (4, True)
    assert not found.mask(1).any()
    assert found.mask(2).all()
    assert [mask.sum() for mask in found.masks()] == [4, 0, 128]


@pytest.mark.parametrize("seed", range(4))
def test_encodings_are_those_of_coco_s_own_code(seed):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        height, width = rng.integers(1, 5, 2) * 4
        corners = rng.integers(-2, max(height, width) + 2, (4, 2, 2))
        boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
        boxes[rng.random(4) < 0.4] = [0, 0, width, height]
        logits = rng.normal(rng.choice([-1, 0, 2]), 1, (4, height // 4, width // 4))
        found = instances(boxes, logits)
        for row, mask in enumerate(found.masks()):
            assert found.rle(row) == coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
        assert found.encoded_masks() == tuple(found.rle(row) for row in range(4))


def test_masks_encoded_once_follow_their_rows(monkeypatch):
    found = instances([[0, 0, 16, 8], [0, 0, 8, 8], [4, 4, 6, 6]], np.ones((3, 2, 4)))
    encoded = found.encoded()
    monkeypatch.setattr(Instances, "window", lambda *_: pytest.fail("encoded again"))
    areas = coco_mask.area(list(encoded.encoded_masks())).tolist()
    assert areas == [128, 64, 4]
    assert coco_mask.area(list(encoded.above(0.6).encoded_masks())).tolist() == areas[:2]
    assert coco_mask.area(list(encoded.select(np.array([2, 0])).encoded_masks())).tolist() == [4, 128]
    assert coco_mask.area(encoded.rle(2)) == 4
    assert len(encoded.to_coco(1, [1, 2, 3])) == 3


def test_coco_rows_are_json_and_read_back():
    found = instances([[1, 1, 5, 7], [8, 0, 16, 8]], np.ones((2, 2, 4)))
    rows = json.loads(json.dumps(found.to_coco(7, ["cat", 90])))
    assert [(row["image_id"], row["category_id"], row["bbox"]) for row in rows] == [
        (7, "cat", [1, 1, 4, 6]),
        (7, 90, [8, 0, 8, 8]),
    ]
    for row, mask in zip(rows, found.masks(), strict=True):
        assert np.array_equal(coco_mask.decode(row["segmentation"]), mask)


def test_no_instances():
    nothing = instances([], np.zeros((0, 2, 4)))
    assert len(nothing) == 0
    assert nothing.encoded_masks() == nothing.encoded().encoded_masks() == ()
    assert nothing.to_coco(1, []) == list(nothing.masks()) == []


def test_arrays_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match=r"Instances\.prototypes: the shape \(1, any, any\) is wanted"):
        instances([[0, 0, 1, 1]], np.zeros((2, 2, 4)))
    fine = instances([[0, 0, 1, 1]], np.zeros((1, 2, 4)))
    with pytest.raises(ValueError, match=r"Instances\.coefficients: the shape \(1, any\) is wanted"):
        replace(fine, coefficients=np.zeros((2, 1)))
