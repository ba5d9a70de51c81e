"""report.html: what a run came to, on one page that needs no other file."""

from __future__ import annotations

import base64
import json
import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from visionkit.interfaces import ClassTable, Metric
from visionkit.metrics import TopK
from visionkit.metrics.classification import NO_IMAGE
from visionkit.metrics.coco_numbers import NO_OBJECT
from visionkit.report.pictures import Classes, Picture, draw_pictures, per_class
from visionkit.report.sheet import Shown

LOGGER = logging.getLogger("visionkit")
_TEMPLATE = "report.html.j2"
_TITLES = {"loss": "losses", "rate": "learning rate", "metrics": "metrics"}


def write_report(
    folder: Path, *, metrics: Mapping[str, Metric], classes: Classes, samples: Sequence[Shown] = ()
) -> None:
    """Draw a run's pictures into folder/plots and put them, its numbers and its settings into folder/report.html.

    Nothing here fails a run: what cannot be drawn or written is told of in one line of the log. Of the run's own files
    (metrics.json, metrics.jsonl, config.yaml, env.json, data.json) those are read that are there.

    Args:
        folder: of a run or an evaluation.
        metrics: by head, with the state from which the final numbers were computed; empty if nothing was judged.
        classes: each head's class names.
        samples: the images to be shown (`spread` chooses some), with what each head said of them.
    """
    try:
        told = _read_json(folder / "metrics.json")
        numbers = {name: _number(value) for name, value in told.items() if _is_number(name, value)}
        pictures = draw_pictures(folder, metrics=metrics, classes=classes, samples=samples, numbers=numbers)
        page = _page(folder, told, numbers, metrics, classes, pictures)
        (folder / "report.html").write_text(page, encoding="utf-8")
    except Exception as error:  # the run's own results are written already
        said = " ".join(str(error).split())
        LOGGER.warning(f"report.html could not be written ({type(error).__name__}: {said}); the run goes on")


def _page(
    folder: Path,
    told: Mapping[str, Any],
    numbers: Mapping[str, float],
    metrics: Mapping[str, Metric],
    classes: Classes,
    pictures: Sequence[Picture],
) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("visionkit.report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    settings = _read_json(folder / "env.json")
    config = folder / "config.yaml"
    return environment.from_string(source).render(
        name=folder.resolve().name,
        split=told.get("split"),
        verdict=told.get("verdict", {}).get("words", ""),
        headlines=_headlines(metrics, numbers, told.get("reasons", {})),
        heads=[_head(name, metric, classes[name], numbers, told, pictures) for name, metric in metrics.items()],
        curves=[(_TITLES.get(one.title, one.title), _data_uri(one.path)) for one in pictures if one.head == ""],
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
        command=shlex.join(map(str, settings.get("command", []))),
        environment=_rows(settings),
        data=[(role, one["images"], one["left_out"]) for role, one in _read_json(folder / "data.json").items()],
    )


def _headlines(
    metrics: Mapping[str, Metric], numbers: Mapping[str, float], reasons: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """The number that each head is judged by, and why it is n/a; first those of no head, such as a mean of several."""
    own = [name for name in numbers if name.partition("/")[0] not in metrics and name.count("/") == 1]
    names = own + [f"{name}/{metric.headline}" for name, metric in metrics.items()]
    return [(name, _shown(numbers.get(name, math.nan)), reasons.get(name, "")) for name in names]


def _head(
    name: str,
    metric: Metric,
    classes: Sequence[str],
    numbers: Mapping[str, float],
    told: Mapping[str, Any],
    pictures: Sequence[Picture],
) -> dict[str, Any]:
    reasons = told.get("reasons", {})
    mine = {key.removeprefix(f"{name}/"): key for key in numbers if key.startswith(f"{name}/")}
    columns, rows = _class_rows(name, metric, classes, numbers, reasons)
    return {
        "name": name,
        "numbers": [
            (short, _shown(numbers[key]), reasons.get(key, "")) for short, key in mine.items() if "/" not in short
        ],
        "class_columns": columns,
        "class_rows": rows,
        "pictures": [(one.title, _data_uri(one.path)) for one in pictures if one.head == name],
    }


def _class_rows(
    name: str,
    metric: Metric,
    classes: Sequence[str],
    numbers: Mapping[str, float],
    reasons: Mapping[str, str],
) -> tuple[list[str], list[tuple[str, list[str], str]]]:
    """The names of the numbers told of each class, and per class its name, its numbers and why some are n/a."""
    of, values = per_class(name, metric, classes, numbers)
    table: Mapping[str, Mapping[str, float]] = {label: {of: value} for label, value in values.items()}
    unknown = "nothing labelled of it"
    if isinstance(metric, ClassTable):
        table, unknown = metric.class_table(), NO_IMAGE if isinstance(metric, TopK) else NO_OBJECT
    rows = []
    for label, row in table.items():
        absent = any(math.isnan(value) for value in row.values())
        reason = reasons.get(f"{name}/{of}/{label}", unknown) if absent else ""
        rows.append((label, [_shown(value) for value in row.values()], reason))
    return list(next(iter(table.values()), {})), rows


def _data_uri(path: Path) -> str:
    """A PNG as it is; a contact sheet, which is photographs, as JPEG, which is a fifth of its size."""
    kind, content = "png", path.read_bytes()
    if path.stem.endswith("-images"):
        pixels = np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
        kind, content = "jpeg", cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """env.json without the command, packages one by one."""
    rows = {name: value for name, value in settings.items() if name not in ("command", "packages")}
    rows |= settings.get("packages", {})
    return [(name, "not installed" if value is None else str(value)) for name, value in rows.items()]


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def _is_number(name: str, value: Any) -> bool:
    return "/" in name and (value is None or isinstance(value, int | float))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _shown(value: float) -> str:
    """A count is an int."""
    return "n/a" if math.isnan(value) else str(value) if isinstance(value, int) else f"{value:.4f}"
