"""Curves of a run, and truth beside prediction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from visionkit.errors import DataError
from visionkit.predictions import Detections, Prediction
from visionkit.report.draw import OKABE_ITO, draw, headings
from visionkit.structures import Geometry, Labels

Points = list[tuple[float, float]]
"""(step, value), by rising step."""
_NO_NUMBERS = ("step", "epoch", "lr")
_NUMBERS_A_PANEL = 6
_LINES = [*(tuple(channel / 255 for channel in OKABE_ITO[k]) for k in (4, 5, 2, 0, 6, 1)), (0.0, 0.0, 0.0)]
"""Line colours: Okabe and Ito's without the yellow, which is faint on white."""


def plot_curves(metrics_jsonl: Path, folder: Path) -> list[Path]:
    """Draw a run's losses, learning rate and metrics into loss.png, rate.png and metrics.png, as far as there are any.

    Args:
        metrics_jsonl: lines with "step" and either losses and "lr", or "epoch" and "head/metric" (null: none).
        folder: made if it is not there.

    Returns:
        the files written.

    Raises:
        DataError: a line is not JSON.
    """
    lines = _read_lines(metrics_jsonl)
    steps = [line for line in lines if "epoch" not in line]
    losses, metrics = _curves(steps), _curves([line for line in lines if "epoch" in line])
    rate = {"lr": [(line["step"], line["lr"]) for line in steps if "lr" in line]}
    panels: dict[str, list[dict[str, Points]]] = {
        "loss": [losses],
        "rate": [rate] if rate["lr"] else [],
        "metrics": _panels(metrics),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, parts in panels.items():
        if any(parts):
            written.append(folder / f"{name}.png")
            _figure(parts, logarithmic=name == "loss", unit=name == "metrics").savefig(written[-1])
    return written


def contact_sheet(
    items: Sequence[tuple[np.ndarray, Prediction, Labels]],
    classes: Sequence[str],
    *,
    cell: int = 320,
    pairs_a_row: int = 2,
    score_threshold: float = 0.3,
) -> np.ndarray:
    """Return a sheet, (H, W, 3) uint8 RGB, of images twice side by side: left the truth, right the prediction.

    Args:
        items: (H, W, 3) uint8 RGB images with prediction and truth in their pixels; at least one.
        classes: names, in the order of the labels.
        cell: side in pixels of the square into which each image is fitted before anything is drawn on it.
        pairs_a_row: images a row.
        score_threshold: detections under it are left out.
    """
    if not items:
        raise ValueError("contact_sheet: at least one image is wanted")
    gap = max(2, cell // 40)
    columns = min(pairs_a_row, len(items))
    pairs = []
    for image, prediction, truth in items:
        small, fitted, labels = _fitted(image, prediction, truth, cell)
        pairs += [draw(small, None, classes, truth=labels)]
        pairs += [draw(small, fitted, classes, score_threshold=score_threshold)]
    rows = [headings(("truth", "prediction") * columns, cell + gap)]
    for first in range(0, len(pairs), 2 * columns):
        rows.append(_row(pairs[first : first + 2 * columns], 2 * columns, cell, gap))
    return np.concatenate(rows, axis=0)


def _read_lines(path: Path) -> list[dict[str, float]]:
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            raise DataError(f"{path}: line {number} is not JSON ({error}); take it out") from error
    return lines


def _curves(lines: Sequence[Mapping[str, float | None]]) -> dict[str, Points]:
    curves: dict[str, Points] = {}
    for line in lines:
        for name, value in line.items():
            if name not in _NO_NUMBERS:
                curve = curves.setdefault(name, [])
                curve += [] if value is None else [(int(line["step"] or 0), value)]
    return curves


def _panels(metrics: Mapping[str, Points]) -> list[dict[str, Points]]:
    """The metrics head by head, few enough in a panel to tell the lines apart."""
    heads: dict[str, list[str]] = {}
    for name in metrics:
        heads.setdefault(name.partition("/")[0], []).append(name)
    cuts = [names[i : i + _NUMBERS_A_PANEL] for names in heads.values() for i in range(0, len(names), _NUMBERS_A_PANEL)]
    return [{name: metrics[name] for name in cut} for cut in cuts]


def _figure(panels: Sequence[Mapping[str, Points]], *, logarithmic: bool, unit: bool) -> Figure:
    figure = Figure(figsize=(9, 3.4 * len(panels)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for index, curves in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, index + 1)
        for k, (name, points) in enumerate(curves.items()):
            x, y = zip(*points, strict=True) if points else ((), ())
            marker, style = "o" if len(points) < 20 else None, ("-", "--", ":")[k // len(_LINES) % 3]
            axes.plot(x, y, style, color=_LINES[k % len(_LINES)], label=name, linewidth=1.6, marker=marker, ms=3)
        if logarithmic and all(value > 0 for points in curves.values() for _, value in points):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        if unit:
            axes.set_ylim(0, 1)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")
    return figure


def _fitted(
    image: np.ndarray, prediction: Prediction, truth: Labels, cell: int
) -> tuple[np.ndarray, Prediction, Labels]:
    """Image, prediction and truth scaled, up or down, to fit into a square of `cell` pixels."""
    height, width = image.shape[:2]
    factor = cell / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    geometry = Geometry((height, width), size, (size[0] / height, size[1] / width))
    if isinstance(prediction, Detections):
        boxes = geometry.to_canvas(prediction.boxes).astype(np.float32)
        prediction = Detections(boxes, prediction.scores, prediction.labels)
    mapped = None if truth.boxes is None else geometry.to_canvas(truth.boxes)
    return small, prediction, replace(truth, size=size, boxes=mapped, masks=None, box=None, semantic=None)


def _row(images: Sequence[np.ndarray], columns: int, cell: int, gap: int) -> np.ndarray:
    """The images side by side at the top of a white strip, each in the middle of its column."""
    strip = np.full((max(len(image) for image in images) + gap, columns * (cell + gap), 3), 255, np.uint8)
    for index, image in enumerate(images):
        left = index * (cell + gap) + (cell + gap - image.shape[1]) // 2
        strip[: len(image), left : left + image.shape[1]] = image
    return strip
