"""The objects of all images of a split as flat arrays, light to hand to loader workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Box = tuple[float, float, float, float]

NEAR = 1.0
"""By how many pixels a box may reach over the image's edge untouched: the rounding of the tool that wrote it."""


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """A objects of N images, sorted by image, within an image in the source's order.

    Attributes:
        boxes: (A, 4) float64 xyxy.
        labels: (A,) int64.
        crowd, ignore: (A,) bool.
        areas: (A,) float64; nan where the source has none.
        offsets: (N + 1,) int64; the rows of image i are offsets[i] to offsets[i + 1].
        order: (A,) int64, the place at which the row stood in the lists that the table was made from.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    ignore: np.ndarray
    areas: np.ndarray
    offsets: np.ndarray
    order: np.ndarray

    def rows(self, index: int) -> slice:
        """Return the rows of image `index`."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def class_counts(self, classes: int) -> np.ndarray:
        """(classes,) int64: the objects of each class."""
        return np.bincount(self.labels, minlength=classes)


def make_table(
    images: int,
    *,
    owners: Sequence[int],
    boxes: Sequence[Box],
    labels: Sequence[int],
    ignore: Sequence[bool],
    crowd: Sequence[bool] | np.ndarray | None = None,
    areas: Sequence[float] | np.ndarray | None = None,
) -> ObjectTable:
    """Build the table from one entry per object, in any order; `owners` says which image an object belongs to."""
    owner = np.asarray(owners, np.int64)
    crowd = np.zeros(len(owner), np.bool_) if crowd is None else np.asarray(crowd, np.bool_)
    areas = np.full(len(owner), np.nan) if areas is None else np.asarray(areas, np.float64)
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=images)
    return ObjectTable(
        boxes=np.asarray(boxes, np.float64).reshape(-1, 4)[order],
        labels=np.asarray(labels, np.int64)[order],
        crowd=crowd[order],
        ignore=np.asarray(ignore, np.bool_)[order],
        areas=areas[order],
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        order=order,
    )


def fit_boxes(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Do as `source.fit_box` to many boxes: return them as they are used, which were clipped, which lie outside.

    Args:
        boxes: (A, 4) float64 xyxy, finite, with an area.
        sizes: (A, 2) int64 (height, width) of each one's image.
    """
    limits = sizes[:, ::-1].astype(np.float64)
    low, high = boxes[:, :2], boxes[:, 2:]
    outside: np.ndarray = np.any((low >= limits) | (high <= 0), axis=1)
    reaches: np.ndarray = np.any((low < -NEAR) | (high > limits + NEAR), axis=1)
    clipped = reaches & ~outside
    fitted = boxes
    if clipped.any():
        fitted = boxes.copy()
        fitted[clipped, :2] = np.maximum(boxes[clipped, :2], 0.0)
        fitted[clipped, 2:] = np.minimum(boxes[clipped, 2:], limits[clipped])
    return fitted, clipped, outside
