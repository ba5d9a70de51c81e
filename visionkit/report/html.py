"""report.html: what a run came to, on one page that needs no other file."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from visionkit.errors import printable
from visionkit.interfaces import Metric
from visionkit.report.embedding import Album
from visionkit.report.first_batches import ClassLists, Seen, drawn_batches
from visionkit.report.gallery import CONFUSED, IMAGES, WORST, Drawn, Gallery, Look, make_gallery
from visionkit.report.label_statistics import LabelSource, Statistics, gather
from visionkit.report.pictures import Classes, Material, Picture, draw_pictures, guarded
from visionkit.report.plots import histories
from visionkit.report.tables import class_rows, headlines, number_rows
from visionkit.structures import Batch, ImageId

_PARTS = ("report.html.j2", "report.css", "report.js")
_OPEN = 6
"""So many images of a group are open from the start."""
_MOST_TEXT = 100_000
"""Letters of a configuration."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a report takes images and labels from; each is asked once.

    Attributes:
        shown: images of the split that are shown in any case (`spread` chooses some).
        look: reads images with what each head says of them; asked for `shown`, the worst and the confused ones.
        training: the first training batches, on any device.
        lists: the classes of their labels.
        labels: by role of a split, its labels.
    """

    shown: Sequence[ImageId] = ()
    look: Look | None = None
    training: Callable[[], Iterable[Batch]] | None = None
    lists: ClassLists = field(default_factory=ClassLists)
    labels: Mapping[str, LabelSource] = field(default_factory=dict)


def write_report(
    folder: Path,
    *,
    metrics: Mapping[str, Metric],
    classes: Classes,
    sources: Sources | None = None,
) -> None:
    """Draw a run's pictures into folder/plots and put them, its numbers and its settings into folder/report.html.

    Nothing here fails a run: what cannot be drawn or written is told of in one line of the log. Of the run's own files
    (metrics.json, metrics.jsonl, config.yaml, env.json, data.json) those are read that are there. The page stays under
    15 MB: pictures that do not fit are left out, and so are the middle ones of very many classes, which it says.

    Args:
        folder: of a run or an evaluation.
        metrics: by head, with the state from which the final numbers were computed; empty if nothing was judged.
        classes: each head's class names.
        sources: where images and labels come from; None: the page shows none.
    """
    given = Sources() if sources is None else sources

    def write() -> None:
        told = _read_json(folder / "metrics.json")
        material = _material(metrics, classes, given, told)
        pictures = draw_pictures(folder, material)
        (folder / "report.html").write_text(_page(folder, told, material, pictures), encoding="utf-8")

    guarded("report.html could not be written", write, None)


def _material(metrics: Mapping[str, Metric], classes: Classes, given: Sources, told: Mapping[str, Any]) -> Material:
    nothing, look, training = Gallery((), {}, {}), given.look, given.training
    gallery = nothing
    if look is not None:
        failed = "the report's images could not be drawn"
        gallery = guarded(failed, lambda: make_gallery(metrics, classes, given.shown, look), nothing)
    seen: list[Seen] = []
    if training is not None:
        failed = "the first training batches could not be drawn"
        seen = guarded(failed, lambda: drawn_batches(training(), given.lists), seen)
    counted = {
        role: guarded(f"the labels of {role} could not be counted", functools.partial(gather, source), Statistics())
        for role, source in given.labels.items()
    }
    return Material(
        metrics=metrics,
        classes=classes,
        numbers={name: _number(value) for name, value in told.items() if _is_number(name, value)},
        gallery=gallery,
        statistics=counted,
        seen=seen,
    )


def _page(folder: Path, told: Mapping[str, Any], material: Material, pictures: Sequence[Picture]) -> str:
    from jinja2 import Environment, StrictUndefined

    template, style, script = (
        resources.files("visionkit.report").joinpath(name).read_text(encoding="utf-8") for name in _PARTS
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["printable"] = printable
    settings = _read_json(folder / "env.json")
    config = folder / "config.yaml"
    album = Album()
    figures = {one.path: album.figure(one.path) for one in pictures}  # first of all: photographs take what is left
    past = guarded("metrics.jsonl could not be read", lambda: histories(folder / "metrics.jsonl"), {})
    reasons = told.get("reasons", {})
    heads = [_head(name, told, material, pictures, figures, album) for name in material.metrics]
    return environment.from_string(template).render(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        name=folder.resolve().name,
        split=told.get("split"),
        verdict=told.get("verdict", {}).get("words", ""),
        headlines=headlines(material.metrics, material.numbers, reasons, past),
        heads=heads,
        curves=[
            _figure(one, figures) for one in pictures if one.head == "" and not one.path.stem.startswith("labels-")
        ],
        seen=_seen(material.seen, album),
        config=config.read_text(encoding="utf-8")[:_MOST_TEXT] if config.is_file() else "",
        command=shlex.join(map(str, settings.get("command", []))),
        environment=_rows(settings),
        data=[(role, one["images"], one["left_out"]) for role, one in _read_json(folder / "data.json").items()],
        labels=[
            (role, one.rows(), [_figure(p, figures) for p in pictures if p.path.stem == f"labels-{role}"])
            for role, one in material.statistics.items()
        ],
        left_out=album.left_out + material.gallery.left_out,
    )


def _head(
    name: str,
    told: Mapping[str, Any],
    material: Material,
    pictures: Sequence[Picture],
    figures: Mapping[Path, str | None],
    album: Album,
) -> dict[str, Any]:
    reasons, gallery = told.get("reasons", {}), material.gallery
    images, worst, confused = (
        _photographs(gallery.of(name, group), album) for group in (IMAGES, WORST, CONFUSED)
    )  # fmt: skip
    return {
        "name": name,
        "numbers": number_rows(name, material.numbers, reasons),
        "classes": class_rows(name, material.metrics[name], material.classes[name], material.numbers, reasons),
        "pictures": [_figure(one, figures) for one in pictures if one.head == name],
        "images": images[:_OPEN],
        "more_images": images[_OPEN:],
        "worst": worst[:_OPEN],
        "more_worst": worst[_OPEN:],
        "confused": gallery.confused.get(name, ()),
        "confused_images": confused[:_OPEN],
        "more_confused": confused[_OPEN:],
        "threshold": f"{gallery.thresholds[name]:.2f}" if name in gallery.thresholds else "",
    }


def _photographs(drawn: Sequence[Drawn], album: Album) -> list[dict[str, Any]]:
    return [
        {
            "name": one.file_name,
            "note": one.wanted.note,
            "true": None if one.both is not None else album.photograph(one.true),
            "said": album.photograph(one.said if one.both is None else one.both),
            "single": one.both is not None,
        }
        for one in drawn
    ]


def _seen(seen: Sequence[Seen], album: Album) -> list[dict[str, str | None]]:
    return [{"name": one.file_name, "note": one.classes, "picture": album.photograph(one.pixels)} for one in seen]


def _figure(one: Picture, figures: Mapping[Path, str | None]) -> dict[str, str | None]:
    return {"title": one.title, "shown": one.shown, "picture": figures[one.path], "file": f"plots/{one.path.name}"}


def _hash(text: str) -> str:
    """What a content security policy calls an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


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
