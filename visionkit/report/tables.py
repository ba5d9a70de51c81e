"""The tables of a report: numbers, classes, headlines and how they moved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from visionkit.errors import printable
from visionkit.interfaces import ClassTable, Metric
from visionkit.metrics import TopK
from visionkit.metrics.classification import NO_IMAGE
from visionkit.metrics.coco_numbers import NO_OBJECT
from visionkit.report.confidence import best_thresholds, scored, told
from visionkit.report.pictures import per_class

MOST_ROWS = 200
"""Of more classes, as many of the best and of the worst are in the page."""
History = Sequence[tuple[int, float]]
"""(epoch, value), by rising epoch."""


@dataclass(frozen=True)
class Headline:
    """A number that a head is judged by.

    Attributes:
        name: "head/metric".
        value: as it is shown; "n/a" with a reason.
        reason: why it is n/a.
        moved: in words, how it rose over the epochs; empty for fewer than two.
        line: points of a curve, x 0 to 100 and y 0 (top) to 28.
    """

    name: str
    value: str
    reason: str
    moved: str
    line: str


@dataclass(frozen=True)
class Rows:
    """A table of classes: names of the columns; per class its name, its numbers, why some are n/a; and what was cut."""

    columns: list[str]
    rows: list[tuple[str, list[str], str]]
    cut: str = ""


def headlines(
    metrics: Mapping[str, Metric],
    numbers: Mapping[str, float],
    reasons: Mapping[str, str],
    histories: Mapping[str, History],
) -> list[Headline]:
    """The number that each head is judged by; first those of no head, such as a mean of several."""
    own = [name for name in numbers if name.partition("/")[0] not in metrics and name.count("/") == 1]
    names = own + [f"{name}/{metric.headline}" for name, metric in metrics.items()]
    return [
        Headline(
            name, shown(numbers.get(name, math.nan)), reasons.get(name, ""), *_moved(histories.get(name, ()))
        )
        for name in names
    ]  # fmt: skip


def _moved(history: History) -> tuple[str, str]:
    if len(history) < 2:
        return "", ""
    (first, start), (last, end) = history[0], history[-1]
    best, peak = max(history, key=lambda one: one[1])
    words = f"on validation images {start:.3f} in epoch {first}, {end:.3f} in epoch {last}"
    words += f", best {peak:.3f} in epoch {best}" if best != last else ""
    most = max(1e-9, *(value for _, value in history))
    points = [(100 * (epoch - first) / max(1, last - first), 27 - 26 * value / most) for epoch, value in history]
    return words, " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def number_rows(
    head: str, numbers: Mapping[str, float], reasons: Mapping[str, str]
) -> list[tuple[str, str, str]]:  # fmt: skip
    """Name, value and reason of each number of a head; those of single classes are left out."""
    mine = {key.removeprefix(f"{head}/"): key for key in numbers if key.startswith(f"{head}/")}
    return [(short, shown(numbers[key]), reasons.get(key, "")) for short, key in mine.items() if "/" not in short]


def class_rows(
    head: str, metric: Metric, classes: Sequence[str], numbers: Mapping[str, float], reasons: Mapping[str, str]
) -> Rows:
    """What is known of each class, with the score at which its F1 is best where there are scores."""
    of, values = per_class(head, metric, classes, numbers)
    table: dict[str, dict[str, float]] = {label: {of: value} for label, value in values.items()}
    unknown = "nothing labelled of it"
    if isinstance(metric, ClassTable):
        table, unknown = metric.class_table(), NO_IMAGE if isinstance(metric, TopK) else NO_OBJECT
    given = scored(metric, classes)
    if given is not None:
        best = told(best_thresholds(given, classes))
        table = {label: _joined(row, best.get(label, {})) for label, row in table.items()}
    chosen, cut = _cut(table)
    rows = []
    for label, row in chosen.items():
        absent = any(math.isnan(value) for value in row.values())
        reason = reasons.get(f"{head}/{of}/{label}", unknown) if absent else ""
        rows.append((printable(label), [shown(value) for value in row.values()], reason))
    return Rows(list(next(iter(table.values()), {})), rows, cut)


def _joined(row: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    """`more` before the counts, which come last."""
    counts = {name: value for name, value in row.items() if isinstance(value, int)}
    return {**{name: value for name, value in row.items() if name not in counts}, **more, **counts}


def _cut(table: Mapping[str, Mapping[str, float]]) -> tuple[Mapping[str, Mapping[str, float]], str]:
    if len(table) <= MOST_ROWS:
        return table, ""
    known = [label for label, row in table.items() if not math.isnan(next(iter(row.values()), math.nan))]
    known.sort(key=lambda label: -next(iter(table[label].values())))
    half = MOST_ROWS // 2
    kept = known if len(known) <= MOST_ROWS else known[:half] + known[-half:]
    which = "those that have numbers" if len(known) <= MOST_ROWS else f"the {half} best and the {half} worst"
    words = f"{len(kept)} of {len(table)} classes: {which}; metrics.json has all"
    return {label: table[label] for label in kept}, words


def shown(value: float) -> str:
    """A number in few digits; a count is an int."""
    return "n/a" if math.isnan(value) else str(value) if isinstance(value, int) else f"{value:.4f}"
