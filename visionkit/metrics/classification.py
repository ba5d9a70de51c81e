"""Accuracy and F1 of whole-image classification, and mean average precision where images have several labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from visionkit.errors import ConfigError, DataError, did_you_mean, listed
from visionkit.predictions import Classification, Prediction
from visionkit.structures import ImageId, Labels

NUMBERS = ("top1", "top5", "mean_class_accuracy", "f1")
"""Of images of one class; the first three are the usual ones."""
MULTI_LABEL_NUMBERS = ("mAP", "f1")
"""Of images of any number of classes; the first is the usual one."""
NO_IMAGE = "no image that has the class"
_CLASS_NUMBERS = ("precision", "recall", "f1")


class TopK:
    """Accuracy (`top1`, `top5`, `mean_class_accuracy`), or `mAP` for several labels; satisfies `interfaces.Metric`.

    All numbers lie in 0 to 1. `mean_class_accuracy` is top-1 accuracy averaged over the classes that have images; `mAP`
    averages, over the same, the area under the precision-recall steps, images of equal score taken together. `f1` is
    the macro average of each class's harmonic mean of precision and recall, over the classes that some image has or is
    said to have (as scikit-learn's `f1_score(average="macro")`); of several labels an image is said to have those with
    a score above 0.5. Images whose class is unknown are not counted, nor, of several labels, a class of an image that
    is unknown (-1). Of equal scores the first class wins.

    Args:
        classes: names, in the order of the scores.
        multi_label: may an image have any number of classes, not just one?
        numbers: those that are computed; None: top1, top5 and mean_class_accuracy, or mAP.

    Attributes:
        headline: top1 (mAP) where it is computed, else the first of `numbers`.

    Raises:
        ConfigError: `numbers` is empty, or names one that is not known.
    """

    def __init__(
        self, classes: Sequence[str], *, multi_label: bool = False, numbers: Sequence[str] | None = None
    ) -> None:
        known = MULTI_LABEL_NUMBERS if multi_label else NUMBERS
        wrong = [name for name in numbers or () if name not in known]
        if wrong or (numbers is not None and not numbers):
            fault = f"there is no '{wrong[0]}'{did_you_mean(wrong[0], known)}" if wrong else "name at least one"
            raise ConfigError(
                f"metrics=[{', '.join(numbers or ())}]: {fault}; known: {listed(known)}", code="choice-unknown"
            )
        self.classes = tuple(classes)
        self.multi_label = multi_label
        self.numbers = tuple(dict.fromkeys(numbers or (known[:1] if multi_label else known[:3])))
        self.headline = known[0] if known[0] in self.numbers else self.numbers[0]
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
            raise DataError(
                f"image {image_id}: {wanted.sum()} classes where top-1 accuracy needs one: {mend}", code="label-count"
            )
        ranking = np.argsort(-scores, kind="stable")[:5]
        self._state[image_id] = {"truth": np.flatnonzero(wanted), "ranking": ranking, "scores": scores[ranking]}

    def state(self) -> dict[ImageId, dict[str, np.ndarray]]:
        """Per image: truth (1,) and ranking (at most 5,) class indices and their scores; or, of several labels, scores
        (C,) and truth (C,) of 1, 0, -1.
        """
        return dict(self._state)

    def merge(self, states: Iterable[Mapping[ImageId, Any]]) -> None:
        """Take in the images of other states; an image that is there already is not counted again."""
        for state in states:
            for image_id, row in state.items():
                self._state.setdefault(image_id, row)

    def compute(self) -> dict[str, float]:
        """The numbers by name; nan, with a reason, without labelled images, and top5 with fewer than five classes."""
        if not self._state:
            self.reasons = dict.fromkeys(self.numbers, "no image with a known class")
            return dict.fromkeys(self.numbers, float("nan"))
        self.reasons = {}
        return {name: self._number(name) for name in self.numbers}

    def class_table(self) -> dict[str, dict[str, float]]:
        """By class: precision, recall, f1 and, last, how many images have it; nan where none has."""
        hits, said, there = self._counts()
        table: dict[str, dict[str, float]] = {}
        for k, name in enumerate(self.classes):
            values = (_share(hits[k], said[k]), _share(hits[k], there[k]), _share(2 * hits[k], said[k] + there[k]))
            told = values if there[k] else [float("nan")] * len(values)
            table[name] = {**dict(zip(_CLASS_NUMBERS, told, strict=True)), "images": int(there[k])}
        return table

    def _number(self, name: str) -> float:
        if name == "mAP":
            return self._mean_average_precision()
        if name == "f1":
            return self._macro_f1()
        truth = np.concatenate([row["truth"] for row in self._state.values()])
        right = np.stack([row["ranking"] for row in self._state.values()]) == truth[:, None]
        if name == "mean_class_accuracy":
            return float(np.mean([right[truth == k, 0].mean() for k in np.unique(truth)]))
        if name == "top5" and len(self.classes) < 5:
            self.reasons[name] = f"only {len(self.classes)} classes"
            return float("nan")
        return float(right.any(axis=1).mean() if name == "top5" else right[:, 0].mean())

    def _macro_f1(self) -> float:
        hits, said, there = self._counts()
        met = said + there > 0
        if not met.any():
            self.reasons["f1"] = "no image has any of the classes"
            return float("nan")
        return float(np.mean(2 * hits[met] / (said + there)[met]))

    def _counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per class (C,) int64: images rightly said to have it, images said to have it, images that have it."""
        rows, count = list(self._state.values()), len(self.classes)
        if not rows:
            return (np.zeros(count, np.int64),) * 3
        if self.multi_label:
            marks = np.stack([row["truth"] for row in rows])
            said = (np.stack([row["scores"] for row in rows]) > 0.5) & (marks >= 0)
            return (said & (marks > 0)).sum(0), said.sum(0), (marks > 0).sum(0)
        truth = np.concatenate([row["truth"] for row in rows])
        best = np.array([row["ranking"][0] for row in rows])
        hits, found, there = (np.bincount(k, minlength=count) for k in (truth[truth == best], best, truth))
        return hits, found, there

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


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0
