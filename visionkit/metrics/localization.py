"""Localization of one object an image: right class and right place, and which of the two failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from visionkit.errors import DataError
from visionkit.metrics.coco import in_order
from visionkit.predictions import Localization, Prediction
from visionkit.structures import ImageId, Labels

_OVERLAP = 0.5
"""A box is in the right place from this IoU on (ILSVRC, Russakovsky et al. 2015)."""
_NUMBERS = (
    *("acc50", "top1", "top1_error", "top5_error", "mean_IoU"),
    *("class_wrong_only", "place_wrong_only", "both_wrong"),
)


class LocalizationAccuracy:
    """Shares of images, 0 to 1, whose object is named and placed; satisfies `interfaces.Metric`.

    A place is right where the IoU with the true box is at least 0.5. Images whose truth does not know class and box are
    not counted. Of equal scores the first class wins.

    - `acc50`: the best class is right, and so is its box. It and `class_wrong_only`, `place_wrong_only` and
      `both_wrong`, which tell how the best class with its box fails, sum to 1.
    - `top1_error`, `top5_error`: ImageNet's localization errors, where none of the one or five best classes is right
      with its own box in the right place.
    - `top1`: the best class is right, wherever its box.
    - `mean_IoU`: of the best class's box with the true one.

    Args:
        classes: names, in the order of the scores.
    """

    headline = "acc50"

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.reasons: dict[str, str] = {}
        self._state: dict[ImageId, dict[str, np.ndarray]] = {}

    def update(self, image_id: ImageId, prediction: Prediction, truth: Labels) -> None:
        """Take one image; one whose class or box is unknown is left out, one seen before is replaced.

        Raises:
            DataError: the image has no class, or several.
            ValueError: scores or boxes are not finite, or not one per class.
        """
        if not isinstance(prediction, Localization):
            raise TypeError(f"LocalizationAccuracy: a Localization is wanted, not {type(prediction).__name__}")
        if truth.class_scores is None or truth.box is None:
            return
        scores, wanted = prediction.scores, truth.class_scores > 0.5
        if not len(scores) == len(wanted) == len(self.classes):
            counts = f"{len(scores)} scores and {len(wanted)} labels"
            raise ValueError(f"LocalizationAccuracy: image {image_id}: {counts} for {len(self.classes)} classes")
        if not (np.isfinite(scores).all() and np.isfinite(prediction.boxes).all()):
            raise ValueError(f"LocalizationAccuracy: image {image_id}: a predicted score or box is not finite")
        if wanted.sum() != 1:
            raise DataError(
                f"image {image_id}: {wanted.sum()} classes where localization needs one: correct its label",
                code="label-count",
            )
        ranking = np.argsort(-scores, kind="stable")[:5]
        self._state[image_id] = {
            "truth": np.flatnonzero(wanted),
            "ranking": ranking,
            "scores": scores[ranking],
            "iou": _iou(prediction.boxes[ranking], truth.box),
            "box": prediction.boxes[ranking[0]],
            "truth_box": truth.box,
        }

    def state(self) -> dict[ImageId, dict[str, np.ndarray]]:
        """Per image: truth (1,) and ranking (at most 5,) class indices; of the ranked classes scores and the IoU of
        their boxes; box and truth_box, (4,) xyxy, of the best class and of the object.
        """
        return dict(self._state)

    def merge(self, states: Iterable[Mapping[ImageId, Any]]) -> None:
        """Take in the images of other states; an image that is there already is not counted again."""
        for state in states:
            for image_id, row in state.items():
                self._state.setdefault(image_id, row)

    def compute(self) -> dict[str, float]:
        """The numbers by name; nan, with a reason, without images, and top5_error with fewer than five classes."""
        if not self._state:
            self.reasons = dict.fromkeys(_NUMBERS, "no image with a known class and box")
            return dict.fromkeys(_NUMBERS, float("nan"))
        self.reasons = {}
        rows = in_order(self._state)  # a sum's last bits depend on it
        truth = np.concatenate([row["truth"] for row in rows])
        iou = np.stack([row["iou"] for row in rows])
        named = np.stack([row["ranking"] for row in rows]) == truth[:, None]
        placed = iou >= _OVERLAP
        right = named & placed
        shares = {
            "acc50": right[:, 0],
            "top1": named[:, 0],
            "top1_error": ~right[:, 0],
            "top5_error": ~right.any(axis=1),
            "mean_IoU": iou[:, 0],
            "class_wrong_only": ~named[:, 0] & placed[:, 0],
            "place_wrong_only": named[:, 0] & ~placed[:, 0],
            "both_wrong": ~named[:, 0] & ~placed[:, 0],
        }
        numbers = {name: float(shares[name].mean()) for name in _NUMBERS}
        if len(self.classes) < 5:
            numbers["top5_error"] = float("nan")
            self.reasons["top5_error"] = f"only {len(self.classes)} classes"
        return numbers


def _iou(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU of (N, 4) xyxy boxes with one, (N,) float64; 0 for boxes without area."""
    boxes = boxes.astype(np.float64)
    sides = np.minimum(boxes[:, 2:], truth[2:]) - np.maximum(boxes[:, :2], truth[:2])
    shared = sides.clip(min=0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1) + (truth[2:] - truth[:2]).prod() - shared
    result: np.ndarray = shared / np.maximum(union, 1e-9)
    return result
