from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionkit.data.mixes import MixUp, Mosaic
from visionkit.errors import ConfigError
from visionkit.structures import IGNORE_INDEX, Labels, Sample


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
    assert [share.turns.active(epoch, 10.0) for epoch in (0, 7, 8, 9)] == [True, True, False, False]
    assert [number.turns.active(epoch, 10.0) for epoch in (0, 2, 3)] == [True, True, False]
    assert Mosaic((8, 8)).turns.active(10**6, 1.0)


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


# ------------------------------------------------------------------------------------------------------------- mix-up
class Shares:
    """A generator whose share is known."""

    def __init__(self, share):
        self.share = share

    def beta(self, a, b):
        assert a == b > 0
        return self.share


def plain(value, size, dtype=np.uint8, channels=3, **labels):
    return Sample(np.full((*size, channels), value, dtype), Labels(size=size, **labels), value, f"{value}.png")


def test_a_mixup_by_hand():
    """Both lie at the top left; where one lies alone it stays as it is, and where none lies it is grey."""
    one = plain(100, (4, 2), semantic=np.full((4, 2), 1, np.uint8), class_scores=np.array([1, 0, 0], np.float32))
    other = plain(200, (2, 4), semantic=np.array([[1, 2, 1, 1], [255, 1, 0, 0]], np.uint8),
                  class_scores=np.array([0, 1, -1], np.float32))  # fmt: skip
    mixed = MixUp()(one, other, Shares(0.3))
    assert mixed.image[..., 0].tolist() == [[170, 170, 200, 200]] * 2 + [[100, 100, 114, 114]] * 2
    assert mixed.labels.semantic.tolist() == [[1, 255, 1, 1], [255, 1, 0, 0], [1, 1, 255, 255], [1, 1, 255, 255]]
    assert np.allclose(mixed.labels.class_scores, [0.3, 0.7, -1])
    assert mixed.labels.class_scores.dtype == np.float32
    assert (mixed.image_id, mixed.labels.known) == (100, {"semantic", "class_scores"})
    assert one.image.max() == 100 and one.labels.semantic.max() == 1  # what was given is not changed


@pytest.mark.parametrize(("dtype", "values"), [(np.uint8, (10, 21)), (np.uint16, (1000, 60000)), (np.float32, (0, 1))])
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_a_mixup_keeps_dtype_and_channels(dtype, values, channels):
    one, other = (plain(value, (3, 5), dtype, channels) for value in values)
    mixed = MixUp()(one, other, Shares(0.25)).image
    assert (mixed.dtype, mixed.shape) == (dtype, (3, 5, channels))
    assert np.allclose(mixed, 0.25 * values[0] + 0.75 * values[1], atol=0 if dtype == np.float32 else 0.5)


def test_a_mixup_has_the_objects_of_both(make_sample):
    one, other = make_sample(1, (48, 64)), make_sample(2, (64, 40))
    labels = MixUp()(one, other, np.random.default_rng(0)).labels
    assert labels.size == (64, 64)
    assert labels.boxes.tolist() == [*one.labels.boxes.tolist(), *other.labels.boxes.tolist()]
    assert labels.labels.tolist() == [*one.labels.labels.tolist(), *other.labels.labels.tolist()]
    assert [extents(mask) for mask in labels.masks] == labels.boxes.tolist()
    assert labels.box is None
    less = replace(other, labels=other.labels.keep(frozenset({"boxes"})))
    assert MixUp()(one, less, np.random.default_rng(0)).labels.known == {"boxes"}


def test_shares_of_a_mixup_are_about_a_half():
    shares = np.array([MixUp()(plain(0, (1, 1)), plain(200, (1, 1)), np.random.default_rng(i)).image.max() / 200
                       for i in range(400)])  # fmt: skip
    assert abs(shares.mean() - 0.5) < 0.03
    assert 0.9 < np.mean((shares > 0.27) & (shares < 0.73)) < 0.99


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"alpha": 0.0}, r"augment\.mixup\.alpha=0\.0: a number above 0 is wanted"), ({"p": -1}, r"augment\.mixup\.p=-1")],
)
def test_values_of_a_mixup_that_cannot_be(arguments, message):
    with pytest.raises(ConfigError, match=message):
        MixUp(**arguments)
