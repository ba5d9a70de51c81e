"""What a network has learned, in pictures: filters, feature maps, and the evidence for its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from visionkit.inspection.evidence import Evidence
from visionkit.report.colours import OKABE_ITO
from visionkit.report.figure import NORMAL, SMALL, add_axes, new_figure, plain, save, width_of
from visionkit.report.paint import outline_mask
from visionkit.report.pen import Pen
from visionkit.report.sheet import fitted_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_FILTERS, _FILTERS_A_ROW = 64, 16
_MAPS_A_LEVEL = 8
_DOTS = 100
"""Pixels of a picture an inch."""
_PANEL = 320
"""Pixels of the longer side of an image under its evidence."""
_HEAT_SHARE = 0.6
_MAP_COLOURS, _HEAT_COLOURS = "viridis", "inferno"
"""matplotlib's, even in lightness, so that the colour-blind can read them."""


def plot_filters(weights: np.ndarray, name: str, path: Path) -> Path:
    """Draw the filters of a convolution, each scaled to its own largest weight, and write them as PNG.

    Args:
        weights: (N, C, h, w) float. Filters of three channels are drawn in colour, of others the mean over the
            channels in grey; 0 is a middle grey. Of more than 64 those with the largest norm are drawn.
        name: of the layer.
        path: of the PNG.
    """
    count, channels, high, wide = weights.shape
    order = np.argsort(-np.linalg.norm(weights.reshape(count, -1), axis=1), kind="stable")
    shown = np.sort(order[:_MOST_FILTERS])
    some = f"{len(shown)} strongest of {count}" if count > len(shown) else str(count)
    what = "mean over the channels, " if channels != 3 else ""
    titles = [
        f"{plain(name, 60)}: {some} filters of {channels} × {high} × {wide}",
        f"{what}middle grey is a weight of 0",
    ]
    sheet = filter_sheet([filter_picture(weights[index]) for index in shown])
    across, up = sheet.shape[1] / _DOTS, sheet.shape[0] / _DOTS
    figure = new_figure(max(across, width_of(titles, NORMAL)) + 0.4, up + 0.85)
    _say(figure, titles)
    axes = add_axes(figure, 0.2, 0.2, across, up)
    axes.imshow(sheet, aspect="auto", interpolation="nearest")
    axes.set_axis_off()
    return save(figure, path)


def filter_sheet(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Lay (h, w, 3) pictures of values from 0 to 1 out in rows of 16 on white, each pixel as a square of several."""
    high, wide = pictures[0].shape[:2]
    side, gap = max(1, round(50 / max(high, wide))), 8
    step = (side * high + gap, side * wide + gap)
    columns = min(_FILTERS_A_ROW, len(pictures))
    sheet = np.ones((-(-len(pictures) // columns) * step[0] - gap, columns * step[1] - gap, 3))
    for place, picture in enumerate(pictures):
        top, left = (k * one for k, one in zip(divmod(place, columns), step, strict=True))
        sheet[top : top + side * high, left : left + side * wide] = picture.repeat(side, 0).repeat(side, 1)
    return sheet


def filter_picture(weights: np.ndarray) -> np.ndarray:
    """(C, h, w) weights -> (h, w, 3) float, 0 to 1: the largest absolute weight is black or white, 0 is 0.5."""
    seen = weights if len(weights) == 3 else np.repeat(weights.mean(0, keepdims=True), 3, axis=0)
    largest = max(float(np.abs(seen).max()), 1e-12)
    picture: np.ndarray = 0.5 + 0.5 * seen.transpose(1, 2, 0) / largest
    return picture


def plot_maps(image: np.ndarray, levels: Mapping[str, np.ndarray], path: Path) -> Path:
    """Draw a row of feature maps for each level, those that vary most over the image, and write them as PNG.

    Args:
        image: (H, W, 3) uint8 RGB, as the network sees it.
        levels: by name, (C, h, w) float, the part that holds image. Each map has its own scale, from its smallest value
            (dark) to its largest (bright).
        path: of the PNG.
    """
    tall = image.shape[0] / image.shape[1]
    wide, gap, line = 0.95, 0.08, 0.18
    high = max(0.6, wide * tall)
    row_height = high + line + gap
    labels = {name: [name, " × ".join(map(str, maps.shape))] for name, maps in levels.items()}
    left = 0.4 + width_of([text for pair in labels.values() for text in pair])
    width = left + (_MAPS_A_LEVEL + 1) * (wide + gap) + 0.2
    figure = new_figure(width, len(levels) * row_height + 0.6)
    _say(figure, [f"the {_MAPS_A_LEVEL} maps of each level that vary most, with their channel's number"])
    for row, (name, maps) in enumerate(levels.items()):
        bottom = (len(levels) - row - 1) * row_height + 0.1
        for k, text in enumerate(labels[name]):
            place = (0.2 / width, (bottom + high / 2 - k * line) / figure.get_size_inches()[1])
            figure.text(*place, plain(text), size=SMALL, weight="bold" if k == 0 else None)
        axes = add_axes(figure, left, bottom, wide, high)
        axes.imshow(image, aspect="auto")
        axes.set_axis_off()
        for column, channel in enumerate(most_varying(maps, _MAPS_A_LEVEL), start=1):
            axes = add_axes(figure, left + column * (wide + gap), bottom, wide, high)
            axes.imshow(maps[channel], aspect="auto", interpolation="nearest", cmap=_MAP_COLOURS)
            axes.set_title(str(channel), size=SMALL - 1, pad=2)
            axes.set_axis_off()
    return save(figure, path)


def most_varying(maps: np.ndarray, count: int) -> list[int]:
    """The channels of (C, h, w) with the largest standard deviation over the cells, the largest first."""
    order = np.argsort(-maps.reshape(len(maps), -1).std(axis=1), kind="stable")
    return [int(channel) for channel in order[:count]]


def plot_evidence(image: np.ndarray, found: Sequence[Evidence], classes: Sequence[str], head: str, path: Path) -> Path:
    """Draw where the evidence for each answer of a head lies, beside the image, and write it as PNG.

    Each panel has its own scale, from nothing (dark) to the most (bright). The head's box is framed, its region is
    outlined in white.

    Args:
        image: (H, W, 3) uint8 RGB, as the network sees it.
        found: at least one, of maps as large as the image.
        classes: the head's class names.
        head: its name.
        path: of the PNG.
    """
    title = f"{plain(head)}: where the evidence for its strongest answers lies (Grad-CAM), each on a scale of its own"
    panels = [("", fitted_image(image, _PANEL)[0])]
    for one in found:
        nothing = "" if one.heat.max() > 0 else " (nothing)"
        panels.append((f"{plain(classes[one.label], 30)} {one.score:.2f}{nothing}", evidence_picture(image, one)))
    high, wide = (side / 100 for side in panels[0][1].shape[:2])
    across = max(wide, width_of((text for text, _ in panels), NORMAL)) + 0.15
    width = max(len(panels) * across + 1.1, width_of([title], NORMAL) + 0.4)
    figure = new_figure(width, high + 1.0)
    _say(figure, [title])
    for k, (text, picture) in enumerate(panels):
        axes = add_axes(figure, 0.2 + k * across, 0.2, wide, high)
        axes.imshow(picture, aspect="auto")
        axes.set_axis_off()
        axes.set_title(text, size=NORMAL)
    _add_scale(figure, len(panels) * across + 0.2, high)
    return save(figure, path)


def evidence_picture(image: np.ndarray, found: Evidence) -> np.ndarray:
    """The image in grey under the heat, (H, W, 3) uint8 RGB, scaled to fit into a square of `_PANEL` pixels."""
    from matplotlib import colormaps

    small, geometry = fitted_image(image, _PANEL)
    size = geometry.size
    heat = cv2.resize(found.heat / max(float(found.heat.max()), 1e-12), size[::-1], interpolation=cv2.INTER_LINEAR)
    paint = (colormaps[_HEAT_COLOURS](heat)[..., :3] * 255).astype(np.uint8)
    grey = cv2.cvtColor(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    picture = cv2.addWeighted(grey, 1 - _HEAT_SHARE, paint, _HEAT_SHARE, 0)
    if found.region is not None:
        mask = cv2.resize(found.region.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0
        outline_mask(picture, mask)
    if found.box is not None:
        pen = Pen(picture)
        pen.box(geometry.to_canvas(found.box[None])[0], OKABE_ITO[1])
        picture = pen.pixels()
    return picture


def _add_scale(figure: Figure, left: float, high: float) -> None:
    axes = add_axes(figure, left, 0.2, 0.12, high)
    axes.imshow(np.linspace(1, 0, 256)[:, None], aspect="auto", cmap=_HEAT_COLOURS)
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks([0, 255], ["most", "none"])


def _say(figure: Figure, texts: Sequence[str]) -> None:
    width, height = figure.get_size_inches()
    for k, text in enumerate(texts):
        size, colour = (NORMAL, "black") if k == 0 else (SMALL, "#505050")
        figure.text(0.2 / width, (height - 0.25 - 0.2 * k) / height, text, size=size, color=colour, va="center")
