from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionkit.data.mixes import Mosaic
from visionkit.errors import ConfigError
from visionkit.structures import IGNORE_INDEX, Labels


def extents(mask):
    x, y, width, height = coco_mask.toBbox(mask)
    return [x, y, x + width, y + height]


def test_pixels_masks_boxes_and_semantic_map_agree(make_sample):
    sizes = [(48, 64), (64, 48), (90, 30), (33, 77)]
    samples = [make_sample(number, size, objects=4) for number, size in enumerate(sizes)]
    for seed in range(20):
        mixed = Mosaic((64, 80))(samples, np.random.default_rng(seed))
        labels = mixed.labels
        assert mixed.image.shape == (64, 80, 3)
        assert mixed.image_id == samples[0].image_id
        assert labels.class_scores is None
        assert labels.box is None
        assert len(labels.boxes) == len(labels.masks) > 0
        assert np.all(labels.boxes >= 0)
        assert np.all(labels.boxes[:, 2:] <= [80, 64])
        for box, mask, label, bitmap in zip(labels.boxes, labels.masks, labels.labels, labels.bitmaps(), strict=True):
            assert np.abs(box - extents(mask)).max() <= 1.0
            assert np.all(labels.semantic[bitmap > 0] == label)
            # Edges blend with the ground.
            assert bitmap.sum() < 60 or np.mean(mixed.image[bitmap > 0] == 20 * label) > 0.5
        beside = labels.semantic == IGNORE_INDEX
        assert np.all(mixed.image[beside] == 114)
        assert np.all(labels.areas == coco_mask.area(list(labels.masks)))


def test_one_image_by_hand(make_sample):
    # Scale 1 on a canvas of the image's own size with the centre in its middle: each quadrant shows a 24 x 32 part.
    samples = [make_sample(number, objects=0) for number in range(4)]
    for number, sample in enumerate(samples):
        sample.image[:] = 10 * number
    mixed = Mosaic((48, 64), scale=(1.0, 1.0), centre=(0.5, 0.5))(samples, np.random.default_rng(0))
    corners = mixed.image[[0, 0, 47, 47], [0, 63, 0, 63], 0]
    assert corners.tolist() == [0, 10, 20, 30]
    assert mixed.image[[23, 23, 24, 24], [31, 32, 31, 32], 0].tolist() == [0, 10, 20, 30]
    assert mixed.labels.boxes.shape == (0, 4)


def test_an_object_that_is_mostly_cut_away_is_dropped(make_sample):
    whole = Labels(size=(48, 64), boxes=np.array([[0.0, 0, 64, 48]]), labels=np.zeros(1, np.int64))
    empty = Labels(size=(48, 64), boxes=np.zeros((0, 4)), labels=np.zeros(0, np.int64))
    samples = [replace(make_sample(), labels=labels) for labels in (whole, empty, empty, empty)]
    cut = Mosaic((48, 64), scale=(1.0, 1.0), centre=(0.25, 0.25))(samples, np.random.default_rng(0))
    assert len(cut.labels.boxes) == 0
    quarter = Mosaic((48, 64), scale=(1.0, 1.0), centre=(0.5, 0.5))(samples, np.random.default_rng(0))
    assert quarter.labels.boxes.tolist() == [[0, 0, 32, 24]]
    crowd = replace(samples[0], labels=replace(whole, crowd=np.ones(1, np.bool_)))
    kept = Mosaic((48, 64), scale=(1.0, 1.0), centre=(0.25, 0.25))([crowd, *samples[1:]], np.random.default_rng(0))
    assert kept.labels.crowd.tolist() == [True]


def test_what_one_partner_does_not_know_is_not_known(make_sample):
    samples = [make_sample(number) for number in range(4)]
    samples[2] = replace(samples[2], labels=samples[2].labels.keep(frozenset({"boxes"})))
    labels = Mosaic((48, 64))(samples, np.random.default_rng(0)).labels
    assert labels.known == {"boxes"}


def test_a_mosaic_knows_the_classes_that_all_four_know(make_sample):
    """What one set does not label may lie unlabelled in its quadrant; None is a set that labels them all."""
    lists = (None, [True, True, False], [True, False, True], None)
    samples = [
        replace(sample, labels=replace(sample.labels, known_classes=None if known is None else np.array(known)))
        for sample, known in zip([make_sample(number) for number in range(4)], lists, strict=True)
    ]
    assert Mosaic((48, 64))(samples, np.random.default_rng(0)).labels.known_classes.tolist() == [True, False, False]
    assert Mosaic((48, 64))([samples[0]] * 4, np.random.default_rng(0)).labels.known_classes is None


def test_until_switches_off():
    share, number = Mosaic((8, 8), until=0.8), Mosaic((8, 8), until=3)
    assert [share.active(epoch, 10.0) for epoch in (0, 7, 8, 9)] == [True, True, False, False]
    assert [number.active(epoch, 10.0) for epoch in (0, 2, 3)] == [True, True, False]
    assert Mosaic((8, 8)).active(10**6, 1.0)


def test_tiny_canvas_and_images(make_sample):
    sample = make_sample(objects=0)
    speck = replace(sample, image=sample.image[:1, :1], labels=Labels(size=(1, 1)))
    for seed in range(20):
        assert Mosaic((2, 3))([speck] * 4, np.random.default_rng(seed)).image.shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1.5}, r"augment\.mosaic\.p=1\.5"),
        ({"until": 1.5}, "until=1.5"),
        ({"scale": (2.0, 1.0)}, "two rising factors"),
    ],
)
def test_values_that_cannot_be(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Mosaic((8, 8), **arguments)
