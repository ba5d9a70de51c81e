"""Curves of a run: losses, learning rate and metrics over the steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visionkit.errors import DataError
from visionkit.report.figure import BLACK, LINES, NORMAL, SMALL, add_axes, new_figure, plain, save, width_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = list[tuple[float, float]]
"""(step, value), by rising step."""
_NO_NUMBERS = ("step", "epoch", "lr")
_TOTAL = "total"
_TRAIN, _ON_TRAIN = "train/", " (train)"
_COLOURS = LINES[:-1]
_NUMBERS_A_HEAD = 6
"""The first ones of a head, which are its main ones, are drawn: enough to tell the lines apart."""


def plot_curves(metrics_jsonl: Path, folder: Path) -> list[Path]:
    """Draw what there is of a run's losses, learning rate and metrics into loss, rate, metrics and train-val.png.

    A metric of training images without augmentation ("train/head/metric") is dashed, in the colour of the same metric;
    train-val holds those metrics alone that are known of both.

    Args:
        metrics_jsonl: lines with "step" and either losses and "lr", or "epoch" and "head/metric" (null: none). Metrics
            of single classes ("head/metric/class") are not drawn.
        folder: made if it is not there.

    Returns:
        the files written.

    Raises:
        DataError: a line is not JSON.
    """
    lines = _read_lines(metrics_jsonl)
    steps = [line for line in lines if "epoch" not in line]
    losses, metrics = _curves(steps), _curves([line for line in lines if "epoch" in line])
    train = _curves(
        [{key.removeprefix(_TRAIN): value for key, value in line.items() if key.startswith((_TRAIN, "step"))}
         for line in lines if "epoch" in line]
    )  # fmt: skip
    rate = {"learning rate": [(line["step"], line["lr"]) for line in steps if "lr" in line]}
    panels: dict[str, list[dict[str, Points]]] = {
        "loss": [losses] if any(losses.values()) else [],
        "rate": [rate] if rate["learning rate"] else [],
        "metrics": _panels(metrics),
        "train-val": _of_both(metrics, train),
    }
    folder.mkdir(parents=True, exist_ok=True)
    return [save(_figure(parts, kind=name), folder / f"{name}.png") for name, parts in panels.items() if parts]


def histories(metrics_jsonl: Path) -> dict[str, list[tuple[int, float]]]:
    """Return each "head/metric" as (epoch, value), by rising epoch; empty without such a file.

    Raises:
        DataError: a line is not JSON.
    """
    lines = _read_lines(metrics_jsonl) if metrics_jsonl.is_file() else []
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items() if "epoch" in line else ():
            if name not in _NO_NUMBERS and value is not None:
                found.setdefault(name, []).append((int(line["epoch"]), value))
    return found


def _read_lines(path: Path) -> list[dict[str, float]]:
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            raise DataError(f"{path}: line {number} is not JSON ({error}); take it out", code="file-format") from error
    return lines


def _curves(lines: Sequence[Mapping[str, float | None]]) -> dict[str, Points]:
    curves: dict[str, Points] = {}
    for line in lines:
        for name, value in line.items():
            if name not in _NO_NUMBERS and name.count("/") < 2:
                curve = curves.setdefault(name, [])
                curve += [] if value is None else [(int(line["step"] or 0), value)]
    return curves


def _panels(metrics: Mapping[str, Points]) -> list[dict[str, Points]]:
    """The main metrics that have any value, head by head."""
    heads: dict[str, list[str]] = {}
    for name, points in metrics.items():
        if points:
            heads.setdefault(name.partition("/")[0], []).append(name)
    return [{name: metrics[name] for name in names[:_NUMBERS_A_HEAD]} for names in heads.values()]


def _of_both(metrics: Mapping[str, Points], train: Mapping[str, Points]) -> list[dict[str, Points]]:
    """The metrics that are known of training images as well, in one panel, each followed by that of training images."""
    names = [name for name, points in metrics.items() if points and train.get(name)]
    panel = {
        key: curve for name in names for key, curve in ((name, metrics[name]), (f"{name}{_ON_TRAIN}", train[name]))
    }
    return [panel] if panel else []


def _figure(panels: Sequence[Mapping[str, Points]], *, kind: str) -> Figure:
    names = [plain(name, 36) for curves in panels for name in curves]
    legend = 0.7 + width_of(names)
    rows = max(len(curves) for curves in panels)
    width, height, top, bottom = 9.0 - legend - 0.75, max(2.5, 0.19 * rows), 0.15, 0.55
    figure = new_figure(9.0, len(panels) * (height + top + bottom))
    for index, curves in enumerate(reversed(panels)):
        axes = add_axes(figure, 0.75, index * (height + top + bottom) + bottom, width, height)
        _draw_lines(axes, curves)
        if kind == "loss" and all(value > 0 for points in curves.values() for _, value in points):
            _make_logarithmic(axes)
        if kind in ("metrics", "train-val"):
            axes.set_ylim(0, max(1.0, *(value for points in curves.values() for _, value in points)))
        axes.set_xlabel("step", size=NORMAL)
    return figure


def _draw_lines(axes: Axes, curves: Mapping[str, Points]) -> None:
    names = sorted(curves, key=lambda name: name == _TOTAL)  # last, and drawn over the others
    for k, name in enumerate(names):
        x, y = zip(*curves[name], strict=True) if curves[name] else ((), ())
        marker, style = "o" if len(x) < 20 else None, ("-", "--", ":")[k // len(_COLOURS) % 3]
        colour = _COLOURS[k % len(_COLOURS)]
        if name.endswith(_ON_TRAIN):
            style, colour = "--", _COLOURS[names.index(name.removesuffix(_ON_TRAIN)) % len(_COLOURS)]
        if name == _TOTAL:
            style, colour = "-", BLACK
        axes.plot(x, y, style, color=colour, label=plain(name, 36), linewidth=1.6, marker=marker, ms=3)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=SMALL)


def _make_logarithmic(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = axes.get_ylim()
    if high / low < 100:  # over more powers of ten, labels between them would crowd
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.tick_params(which="minor", labelsize=SMALL)
