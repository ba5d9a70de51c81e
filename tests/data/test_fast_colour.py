from __future__ import annotations

import albumentations
import cv2
import numpy as np
import pytest

from visionkit.data.fast_colour import HueSaturationValue


@pytest.mark.parametrize(
    "shifts", [(3.7, 20.2, -10.9), (-5.0, 0.0, 50.4), (0.0, -60.5, 0.0), (0.0, 0.0, 0.0), (179, 255, -255)]
)
def test_pixels_are_those_of_albumentations(shifts):
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    noise[:8] = 128  # grey
    for image in (noise, cv2.GaussianBlur(noise, (9, 9), 3)):
        before = image.copy()
        wanted = albumentations.HueSaturationValue().apply(image.copy(), *shifts)
        np.testing.assert_array_equal(HueSaturationValue().apply(image, *shifts), wanted)
        np.testing.assert_array_equal(image, before)


def test_other_images_are_left_to_albumentations():
    grey = np.full((4, 5, 1), 100, np.uint8)
    np.testing.assert_array_equal(
        HueSaturationValue().apply(grey, 0, 0, 20), albumentations.HueSaturationValue().apply(grey, 0, 0, 20)
    )
