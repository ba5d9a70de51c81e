"""A metric class by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from visionkit.report.figure import BLUE, NORMAL, PALE, SMALL, add_axes, new_figure, plain, save, width_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 100
"""Bars a figure; of more classes the best and the worst are shown."""
_A_COLUMN = 50
_HEIGHT = 0.19
"""Inches of a bar with its gap."""
_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
"""Keeps the line at the mean out of a number."""


def plot_bars(values: Mapping[str, float], name: str, path: Path) -> Path:
    """Draw a bar per class, the best on top, and a dashed line at their mean.

    Args:
        values: by class name, 0 to 1; nan where there is none, which comes last, as "n/a". At least one.
        name: of the metric.
        path: of the PNG.
    """
    known = sorted((row for row in values.items() if not math.isnan(row[1])), key=lambda row: -row[1])
    rows = known + [row for row in values.items() if math.isnan(row[1])]
    title = f"{name} of each class"
    if len(rows) > _MOST:
        rows = known[: _MOST // 2] + known[_MOST // 2 :][-_MOST // 2 :]
        title = f"{name} of {len(rows)} of {len(values)} classes, best and worst"
    length = math.ceil(len(rows) / math.ceil(len(rows) / _A_COLUMN))
    columns = [rows[i : i + length] for i in range(0, len(rows), length)]
    across, up = 9.0 / len(columns), length * _HEIGHT + 1.0
    left = 0.2 + width_of(plain(label) for label, _ in rows)
    mean = float(np.mean([value for _, value in known])) if known else math.nan
    figure = new_figure(9.0, up)
    for index, column in enumerate(columns):
        height = len(column) * _HEIGHT
        axes = add_axes(figure, index * across + left, up - 0.5 - height, across - left - 0.45, height)
        _draw_bars(axes, column, mean)
        if known:
            axes.axvline(mean, color="black", linestyle="--", linewidth=1, zorder=1.5)
    told = f" (dashed: the mean of all, {mean:.3f})" if known else ""
    figure.text(0.5, 1 - 0.3 / up, title + told, ha="center", size=NORMAL)
    return save(figure, path)


def _draw_bars(axes: Axes, rows: Sequence[tuple[str, float]], mean: float) -> None:
    lengths = [0.0 if math.isnan(value) else min(max(value, 0.0), 1.0) for _, value in rows]
    axes.barh(range(len(rows)), lengths, color=BLUE, height=0.72)
    for place, (length, (_, value)) in enumerate(zip(lengths, rows, strict=True)):
        text, colour = ("n/a", PALE) if math.isnan(value) else (f"{value:.3f}", "#202020")
        box = _WHITE if length <= mean < length + 0.2 else None
        axes.text(length + 0.008, place, text, va="center", size=SMALL - 1, color=colour, bbox=box)
    axes.set_yticks(range(len(rows)), [plain(label) for label, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
