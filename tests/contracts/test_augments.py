"""What every adapter of a library of transforms must do, for the transforms that all of them have."""

from __future__ import annotations

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from visionkit.data.augmentation import BACKENDS
from visionkit.errors import ConfigError
from visionkit.structures import IGNORE_INDEX, Labels, Sample

SIZE = (48, 64)
GEOMETRIC = {
    "albumentations": {
        "horizontal flip": {"HorizontalFlip": {"p": 1.0}},
        "vertical flip": {"VerticalFlip": {"p": 1.0}},
        "affine": {"Affine": {"rotate": [-45, 45], "scale": [0.6, 1.4], "translate_percent": [-0.2, 0.2], "p": 1.0}},
        "shear": {"Affine": {"shear": [-15, 15], "p": 1.0}},
        "rotation": {"Rotate": {"limit": 40, "p": 1.0}},
        "perspective": {"Perspective": {"scale": [0.02, 0.1], "p": 1.0}},
        "random resized crop": {"RandomResizedCrop": {"size": [40, 44], "scale": [0.3, 1.0]}},
        "random crop": {"RandomCrop": {"height": 24, "width": 30}},
        "padded crop": {"RandomCrop": {"height": 60, "width": 80, "pad_if_needed": True, "fill": 114}},
        "centre crop": {"CenterCrop": {"height": 30, "width": 40}},
        "resize": {"Resize": {"height": 96, "width": 100}},
        "elastic": {"ElasticTransform": {"alpha": 30, "sigma": 5, "p": 1.0}},
    },
    "torchvision": {
        "horizontal flip": {"RandomHorizontalFlip": {"p": 1.0}},
        "vertical flip": {"RandomVerticalFlip": {"p": 1.0}},
        "affine": {"RandomAffine": {"degrees": 45, "scale": [0.6, 1.4], "translate": [0.2, 0.2]}},
        "shear": {"RandomAffine": {"degrees": 0, "shear": 15}},
        "rotation": {"RandomRotation": {"degrees": 40}},
        "perspective": {"RandomPerspective": {"distortion_scale": 0.2, "p": 1.0}},
        "random resized crop": {"RandomResizedCrop": {"size": [40, 44], "scale": [0.3, 1.0]}},
        "random crop": {"RandomCrop": {"size": [24, 30]}},
        "padded crop": {"RandomCrop": {"size": [60, 80], "pad_if_needed": True, "fill": 114}},
        "centre crop": {"CenterCrop": {"size": [30, 40]}},
        "resize": {"Resize": {"size": [96, 100]}},
        "elastic": {"ElasticTransform": {"alpha": 30.0, "sigma": 5.0}},
    },
}
COLOURS = {
    "albumentations": {
        "colour jitter": {"ColorJitter": {"brightness": [0.5, 1.5], "hue": [-0.1, 0.1], "p": 1.0}},
        "blur": {"GaussianBlur": {"blur_limit": [3, 5], "p": 1.0}},
        "grey": {"ToGray": {"p": 1.0}},
        "posterize": {"Posterize": {"num_bits": 2, "p": 1.0}},
        "solarize": {"Solarize": {"p": 1.0}},
        "invert": {"InvertImg": {"p": 1.0}},
    },
    "torchvision": {
        "colour jitter": {"ColorJitter": {"brightness": [0.5, 1.5], "hue": [-0.1, 0.1]}},
        "blur": {"GaussianBlur": {"kernel_size": 5, "sigma": [1.0, 2.0]}},
        "grey": {"RandomGrayscale": {"p": 1.0}},
        "posterize": {"RandomPosterize": {"bits": 2, "p": 1.0}},
        "solarize": {"RandomSolarize": {"threshold": 128, "p": 1.0}},
        "invert": {"RandomInvert": {"p": 1.0}},
    },
}


def of_each(kinds):
    return [
        pytest.param(BACKENDS[name], one, id=f"{name}-{kind}") for name in kinds for kind, one in kinds[name].items()
    ]


def rng(seed=0):
    return np.random.default_rng(seed)


def rectangle(x1, y1, x2, y2, size=SIZE):
    bitmap = np.zeros(size, np.uint8, order="F")
    bitmap[y1:y2, x1:x2] = 1
    return coco_mask.encode(bitmap)


def extents(masks):
    boxes = coco_mask.toBbox(list(masks)).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def scene(seed=0) -> Sample:
    """Five rectangles, number k of class k and grey value 40 * k in image and semantic map; the ground is class 0."""
    boxes = [[3, 3, 15, 12], [20, 4, 34, 20], [44, 8, 60, 18], [6, 26, 22, 44], [32, 28, 58, 45]]
    boxes = [
        [x1 + s, y1 + s, x2 + s, y2 + s]
        for (x1, y1, x2, y2), s in zip(boxes, rng(seed).integers(-2, 3, 5), strict=True)
    ]
    image, semantic = np.full((*SIZE, 3), 250, np.uint8), np.zeros(SIZE, np.uint8)
    for label, (x1, y1, x2, y2) in enumerate(boxes, 1):
        image[y1:y2, x1:x2] = 40 * label
        semantic[y1:y2, x1:x2] = label
    labels = Labels(
        size=SIZE,
        boxes=np.array(boxes, np.float64),
        labels=np.arange(1, 6),
        masks=tuple(rectangle(*box) for box in boxes),
        semantic=semantic,
        class_scores=np.array([0, 1, 0], np.float32),
        box=np.array(boxes[1], np.float64),
    )
    return Sample(image, labels, seed, f"{seed}.png")


@pytest.mark.parametrize(("augment", "transform"), of_each(GEOMETRIC))
class TestGeometry:
    def test_masks_boxes_and_semantic_map_follow_the_pixels(self, augment, transform):
        made = augment([transform])
        for seed in range(12):
            after = made(scene(seed), rng(seed))
            labels = after.labels
            height, width = labels.size
            assert after.image.shape == (height, width, 3)
            assert after.image.flags.c_contiguous
            assert (after.image.dtype, labels.boxes.dtype, labels.labels.dtype) == (np.uint8, np.float64, np.int64)
            assert len(labels.boxes) == len(labels.masks) == len(labels.labels)
            assert np.all(labels.boxes >= 0) and np.all(labels.boxes <= [width, height, width, height])
            assert np.array_equal(labels.areas, [coco_mask.area(mask) for mask in labels.masks])
            if len(labels.boxes):
                assert np.abs(labels.boxes - extents(labels.masks)).max() <= 0.01
            for label, bitmap in zip(labels.labels, labels.bitmaps(), strict=True):
                assert np.all(labels.semantic[bitmap > 0] == label)
                inner = cv2.erode(bitmap, np.ones((3, 3), np.uint8)) > 0  # edges blend
                if inner.any():
                    assert np.mean(np.abs(after.image[inner].astype(int) - 40 * label) <= 10) > 0.9

    def test_objects_are_lost_only_with_their_pixels(self, augment, transform):
        """Whatever is large in the semantic map still is an object."""
        made = augment([transform])
        for seed in range(12):
            labels = made(scene(seed), rng(seed)).labels
            numbers, counts = np.unique(labels.semantic, return_counts=True)
            large = {int(number) for number, count in zip(numbers, counts, strict=True) if count > 150}
            assert large - {0, IGNORE_INDEX} <= set(labels.labels.tolist())

    def test_what_is_beside_the_image_is_unlabelled_and_nothing_else(self, augment, transform):
        blank = scene()
        blank = replace(
            blank, image=np.full_like(blank.image, 200), labels=Labels(size=SIZE, semantic=blank.labels.semantic)
        )
        made = augment([transform])
        for seed in range(6):
            after = made(blank, rng(seed))
            beside = after.labels.semantic == IGNORE_INDEX
            assert set(np.unique(after.labels.semantic)) <= {0, 1, 2, 3, 4, 5, IGNORE_INDEX}
            dark = after.image[..., 0] < 150  # filled with 0 or 114
            assert np.mean(dark != beside) < 0.08  # the two differ where edges blend

    def test_it_is_a_function_of_the_generator(self, augment, transform):
        made = augment([transform])
        made(scene(3), rng(8))
        torch.manual_seed(1)
        first, state = made(scene(), rng(1)), torch.get_rng_state()
        torch.manual_seed(2)
        again = pickle.loads(pickle.dumps(made))(scene(), rng(1))
        assert np.array_equal(first.image, again.image)
        assert np.array_equal(first.labels.boxes, again.labels.boxes)
        assert np.array_equal(first.labels.semantic, again.labels.semantic)
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)  # the run's own numbers are not drawn from

    @pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.uint16, 3), (np.float32, 5)])
    def test_other_images_move_as_those_of_eight_bits(self, augment, transform, dtype, channels):
        plain, scale = scene(), {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
        image = (plain.image[..., :1].repeat(channels, axis=2).astype(np.float64) * scale).astype(dtype)
        made = augment([transform])
        expected, after = made(plain, rng(4)), made(replace(plain, image=image), rng(4))
        assert (after.image.dtype, after.image.shape) == (dtype, (*expected.image.shape[:2], channels))
        assert np.abs(after.image / scale - expected.image[..., :1]).max() < 2
        assert np.array_equal(after.labels.boxes, expected.labels.boxes)
        assert np.array_equal(after.labels.semantic, expected.labels.semantic)

    def test_unknown_stays_unknown_and_empty_stays_empty(self, augment, transform):
        made, full = augment([transform]), scene()
        for fields in ((), ("boxes",), ("semantic",), ("class_scores",), ("boxes", "masks")):
            one = replace(full, labels=full.labels.keep(frozenset(fields)))
            assert made(one, rng()).labels.known == frozenset(fields)
        empty = made(replace(full, labels=full.labels.select(np.zeros(0, np.int64))), rng()).labels
        assert (empty.boxes.shape, empty.masks) == ((0, 4), ())
        assert made(replace(full, labels=full.labels.keep(frozenset({"box"}))), rng()).labels.known <= {"box"}


@pytest.mark.parametrize(("augment", "transform"), of_each(COLOURS))
class TestColours:
    def test_labels_are_left_exactly_alone(self, augment, transform):
        sample = scene()
        sample = replace(sample, labels=replace(sample.labels, boxes=sample.labels.boxes + 0.123456789))
        sample.image[...] = rng().integers(0, 256, sample.image.shape)  # something to change for each of them
        before = sample.image.copy()
        sample.image.flags.writeable = False
        after = augment([transform])(sample, rng(3))
        assert not np.array_equal(after.image, before)
        assert np.array_equal(sample.image, before)
        assert (after.image.shape, after.image.dtype) == (before.shape, np.uint8)
        assert np.array_equal(after.labels.boxes, sample.labels.boxes)
        assert np.array_equal(after.labels.bitmaps(), sample.labels.bitmaps())
        assert np.array_equal(after.labels.semantic, sample.labels.semantic)


@pytest.mark.parametrize("backend", BACKENDS)
class TestAdapter:
    def flips(self, backend, p):
        names = {"albumentations": "", "torchvision": "Random"}
        return BACKENDS[backend]([{f"{names[backend]}{axis}Flip": {"p": p}} for axis in ("Horizontal", "Vertical")])

    def test_flips_do_not_agree_with_each_other_nor_from_sample_to_sample(self, backend):
        image = np.zeros((2, 2, 3), np.uint8)
        image[0, 0] = 255
        sample, made = Sample(image, Labels(size=(2, 2)), 1, "1.png"), self.flips(backend, 0.5)
        images = [made(sample, rng([0, index])).image for index in range(400)]
        turned = np.array([[image[:, -1].any(), image[-1].any()] for image in images])
        assert np.all(np.abs(turned.mean(axis=0) - 0.5) < 0.1)
        assert abs(np.corrcoef(turned.T)[0, 1]) < 0.2
        assert abs(np.corrcoef(turned[:-1, 0], turned[1:, 0])[0, 1]) < 0.2

    def test_a_flip_by_hand(self, backend):
        sample = scene()
        after = self.flips(backend, 1.0)(sample, rng())
        expected = [64, 48, 64, 48] - sample.labels.boxes[:, [2, 3, 0, 1]]
        assert np.array_equal(after.image, sample.image[::-1, ::-1])
        assert np.allclose(after.labels.boxes, expected, atol=1e-3)
        assert np.array_equal(extents(after.labels.masks), expected)
        assert np.allclose(after.labels.box, expected[1], atol=1e-3)
        assert np.array_equal(after.labels.semantic, sample.labels.semantic[::-1, ::-1])
        assert np.array_equal(after.labels.class_scores, sample.labels.class_scores)

    def test_both_libraries_crop_alike(self, backend):
        """Slivers go, crowds stay, what is cut is clipped; the one object is unknown when it is lost."""
        boxes = np.array([[0.0, 0, 20, 20], [0, 0, 20, 20], [19, 0, 39, 20], [40, 0, 50, 20], [30, 10, 60, 40]])
        crowd = np.array([False, True, False, False, False])
        labels = Labels(size=SIZE, boxes=boxes, labels=np.arange(5), crowd=crowd, box=np.array([0.0, 0, 20, 20]))
        crop = {
            "albumentations": {"CenterCrop": {"height": 48, "width": 26}},
            "torchvision": {"CenterCrop": {"size": [48, 26]}},
        }
        after = BACKENDS[backend]([crop[backend]])(replace(scene(), labels=labels), rng()).labels  # columns 19 to 45
        assert after.labels.tolist() == [1, 2, 3, 4]
        assert np.allclose(after.boxes, [[0, 0, 1, 20], [0, 0, 20, 20], [21, 0, 26, 20], [11, 10, 26, 40]], atol=1e-3)
        assert after.crowd.tolist() == [True, False, False, False]
        assert after.box is None

    def test_boxes_and_masks_of_an_overlap_stay_apart(self, backend):
        boxes = np.array([[4.0, 4, 30, 30], [10, 10, 40, 40]])
        masks = (rectangle(4, 4, 30, 30), rectangle(10, 10, 40, 40))
        labels = Labels(size=SIZE, boxes=boxes, labels=np.array([1, 2]), masks=masks)
        after = self.flips(backend, 1.0)(replace(scene(), labels=labels), rng()).labels
        assert extents(after.masks).tolist() == [[34, 18, 60, 44], [24, 8, 54, 38]]
        assert after.areas.tolist() == [676, 900]

    def test_many_objects(self, backend):
        corners = rng().uniform(0, 40, (2000, 2))
        boxes = np.concatenate([corners, corners + 5], axis=1)
        labels = Labels(size=SIZE, boxes=boxes, labels=rng().integers(0, 3, 2000))
        after = self.flips(backend, 1.0)(replace(scene(), labels=labels), rng()).labels
        assert np.array_equal(after.labels, labels.labels)

    def test_an_empty_list_changes_nothing(self, backend):
        sample = scene()
        assert BACKENDS[backend]([])(sample, rng()) is sample

    @pytest.mark.parametrize(
        ("transforms", "message"),
        [
            (
                [{"HorizontalFlp": None}],
                r"\[0\]: .* has no transform 'HorizontalFlp' \(did you mean '(Random)?HorizontalFlip'",
            ),
            ([{"RandomCrop": None}], r"\[0\]: RandomCrop: "),
            ([{"ColorJitter": {"hu": 1}}], r"\[0\]: ColorJitter has no argument 'hu' \(did you mean 'hue'\?\)"),
            ([{"Normalize": None}], r"\[0\]: Normalize is refused: preprocess\.mean and preprocess\.std normalise"),
            ([{"Lambda": None}], r"\[0\]: Lambda is refused: a function cannot be named"),
            (["ColorJitter"], r"\[0\]: one {Name: arguments} is wanted, not 'ColorJitter'"),
            ([{"ColorJitter": 0.5}], r"\[0\]: ColorJitter: arguments by name are wanted, not 0\.5"),
            ({"ColorJitter": None}, ": a list of {Name: arguments} is wanted"),
        ],
    )
    def test_faults_are_named_in_one_line(self, backend, transforms, message):
        with pytest.raises(ConfigError, match=rf"^augment\.transforms{message}") as caught:
            BACKENDS[backend](transforms)
        assert len(str(caught.value).splitlines()) == 1

    def test_a_transform_that_cannot_be_applied_names_itself_and_the_file(self, backend):
        size = {"albumentations": {"height": 900, "width": 900}, "torchvision": {"size": [900, 900]}}[backend]
        with pytest.raises(ConfigError, match=r"augment\.transforms \(RandomCrop\) cannot be applied to 0\.png: "):
            BACKENDS[backend]([{"RandomCrop": size}])(scene(), rng())
