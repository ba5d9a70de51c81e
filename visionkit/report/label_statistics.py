"""What the labels of a split hold: objects of each class, objects an image, their sizes and shapes, sizes of images."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from visionkit.report.figure import BLUE, NORMAL, SMALL, add_axes, new_figure, plain, save, width_of
from visionkit.report.sheet import spread
from visionkit.structures import IGNORE_INDEX, Labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_IMAGES, _SECONDS = 2000, 1.0
"""Of a split so many images, spread over it, are looked at, for about so long at most."""
_MOST_CLASSES = 30
_MANY = 20_000
"""Boxes drawn at most."""


@dataclass(frozen=True)
class LabelSource:
    """The labels of a split.

    Attributes:
        count: images.
        labels: those of image `index`, in the classes given below.
        classes, image_classes, semantic_classes: names of the classes of objects, images and pixels.
    """

    count: int
    labels: Callable[[int], Labels]
    classes: Sequence[str] = ()
    image_classes: Sequence[str] = ()
    semantic_classes: Sequence[str] = ()


@dataclass
class Statistics:
    """Attributes:
    images: how many were looked at.
    of: how many there are.
    classes: how often each occurs: objects, images (of whole-image labels), or the share of the labelled pixels, by
        "objects", "images" and "% of the pixels".
    per_image: objects in each image; crowd regions are left out.
    boxes: (N, 2) float64, width and height as shares of the image's.
    aspects: (N,) width over height in pixels.
    sizes: (height, width) of each image.
    """

    images: int = 0
    of: int = 0
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    per_image: list[int] = field(default_factory=list)
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    aspects: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def rows(self) -> list[tuple[str, str]]:
        """The same in a few words each, for a table."""
        looked = str(self.of) if self.images == self.of else f"{self.of}, of which {self.images} were looked at"
        sizes = Counter(self.sizes).most_common()
        shown = ", ".join(f"{width} × {height} ({count})" for (height, width), count in sizes[:3])
        rows = [("images", looked), ("sizes", shown + (f" and {len(sizes) - 3} more" if len(sizes) > 3 else ""))]
        if self.per_image:
            each = np.array(self.per_image)
            empty = int((each == 0).sum())
            rows.append(("objects", f"{each.sum()}; an image has {each.mean():.1f} on average, {each.max()} at most"))
            rows.append(("images without an object", str(empty)))
        if len(self.boxes):
            sides = 100 * np.sqrt(self.boxes.prod(axis=1))
            low, middle, high = np.percentile(sides, (5, 50, 95))
            text = f"{middle:.1f} % of the image's side (median; 90 % lie within {low:.1f} and {high:.1f} %)"
            rows.append(("size of the objects", text))
        return [row for row in rows if row[1]]


def gather(source: LabelSource, *, seconds: float = _SECONDS) -> Statistics:
    """Look at the labels of a split, for `seconds` and one image at most."""
    objects, whole, pixels = (np.zeros(len(names) or 1) for names in _names(source))
    result, sides, aspects = Statistics(of=source.count), [np.zeros((0, 2))], [np.zeros(0)]
    places = np.random.default_rng(0).permutation(spread(source.count, _MOST_IMAGES)).tolist()
    end = time.monotonic() + seconds
    for index in places:
        labels = source.labels(index)
        result.images += 1
        result.sizes.append(labels.size)
        if labels.boxes is not None:
            one = labels.select(~np.asarray(labels.crowd))
            assert one.boxes is not None and one.labels is not None
            extent = one.boxes[:, 2:] - one.boxes[:, :2]
            result.per_image.append(len(extent))
            sides.append(extent / np.array(labels.size[::-1]))
            aspects.append(extent[:, 0] / np.maximum(extent[:, 1], 1e-9))
            objects += np.bincount(one.labels, minlength=len(objects))
        if labels.class_scores is not None and source.image_classes:
            whole += labels.class_scores > 0.5
        if labels.semantic is not None and source.semantic_classes:
            counts = np.bincount(labels.semantic.ravel(), minlength=IGNORE_INDEX + 1)
            pixels += counts[: len(pixels)]
        if time.monotonic() > end:
            break
    result.boxes, result.aspects = np.concatenate(sides), np.concatenate(aspects)
    shares = 100 * pixels / max(1.0, pixels.sum())
    for kind, counts, names in zip(_KINDS, (objects, whole, shares), _names(source), strict=True):
        if counts.any():
            result.classes[kind] = dict(zip(names, counts.tolist(), strict=True))
    return result


_KINDS = ("objects", "images", "% of the pixels")


def _names(source: LabelSource) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    return source.classes, source.image_classes, source.semantic_classes


# ------------------------------------------------------------------------------------------------------------- figure
def plot_labels(given: Statistics, path: Path) -> Path | None:
    """Draw how often each class occurs and, of objects, how many an image has, their sizes and shapes, and the images'.

    Returns:
        `path`, or None where nothing was looked at.
    """
    panels: list[Callable[[Axes], None]] = []
    if given.per_image:
        panels.append(lambda axes: _draw_counts(axes, given.per_image))
    if len(given.boxes):
        panels += [lambda axes: _draw_sizes(axes, given.boxes), lambda axes: _draw_aspects(axes, given.aspects)]
    if given.sizes:
        panels.append(lambda axes: _draw_image_sizes(axes, given.sizes))
    if not panels:
        return None
    tables = [(kind, _cut(values)) for kind, values in given.classes.items()]
    heights = [0.19 * len(rows) + 0.75 for _, rows in tables]
    lines = -(-len(panels) // 2)
    figure = new_figure(9.0, sum(heights) + 3.1 * lines)
    top = float(figure.get_size_inches()[1])
    for (kind, rows), height in zip(tables, heights, strict=True):
        left = 0.2 + width_of(plain(label) for label, _ in rows)
        axes = add_axes(figure, left, top - height + 0.3, 8.3 - left, height - 0.75)
        _draw_classes(axes, rows, kind, len(given.classes[kind]))
        top -= height
    for place, make in enumerate(panels):
        make(add_axes(figure, 0.7 + 4.5 * (place % 2), top - 3.1 * (place // 2 + 1) + 0.6, 3.5, 2.1))
    return save(figure, path)


def _cut(values: Mapping[str, float]) -> list[tuple[str, float]]:
    """The classes, those with most first; of many the most and the least frequent."""
    rows = sorted(values.items(), key=lambda row: -row[1])
    half = _MOST_CLASSES // 2
    return rows if len(rows) <= _MOST_CLASSES else rows[:half] + rows[-half:]


def _draw_classes(axes: Axes, rows: Sequence[tuple[str, float]], kind: str, of: int) -> None:
    axes.barh(range(len(rows)), [value for _, value in rows], color=BLUE, height=0.72)
    most = max(value for _, value in rows)
    for place, (_, value) in enumerate(rows):
        text = f"{value:.1f}" if kind.startswith("%") else f"{value:,.0f}"
        axes.text(value + 0.008 * most, place, text, va="center", size=SMALL - 1)
    axes.set_yticks(range(len(rows)), [plain(label) for label, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.08 * most)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{kind} of each class{'' if of == len(rows) else f' ({len(rows)} of {of}: most and least)'}",
                   size=NORMAL)  # fmt: skip


def _draw_counts(axes: Axes, per_image: Sequence[int]) -> None:
    most = max(per_image)
    step = -(-(most + 1) // 40)
    counts = np.bincount(np.array(per_image) // step)
    axes.bar(step * np.arange(len(counts)) + (step - 1) / 2, counts, width=0.9 * step, color=BLUE)
    axes.set_title("objects in an image", size=NORMAL)
    axes.set_ylabel("images", size=SMALL)


def _draw_sizes(axes: Axes, boxes: np.ndarray) -> None:
    shown = 100 * boxes[:: -(-len(boxes) // _MANY)]
    axes.hexbin(shown[:, 0], shown[:, 1], gridsize=32, mincnt=1, bins="log", cmap="viridis", extent=(0, 100, 0, 100))
    axes.set_title("size of the objects, % of the image (darker: fewer)", size=NORMAL)
    axes.set_xlabel("width", size=SMALL)
    axes.set_ylabel("height", size=SMALL)


def _draw_aspects(axes: Axes, aspects: np.ndarray) -> None:
    edges = np.geomspace(0.1, 10, 41)
    counts, _ = np.histogram(np.clip(aspects, 0.1, 10), edges)
    axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=BLUE)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10], ["≤ 0.1", "0.2", "0.5", "1", "2", "5", "≥ 10"])
    axes.minorticks_off()
    axes.set_title("width over height of the objects", size=NORMAL)
    axes.set_ylabel("objects", size=SMALL)


def _draw_image_sizes(axes: Axes, sizes: Sequence[tuple[int, int]]) -> None:
    counts = Counter(sizes)
    height, width = np.array(list(counts)).T
    weight = np.array(list(counts.values()))
    axes.scatter(width, height, s=12 + 60 * weight / weight.max(), color=BLUE, alpha=0.5, linewidths=0)
    axes.set_xlim(0, 1.1 * width.max())
    axes.set_ylim(0, 1.1 * height.max())
    axes.set_title("size of the images, pixels (larger: more)", size=NORMAL)
    axes.set_xlabel("width", size=SMALL)
    axes.set_ylabel("height", size=SMALL)
