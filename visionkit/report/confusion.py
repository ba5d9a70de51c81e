"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visionkit.report.figure import NORMAL, SMALL, add_axes, new_figure, plain, save, width_of
from visionkit.report.pairs import best_threshold, paired
from visionkit.structures import ImageId

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
        state: see `visionkit.report.pairs.paired`.
        classes: names, in the order of the labels.

    Returns:
        the matrix, (len(classes) + 1) squared, and the threshold; 0 without any right detection.
    """
    pairs = [paired(row) for row in state.values()]
    threshold = best_threshold(pairs)
    background = len(classes)
    counts = np.zeros((background + 1, background + 1), np.int64)
    for pair in pairs:
        found, true, outcome = pair.labels, pair.truth_labels, pair.outcome(threshold)
        np.add.at(counts, (true[outcome.right], true[outcome.right]), 1)
        for which, detection in outcome.confused:
            counts[true[which], found[detection]] += 1
        np.add.at(counts, (background, found[outcome.invented]), 1)
        np.add.at(counts, (true[outcome.missed], background), 1)
    return Confusion(counts, (*classes, "background"), "objects", background=True), threshold


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
