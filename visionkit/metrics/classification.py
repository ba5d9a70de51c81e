"""Accuracy of whole-image classification, and mean average precision where images have several labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from visionkit.errors import DataError
from visionkit.predictions import Classification, Prediction
from visionkit.structures import ImageId, Labels


class TopK:
    """Accuracy (`top1`, `top5`, `mean_class_accuracy`), or `mAP` for several labels; satisfies `interfaces.Metric`.

    All numbers lie in 0 to 1. `mean_class_accuracy` is top-1 accuracy averaged over the classes that have images; `mAP`
    averages, over the same, the area under the precision-recall steps, images of equal score taken together. Images
    whose class is unknown are not counted, nor, in `mAP`, a class of an image that is unknown (-1). Of equal scores the
    first class wins.

    Args:
        classes: names, in the order of the scores.
        multi_label: may an image have any number of classes, not just one?
    """

    def __init__(self, classes: Sequence[str], *, multi_label: bool = False) -> None:
        self.classes = tuple(classes)
        self.multi_label = multi_label
        self.headline = "mAP" if multi_label else "top1"
        self.reasons: dict[str, str] = {}
        self._state: dict[ImageId, dict[str, np.ndarray]] = {}

    def update(self, image_id: ImageId, prediction: Prediction, truth: Labels) -> None:
        """Take one image; one whose class is unknown is left out, one seen before is replaced.

        Raises:
            DataError: the image has no class, or several, and `multi_label` is off.
            ValueError: the scores are not finite, or not one per class.
        """
        if not isinstance(prediction, Classification):
            raise TypeError(f"TopK: a Classification is wanted, not {type(prediction).__name__}")
        if truth.class_scores is None:
            return
        scores, wanted = prediction.scores, truth.class_scores > 0.5
        if not len(scores) == len(wanted) == len(self.classes):
            counts = f"{len(scores)} scores and {len(wanted)} labels"
            raise ValueError(f"TopK: image {image_id}: {counts} for {len(self.classes)} classes")
        if not np.isfinite(scores).all():
            raise ValueError(f"TopK: image {image_id}: a predicted score is not finite")
        if self.multi_label:
            self._state[image_id] = {"scores": scores.astype(np.float32), "truth": np.sign(truth.class_scores)}
            return
        if wanted.sum() != 1:
            mend = "give it one, or train with head.classification.multi_label=true"
            raise DataError(f"image {image_id}: {wanted.sum()} classes where top-1 accuracy needs one: {mend}")
        ranking = np.argsort(-scores, kind="stable")[:5]
        self._state[image_id] = {"truth": np.flatnonzero(wanted), "ranking": ranking}

    def state(self) -> dict[ImageId, dict[str, np.ndarray]]:
        """Per image: truth (1,) and ranking (at most 5,) class indices; or scores (C,) and truth (C,) of 1, 0, -1."""
        return dict(self._state)

    def merge(self, states: Iterable[Mapping[ImageId, Any]]) -> None:
        """Take in the images of other states; an image that is there already is not counted again."""
        for state in states:
            for image_id, row in state.items():
                self._state.setdefault(image_id, row)

    def compute(self) -> dict[str, float]:
        """The numbers by name; nan, with a reason, without labelled images, and top5 with fewer than five classes."""
        names = ("mAP",) if self.multi_label else ("top1", "top5", "mean_class_accuracy")
        if not self._state:
            self.reasons = dict.fromkeys(names, "no image with a known class")
            return dict.fromkeys(names, float("nan"))
        self.reasons = {}
        if self.multi_label:
            return {"mAP": self._mean_average_precision()}
        truth = np.concatenate([row["truth"] for row in self._state.values()])
        right = np.stack([row["ranking"] for row in self._state.values()]) == truth[:, None]
        per_class = [right[truth == k, 0].mean() for k in np.unique(truth)]
        numbers = {"top1": float(right[:, 0].mean()), "top5": float(right.any(axis=1).mean())}
        if len(self.classes) < 5:
            numbers["top5"] = float("nan")
            self.reasons["top5"] = f"only {len(self.classes)} classes"
        return numbers | {"mean_class_accuracy": float(np.mean(per_class))}

    def _mean_average_precision(self) -> float:
        scores = np.stack([row["scores"] for row in self._state.values()])
        truth = np.stack([row["truth"] for row in self._state.values()])
        present = np.flatnonzero((truth > 0).any(axis=0))
        if len(present) == 0:
            self.reasons["mAP"] = "no image has any of the classes"
            return float("nan")
        told = {k: truth[:, k] >= 0 for k in present}
        return float(np.mean([average_precision(scores[told[k], k], truth[told[k], k] > 0) for k in present]))


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the steps of precision over recall, without interpolation.

    Args:
        scores: (N,) float, any range; rows of equal score enter together.
        truth: (N,) bool, with at least one true.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(truth[order])[last_of_equals]
    precision = true / (last_of_equals + 1)
    recall = true / true[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))
