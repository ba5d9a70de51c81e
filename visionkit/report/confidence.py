"""Precision, recall and F1 over the score from which predictions count, and the score at which F1 is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visionkit.interfaces import Metric
from visionkit.metrics.classification import TopK
from visionkit.metrics.coco import CocoDetection
from visionkit.metrics.coco_instances import CocoInstances
from visionkit.metrics.localization import LocalizationAccuracy
from visionkit.report.figure import LINES, NORMAL, PALE, SMALL, add_axes, new_figure, plain, save
from visionkit.report.pairs import paired

_GRID = np.linspace(0, 1, 101)
_NAMED = 2 * (len(LINES) - 1)
"""With more classes than that, lines are grey."""


@dataclass(frozen=True, eq=False)
class Scored:
    """All predictions of a split.

    Attributes:
        scores: (N,) 0 to 1.
        labels: (N,) int64, the classes predicted.
        right: (N,) bool.
        there: (C,) int64, how many of each class are to be found.
    """

    scores: np.ndarray
    labels: np.ndarray
    right: np.ndarray
    there: np.ndarray


@dataclass(frozen=True, eq=False)
class Best:
    """Where F1 is highest: the score from which predictions count, and what they are worth then; all 0 to 1."""

    f1: float
    threshold: float
    precision: float
    recall: float


def scored(metric: Metric, classes: Sequence[str]) -> Scored | None:
    """Gather the predictions of a metric; None of one that knows no scores (maps), or has seen nothing.

    Of boxes and masks those are right that take an object of their class at IoU 0.5; of images with one class each the
    best class is the prediction; of images with several, every class of every image is one.
    """
    rows = list(metric.state().values())
    count = len(classes)
    if not rows:
        return None
    if isinstance(metric, CocoDetection | CocoInstances):
        pairs = [paired(row) for row in rows]
        kept = [~pair.excused for pair in pairs]
        return Scored(
            np.concatenate([pair.scores[keep] for pair, keep in zip(pairs, kept, strict=True)]),
            np.concatenate([pair.labels[keep] for pair, keep in zip(pairs, kept, strict=True)]),
            np.concatenate([pair.taken[keep] >= 0 for pair, keep in zip(pairs, kept, strict=True)]),
            np.bincount(np.concatenate([pair.truth_labels[pair.counted] for pair in pairs]), minlength=count),
        )
    if isinstance(metric, TopK) and metric.multi_label:
        scores, truth = (np.stack([row[name] for row in rows]) for name in ("scores", "truth"))
        known = truth >= 0
        labels = np.broadcast_to(np.arange(count), truth.shape)
        return Scored(scores[known], labels[known], truth[known] > 0, (truth > 0).sum(0))
    if isinstance(metric, TopK | LocalizationAccuracy):
        truth = np.array([int(row["truth"][0]) for row in rows])
        labels = np.array([int(row["ranking"][0]) for row in rows])
        right = labels == truth
        if isinstance(metric, LocalizationAccuracy):
            right &= np.array([row["iou"][0] >= 0.5 for row in rows])
        scores = np.array([float(row["scores"][0]) for row in rows])
        return Scored(scores, labels, right, np.bincount(truth, minlength=count))
    return None


def best_thresholds(given: Scored, classes: Sequence[str]) -> dict[str, Best | None]:
    """By class the score at which F1 is best; None for a class that is not to be found."""
    return {name: _best(*_of_class(given, k)) if given.there[k] else None for k, name in enumerate(classes)}


def best_of_all(given: Scored) -> Best:
    """The score at which F1 is best over all predictions together, whatever their class."""
    order = np.argsort(-given.scores, kind="stable")
    return _best(given.scores[order], given.right[order], int(given.there.sum()))


def plot_f1(given: Scored, classes: Sequence[str], path: Path) -> Path | None:
    """Draw F1 over the score from which predictions count: of each class, and of all together in bold.

    Returns:
        `path`, or None where no class is to be found.
    """
    shown = np.flatnonzero(given.there).tolist()
    if not shown:
        return None
    order = np.argsort(-given.scores, kind="stable")
    figure = new_figure(9.0, 4.2)
    axes = add_axes(figure, 0.65, 0.55, 5.4, 3.3)
    best = best_thresholds(given, classes)
    for place, k in enumerate(shown):
        one = best[classes[k]]
        assert one is not None
        curve = _f1_over_grid(*_of_class(given, k))
        if len(shown) > _NAMED:
            axes.plot(_GRID, curve, color=PALE, lw=0.7, label=f"{len(shown)} classes" if place == 0 else None)
        else:
            style, colour = "-" if place < len(LINES) - 1 else "--", LINES[place % (len(LINES) - 1)]
            label = f"{plain(classes[k], 20)}: {one.f1:.2f} at {one.threshold:.2f}"
            axes.plot(_GRID, curve, style, color=colour, lw=1.2, label=label)
    whole = best_of_all(given)
    curve = _f1_over_grid(given.scores[order], given.right[order], int(given.there.sum()))
    axes.plot(_GRID, curve, color="black", lw=2.2, label=f"all: {whole.f1:.2f} at {whole.threshold:.2f}")
    axes.plot([whole.threshold], [whole.f1], "o", color="black", ms=5)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.set_xlabel("least score that counts", size=NORMAL)
    axes.set_ylabel("F1", size=NORMAL)
    axes.set_title("F1 over the score threshold (named: the best, and where)", size=NORMAL)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=SMALL)
    return save(figure, path)


def _of_class(given: Scored, label: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores, falling, and rights of the predictions of a class, and how many of it are to be found."""
    rows = np.flatnonzero(given.labels == label)
    rows = rows[np.argsort(-given.scores[rows], kind="stable")]
    return given.scores[rows], given.right[rows], int(given.there[label])


def _best(scores: np.ndarray, right: np.ndarray, there: int) -> Best:
    if not right.any():
        return Best(0.0, 0.0, 0.0, 0.0)
    true, said = np.cumsum(right), np.arange(1, len(right) + 1)
    f1 = np.where(np.append(np.diff(scores) != 0, True), 2 * true / (said + there), -1.0)  # equal scores go together
    k = int(f1.argmax())
    return Best(float(f1[k]), float(scores[k]), float(true[k] / said[k]), float(true[k] / there))


def _f1_over_grid(scores: np.ndarray, right: np.ndarray, there: int) -> np.ndarray:
    said = np.searchsorted(-scores, -_GRID, side="right")
    true = np.concatenate([[0], np.cumsum(right)])[said]
    f1: np.ndarray = 2 * true / np.maximum(said + there, 1)
    return f1


def told(best: Mapping[str, Best | None]) -> dict[str, dict[str, float]]:
    """Columns for a table of classes; nan where a class is not to be found."""
    names = {"best F1": "f1", "at score": "threshold", "precision there": "precision", "recall there": "recall"}
    return {
        label: {name: float("nan") if one is None else getattr(one, field) for name, field in names.items()}
        for label, one in best.items()
    }
