from __future__ import annotations

import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionkit.data.transforms import Augment
from visionkit.errors import ConfigError
from visionkit.structures import IGNORE_INDEX, Labels


def rng(seed=0):
    return np.random.default_rng(seed)


def extents(masks):
    boxes = coco_mask.toBbox(list(masks))
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def test_flips_do_not_agree_with_each_other_nor_from_sample_to_sample(make_sample):
    sample = make_sample()
    sample.image[:] = 0
    sample.image[0, 0] = 255
    flips = Augment([{"HorizontalFlip": {"p": 0.5}}, {"VerticalFlip": {"p": 0.5}}])
    images = [flips(sample, rng([0, index])).image for index in range(400)]
    turned = np.array([[image[:, -1].any(), image[-1].any()] for image in images])
    assert np.all(np.abs(turned.mean(axis=0) - 0.5) < 0.1)
    assert abs(np.corrcoef(turned.T)[0, 1]) < 0.2
    assert abs(np.corrcoef(turned[:-1, 0], turned[1:, 0])[0, 1]) < 0.2


def test_the_same_generator_gives_the_same_sample(make_sample):
    augment = Augment(
        [{"OneOf": {"p": 1.0, "transforms": [{"Affine": {"rotate": [-40, 40], "p": 1}}, {"GaussNoise": None}]}}]
    )
    augment(make_sample(7), rng(3))
    first, again, other = (augment(make_sample(), rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels.boxes, again.labels.boxes)
    assert not np.array_equal(first.image, other.image)


def test_horizontal_flip_by_hand(make_sample):
    sample = make_sample()
    flipped = Augment([{"HorizontalFlip": {"p": 1.0}}])(sample, rng())
    expected = sample.labels.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [64, 0, 64, 0]
    assert np.allclose(flipped.labels.boxes, expected, atol=1e-3)
    assert np.allclose(extents(flipped.labels.masks), expected)
    assert np.array_equal(flipped.image, sample.image[:, ::-1])
    assert np.array_equal(flipped.labels.semantic, sample.labels.semantic[:, ::-1])
    assert np.allclose(flipped.labels.box, expected[0], atol=1e-3)
    assert np.array_equal(flipped.labels.labels, sample.labels.labels)
    assert flipped.labels.labels.dtype == np.int64
    assert flipped.labels.boxes.dtype == np.float64
    assert np.array_equal(flipped.labels.class_scores, sample.labels.class_scores)


@pytest.mark.parametrize(
    "transform",
    [
        {"Affine": {"rotate": [-45, 45], "scale": [0.6, 1.4], "p": 1.0}},
        {"Perspective": {"p": 1.0}},
        {"RandomCrop": {"height": 24, "width": 30, "p": 1.0}},
        {"RandomResizedCrop": {"size": [40, 40], "p": 1.0}},
        {"ElasticTransform": {"p": 1.0}},
        {"D4": {"p": 1.0}},
        {"RandomSizedBBoxSafeCrop": {"height": 40, "width": 40, "p": 1.0}},
    ],
    ids=lambda transform: next(iter(transform)),
)
def test_boxes_masks_and_semantic_map_stay_together(make_sample, transform):
    augment = Augment([transform])
    for number in range(20):
        before = make_sample(number, objects=4)
        labels = augment(before, rng(number)).labels
        height, width = labels.size
        assert len(labels.boxes) == len(labels.masks) == len(labels.labels)
        if len(labels.boxes):
            moved = np.abs(labels.boxes - extents(labels.masks)).max()
            assert moved <= 0.01
            assert np.all(labels.boxes >= 0)
            assert np.all(labels.boxes <= [width, height, width, height])
        for label, bitmap in zip(labels.labels, labels.bitmaps(), strict=True):
            assert np.all(labels.semantic[bitmap > 0] == label)


def test_a_crop_drops_the_mask_with_its_box(make_sample):
    boxes = np.array([[2.0, 2, 12, 12], [50, 30, 62, 44], [20, 4, 30, 20]])
    bitmaps = np.zeros((48, 64, 3), np.uint8, order="F")
    for number, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
        bitmaps[y1:y2, x1:x2, number] = 1
    labels = Labels(size=(48, 64), boxes=boxes, labels=np.array([5, 6, 7]), masks=tuple(coco_mask.encode(bitmaps)))
    crop = Augment([{"Crop": {"x_min": 0, "y_min": 0, "x_max": 25, "y_max": 48, "p": 1.0}}])
    cropped = crop(replace(make_sample(), labels=labels), rng()).labels
    assert cropped.labels.tolist() == [5, 7]
    assert cropped.boxes.tolist() == [[2, 2, 12, 12], [20, 4, 25, 20]]
    assert cropped.areas.tolist() == [100, 80]
    assert extents(cropped.masks).tolist() == [[2, 2, 12, 12], [20, 4, 25, 20]]


def test_slivers_go_and_crowds_stay(make_sample):
    boxes = np.array([[0.0, 0, 20, 20], [0, 0, 20, 20], [19, 0, 39, 20], [30, 0, 40, 20]])
    crowd = np.array([False, True, False, False])
    labels = Labels(size=(48, 64), boxes=boxes, labels=np.arange(4), crowd=crowd, box=np.array([0.0, 0, 20, 20]))
    crop = Augment([{"Crop": {"x_min": 19, "y_min": 0, "x_max": 64, "y_max": 48, "p": 1.0}}])
    cropped = crop(replace(make_sample(), labels=labels), rng()).labels
    assert cropped.labels.tolist() == [1, 2, 3]
    assert cropped.crowd.tolist() == [True, False, False]
    assert cropped.box is None


def test_where_no_image_lies_the_semantic_map_is_unlabelled(make_sample):
    shift = Augment([{"Affine": {"translate_px": {"x": [20, 20], "y": [0, 0]}, "p": 1.0}}])
    labels = shift(make_sample(), rng()).labels
    assert np.all(labels.semantic[:, :20] == IGNORE_INDEX)
    assert not np.any(labels.semantic[:, 20:] == IGNORE_INDEX)


def test_colour_transforms_leave_labels_exactly_alone(make_sample):
    sample = make_sample()
    labels = replace(sample.labels, boxes=sample.labels.boxes + 0.123456789)
    colours = Augment([{"HueSaturationValue": {"p": 1.0}}, {"RandomBrightnessContrast": {"p": 1.0}}])
    after = colours(replace(sample, labels=labels), rng())
    assert not np.array_equal(after.image, sample.image)
    assert np.array_equal(after.labels.boxes, labels.boxes)
    assert np.array_equal(after.labels.bitmaps(), labels.bitmaps())
    assert np.array_equal(after.labels.semantic, labels.semantic)


def test_colour_transforms_alone_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Augment([{"RandomGamma": {"p": 1.0}}])


def test_unknown_fields_stay_unknown_and_empty_ones_empty(make_sample):
    flip = Augment([{"HorizontalFlip": {"p": 1.0}}])
    sample = make_sample()
    assert flip(replace(sample, labels=Labels(size=(48, 64))), rng()).labels.known == frozenset()
    for fields in ({"boxes"}, {"semantic"}, {"class_scores"}, {"box"}, {"boxes", "masks"}):
        assert flip(replace(sample, labels=sample.labels.keep(frozenset(fields))), rng()).labels.known == fields
    empty = flip(make_sample(objects=0), rng()).labels
    assert empty.boxes.shape == (0, 4)
    assert empty.masks == ()


def test_boxes_beyond_the_image_do_not_stop_the_epoch(make_sample):
    boxes = np.array([[-5.0, -5, 20, 20], [60, 40, 90, 90], [10, 10, 10, 30]])
    labels = Labels(size=(48, 64), boxes=boxes, labels=np.arange(3))
    after = Augment([{"VerticalFlip": {"p": 1.0}}])(replace(make_sample(), labels=labels), rng()).labels
    assert after.labels.tolist() == [0, 1]
    assert np.allclose(after.boxes, [[0, 28, 20, 48], [60, 0, 64, 8]], atol=1e-3)


def test_two_thousand_overlapping_objects(make_sample):
    generator = rng()
    corners = generator.uniform(0, 50, (2000, 2))
    boxes = np.concatenate([corners, corners + 5], axis=1)
    labels = Labels(size=(64, 64), boxes=boxes, labels=generator.integers(0, 3, 2000))
    sample = replace(make_sample(size=(64, 64)), labels=labels)
    after = Augment([{"HorizontalFlip": {"p": 1.0}}])(sample, rng()).labels
    assert len(after.boxes) == 2000
    assert np.array_equal(after.labels, labels.labels)


def test_read_only_pixels_are_not_touched(make_sample):
    sample = make_sample()
    sample.image.flags.writeable = False
    before = sample.image.copy()
    for name in ("CoarseDropout", "HueSaturationValue", "HorizontalFlip", "RandomShadow", "GridDropout"):
        Augment([{name: {"p": 1.0}}])(sample, rng())
        assert np.array_equal(sample.image, before)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (
            [{"HorizontalFlp": None}],
            "[0]: albumentations has no transform 'HorizontalFlp' (did you mean 'HorizontalFlip'?)",
        ),
        ([{"Affine": {"rotat": 5}}], "[0]: Affine has no argument 'rotat' (did you mean 'rotate'?)"),
        ([{"HorizontalFlip": {"p": 2}}], "[0]: HorizontalFlip: p Input should be less than or equal to 1"),
        ([{"RandomCrop": None}], "[0]: RandomCrop: "),
        ([{"Affine": {"fill_mask": 3}}], "[0]: Affine.fill_mask is always unlabelled pixels; leave it out"),
        ([{"Normalize": None}], "[0]: Normalize is refused: preprocess.mean and preprocess.std normalise"),
        ([{"OneOf": {"transforms": [{"Blurr": None}]}}], "[0].OneOf[0]: albumentations has no transform 'Blurr'"),
        ([{"Mosaic": None}], "[0]: Mosaic is refused: augment.mosaic makes mosaics"),
        (["HorizontalFlip"], "[0]: one {Name: arguments} is wanted, not 'HorizontalFlip'"),
        ([{"HorizontalFlip": 0.5}], "[0]: HorizontalFlip: arguments by name are wanted, not 0.5"),
        ({"HorizontalFlip": None}, ": a list of {Name: arguments} is wanted"),
    ],
)
def test_faults_are_named_in_one_line(transforms, message):
    with pytest.raises(ConfigError) as caught:
        Augment(transforms)
    assert str(caught.value).startswith("augment.transforms" + message)
    assert len(str(caught.value).splitlines()) == 1


def test_all_faults_are_listed():
    with pytest.raises(ConfigError) as caught:
        Augment([{"Blurr": None}, {"HorizontalFlip": {"q": 1}}, {"OneOf": [{"Afine": None}]}])
    assert len(str(caught.value).splitlines()) == 3


def test_a_transform_that_cannot_be_applied_names_itself_and_the_file(make_sample):
    with pytest.raises(ConfigError, match=r"augment\.transforms \(RandomCrop\) cannot be applied to 000\.png: "):
        Augment([{"RandomCrop": {"height": 900, "width": 900, "p": 1.0}}])(make_sample(), rng())


def test_it_travels_to_other_processes(make_sample):
    augment = Augment([{"HorizontalFlip": {"p": 1.0}}])
    copy = pickle.loads(pickle.dumps(augment))
    assert np.array_equal(copy(make_sample(), rng()).labels.boxes, augment(make_sample(), rng()).labels.boxes)


def test_what_a_smaller_image_makes_too_thin_goes_although_its_share_stays(make_sample):
    # 6 x 20 and 3 x 20 pixels of 48 x 64 become 3 x 10 and 1.5 x 10.
    labels = Labels(size=(48, 64), boxes=np.array([[4.0, 4, 10, 24], [30, 4, 33, 24]]), labels=np.arange(2))
    shrink = Augment([{"HorizontalFlip": {"p": 0.0}}, {"Resize": {"height": 24, "width": 32, "p": 1.0}}])
    after = shrink(replace(make_sample(), labels=labels), rng()).labels
    assert after.labels.tolist() == [0]
    assert np.allclose(after.boxes, [[2, 2, 5, 12]], atol=1e-3)


def test_a_transform_after_another_sees_its_boxes(make_sample):
    labels = Labels(size=(48, 64), boxes=np.array([[40.0, 4, 60, 24]]), labels=np.zeros(1, np.int64))
    crop = {"Crop": {"x_min": 0, "y_min": 0, "x_max": 30, "y_max": 48, "p": 1.0}}
    both = Augment([{"HorizontalFlip": {"p": 1.0}}, {"HueSaturationValue": {"p": 1.0}}, crop])
    after = both(replace(make_sample(), labels=labels), rng()).labels
    assert np.allclose(after.boxes, [[4, 4, 24, 24]], atol=1e-3)
    assert len(both(replace(make_sample(), labels=labels), rng()).labels.boxes) == 1  # nothing stays from before
