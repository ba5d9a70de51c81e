"""How the boxes of a localization lie beside the true ones: too far to a side, too large, too small."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visionkit.report.figure import BLACK, BLUE, NORMAL, SMALL, add_axes, new_figure, save
from visionkit.structures import ImageId

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REACH = 0.6
_MANY = 5000
_RATIOS = [0.25, 0.5, 1, 2, 4]


def box_errors(state: Mapping[ImageId, Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets of the centres and the ratios of the sides, both (N, 2) as x, y.

    Offsets are in widths and heights of the true box, to the right and down; ratios are predicted over true. Boxes
    without area are left out.

    Args:
        state: per image box and truth_box, (4,) xyxy.
    """
    found = np.array([row["box"] for row in state.values()], np.float64).reshape(-1, 4)
    true = np.array([row["truth_box"] for row in state.values()], np.float64).reshape(-1, 4)
    sides, true_sides = found[:, 2:] - found[:, :2], true[:, 2:] - true[:, :2]
    kept = (sides > 0).all(axis=1) & (true_sides > 0).all(axis=1)
    offsets = ((found[:, :2] + found[:, 2:]) - (true[:, :2] + true[:, 2:]))[kept] / 2 / true_sides[kept]
    return offsets, sides[kept] / true_sides[kept]


def plot_box_errors(state: Mapping[ImageId, Mapping[str, Any]], path: Path) -> Path | None:
    """Draw both as clouds, with the middle half of each in words.

    Returns:
        `path`, or None where there is no box.
    """
    offsets, ratios = box_errors(state)
    if not len(offsets):
        return None
    step = -(-len(offsets) // _MANY)
    figure = new_figure(9.0, 4.6)
    left = add_axes(figure, 0.75, 0.75, 3.3, 3.3)
    _cloud(left, np.clip(offsets[::step], -_REACH, _REACH), (0.0, 0.0))
    left.set_xlim(-_REACH, _REACH)
    left.set_ylim(_REACH, -_REACH)  # down is down, as in the image
    left.set_xlabel(f"to the right, in widths of the object\n{_spread(offsets[:, 0])}", size=NORMAL)
    left.set_ylabel(f"down, in heights of the object\n{_spread(offsets[:, 1])}", size=NORMAL)
    left.set_title("centre of the box beside the true one", size=NORMAL)
    right = add_axes(figure, 5.4, 0.75, 3.3, 3.3)
    _cloud(right, np.clip(ratios[::step], 0.25, 4), (1.0, 1.0))
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xticks(_RATIOS, [f"{ratio:g}" for ratio in _RATIOS])
    right.set_yticks(_RATIOS, [f"{ratio:g}" for ratio in _RATIOS])
    right.minorticks_off()
    right.set_xlim(0.24, 4.2)
    right.set_ylim(0.24, 4.2)
    right.set_xlabel(f"predicted over true width\n{_spread(ratios[:, 0])}", size=NORMAL)
    right.set_ylabel(f"predicted over true height\n{_spread(ratios[:, 1])}", size=NORMAL)
    right.set_title("size of the box beside the true one", size=NORMAL)
    return save(figure, path)


def _cloud(axes: Axes, points: np.ndarray, ideal: tuple[float, float]) -> None:
    axes.scatter(points[:, 0], points[:, 1], s=10, color=BLUE, alpha=0.4, linewidths=0)
    axes.axvline(ideal[0], color=BLACK, lw=0.8, ls="--")
    axes.axhline(ideal[1], color=BLACK, lw=0.8, ls="--")
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=SMALL)


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"median {middle:.2f}, half within {low:.2f} … {high:.2f}"
