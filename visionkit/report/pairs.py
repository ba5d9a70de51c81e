"""Who found whom: an image's detections beside its objects, at IoU 0.5."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

_IOU = 0.5


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the detections of an image from some score on come to.

    Attributes:
        right: (R,) int64, the objects found under their own class.
        confused: (object, detection) of each object that a detection of another class took.
        invented: (I,) int64, the detections that no object answers for.
        missed: (M,) int64, the objects that nothing took.
    """

    right: np.ndarray
    confused: list[tuple[int, int]]
    invented: np.ndarray
    missed: np.ndarray

    @property
    def errors(self) -> int:
        """Objects and detections that went wrong."""
        return len(self.confused) + len(self.invented) + len(self.missed)


@dataclass(frozen=True, eq=False)
class Pair:
    """Detections and objects of an image.

    Attributes:
        scores, labels: (D,), of the detections by falling score.
        truth_labels: (G,) int64.
        counted: (G,) bool, False for crowds and ignored objects.
        ious: (D, G) from 0.5 on, 0 elsewhere; of one class those of masks, where they are known.
        taken: (D,) the object of its own class that a detection takes, −1 for none.
        excused: (D,) bool: it lies in a crowd or on an ignored object of its class.
    """

    scores: np.ndarray
    labels: np.ndarray
    truth_labels: np.ndarray
    counted: np.ndarray
    ious: np.ndarray
    taken: np.ndarray
    excused: np.ndarray

    def outcome(self, threshold: float) -> Outcome:
        """Let each detection from `threshold` on take an object of its class, else one of another, else nothing."""
        shown = (self.scores >= threshold) & ~self.excused
        free = self.counted.copy()
        right = self.taken[shown & (self.taken >= 0)]
        free[right] = False
        confused, invented = [], []
        for row in np.flatnonzero(shown & (self.taken < 0)).tolist():
            ious = np.where(free, self.ious[row], 0.0)
            best = int(ious.argmax()) if len(ious) else 0
            if len(ious) and ious[best] > 0:
                free[best] = False
                confused.append((best, row))
            else:
                invented.append(row)
        return Outcome(right, confused, np.array(invented, np.int64), np.flatnonzero(free))


def paired(row: Mapping[str, Any]) -> Pair:
    """Match an image's row of a detection metric's state: the best score first, each to the object nearest to it.

    row: boxes (D, 4) xyxy, scores and labels by falling score, truth_boxes (G, 4), truth_labels, crowd and ignore;
        mask_ious (D, G), of one class, where masks are known.
    """
    labels, truth_labels = row["labels"].astype(np.int64), row["truth_labels"].astype(np.int64)
    counted = ~(row["crowd"] | row["ignore"])
    ious = np.zeros((len(labels), len(truth_labels)))
    of_class = labels[:, None] == truth_labels
    if ious.size:
        sides = _xywh(row["boxes"]), _xywh(row["truth_boxes"])
        ious = np.asarray(coco_mask.iou(*sides, row["crowd"].astype(int).tolist()))
        ious = np.where(of_class, row.get("mask_ious", ious), ious)
        ious = np.where(ious >= _IOU, ious, 0.0)
    same = np.where(of_class, ious, 0.0)
    taken, excused = np.full(len(labels), -1), np.zeros(len(labels), bool)
    free = counted.copy()
    for k in np.flatnonzero((same > 0).any(axis=1)) if same.size else ():
        best = int(np.where(free, same[k], 0.0).argmax())
        if free[best] and same[k, best] > 0:
            taken[k], free[best] = best, False
        else:
            excused[k] = bool((same[k, ~counted] > 0).any())
    return Pair(row["scores"], labels, truth_labels, counted, ious, taken, excused)


def best_threshold(pairs: Iterable[Pair]) -> float:
    """Return the score from which on F1, over all classes, is highest; 0 without any right detection."""
    pairs = list(pairs)
    objects = sum(int(pair.counted.sum()) for pair in pairs)
    scores = np.concatenate([np.zeros(0), *(pair.scores[~pair.excused] for pair in pairs)])
    right = np.concatenate([np.zeros(0, bool), *(pair.taken[~pair.excused] >= 0 for pair in pairs)])
    if not right.any():
        return 0.0
    order = np.argsort(-scores, kind="stable")
    scores, true = scores[order], np.cumsum(right[order])
    f1 = 2 * true / (np.arange(1, len(true) + 1) + objects)
    last_of_equals = np.append(np.diff(scores) != 0, True)
    return float(scores[np.where(last_of_equals, f1, -1.0).argmax()])


def _xywh(boxes: np.ndarray) -> np.ndarray:
    result = boxes.astype(np.float64)
    result[:, 2:] -= result[:, :2]
    return result
