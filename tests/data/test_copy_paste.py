from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionkit.data.copy_paste import CopyPaste
from visionkit.errors import ConfigError
from visionkit.structures import IGNORE_INDEX, Labels, Sample

SIZE = (20, 30)


def rectangle(x1, y1, x2, y2):
    bitmap = np.zeros(SIZE, np.uint8, order="F")
    bitmap[y1:y2, x1:x2] = 1
    return coco_mask.encode(bitmap)


def extents(masks):
    boxes = coco_mask.toBbox(list(masks)).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def of(value, boxes, *, exact=None, dtype=np.uint8, channels=3, **more):
    """An image of one value with rectangles whose masks fill their boxes; class and map number are the object's row."""
    semantic = np.zeros(SIZE, np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes, 1):
        semantic[y1:y2, x1:x2] = number
    fields = {
        "boxes": np.array(boxes if exact is None else exact, np.float64).reshape(-1, 4),
        "labels": np.arange(1, len(boxes) + 1),
        "masks": tuple(rectangle(*box) for box in boxes),
        "semantic": semantic,
        "class_scores": np.ones(2, np.float32),
    }
    return Sample(np.full((*SIZE, channels), value, dtype), Labels(size=SIZE, **(fields | more)), value, f"{value}.png")


def pasted(sample, donor, seed=0):
    """At the donor's own scale and place."""
    return CopyPaste(scale=(1.0, 1.0))(sample, donor, np.random.default_rng(seed))


def test_an_object_by_hand():
    """The pasted object covers half of one object, all but a sliver of another, and all of a third."""
    below = [[4, 4, 12, 12], [10, 6, 19, 10], [12, 12, 16, 16], [22, 2, 28, 8]]
    sample, donor = of(10, below), of(200, [[8, 2, 18, 18]])
    mixed = pasted(sample, donor)
    labels = mixed.labels
    inside = np.zeros(SIZE, bool)
    inside[2:18, 8:18] = True
    assert np.array_equal(mixed.image[..., 0], np.where(inside, 200, 10))
    # Of the second a column of 4 pixels is left, 4 of 36 and too narrow; the third is gone.
    assert labels.labels.tolist() == [1, 4, 1]
    assert labels.boxes.tolist() == [[4, 4, 8, 12], [22, 2, 28, 8], [8, 2, 18, 18]]
    assert np.array_equal(extents(labels.masks), labels.boxes)
    assert labels.areas.tolist() == [32, 36, 160]
    assert np.array_equal(labels.semantic, np.where(inside, 1, sample.labels.semantic))
    assert labels.known == {"boxes", "masks", "semantic"}
    assert mixed.image_id == 10
    assert sample.image.max() == 10 and sample.labels.semantic[3, 9] == 0  # what was given is not changed


def test_boxes_that_nothing_covers_keep_their_exact_coordinates():
    exact = np.array([[0.25, 0.5, 5.75, 5.5], [20.125, 2, 28, 8]])
    sample = of(10, [[0, 0, 6, 6], [20, 2, 28, 8]], exact=exact)
    labels = pasted(sample, of(200, [[22, 4, 30, 10]])).labels
    assert labels.boxes.tolist() == [exact[0].tolist(), [20, 2, 28, 8], [22, 4, 30, 10]]


def test_crowds_are_not_pasted_and_stay_below():
    crowd = np.array([True, False])
    donor = of(200, [[0, 0, 30, 20], [2, 2, 8, 8]], crowd=crowd)
    sample = of(10, [[1, 1, 9, 9], [20, 2, 28, 8]], crowd=crowd)
    labels = pasted(sample, donor).labels
    assert labels.labels.tolist() == [1, 2, 2]
    assert labels.crowd.tolist() == [True, False, False]
    assert labels.boxes[0].tolist() == [1, 1, 9, 9]
    ignored = of(200, [[2, 2, 8, 8]], ignore=np.ones(1, np.bool_))
    assert pasted(sample, ignored) is sample


@pytest.mark.parametrize("field", ["masks", "boxes"])
def test_without_masks_or_objects_nothing_is_pasted(field):
    full = of(10, [[2, 2, 8, 8]])
    bare = replace(full, labels=full.labels.keep(frozenset({"boxes", "semantic"} - {field})))
    empty = of(10, [])
    assert pasted(bare, full) is bare
    assert pasted(full, bare) is full
    assert pasted(full, empty) is full
    assert pasted(empty, full).labels.labels.tolist() == [1]


def test_a_map_that_the_donor_lacks_is_unlabelled_under_its_objects():
    sample, donor = of(10, []), of(200, [[2, 2, 8, 8]], semantic=None)
    semantic = pasted(sample, donor).labels.semantic
    assert np.all(semantic[2:8, 2:8] == IGNORE_INDEX)
    assert np.sum(semantic == IGNORE_INDEX) == 36


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_dtype_and_channels_are_kept(dtype, channels):
    mixed = pasted(of(1, [], dtype=dtype, channels=channels), of(7, [[2, 2, 8, 8]], dtype=dtype, channels=channels))
    assert (mixed.image.dtype, mixed.image.shape) == (dtype, (*SIZE, channels))
    assert sorted(np.unique(mixed.image)) == [1, 7]


def test_some_of_the_objects_at_random_scales_and_places(make_sample):
    """Pixels, masks, boxes and semantic map agree, whatever was covered."""
    counts, sizes = [], []
    for seed in range(60):
        sample, donor = make_sample(seed, (48, 64), objects=6), make_sample(seed + 100, (64, 48), objects=4)
        donor = replace(donor, image=donor.image // 2)
        rng = np.random.default_rng(seed)
        mixed = CopyPaste(scale=(0.5, 1.5))(sample, donor, rng)
        labels = mixed.labels
        assert labels.size == (48, 64)
        counts.append(len(labels.boxes))
        assert np.abs(labels.boxes - extents(labels.masks)).max() <= 1.0
        assert np.array_equal(labels.areas, coco_mask.area(list(labels.masks)))
        bitmaps = labels.bitmaps()
        assert bitmaps.sum(axis=0).max() == 1  # the objects of either image do not overlap, and none lies under another
        for label, bitmap in zip(labels.labels, bitmaps, strict=True):
            assert np.all(labels.semantic[bitmap > 0] == label)
        sizes.append(labels.areas[-1])
    assert min(counts) <= 7 and max(counts) == 10
    assert min(sizes) * 3 < max(sizes)


def test_values_that_cannot_be():
    with pytest.raises(ConfigError, match=r"augment\.copy_paste\.scale=\[2, 1\]: two rising factors above 0 is wanted"):
        CopyPaste(scale=(2, 1))
    with pytest.raises(ConfigError, match=r"augment\.copy_paste\.until=1\.5"):
        CopyPaste(until=1.5)
