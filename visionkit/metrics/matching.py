"""Greedy matching of detections to objects and the precision and recall that follow, as COCO defines them.

The numbers are those of `pycocotools.cocoeval.COCOeval` to the last bit; all area ranges and IoU thresholds are matched
at once, and detections that overlap nothing cost nothing. One thing is added: objects with an `ignore` flag.
Reference: Lin et al., "Microsoft COCO: Common Objects in Context", 2014, and cocodataset.org/#detection-eval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)
"""Limits on the detections counted per image and class; the last one bounds all else."""
AREAS = ("all", "small", "medium", "large")
AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]], np.float64)
"""Smallest and largest area in pixels of each of `AREAS`, both inclusive."""


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of the D detections and G objects of one class in one image.

    Attributes:
        scores: (D,) float64, falling.
        matched: (A, T, D) bool, per area range and IoU threshold: has the detection an object?
        ignored: (A, T, D) bool: neither right nor wrong.
        uncounted: (A, G) bool: objects that are not to be found in this area range.
    """

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    uncounted: np.ndarray


def match(
    ious: np.ndarray,
    scores: np.ndarray,
    detection_areas: np.ndarray,
    truth_areas: np.ndarray,
    crowd: np.ndarray,
    ignore: np.ndarray,
) -> Matches:
    """Match the detections of one class in one image to its objects, best score first.

    A detection takes the free object of highest IoU, an uncounted one only where no counted one is left. Crowd regions
    and ignored objects absorb any number of detections; an ignored one does so by plain IoU, while for a crowd `ious`
    holds the share of the detection that lies inside it.

    Args:
        ious: (D, G) float64, rows by falling score.
        scores: (D,) float64, falling.
        detection_areas: (D,) float64 pixels.
        truth_areas: (G,) float64 pixels.
        crowd: (G,) bool.
        ignore: (G,) bool.
    """
    low, high = AREA_RANGES[:, :1], AREA_RANGES[:, 1:]
    uncounted = (truth_areas < low) | (truth_areas > high) | crowd | ignore
    outside = (detection_areas < low) | (detection_areas > high)
    shape = (len(AREA_RANGES), len(IOU_THRESHOLDS), len(scores))
    matched, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    if ious.size:
        endless = crowd | ignore
        free = np.ones((*shape[:2], len(crowd)), bool)
        counted = ~uncounted[:, None, :]
        enough = ious[:, None, :] >= np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]
        for row in np.flatnonzero(enough[:, 0].any(axis=1)):
            possible = free & enough[row]
            wanted = possible & counted
            wanted |= possible & ~wanted.any(axis=2, keepdims=True)
            found = wanted.any(axis=2)
            overlaps = np.where(wanted, ious[row], -1.0)
            best = overlaps.shape[2] - 1 - overlaps[..., ::-1].argmax(axis=2)  # of equal overlaps COCO takes the last
            area, threshold = np.nonzero(found)
            taken = best[area, threshold]
            matched[area, threshold, row] = True
            ignored[area, threshold, row] = uncounted[area, taken]
            free[area, threshold, taken] = endless[taken]
    ignored |= ~matched & outside[:, None, :]
    return Matches(scores, matched, ignored, uncounted)


def accumulate(classes: Sequence[Sequence[Matches]]) -> tuple[np.ndarray, np.ndarray]:
    """Turn the matches of each of K classes, image by image, into precision and recall.

    Detections of equal score rank in the order of the images.

    Returns:
        precision (T, 101, K, A, M) at the recall thresholds and the highest recall (T, K, A, M), both -1 where a class
        has no object in the area range, as COCO has it.
    """
    thresholds, areas, limits = len(IOU_THRESHOLDS), len(AREAS), len(MAX_DETECTIONS)
    precision = -np.ones((thresholds, len(RECALL_THRESHOLDS), len(classes), areas, limits))
    recall = -np.ones((thresholds, len(classes), areas, limits))
    for k, images in enumerate(classes):
        if not images:
            continue
        objects = (~np.concatenate([image.uncounted for image in images], axis=1)).sum(axis=1)
        for m, limit in enumerate(MAX_DETECTIONS):
            order = np.argsort(-np.concatenate([image.scores[:limit] for image in images]), kind="stable")
            matched = np.concatenate([image.matched[..., :limit] for image in images], axis=2)[..., order]
            ignored = np.concatenate([image.ignored[..., :limit] for image in images], axis=2)[..., order]
            for a in np.flatnonzero(objects):
                true = np.cumsum(matched[a] & ~ignored[a], axis=1, dtype=np.float64)
                false = np.cumsum(~matched[a] & ~ignored[a], axis=1, dtype=np.float64)
                precision[:, :, k, a, m], recall[:, k, a, m] = _curve(true, false, int(objects[a]))
    return precision, recall


def _curve(true: np.ndarray, false: np.ndarray, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """From (T, D) running counts to (T, 101) precision at the recall thresholds and (T,) highest recall."""
    sampled = np.zeros((len(true), len(RECALL_THRESHOLDS)))
    if true.shape[1] == 0:
        return sampled, np.zeros(len(true))
    recalls = true / objects
    precisions = true / (false + true + np.spacing(1))
    envelope = np.maximum.accumulate(precisions[:, ::-1], axis=1)[:, ::-1]
    for t, row in enumerate(recalls):
        index = np.searchsorted(row, RECALL_THRESHOLDS, side="left")
        reached = index < len(row)
        sampled[t, reached] = envelope[t, index[reached]]
    return sampled, recalls[:, -1]
