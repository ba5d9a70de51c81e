"""Precision over recall, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from visionkit.report.figure import LINES, NORMAL, PALE, SMALL, add_axes, new_figure, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 2 * (len(LINES) - 1)
"""With more classes than that, lines are grey."""


def plot_precision_recall(precision: np.ndarray, classes: Sequence[str], path: Path) -> Path | None:
    """Draw the curves at IoU 0.50 and, beside them, averaged over IoU 0.50:0.95: each class's, and the mean in bold.

    Args:
        precision: (T, R, K) at T IoU thresholds from 0.50 to 0.95, R recalls from 0 to 1 and K classes; −1 where the
            class has no object to be found.
        classes: K names.
        path: of the PNG.

    Returns:
        `path`, or None where no class has an object.
    """
    shown = np.flatnonzero((precision >= 0).all(axis=(0, 1))).tolist()
    if not shown:
        return None
    figure = new_figure(9.0, 3.9)
    panels = (("IoU 0.50", precision[0]), ("mean over IoU 0.50:0.95", precision.mean(axis=0)))
    for index, (title, curves) in enumerate(panels):
        axes = add_axes(figure, 0.65 + index * 3.45, 0.55, 2.95, 2.95)
        _draw_curves(axes, curves[:, shown], [classes[k] for k in shown])
        axes.set_title(f"{title}: {curves[:, shown].mean():.3f}", size=NORMAL)
        axes.set_xlabel("recall", size=NORMAL)
        axes.set_ylabel("precision" if index == 0 else "", size=NORMAL)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=SMALL)
    return save(figure, path)


def _draw_curves(axes: Axes, curves: np.ndarray, names: Sequence[str]) -> None:
    """curves: (R, K)."""
    recalls = np.linspace(0, 1, len(curves))
    for k, name in enumerate(names):
        if len(names) <= _NAMED:
            style = "-" if k < len(LINES) - 1 else "--"
            axes.plot(recalls, curves[:, k], style, color=LINES[k % (len(LINES) - 1)], lw=1.2, label=plain(name, 20))
        else:
            label = f"{len(names)} classes" if k == 0 else None
            axes.plot(recalls, curves[:, k], color=PALE, lw=0.7, label=label)
    axes.plot(recalls, curves.mean(axis=1), color="black", lw=2.2, label="mean")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
