"""Colour over the pixels of maps and masks."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from visionkit.report.colours import BLACK, GREY, WHITE, Colour, blend, class_colour, ink
from visionkit.report.pen import line_width
from visionkit.structures import IGNORE_INDEX

_MAP_SHARE, _MASK_SHARE = 0.6, 0.45
"""How much of the photograph's place the colour takes."""


def paint_map(image: np.ndarray, classes: np.ndarray, *, hatched: bool = True) -> None:
    """Lay the classes' colours over the image, in place; pixels of `IGNORE_INDEX` are hatched in grey, or left.

    The image shows through in grey, so that the colours are those of the legend.

    Args:
        image: (H, W, 3) uint8 RGB.
        classes: (H, W) uint8.
        hatched: mark the pixels of `IGNORE_INDEX`, which nobody labelled; False: they are of classes not asked for.
    """
    paint = _colour_table()[classes]
    unknown = classes == IGNORE_INDEX
    if unknown.any():
        paint[unknown] = np.where(_hatch(classes.shape)[unknown][:, None], GREY, blend(GREY, WHITE, 0.4))
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    painted = cv2.addWeighted(grey, 1 - _MAP_SHARE, paint, _MAP_SHARE, 0)
    image[:] = painted if hatched or not unknown.any() else np.where(unknown[..., None], image, painted)
    edges = borders(classes, line_width(classes.shape))
    image[edges] = image[edges] // 2


def paint_mask(image: np.ndarray, mask: np.ndarray, corner: tuple[int, int], colour: Colour) -> None:
    """Lay a colour over the pixels of one object, in place, and a line around it.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (h, w) bool, the part of the object's mask in a window of the image.
        corner: (left, top) of the window in the image.
        colour: of the object.
    """
    if not mask.any():
        return
    left, top = corner
    window = image[top : top + mask.shape[0], left : left + mask.shape[1]]
    window[mask] = (window[mask] * (1 - _MASK_SHARE) + np.array(colour) * _MASK_SHARE).astype(np.uint8)
    width = line_width(image.shape[:2])
    _outline(image, mask, corner, blend(colour, ink(colour), 0.75), 2 * width)
    _outline(image, mask, corner, colour, width)


def outline_mask(image: np.ndarray, mask: np.ndarray) -> None:
    """Draw a white line with a black one around it along the border of a mask, (H, W) bool, in place."""
    width = line_width(image.shape[:2])
    _outline(image, mask, (0, 0), BLACK, 3 * width)
    _outline(image, mask, (0, 0), WHITE, width)


def outline_map(image: np.ndarray, classes: np.ndarray) -> None:
    """Draw a white line along the borders between the classes of a map, (H, W), in place."""
    image[borders(classes, line_width(image.shape[:2]))] = WHITE


def borders(ids: np.ndarray, width: int) -> np.ndarray:
    """Return (H, W) bool: the pixels within `width` of another value to the right or below."""
    result = np.zeros(ids.shape, bool)
    for k in range(1, width + 1):
        result[:, :-k] |= ids[:, :-k] != ids[:, k:]
        result[:-k] |= ids[:-k] != ids[k:]
    return result


def _outline(image: np.ndarray, mask: np.ndarray, corner: tuple[int, int], colour: Colour, width: int) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, colour, width, offset=corner)


def _hatch(shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: slanting stripes."""
    step = 3 * line_width(shape)
    stripes: np.ndarray = (np.arange(shape[0])[:, None] + np.arange(shape[1])) // step % 2 == 0
    return stripes


@lru_cache(maxsize=1)
def _colour_table() -> np.ndarray:
    """(256, 3) uint8."""
    return np.array([class_colour(label) for label in range(256)], np.uint8)
