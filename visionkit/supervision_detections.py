"""Predictions as `supervision` has them, for who draws, tracks or counts with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from visionkit.errors import UserError

if TYPE_CHECKING:
    import supervision


def supervision_detections(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, names: Sequence[str], masks: np.ndarray | None = None
) -> supervision.Detections:
    """Return N boxes, (N, 4) xyxy pixels, as supervision's detections.

    Args:
        boxes: see above.
        scores: (N,).
        labels: (N,) int.
        names: of the classes; empty: none are given on.
        masks: (N, H, W) bool.

    Raises:
        UserError: supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise UserError(
            f"to_supervision: supervision is not there ({error}); pip install supervision", code="package-missing"
        ) from None
    words: dict[str, Any] = {}
    if names:
        words["class_name"] = np.array([names[label] for label in labels.tolist()], dtype=str)
    return supervision.Detections(xyxy=boxes, mask=masks, confidence=scores, class_id=labels, data=words)
