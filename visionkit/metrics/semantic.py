"""Semantic segmentation: intersection over union of the classes' pixels and of their boundaries, and accuracies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from visionkit.predictions import Prediction, SemanticMap
from visionkit.structures import IGNORE_INDEX, ImageId, Labels

_BOUNDARY_WIDTH = 0.02
"""Of a boundary, as a share of the image's diagonal (Cheng et al. 2021)."""


class SemanticScores:
    """Numbers from one confusion matrix of all labelled pixels; satisfies `interfaces.Metric`.

    All lie in 0 to 1. `mIoU` averages `IoU/<class>` over the classes that some pixel has in truth or in prediction;
    `frequency_weighted_IoU` weighs them by their share of the truth. `pixel_accuracy` is the share of the pixels that
    are right, `class_accuracy` its mean over the classes of the truth. `boundary_IoU` (Cheng et al. 2021) looks only at
    each class's pixels near its edge, within 2 % of the image's diagonal; the image's edge counts as one, and so does
    that of what is unlabelled. Images whose map is unknown are not counted.

    Args:
        classes: names, in the order of the maps' values.
    """

    headline = "mIoU"

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.reasons: dict[str, str] = {}
        self._state: dict[ImageId, dict[str, np.ndarray]] = {}

    def update(self, image_id: ImageId, prediction: Prediction, truth: Labels) -> None:
        """Take one image; one whose map is unknown is left out, one seen before is replaced.

        Raises:
            ValueError: the maps differ in size, or hold a value that is no class.
        """
        if not isinstance(prediction, SemanticMap):
            raise TypeError(f"SemanticScores: a SemanticMap is wanted, not {type(prediction).__name__}")
        if truth.semantic is None:
            return
        wanted, found = truth.semantic, prediction.classes
        if found.shape != wanted.shape:
            raise ValueError(f"SemanticScores: image {image_id}: a map of {found.shape} for one of {wanted.shape}")
        # Unlabelled in the truth, unlabelled in the prediction: both have the same edges there.
        found = np.where(wanted == IGNORE_INDEX, np.uint8(IGNORE_INDEX), found)
        table = self._table(wanted, found)
        count = len(self.classes)
        self._check_values(image_id, table.sum((0, 1)))
        pairs = table.sum((0, 1))[:count, :count].ravel()
        cells = np.flatnonzero(pairs)
        overlap = np.diagonal(table[1, 1])[:count]
        either = table[1].sum((0, 2))[:count] + table[:, 1].sum((0, 1))[:count] - overlap
        self._state[image_id] = {
            "cells": cells.astype(np.uint16),
            "counts": pairs[cells],
            "boundary": np.stack([overlap, either]),
        }

    def state(self) -> dict[ImageId, dict[str, np.ndarray]]:
        """Per image: the flat places in the (C, C) confusion matrix that are not 0, and the counts there; and boundary,
        (2, C): pixels in both boundaries, and in either, of each class.
        """
        return dict(self._state)

    def merge(self, states: Iterable[Mapping[ImageId, Any]]) -> None:
        """Take in the images of other states; an image that is there already is not counted again."""
        for state in states:
            for image_id, row in state.items():
                self._state.setdefault(image_id, row)

    @property
    def confusion(self) -> np.ndarray:
        """(C, C) int64: pixels by true class (row) and predicted class (column)."""
        count = len(self.classes)
        matrix = np.zeros(count * count, np.int64)
        for row in self._state.values():
            matrix[row["cells"]] += row["counts"]
        return matrix.reshape(count, count)

    def compute(self) -> dict[str, float]:
        """The numbers by name; nan, with a reason, without labelled pixels, and for a class that no pixel has."""
        matrix = self.confusion
        true, found, right = matrix.sum(1), matrix.sum(0), np.diagonal(matrix)
        boundary = np.zeros((2, len(self.classes)), np.int64)
        for row in self._state.values():
            boundary += row["boundary"]
        overall = ("mIoU", "pixel_accuracy", "class_accuracy", "boundary_IoU", "frequency_weighted_IoU")
        if not matrix.any():
            names = [*overall, *(f"IoU/{name}" for name in self.classes)]
            self.reasons = dict.fromkeys(names, "no image with a labelled pixel")
            return dict.fromkeys(names, float("nan"))
        iou = _ratio(right, true + found - right)
        means = (
            np.nanmean(iou),
            right.sum() / true.sum(),
            np.nanmean(_ratio(right, true)),
            np.nanmean(_ratio(boundary[0], boundary[1])),
            np.nansum(iou * true) / true.sum(),
        )
        numbers = {name: float(value) for name, value in zip(overall, means, strict=True)}
        numbers |= {f"IoU/{name}": float(value) for name, value in zip(self.classes, iou, strict=True)}
        self.reasons = {
            name: "no pixel has this class, in truth or in prediction"
            for name, value in numbers.items()
            if np.isnan(value)
        }
        return numbers

    def _table(self, wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Count an image's pixels by four properties: (2, 2, C + 2, C + 2) int64.

        They are: on the boundary of the truth, on that of the prediction, true value, predicted value. Of the values, C
        stands for unlabelled, and C + 1 for what is no class.
        """
        count = len(self.classes)
        places = np.full(256, min(count + 1, 255), np.uint8)
        places[:count] = np.arange(count)
        places[IGNORE_INDEX] = count
        code = _boundary(wanted).astype(np.int32)
        for values, number in (
            (_boundary(found), 2), (cv2.LUT(wanted, places), count + 2), (cv2.LUT(found, places), count + 2),
        ):  # fmt: skip
            code *= number
            code += values.astype(np.int32)
        shape = (2, 2, count + 2, count + 2)
        table: np.ndarray = np.bincount(code.ravel(), minlength=int(np.prod(shape))).reshape(shape)
        return table

    def _check_values(self, image_id: ImageId, pairs: np.ndarray) -> None:
        """Refuse a value that is no class, and a prediction that leaves out a labelled pixel."""
        count = len(self.classes)
        strange = {"truth": pairs[count + 1].any(), "prediction": pairs[:count, count:].any()}
        for name, is_there in strange.items():
            if is_there:
                raise ValueError(f"SemanticScores: image {image_id}: a value of the {name} is none of {count} classes")


def _boundary(values: np.ndarray) -> np.ndarray:
    """Where a map's value changes, or the map ends, within the boundary's width: (H, W) bool.

    A pixel lies inside its class when the square around it holds one value; so all classes take two passes together.
    """
    height, width = values.shape
    reach = max(1, round(_BOUNDARY_WIDTH * float(np.hypot(height, width))))
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    several = cv2.erode(values, square) != cv2.dilate(values, square)
    edge = np.ones(values.shape, np.bool_)
    inner = (slice(reach, height - reach), slice(reach, width - reach))
    edge[inner] = several[inner]
    return edge


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Elementwise, nan where `whole` is 0."""
    result: np.ndarray = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return result
