"""The twelve numbers by which COCO sums up precision and recall, and why one may be absent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from visionkit.metrics.matching import AREAS, IOU_THRESHOLDS, MAX_DETECTIONS

NUMBERS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
"""The twelve numbers in COCO's order; AP is the mean over IoU 0.50:0.95, AR1 … the recall with that many detections."""
CLASS_NUMBERS = ("AP", "AP50", "AP75", "AR100")
"""Those told of each class."""
NO_OBJECT = "no labelled object to be found"
_NO_OBJECT_OF_SIZE = {
    "small": "no labelled object of at most 32² pixels",
    "medium": "no labelled object between 32² and 96² pixels",
    "large": "no labelled object of at least 96² pixels",
}


def summary(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """The twelve numbers from precision (T, R, K, A) and recall (T, K, A, M), where -1 marks what cannot be."""
    half, three_quarters = _places(0.5), _places(0.75)
    values = [mean(precision[..., 0]), mean(precision[half, ..., 0]), mean(precision[three_quarters, ..., 0])]
    values += [mean(precision[..., a]) for a in range(1, len(AREAS))]
    values += [mean(recall[..., 0, m]) for m in range(len(MAX_DETECTIONS))]
    values += [mean(recall[..., a, -1]) for a in range(1, len(AREAS))]
    return dict(zip(NUMBERS, values, strict=True))


def class_summary(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """The numbers `CLASS_NUMBERS` of one class from its precision (T, R, A) and recall (T, A, M)."""
    numbers = summary(precision[:, :, None], recall[:, None])
    return {name: numbers[name] for name in CLASS_NUMBERS}


def missing(numbers: Mapping[str, float]) -> dict[str, str]:
    """Why each of `numbers` that is nan is so."""
    absent = {name: _NO_OBJECT_OF_SIZE.get(name.partition("_")[2], NO_OBJECT) for name in NUMBERS}
    return {name: absent[name] for name, value in numbers.items() if np.isnan(value)}


def mean(values: np.ndarray) -> float:
    """The mean of those above -1; nan if there are none."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else float("nan")


def _places(threshold: float) -> list[int]:
    return np.flatnonzero(np.isclose(IOU_THRESHOLDS, threshold)).tolist()
