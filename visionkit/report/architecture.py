"""A model in one picture: maps that shrink while their channels grow, and which head reads which of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

from visionkit.report.colours import BLACK, GREY, OKABE_ITO, WHITE, Colour, blend
from visionkit.report.figure import NORMAL, SMALL, add_axes, new_figure, plain, save, width_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HIGHEST, _THICKEST, _THINNEST = 1.9, 1.0, 0.05
"""Inches of the tallest map, of the most channels, and of the fewest."""
_SLANT = 0.3
"""Inches to the right and up for an inch of a map's width, which is drawn as depth."""
_LEFT, _GAP, _LINE = 1.25, 0.35, 0.17
"""Inches of the left margin, between columns, and from one line of text to the next."""
_TEXT = 3 * _LINE + 0.12
_TRACK = 0.13
"""Inches between the lines that lead to different heads."""
_BOX = 0.75
"""Inches of a head's height."""
_TITLE = 0.85
"""Inches above the bodies."""
_IMAGE, _BACKBONE, _NECK = blend(GREY, WHITE, 0.3), OKABE_ITO[1], OKABE_ITO[0]
_HEADS = (OKABE_ITO[2], OKABE_ITO[4], OKABE_ITO[5], OKABE_ITO[6], blend(OKABE_ITO[0], BLACK, 0.45))
_NOTE = "heights, depths and thicknesses are the square roots of a map's height and width and of its channels"


@dataclass(frozen=True)
class Level:
    """A feature level, or the image. size: (height, width) in cells; stride: pixels of a cell."""

    name: str
    channels: int
    size: tuple[int, int]
    stride: int


@dataclass(frozen=True)
class Answer:
    """A head, or a merge of heads. kind: its class; reads: names of levels, or of heads; note: a few words more."""

    name: str
    kind: str
    reads: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Parts:
    """What is drawn.

    rows: by the name of a part and its class, such as "backbone CSP", its levels from fine to coarse; the image is the
    first of the first row.
    """

    title: str
    rows: Mapping[str, Sequence[Level]]
    heads: Sequence[Answer]
    merges: Sequence[Answer] = ()


def plot_model(parts: Parts, path: Path) -> Path:
    """Draw a model and write it as PNG.

    A level is a body as high and as deep as its map and as thick as its channels, all by their square roots. Under it
    stand channels × height × width and the stride. A line leads from each level to the heads that read it.
    """
    drawing = _Drawing(parts)
    figure = new_figure(drawing.width, drawing.height)
    axes = add_axes(figure, 0, 0, drawing.width, drawing.height)
    axes.set_xlim(0, drawing.width)
    axes.set_ylim(0, drawing.height)
    axes.axis("off")
    drawing.draw(axes)
    return save(figure, path)


class _Drawing:
    """Places in inches from the bottom left corner; a level's place is the middle of its body and labels."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        levels = [level for row in parts.rows.values() for level in row]
        self.most_cells = max(max(level.size) for level in levels)
        self.most_channels = max(level.channels for level in levels)
        self.centres = self._columns()
        last = max(x + self._across(level) / 2 for level in levels for x in [self.centres[level.name]])
        boxes = len(parts.heads) * (self._box_width() + _GAP)
        self.width = max(last, _LEFT + boxes, width_of([parts.title, _NOTE], NORMAL) + 0.4) + 0.2
        self.heights = {name: max(map(self._up, row)) for name, row in parts.rows.items()}
        bands = _TRACK * (len(parts.heads) + 1) + 0.2
        self.height = _TITLE + sum(self.heights.values()) + len(parts.rows) * (_TEXT + 0.2) + bands + _BOX + 0.2
        self.height += bands + _BOX if parts.merges else 0

    def draw(self, axes: Axes) -> None:
        axes.text(0.2, self.height - 0.25, plain(self.parts.title, 400), size=NORMAL, va="center", weight="bold")
        axes.text(0.2, self.height - 0.48, _NOTE, size=SMALL, va="center", color="#505050")
        top = self.height - _TITLE
        bottoms: dict[str, float] = {}
        for index, (name, row) in enumerate(self.parts.rows.items()):
            ground = top - self.heights[name]
            self._say(axes, name, ground + self.heights[name] / 2)
            for level in row:
                colour = _IMAGE if level.name == "image" else _BACKBONE if index == 0 else _NECK
                bottoms[level.name] = self._level(axes, level, ground, colour)
            top = ground - _TEXT - 0.2
        lowest = top + 0.2
        boxes = self._boxes(axes, self.parts.heads, lowest, bottoms, "heads")
        if self.parts.merges:
            sources = {name: x for name, (x, _) in boxes.items()}
            low = next(iter(boxes.values()))[1]
            self.centres.update(sources)
            self._boxes(axes, self.parts.merges, low, dict.fromkeys(sources, low), "merges")

    # ------------------------------------------------------------------------------------------------------- measures
    def _columns(self) -> dict[str, float]:
        """The first row in its order; levels of the others under those of their stride, where there is room."""
        centres: dict[str, float] = {}
        by_stride: dict[int, float] = {}
        for row in self.parts.rows.values():
            edge = _LEFT
            for level in row:
                half = self._across(level) / 2
                centre = max(edge + half, by_stride.get(level.stride, 0.0))
                centres[level.name] = centre
                if level.name != "image":
                    by_stride.setdefault(level.stride, centre)
                edge = centre + half + _GAP
        return centres

    def _across(self, level: Level) -> float:
        thick, _, deep = self._body(level)
        return max(thick + deep, width_of(self._labels(level), SMALL) + 0.1)

    def _up(self, level: Level) -> float:
        _, high, deep = self._body(level)
        return high + deep

    def _body(self, level: Level) -> tuple[float, float, float]:
        """Thickness, height, and how far its depth reaches to the right and up, in inches."""
        thick = max(_THINNEST, _THICKEST * sqrt(level.channels / self.most_channels))
        high, wide = (_HIGHEST * sqrt(side / self.most_cells) for side in level.size)
        return thick, high, _SLANT * wide

    def _labels(self, level: Level) -> list[str]:
        size = " × ".join(map(str, (level.channels, *level.size)))
        return [level.name, size, "" if level.name == "image" else f"stride {level.stride}"]

    def _box_width(self) -> float:
        texts = [text for one in (*self.parts.heads, *self.parts.merges) for text in (one.name, one.kind, one.note)]
        return width_of((plain(text, 34) for text in texts), SMALL) + 0.35

    # -------------------------------------------------------------------------------------------------------- drawing
    def _say(self, axes: Axes, name: str, y: float) -> None:
        for k, word in enumerate(name.split(" ")):
            weight = "bold" if k == 0 else "normal"
            axes.text(0.2, y - k * _LINE, plain(word, 18), size=SMALL, va="center", weight=weight)

    def _level(self, axes: Axes, level: Level, ground: float, colour: Colour) -> float:
        """Draw a body with its labels; return where they end."""
        thick, high, deep = self._body(level)
        left = self.centres[level.name] - (thick + deep) / 2
        right, top = left + thick, ground + high
        _polygon(axes, [(left, ground), (right, ground), (right, top), (left, top)], colour)
        roof = [(left, top), (right, top), (right + deep, top + deep), (left + deep, top + deep)]
        _polygon(axes, roof, blend(colour, WHITE, 0.45))
        side = [(right, ground), (right + deep, ground + deep), (right + deep, top + deep), (right, top)]
        _polygon(axes, side, blend(colour, BLACK, 0.3))
        for k, text in enumerate(self._labels(level)):
            place = (self.centres[level.name], ground - 0.12 - k * _LINE)
            axes.text(*place, plain(text, 40), size=SMALL, ha="center", va="center", weight="bold" if k == 0 else None)
        return ground - _TEXT

    def _boxes(
        self, axes: Axes, answers: Sequence[Answer], top: float, bottoms: Mapping[str, float], name: str
    ) -> dict[str, tuple[float, float]]:
        """Draw boxes with lines from what they read; return the middle and the bottom of each."""
        width = self._box_width()
        roof = top - _TRACK * (len(answers) + 1) - 0.2
        places: dict[str, tuple[float, float]] = {}
        self._say(axes, name, roof - _BOX / 2)
        free = self.width - 0.2 - _LEFT - len(answers) * width
        step = width + min(_GAP * 2, free / max(1, len(answers)))
        for k, answer in enumerate(answers):
            colour = _HEADS[k % len(_HEADS)]
            x = _LEFT + k * step + width / 2
            track, shift = top - _TRACK * (k + 1), 0.06 * (k - (len(answers) - 1) / 2)
            self._lines(axes, answer.reads, bottoms, (x, roof), track, shift, colour)
            corners = [(x - width / 2, roof), (x + width / 2, roof)]
            box = [*corners, *((right, roof - _BOX) for right, _ in reversed(corners))]
            _polygon(axes, box, blend(colour, WHITE, 0.75), edge=colour)
            for line, text in enumerate((answer.name, answer.kind, answer.note)):
                y = roof - _BOX / 2 + (1 - line) * 1.2 * _LINE
                weight = "bold" if line == 0 else None
                axes.text(x, y, plain(text, 34), size=SMALL, ha="center", va="center", weight=weight)
            places[answer.name] = (x, roof - _BOX)
        return places

    def _lines(
        self,
        axes: Axes,
        reads: Iterable[str],
        bottoms: Mapping[str, float],
        target: tuple[float, float],
        track: float,
        shift: float,
        colour: Colour,
    ) -> None:
        """Down from each level, along a track of the head's own, and down into the head."""
        shade = tuple(one / 255 for one in colour)
        x, roof = target
        lowest = min(bottoms.values())
        for name in reads:
            start, y = self.centres[name] + shift, bottoms[name]
            points = [(start, y)]
            if y > lowest:  # past the row below, beside its bodies and labels
                start = self._gutter(name) + shift
                points += [(points[0][0], y - 0.06), (start, y - 0.06)]
            points += [(start, track), (x, track)]
            axes.plot(*zip(*points, strict=True), color=shade, linewidth=1.6, zorder=0.5)
        arrow = {"arrowstyle": "-|>", "color": shade, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x, roof), (x, track), arrowprops=arrow)

    def _gutter(self, name: str) -> float:
        """The nearest place to a level's middle that is free of the bodies and labels of the rows below it."""
        rows = list(self.parts.rows.values())
        (index,) = [k for k, row in enumerate(rows) if name in [level.name for level in row]]
        below = [level for row in rows[index + 1 :] for level in row]
        middle = self.centres[name]
        taken = [(self.centres[one.name], self._across(one) / 2 + _GAP / 2) for one in below]
        places = [middle, *(x + side * half for x, half in taken for side in (-1, 1))]
        free = [x for x in places if all(abs(x - other) >= half - 1e-6 for other, half in taken)]
        return min(free, key=lambda x: abs(x - middle))


def _polygon(axes: Axes, corners: Sequence[tuple[float, float]], colour: Colour, edge: Colour = (64, 64, 64)) -> None:
    from matplotlib.patches import Polygon

    face, line = (tuple(value / 255 for value in one) for one in (colour, edge))
    axes.add_patch(Polygon(list(corners), closed=True, facecolor=face, edgecolor=line, linewidth=1.0))
