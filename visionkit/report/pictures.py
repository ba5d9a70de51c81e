"""Every picture of a run, under plots/."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from visionkit.interfaces import Metric
from visionkit.metrics.classification import TopK
from visionkit.metrics.coco import CocoDetection
from visionkit.metrics.coco_instances import CocoInstances
from visionkit.metrics.localization import LocalizationAccuracy
from visionkit.metrics.semantic import SemanticScores
from visionkit.report.bars import plot_bars
from visionkit.report.box_errors import plot_box_errors
from visionkit.report.confidence import plot_f1, scored
from visionkit.report.confusion import Confusion, box_confusion, plot_confusion, ranked_confusion
from visionkit.report.first_batches import Seen
from visionkit.report.gallery import CONFUSED, IMAGES, SIDE, WORST, Gallery, write_picture, write_sheet
from visionkit.report.label_statistics import Statistics, plot_labels
from visionkit.report.plots import plot_curves
from visionkit.report.precision_recall import plot_precision_recall
from visionkit.report.sheet import headings

LOGGER = logging.getLogger("visionkit")
Classes = Mapping[str, Sequence[str]]
_ACROSS = 4
"""Training images in a row."""
_CURVES = {
    "loss": ("losses", "each loss over the steps of the training"),
    "rate": ("learning rate", "the learning rate over the steps of the training"),
    "metrics": ("metrics", "the metrics on validation images over the steps of the training"),
    "train-val": (
        "train against validation",
        "metrics on validation images and, dashed, on training images without augmentation, over the steps",
    ),
}


@runtime_checkable
class HasPrecision(Protocol):
    """A metric that has precision over recall."""

    def precision(self) -> np.ndarray:
        """(T, R, K) at T IoU thresholds from 0.50 to 0.95, R recalls from 0 to 1, K classes; −1 without any object."""
        ...


@dataclass(frozen=True)
class Picture:
    """path: of the PNG; head: of which it tells, "" for the run as a whole; title, shown: in words, what is seen."""

    path: Path
    head: str
    title: str
    shown: str


@dataclass(frozen=True, kw_only=True)
class Material:
    """What there is to draw: see `write_report`; numbers are by "head/metric" and "head/metric/class", nan for none."""

    metrics: Mapping[str, Metric]
    classes: Classes
    numbers: Mapping[str, float]
    gallery: Gallery
    statistics: Mapping[str, Statistics]
    seen: Sequence[Seen]


def guarded(what: str, work: Callable[[], Any], otherwise: Any) -> Any:
    """Return what `work` gives, or `otherwise` where it fails, which one line of the log tells.

    Whatever a report makes of odd data, the run's own results are safe already.
    """
    try:
        return work()
    except Exception as error:
        said = " ".join(str(error).split())
        LOGGER.warning(f"{what} ({type(error).__name__}: {said}); the run goes on")
        return otherwise


def draw_pictures(folder: Path, material: Material) -> list[Picture]:
    """Draw what there is to draw into folder/plots; return what belongs on the page.

    The sheets of photographs are written and not returned: the page has the single photographs. A picture that cannot
    be drawn is told of in one line of the log, and the others are drawn.

    Args:
        folder: of the run; its metrics.jsonl gives the curves.
        material: what is drawn.
    """
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    drawn: list[Picture] = []
    if (folder / "metrics.jsonl").is_file():
        made = _draw(plots / "loss.png", lambda path: plot_curves(folder / "metrics.jsonl", path.parent))
        drawn += [Picture(file, "", *_CURVES[file.stem]) for file in made]
    for role, statistics in material.statistics.items():
        made = _draw(plots / f"labels-{role}.png", lambda path, one=statistics: plot_labels(one, path))  # type: ignore[misc]
        shown = "how often each class occurs, objects in an image, their sizes and shapes, sizes of the images"
        drawn += [Picture(file, "", f"labels of {role}", shown) for file in made]
    if material.seen:
        _draw(plots / "training-batches.png", lambda path: _write_seen(material.seen, path))
    for head in material.metrics:
        for name, title, shown, make in _jobs(head, material):
            made = _draw(plots / f"{head}-{name}.png", make)
            drawn += [Picture(file, head, title, shown) for file in made if title]
    return drawn


_Make = Callable[[Path], Any]
"""Draws to a path and returns the file, several files, or None."""


def _draw(path: Path, make: _Make) -> list[Path]:
    made = guarded(f"plots/{path.name} could not be drawn", lambda: make(path), None)
    return [] if made is None else made if isinstance(made, list) else [made]


def _jobs(head: str, material: Material) -> list[tuple[str, str, str, _Make]]:
    """File name, title ("": not for the page), what is seen, and what draws it."""
    metric, names = material.metrics[head], material.classes[head]
    sheets = [
        (group, "", "", lambda path, group=group: write_sheet(material.gallery.of(head, group), path))
        for group in (IMAGES, WORST, CONFUSED)
    ]
    f1 = "F1 of each class and of all over the least score that counts"
    box_shown = "offsets of the predicted boxes' centres, and ratios of their sides, beside the true boxes"
    return [
        *sheets,
        ("classes", "class by class", "a bar for each class", lambda path: _bars(head, material, path)),
        (
            "confusion",
            "confusion",
            "rows are true classes, columns predicted ones",
            lambda p: _confusion(metric, names, p),
        ),
        (
            "precision-recall",
            "precision and recall",
            "precision over recall",
            lambda path: _precision(metric, names, path),
        ),
        ("f1", "F1 and confidence", f1, lambda path: _f1(metric, names, path)),
        ("box-errors", "errors of the boxes", box_shown, lambda path: _box_errors(metric, path)),
    ]


def per_class(
    head: str, metric: Metric, classes: Sequence[str], numbers: Mapping[str, float]
) -> tuple[str, dict[str, float]]:
    """Return the name of the main metric that a head has for each class, and its values by class; empty without one.

    That is the headline where there is "headline/class", else the metric that the headline is the mean of, else the
    first one; of heads with one class an image it is the accuracy on the images of each class.
    """
    groups: dict[str, dict[str, float]] = {}
    for key, value in numbers.items():
        name, slash, label = key.removeprefix(f"{head}/").partition("/")
        if key.startswith(f"{head}/") and slash:
            groups.setdefault(name, {})[label] = value
    if groups:
        fitting = [name for name in groups if name == metric.headline] or [
            name for name in groups if metric.headline == f"m{name}"
        ]
        name = (fitting or list(groups))[0]
        return name, groups[name]
    if isinstance(metric, CocoDetection | CocoInstances):
        return "AP", metric.per_class()
    if _ranks(metric):
        counts = ranked_confusion(metric.state(), classes).counts
        sums = counts.sum(axis=1)
        shares = np.where(sums > 0, np.diagonal(counts) / np.maximum(sums, 1), math.nan)
        return "accuracy", dict(zip(classes, shares.tolist(), strict=True))
    return "", {}


def _ranks(metric: Metric) -> bool:
    """Does it keep the best class of each image and the one true one?"""
    return isinstance(metric, LocalizationAccuracy) or (isinstance(metric, TopK) and not metric.multi_label)


def _bars(head: str, material: Material, path: Path) -> Path | None:
    name, values = per_class(head, material.metrics[head], material.classes[head], material.numbers)
    return None if all(math.isnan(value) for value in values.values()) else plot_bars(values, name, path)


def _confusion(metric: Metric, classes: Sequence[str], path: Path) -> Path | None:
    note = ""
    if isinstance(metric, SemanticScores):
        confusion = Confusion(metric.confusion, tuple(classes), "pixels")
    elif isinstance(metric, CocoDetection | CocoInstances):
        confusion, threshold = box_confusion(metric.state(), classes)
        note = f" (at IoU 0.5, scores from {threshold:.2f})"
    elif _ranks(metric):
        confusion = ranked_confusion(metric.state(), classes)
    else:
        return None
    return plot_confusion(confusion, path, note=note)


def _precision(metric: Metric, classes: Sequence[str], path: Path) -> Path | None:
    return plot_precision_recall(metric.precision(), classes, path) if isinstance(metric, HasPrecision) else None


def _f1(metric: Metric, classes: Sequence[str], path: Path) -> Path | None:
    given = scored(metric, classes)
    return None if given is None else plot_f1(given, classes, path)


def _box_errors(metric: Metric, path: Path) -> Path | None:
    return plot_box_errors(metric.state(), path) if isinstance(metric, LocalizationAccuracy) else None


def _write_seen(seen: Sequence[Seen], path: Path) -> Path:
    """Four images a row, each under its name."""
    rows = []
    for first in range(0, len(seen), _ACROSS):
        some = seen[first : first + _ACROSS]
        told = [f"{one.file_name} {one.classes}".strip() for one in some] + [""] * (_ACROSS - len(some))
        strip = np.full((SIDE + 8, _ACROSS * SIDE, 3), 255, np.uint8)
        for place, one in enumerate(some):
            height, width = one.pixels.shape[:2]
            strip[:height, place * SIDE : place * SIDE + width] = one.pixels
        rows += [headings(told, SIDE, size=12), strip]
    return write_picture(np.concatenate(rows), path)
