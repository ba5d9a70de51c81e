"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.report.figure import NORMAL, SMALL, add_axes, new_figure, plain, save, width_of
from visionkit.structures import ImageId

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_IOU = 0.5
_MOST = 40
"""Classes a figure; of more, those with the most confusions are shown."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """Attributes:
    counts: (K, K), rows the truth and columns the prediction.
    names: of the K.
    unit: what is counted.
    background: is the last row and column no class, but what is none?
    """

    counts: np.ndarray
    names: tuple[str, ...]
    unit: str
    background: bool = False


def ranked_confusion(state: Mapping[ImageId, Mapping[str, Any]], classes: Sequence[str]) -> Confusion:
    """Count images by class and best class; state: per image truth (1,) and ranking (…,), class indices."""
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for row in state.values():
        counts[int(row["truth"][0]), int(row["ranking"][0])] += 1
    return Confusion(counts, tuple(classes), "images")


def box_confusion(state: Mapping[ImageId, Mapping[str, Any]], classes: Sequence[str]) -> tuple[Confusion, float]:
    """Count objects by class and class found, with a last row and column for the background.

    Detections count whose score reaches the threshold at which F1, over all classes, is highest. At IoU 0.5 each takes
    an object of its own class, else one of another class, else it is the background's; so is an object that none takes.
    Those that lie in crowds or on ignored objects of their class are left out.

    Args:
        state: per image boxes (N, 4) xyxy, scores and labels by falling score, truth_boxes (M, 4), truth_labels, crowd
            and ignore.
        classes: names, in the order of the labels.

    Returns:
        the matrix, (len(classes) + 1) squared, and the threshold; 0 without any right detection.
    """
    pairs = [_pair(row) for row in state.values()]
    threshold = _best_threshold(pairs)
    counts = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    for pair in pairs:
        pair.count(counts, threshold)
    return Confusion(counts, (*classes, "background"), "objects", background=True), threshold


@dataclass(frozen=True, eq=False)
class _Pair:
    """Detections and objects of an image: IoU (D, G) of at least `_IOU`, 0 elsewhere, and who found whom.

    taken: (D,) the object of its own class that a detection takes, −1 for none; excused: (D,) bool.
    """

    scores: np.ndarray
    labels: np.ndarray
    truth_labels: np.ndarray
    counted: np.ndarray
    ious: np.ndarray
    taken: np.ndarray
    excused: np.ndarray

    def count(self, counts: np.ndarray, threshold: float) -> None:
        background = len(counts) - 1
        shown = (self.scores >= threshold) & ~self.excused
        free = self.counted.copy()
        right = self.taken[shown & (self.taken >= 0)]
        free[right] = False
        np.add.at(counts, (self.truth_labels[right], self.truth_labels[right]), 1)
        for row in np.flatnonzero(shown & (self.taken < 0)):
            ious = np.where(free, self.ious[row], 0.0)
            best = int(ious.argmax()) if len(ious) else 0
            if len(ious) and ious[best] > 0:
                free[best] = False
                counts[self.truth_labels[best], self.labels[row]] += 1
            else:
                counts[background, self.labels[row]] += 1
        np.add.at(counts, (self.truth_labels[free], background), 1)


def _pair(row: Mapping[str, Any]) -> _Pair:
    labels, truth_labels = row["labels"].astype(np.int64), row["truth_labels"].astype(np.int64)
    counted = ~(row["crowd"] | row["ignore"])
    ious = np.zeros((len(labels), len(truth_labels)))
    if ious.size:
        sides = _xywh(row["boxes"]), _xywh(row["truth_boxes"])
        ious = np.asarray(coco_mask.iou(*sides, row["crowd"].astype(int).tolist()))
        ious = np.where(ious >= _IOU, ious, 0.0)
    same = np.where(labels[:, None] == truth_labels, ious, 0.0)
    taken, excused = np.full(len(labels), -1), np.zeros(len(labels), bool)
    free = counted.copy()
    for k in np.flatnonzero((same > 0).any(axis=1)) if same.size else ():
        best = int(np.where(free, same[k], 0.0).argmax())
        if free[best] and same[k, best] > 0:
            taken[k], free[best] = best, False
        else:
            excused[k] = bool((same[k, ~counted] > 0).any())
    return _Pair(row["scores"], labels, truth_labels, counted, ious, taken, excused)


def _best_threshold(pairs: Iterable[_Pair]) -> float:
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


# ------------------------------------------------------------------------------------------------------------- figure
def plot_confusion(confusion: Confusion, path: Path, *, note: str = "") -> Path | None:
    """Draw the matrix, each row in shares of its sum; rows without any count are left white.

    Args:
        confusion: what to draw.
        path: of the PNG.
        note: added to the title.

    Returns:
        `path`, or None where nothing was counted.
    """
    counts, names = confusion.counts.astype(np.float64), confusion.names
    if counts.sum() == 0:
        return None
    title = f"{confusion.unit} by true and predicted class, in % of the row{note}"
    shares, classes = _shares(counts), len(names) - confusion.background
    if classes > _MOST:
        kept = _most_confused(counts, background=confusion.background)
        title += f"\nthe {_MOST} of {classes} classes with the most confusions"
        shares, names = shares[kept][:, kept], tuple(names[k] for k in kept)
    labels = [plain(name, 20) for name in names]
    cell = min(0.6, max(0.21, 6.0 / len(names)))
    room, side = 0.5 + width_of(labels), cell * len(names)
    width = max(6.5, side + room + 0.3)
    figure = new_figure(width, side + room + 0.6)
    axes = add_axes(figure, max(room, (width - side) / 2), room, side, side)
    axes.imshow(np.ma.masked_invalid(np.sqrt(shares)), cmap="Blues", vmin=0, vmax=1)  # the root shows small shares
    axes.set_xticks(range(len(names)), labels, rotation=90)
    axes.set_yticks(range(len(names)), labels)
    axes.set_xlabel("predicted", size=NORMAL)
    axes.set_ylabel("true", size=NORMAL)
    figure.text(0.5, 1 - 0.12 / figure.get_size_inches()[1], title, ha="center", va="top", size=NORMAL)
    if cell >= 0.3:
        _write_shares(axes, shares)
    return save(figure, path)


def _shares(counts: np.ndarray) -> np.ndarray:
    """Each row over its sum; nan where that is 0."""
    sums = counts.sum(axis=1, keepdims=True)
    shares: np.ndarray = np.where(sums > 0, counts / np.maximum(sums, 1), np.nan)
    return shares


def _most_confused(counts: np.ndarray, *, background: bool) -> np.ndarray:
    """The classes of the matrix with the largest sums off the diagonal, in their order."""
    between = counts[:-1, :-1] if background else counts
    wrong = between.sum(axis=0) + between.sum(axis=1) - 2 * np.diagonal(between)
    kept = np.sort(np.argsort(-wrong, kind="stable")[:_MOST])
    return np.append(kept, len(counts) - 1) if background else kept


def _write_shares(axes: Axes, shares: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            colour = "white" if share > 0.35 else "black"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", size=SMALL - 1, color=colour)
