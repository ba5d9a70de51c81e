"""The images on which a head does worst, and what is wrong with each, in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visionkit.interfaces import Metric
from visionkit.metrics.classification import TopK
from visionkit.metrics.coco import CocoDetection, id_order
from visionkit.metrics.coco_instances import CocoInstances
from visionkit.metrics.localization import LocalizationAccuracy
from visionkit.metrics.panoptic import PanopticQuality
from visionkit.metrics.semantic import SemanticScores
from visionkit.report.pairs import Pair, best_threshold, paired
from visionkit.structures import ImageId

LEAST_SCORE = 0.3
"""From which score on detections are shown where no threshold is better than another."""
_LEAST_SHOWN = 0.05
"""Detections of a lower score would cover the picture."""
_TOLD = 3
"""Kinds of fault told of an image; of more, how many there are."""


@dataclass(frozen=True)
class Bad:
    """An image, how bad it is (above 0, higher is worse) and why."""

    image_id: ImageId
    badness: float
    reason: str


def shown_threshold(metric: Metric) -> float:
    """Return the score from which detections count in the pictures and in the words: that of the best F1."""
    if not isinstance(metric, CocoDetection | CocoInstances):
        return LEAST_SCORE
    best = best_threshold([paired(row) for row in metric.state().values()])
    return max(best, _LEAST_SHOWN) if best else LEAST_SCORE


def worst_images(metric: Metric, classes: Sequence[str], *, threshold: float, most: int = 50) -> list[Bad]:
    """Return at most `most` images that are not all right, the worst first.

    Boxes, masks, and several classes an image: 1 − F1 of the image (at `threshold`, at 0.5) times the square root of
    the number of faults, since one object that is missed alone is less than five of eight. One class an image: those
    taken for another one, the most certain first. Localization: 1 − IoU, and 1 more with the wrong class. Maps: 1 −
    mean IoU, or 1 − PQ, over the classes of the image.
    """
    found: list[Bad] = []
    for image_id, row in metric.state().items():
        bad = _judged(metric, row, classes, threshold)
        if bad is not None and bad[0] > 0:
            found.append(Bad(image_id, *bad))
    found.sort(key=lambda one: (-one.badness, id_order(one.image_id)))
    return found[:most]


_Judgement = tuple[float, str]
"""Badness and reason."""


def _judged(metric: Metric, row: Mapping[str, Any], classes: Sequence[str], threshold: float) -> _Judgement | None:
    if isinstance(metric, CocoDetection | CocoInstances):
        return _objects(paired(row), classes, threshold)
    if isinstance(metric, TopK):
        return _labels(row, classes) if metric.multi_label else _label(row, classes)
    if isinstance(metric, LocalizationAccuracy):
        return _place(row, classes)
    if isinstance(metric, SemanticScores):
        return _map(row, classes)
    if isinstance(metric, PanopticQuality):
        return _segments(row["counts"], classes)
    return None


def _objects(pair: Pair, classes: Sequence[str], threshold: float) -> _Judgement:
    outcome = pair.outcome(threshold)
    right, there = len(outcome.right), Counter(pair.truth_labels[pair.counted].tolist())
    faults = []
    for label, count in Counter(pair.truth_labels[outcome.missed].tolist()).most_common():
        faults.append(f"missed {count} of {there[label]} {classes[label]}")
    for which, k in outcome.confused:
        true, said = classes[pair.truth_labels[which]], classes[pair.labels[k]]
        faults.append(f"{true} taken for {said} at {pair.scores[k]:.2f}")
    invented: dict[int, list[float]] = {}
    for row in outcome.invented.tolist():
        invented.setdefault(int(pair.labels[row]), []).append(float(pair.scores[row]))
    for label, scores in invented.items():
        times = f"{len(scores)} × " if len(scores) > 1 else ""
        up_to = "up to " if len(scores) > 1 else "at "
        faults.append(f"{times}{classes[label]} where there is none, {up_to}{max(scores):.2f}")
    wrong = len(outcome.missed) + len(outcome.invented) + 2 * len(outcome.confused)
    return wrong / max(1, 2 * right + wrong) * math.sqrt(outcome.errors), _in_words(faults)


def _label(row: Mapping[str, Any], classes: Sequence[str]) -> _Judgement | None:
    true, said = int(row["truth"][0]), int(row["ranking"][0])
    score = float(row["scores"][0])
    if true == said:
        return None
    return max(score, 1e-6), f"{classes[true]} taken for {classes[said]} at {score:.2f}"


def _labels(row: Mapping[str, Any], classes: Sequence[str]) -> _Judgement:
    scores, truth = row["scores"], row["truth"]
    said, known = scores > 0.5, truth >= 0
    missed, invented = np.flatnonzero((truth > 0) & ~said), np.flatnonzero(said & known & (truth <= 0))
    faults = [f"missed {classes[k]} ({scores[k]:.2f})" for k in missed.tolist()]
    faults += [f"{classes[k]} where there is none, at {scores[k]:.2f}" for k in invented.tolist()]
    right, wrong = int((said & (truth > 0)).sum()), len(faults)
    return wrong / max(1, 2 * right + wrong) * math.sqrt(wrong), _in_words(faults)


def _place(row: Mapping[str, Any], classes: Sequence[str]) -> _Judgement | None:
    true, said, iou = int(row["truth"][0]), int(row["ranking"][0]), float(row["iou"][0])
    faults = []
    if true != said:
        faults.append(f"{classes[true]} taken for {classes[said]} at {float(row['scores'][0]):.2f}")
    faults.append(f"IoU of the box {iou:.2f}")
    if true == said and iou >= 0.5:
        return None
    return 1 - iou + (true != said), _in_words(faults)


def _map(row: Mapping[str, Any], classes: Sequence[str]) -> _Judgement | None:
    count = len(classes)
    true_of, said_of = np.divmod(row["cells"].astype(np.int64), count)
    pixels = row["counts"].astype(np.float64)
    true, said = (np.bincount(of, pixels, minlength=count) for of in (true_of, said_of))
    right = np.bincount(true_of, np.where(true_of == said_of, pixels, 0), minlength=count)
    either = true + said - right
    there = np.flatnonzero(true)  # a class of a few stray pixels in the prediction alone is no fault of its own
    if not len(there):
        return None
    iou = right[there] / either[there]
    low = np.argsort(iou, kind="stable")[:_TOLD].tolist()
    wrong = 1 - right.sum() / true.sum()
    faults = ", ".join(f"{classes[there[k]]} {iou[k]:.2f}" for k in low if iou[k] < 1)
    return 1 - float(iou.mean()), f"IoU of {faults}; {100 * wrong:.0f} % of the pixels wrong"


def _segments(counts: np.ndarray, classes: Sequence[str]) -> _Judgement | None:
    iou, right, wrong, missed = counts
    weight = right + (wrong + missed) / 2
    there = weight > 0
    if not there.any():
        return None
    quality = float(np.mean(iou[there] / weight[there]))
    faults = [
        f"{'missed' if number is missed else 'invented'} {int(number[k])} × {classes[k]}"
        for number in (missed, wrong)
        for k in np.argsort(-number, kind="stable").tolist()
        if number[k]
    ]
    return 1 - quality, _in_words([f"PQ {quality:.2f}", *faults])


def _in_words(faults: Sequence[str]) -> str:
    more = len(faults) - _TOLD
    return "; ".join(faults[:_TOLD]) + (f"; and {more} more" if more > 0 else "")


# -------------------------------------------------------------------------------------------------- classes confused
@dataclass(frozen=True)
class Confused:
    """Images of one class that are taken for another.

    Attributes:
        true, said: the classes.
        count: how many images.
        of: how many images of the true class there are.
        examples: the most certain ones.
    """

    true: str
    said: str
    count: int
    of: int
    examples: tuple[ImageId, ...]


def confused_pairs(metric: Metric, classes: Sequence[str], *, most: int = 8, examples: int = 2) -> list[Confused]:
    """Return the pairs of classes of images that are confused most often; empty for heads of other kinds."""
    if not isinstance(metric, LocalizationAccuracy) and not (isinstance(metric, TopK) and not metric.multi_label):
        return []
    pairs: dict[tuple[int, int], list[tuple[float, ImageId]]] = {}
    there: Counter[int] = Counter()
    for image_id, row in metric.state().items():
        true, said = int(row["truth"][0]), int(row["ranking"][0])
        there[true] += 1
        if true != said:
            pairs.setdefault((true, said), []).append((float(row["scores"][0]), image_id))
    ranked = sorted(pairs.items(), key=lambda one: (-len(one[1]), one[0]))[:most]
    return [
        Confused(classes[true], classes[said], len(images), there[true], _first(images, examples))
        for (true, said), images in ranked
    ]


def _first(images: Iterable[tuple[float, ImageId]], most: int) -> tuple[ImageId, ...]:
    ranked = sorted(images, key=lambda one: (-one[0] if math.isfinite(one[0]) else 0.0, id_order(one[1])))
    return tuple(image_id for _, image_id in ranked[:most])
