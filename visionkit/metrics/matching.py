"""Greedy matching of detections to objects and the precision and recall that follow, as COCO defines them.

The numbers are those of `pycocotools.cocoeval.COCOeval` to the last bit. Here all images, classes, area ranges and IoU
thresholds are matched at once: the k-th detection of every image and class takes its turn in round k, and what overlaps
nothing has no turn. One thing is added: objects with an `ignore` flag.
Reference: Lin et al., "Microsoft COCO: Common Objects in Context", 2014, and cocodataset.org/#detection-eval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)
"""Limits on the detections counted per image and class; the last one bounds all else."""
AREAS = ("all", "small", "medium", "large")
AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]], np.float64)
"""Smallest and largest area in pixels of each of `AREAS`, both inclusive."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """The D detections and G objects of all images, end to end in the order of the images.

    Attributes:
        images: (D,) int64, the place of the detection's image in the order.
        scores: (D,) float64, falling within an image.
        labels: (D,) int64.
        areas: (D,) float64 pixels.
        truth_labels: (G,) int64.
        truth_areas: (G,) float64 pixels.
        crowd: (G,) bool.
        ignore: (G,) bool.
        found: (P,) int64, the detection of each pair of a detection and an object of one image and class whose IoU is
            at least the first of `IOU_THRESHOLDS`; rising.
        there: (P,) int64, the object of each pair; rising for equal detections.
        ious: (P,) float64; of a crowd, the share of the detection that lies inside it.
    """

    images: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    truth_labels: np.ndarray
    truth_areas: np.ndarray
    crowd: np.ndarray
    ignore: np.ndarray
    found: np.ndarray
    there: np.ndarray
    ious: np.ndarray

    def best(self, most: int) -> Comparison:
        """Leave out detections beyond the best `most` of their class in their image."""
        kept = self.ranks(np.arange(len(self.labels))) < most
        if kept.all():
            return self
        pairs, number = kept[self.found], np.cumsum(kept) - 1
        rows = {name: getattr(self, name)[kept] for name in ("images", "scores", "labels", "areas")}
        there, ious = self.there[pairs], self.ious[pairs]
        return replace(self, **rows, found=number[self.found[pairs]], there=there, ious=ious)

    def ranks(self, rows: np.ndarray) -> np.ndarray:
        """Count, for each of the detections `rows` (rising), those of its image and class that come before it."""
        images, labels = self.images[rows], self.labels[rows]
        order = np.lexsort((labels, images))
        images, labels = images[order], labels[order]
        first = np.ones(len(rows), bool)
        first[1:] = (images[1:] != images[:-1]) | (labels[1:] != labels[:-1])
        places = np.arange(len(rows))
        ranks = np.empty(len(rows), np.int64)
        ranks[order] = places - np.maximum.accumulate(np.where(first, places, 0))
        return ranks


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of the C detections that overlap an object, per area range and IoU threshold.

    Attributes:
        rows: (C,) int64, the detections.
        matched: (C, A, T) bool: has the detection an object?
        ignored: (C, A, T) bool: it is neither right nor wrong.
        outside: (D, A) bool: detections that without an object are neither right nor wrong.
        uncounted: (G, A) bool: objects that are not to be found.
    """

    rows: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    outside: np.ndarray
    uncounted: np.ndarray


def match(compared: Comparison) -> Matches:
    """Match the detections of each image and class to its objects, best score first.

    A detection takes the free object of highest IoU (of equal ones the last), an uncounted one only where no counted
    one is left. Crowd regions and ignored objects absorb any number of detections.
    """
    low, high = AREA_RANGES.T
    uncounted = (compared.truth_areas[:, None] < low) | (compared.truth_areas[:, None] > high)
    endless = compared.crowd | compared.ignore
    uncounted |= endless[:, None]
    outside = (compared.areas[:, None] < low) | (compared.areas[:, None] > high)
    rows, row_of_pair = np.unique(compared.found, return_inverse=True)
    turns = compared.ranks(rows)
    # In the order of the rounds, and for each detection from the object that it likes best to the one that it does not.
    order = np.lexsort((-compared.there, -compared.ious, row_of_pair, turns[row_of_pair]))
    row_of_pair, there, ious = row_of_pair[order], compared.there[order], compared.ious[order]
    count = len(order)
    preference = np.arange(count)[:, None] + np.where(uncounted[there], count, 0)
    enough = ious[:, None] >= np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    shape = (len(AREAS), len(IOU_THRESHOLDS))
    matched, ignored = np.zeros((len(rows), *shape), bool), np.zeros((len(rows), *shape), bool)
    free = np.ones((len(uncounted), *shape), bool)
    rounds = np.searchsorted(turns[row_of_pair], np.arange(turns.max(initial=-1) + 2))
    for start, stop in pairwise(rounds):
        pairs = slice(start, stop)
        players, firsts = np.unique(row_of_pair[pairs], return_index=True)
        possible = free[there[pairs]] & enough[pairs, None]
        wishes = np.where(possible, preference[pairs, :, None], 2 * count)
        best = np.minimum.reduceat(wishes, firsts, axis=0)
        matched[players] = best < 2 * count
        ignored[players] = matched[players] & (best >= count)
        player, area, threshold = np.nonzero(best < 2 * count)
        taken = there[best[player, area, threshold] % count]
        free[taken, area, threshold] = endless[taken]
    ignored |= ~matched & outside[rows][..., None]
    return Matches(rows, matched, ignored, outside, uncounted)


@dataclass(frozen=True, eq=False)
class Curves:
    """Attributes:
    precision: (T, 101, K, A) at the recall thresholds, -1 where a class has no object in the area range.
    recall: (T, K, A, M), the highest one by the limit on detections, -1 likewise.
    objects: (K,) int64, the objects to be found, of any area.
    """

    precision: np.ndarray
    recall: np.ndarray
    objects: np.ndarray


def accumulate(compared: Comparison, matches: Matches, order: Sequence[int]) -> Curves:
    """Turn the matches into precision and recall of the K classes whose labels are `order`.

    Detections of equal score rank in the order of the images. Precision is highest, and recall rises, where an object
    is found: only there it is worked out, and what overlaps nothing is merely counted.
    """
    size = max(order, default=-1) + 1
    wanted = np.stack([np.bincount(compared.truth_labels[~column], minlength=size) for column in matches.uncounted.T])
    precision = -np.ones((len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS), len(order), len(AREAS)))
    recall = -np.ones((len(IOU_THRESHOLDS), len(order), len(AREAS), len(MAX_DETECTIONS)))
    ranks = compared.ranks(np.arange(len(compared.labels)))
    by_score = np.lexsort((-compared.scores, compared.labels))
    bounds = np.searchsorted(compared.labels[by_score], np.arange(size + 1))
    number = np.full(len(compared.labels), -1)
    number[matches.rows] = np.arange(len(matches.rows))
    for k, label in enumerate(order):
        rows = by_score[bounds[label] : bounds[label + 1]]
        numbers = number[rows]
        overlap = numbers >= 0
        alarms = np.cumsum(~matches.outside[rows] & ~overlap[:, None], axis=0)[overlap]
        rows, numbers = rows[overlap], numbers[overlap]
        counted = ~matches.ignored[numbers]
        right, wrong = matches.matched[numbers] & counted, ~matches.matched[numbers] & counted
        true = np.cumsum(right, axis=0, dtype=np.float64)
        false = np.cumsum(wrong, axis=0, dtype=np.float64) + alarms[..., None]
        for a in np.flatnonzero(wanted[:, label]):
            objects = int(wanted[a, label])
            precision[:, :, k, a] = _sampled(true[:, a].T, false[:, a].T, objects)
            for m, limit in enumerate(MAX_DETECTIONS):
                recall[:, k, a, m] = right[ranks[rows] < limit, a].sum(axis=0) / objects
    return Curves(precision, recall, wanted[0, list(order)])


def _sampled(true: np.ndarray, false: np.ndarray, objects: int) -> np.ndarray:
    """From (T, C) running counts to (T, 101) precision at the recall thresholds."""
    sampled = np.zeros((len(true), len(RECALL_THRESHOLDS)))
    recalls = true / objects
    precisions = true / (false + true + np.spacing(1))
    envelope = np.maximum.accumulate(precisions[:, ::-1], axis=1)[:, ::-1]
    for t, row in enumerate(recalls):
        index = np.searchsorted(row, RECALL_THRESHOLDS, side="left")
        reached = index < len(row)
        sampled[t, reached] = envelope[t, index[reached]]
    return sampled
