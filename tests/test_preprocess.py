from __future__ import annotations

import numpy as np
import pytest
import torch

from visionkit.errors import ConfigError
from visionkit.preprocess import Preprocess, resize


def random_image(size, channels=3, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 255, (*size, channels)).astype(dtype)


@pytest.mark.parametrize(
    ("size", "fitted"), [((480, 640), (480, 640)), ((1000, 500), (640, 320)), ((30, 60), (320, 640))]
)
def test_letterbox_fits_whole_image_by_one_factor(size, fitted):
    image, geometry = Preprocess(640).fit(random_image(size))
    assert image.shape == (*fitted, 3)
    assert geometry.size == fitted
    assert geometry.scale == (fitted[0] / size[0], fitted[1] / size[1])
    assert geometry.offset == (0.0, 0.0)


def test_letterbox_of_a_canvas_that_is_no_square():
    image, geometry = Preprocess([64, 256]).fit(random_image((100, 100)))
    assert image.shape == (64, 64, 3)
    assert geometry.size == (64, 64)


@pytest.mark.parametrize("policy", ["letterbox", "resize_crop"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5000), (5000, 7), (1, 4000)])
def test_extreme_images(policy, size):
    image, geometry = Preprocess(224, policy=policy).fit(random_image(size))
    assert min(image.shape[:2]) >= 1
    assert max(image.shape[:2]) <= 224
    assert image.shape[:2] == geometry.size
    assert np.isfinite(geometry.to_original(np.array([[0.0, 0, 3, 3]]))).all()


def test_resize_crop_keeps_seven_eighths_of_the_centre():
    # 256 x 512: the short side 256 keeps 224 pixels, rows 16..240; the columns are the middle 224 of 512.
    image, geometry = Preprocess(224, policy="resize_crop").fit(random_image((256, 512)))
    assert image.shape == (224, 224, 3)
    assert geometry.scale == (1.0, 1.0)
    assert geometry.offset == (-16.0, -144.0)
    assert np.array_equal(image, random_image((256, 512))[16:240, 144:368])


@pytest.mark.parametrize("policy", ["letterbox", "resize_crop"])
def test_boxes_return_to_the_original(policy):
    rng = np.random.default_rng(1)
    for _ in range(50):
        size = tuple(int(side) for side in rng.integers(1, 900, 2))
        geometry = Preprocess(tuple(rng.integers(1, 700, 2).tolist()), policy=policy).place(size).geometry
        corners = rng.uniform(0, 1, (20, 4)) * np.array([size[1], size[0]] * 2)
        boxes = np.concatenate(
            [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1
        )
        assert np.allclose(geometry.to_original(geometry.to_canvas(boxes)), boxes, atol=1e-9)


def test_pixels_lie_where_the_geometry_says():
    image = np.zeros((100, 200, 3), np.uint8)
    image[40:60, 100:140] = 255
    for preprocess in (Preprocess(50), Preprocess(400), Preprocess(50, policy="resize_crop")):
        fitted, geometry = preprocess.fit(image)
        ys, xs = np.nonzero(fitted[:, :, 0] > 127)
        found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert np.allclose(found, geometry.to_canvas(np.array([[100.0, 40, 140, 60]]))[0], atol=1.01)


def test_shrinking_averages():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 200
    assert np.all(resize(stripes, (16, 16)) == 50)


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (4, np.uint8), (3, np.uint16), (6, np.float32)])
def test_channels_and_dtype_stay(channels, dtype):
    image, _ = Preprocess(32, mean=[0.0] * channels, std=[1.0] * channels).fit(random_image((50, 40), channels, dtype))
    assert image.shape == (32, 26, channels)
    assert image.dtype == dtype


def test_normalise_by_hand():
    preprocess = Preprocess(2, mean=(0.5, 0.0, 0.2), std=(0.5, 1.0, 0.1))
    images = torch.tensor([255, 51, 102], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = torch.tensor([1.0, 0.2, 2.0])
    assert torch.allclose(preprocess.normalise(images).flatten(), expected, atol=1e-6)
    assert torch.allclose(preprocess.normalise(images / 255).flatten(), expected, atol=1e-6)
    sixteen_bits = torch.tensor([65535, 13107, 26214], dtype=torch.int32).to(torch.uint16).view(1, 3, 1, 1)
    assert torch.allclose(preprocess.normalise(sixteen_bits).flatten(), expected, atol=1e-6)


def test_normalise_keeps_the_memory_layout():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    last = images.to(memory_format=torch.channels_last)
    assert Preprocess(8).normalise(last).is_contiguous(memory_format=torch.channels_last)
    assert Preprocess(8).normalise(images).is_contiguous()


def test_mean_and_std_travel_with_the_state():
    state = Preprocess(8, mean=(0.1, 0.2, 0.3)).state_dict()
    other = Preprocess(8)
    other.load_state_dict(state)
    assert torch.equal(other.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size=0: a positive number"),
        ({"image_size": 8, "policy": "leterbox"}, "did you mean 'letterbox'?"),
        ({"image_size": 8, "std": (1.0, 0.0, 1.0)}, "std above 0"),
        ({"image_size": 8, "fill": 300}, "preprocess.fill=300"),
    ],
)
def test_values_that_cannot_be(arguments, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        Preprocess(**arguments)


def test_training_by_resize_crop_leaves_the_cropping_to_the_augmentation():
    preprocess = Preprocess(56, policy="resize_crop")
    placement = preprocess.place_uncropped((100, 200))
    assert placement.source == ((0, 100), (0, 200))
    assert placement.size == (64, 128)  # the short side at 56 / 0.875


def test_a_thin_image_in_training_is_cut_before_it_grows():
    assert Preprocess(56, policy="resize_crop").place_uncropped((7, 5000)).size == (64, 168)


def test_what_is_larger_than_the_canvas_after_the_augmentation_is_cropped_in_the_middle():
    placement = Preprocess(56, policy="resize_crop").crop((64, 50))
    assert placement.source == ((4, 60), (0, 50))
    assert placement.size == (56, 50)


@pytest.mark.parametrize("shape", [(30, 40, 3), (30, 40, 1), (30, 40, 6), (12, 16, 3)])
def test_resized_pixels_lie_where_they_are_wanted(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    frame = np.full((20, 30, shape[2]), 7, np.uint8)
    part = frame[5:17, 10:26]
    assert np.may_share_memory(resize(image, (12, 16), into=part), frame)
    assert np.array_equal(part, resize(image, (12, 16)))
    part[...] = 7
    assert np.all(frame == 7)
