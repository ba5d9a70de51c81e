"""Every picture of a run, under plots/."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np

from visionkit.interfaces import Metric
from visionkit.metrics.classification import TopK
from visionkit.metrics.coco import CocoDetection
from visionkit.metrics.coco_instances import CocoInstances
from visionkit.metrics.localization import LocalizationAccuracy
from visionkit.metrics.semantic import SemanticScores
from visionkit.report.bars import plot_bars
from visionkit.report.confusion import Confusion, box_confusion, plot_confusion, ranked_confusion
from visionkit.report.plots import plot_curves
from visionkit.report.precision_recall import plot_precision_recall
from visionkit.report.sheet import Shown, contact_sheet

LOGGER = logging.getLogger("visionkit")
Classes = Mapping[str, Sequence[str]]


@runtime_checkable
class HasPrecision(Protocol):
    """A metric that has precision over recall."""

    def precision(self) -> np.ndarray:
        """(T, R, K) at T IoU thresholds from 0.50 to 0.95, R recalls from 0 to 1, K classes; −1 without any object."""
        ...


@dataclass(frozen=True)
class Picture:
    """path: of the PNG; head: of which it tells, "" for the run as a whole; title: in words."""

    path: Path
    head: str
    title: str


def draw_pictures(
    folder: Path,
    *,
    metrics: Mapping[str, Metric],
    classes: Classes,
    samples: Sequence[Shown],
    numbers: Mapping[str, float],
) -> list[Picture]:
    """Draw what there is to draw into folder/plots.

    A picture that cannot be drawn is told of in one line of the log, and the others are drawn.

    Args:
        folder: of the run; its metrics.jsonl gives the curves.
        metrics: see `write_report`.
        classes: see `write_report`.
        samples: see `write_report`.
        numbers: by "head/metric" and "head/metric/class"; nan where there is none.
    """
    plots = folder / "plots"
    drawn: list[Picture] = []
    for head, name, title, make in _jobs(folder, metrics, classes, samples, numbers):
        path = plots / f"{name}.png"
        try:
            plots.mkdir(parents=True, exist_ok=True)
            written = make(path)
        except Exception as error:  # whatever a plot makes of odd data, the run's own results are safe already
            said = " ".join(str(error).split())
            LOGGER.warning(f"plots/{name}.png could not be drawn ({type(error).__name__}: {said}); the run goes on")
            continue
        drawn += [Picture(file, head, title or file.stem) for file in written]
    return drawn


_Job = tuple[str, str, str, Callable[[Path], list[Path]]]
"""Head, file name, title, and what draws it and returns the files written."""


def _jobs(
    folder: Path,
    metrics: Mapping[str, Metric],
    classes: Classes,
    samples: Sequence[Shown],
    numbers: Mapping[str, float],
) -> list[_Job]:
    jobs: list[_Job] = []
    if (folder / "metrics.jsonl").is_file():
        jobs.append(("", "loss", "", lambda path: plot_curves(folder / "metrics.jsonl", path.parent)))
    for head, metric in metrics.items():
        names = classes[head]
        shown = [one for one in samples if head in one.predictions]
        jobs += [
            (head, f"{head}-images", "truth and prediction", _sheet_job(head, shown, names, metric)),
            (head, f"{head}-classes", "class by class", _bars_job(head, metric, names, numbers)),
            (head, f"{head}-confusion", "confusion", _confusion_job(metric, names)),
            (head, f"{head}-precision-recall", "precision and recall", _precision_job(metric, names)),
        ]
    return jobs


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


def _sheet_job(
    head: str, samples: Sequence[Shown], classes: Sequence[str], metric: Metric
) -> Callable[[Path], list[Path]]:
    def make(path: Path) -> list[Path]:
        if not samples:
            return []
        items = [(one.image, one.predictions[head], one.truth) for one in samples]
        things = getattr(metric, "things", None)
        sheet = contact_sheet(items, classes, names=[one.file_name for one in samples], cell=300, things=things)
        done, encoded = cv2.imencode(".png", sheet[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not done:
            raise RuntimeError(f"a sheet of {sheet.shape} could not be encoded")
        path.write_bytes(encoded.tobytes())
        return [path]

    return make


def _bars_job(
    head: str, metric: Metric, classes: Sequence[str], numbers: Mapping[str, float]
) -> Callable[[Path], list[Path]]:
    def make(path: Path) -> list[Path]:
        name, values = per_class(head, metric, classes, numbers)
        if all(math.isnan(value) for value in values.values()):
            return []
        return [plot_bars(values, name, path)]

    return make


def _confusion_job(metric: Any, classes: Sequence[str]) -> Callable[[Path], list[Path]]:
    def make(path: Path) -> list[Path]:
        note = ""
        if isinstance(metric, SemanticScores):
            confusion = Confusion(metric.confusion, tuple(classes), "pixels")
        elif isinstance(metric, CocoDetection | CocoInstances):
            confusion, threshold = box_confusion(metric.state(), classes)
            note = f" (boxes at IoU 0.5, scores from {threshold:.2f})"
        elif _ranks(metric):
            confusion = ranked_confusion(metric.state(), classes)
        else:
            return []
        written = plot_confusion(confusion, path, note=note)
        return [] if written is None else [written]

    return make


def _precision_job(metric: Any, classes: Sequence[str]) -> Callable[[Path], list[Path]]:
    def make(path: Path) -> list[Path]:
        if not isinstance(metric, HasPrecision):
            return []
        written = plot_precision_recall(metric.precision(), classes, path)
        return [] if written is None else [written]

    return make
