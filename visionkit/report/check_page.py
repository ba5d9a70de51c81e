"""The page of a data check: what a set holds, what is wrong with it, and labels drawn into its photographs."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

import cv2

from visionkit.data.check import Account
from visionkit.data.check_text import by_rule
from visionkit.data.export_coco import sources, write_whole
from visionkit.data.readers.coco_index import MARK
from visionkit.data.rules import RULES
from visionkit.data.validate import Problem, errors_of
from visionkit.errors import DataError, printable
from visionkit.report.draw import draw
from visionkit.report.sheet import displayable, fitted_image, fitted_truth, spread
from visionkit.structures import Sample

_TEMPLATE = "check.html.j2"
_SHOWN_OF_RULE = 100
_EXAMPLES = 12
_SIDE = 480


@dataclass(frozen=True)
class Example:
    """A drawn image: its name, the faults found in it, one line each, and the picture as a data URI."""

    name: str
    faults: list[str]
    picture: str


def write_page(path: Path, accounts: Sequence[Account], across: Sequence[Problem]) -> None:
    """Write one HTML file that needs no other and runs no script; every name in it is escaped.

    Args:
        path: it appears whole or not at all.
        accounts: of each split.
        across: what was found between the splits.

    Raises:
        DataError: it cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["printable"] = printable
    source = resources.files("visionkit.report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    every = [problem for account in accounts for problem in account.findings] + [*across]
    errors = len(errors_of(every))
    page = environment.from_string(source).render(
        mark=MARK,
        name=_name(accounts),
        errors=errors,
        warnings=len(every) - errors,
        splits=[_split(account) for account in accounts],
        across=_groups(across),
    )
    write_whole(path, page)


def _name(accounts: Sequence[Account]) -> str:
    readers = [source for account in accounts if account.reader is not None for source in sources(account.reader)]
    roots = [Path(reader.root).resolve().name for reader in readers if getattr(reader, "root", None) is not None]
    return ", ".join(dict.fromkeys(roots)) or "data"


def _split(account: Account) -> dict[str, object]:
    rows = [("images", str(len(account.reader) if account.reader is not None else 0))]
    if account.objects[0]:
        total, crowds, ignored = account.objects
        rows.append(("objects", f"{total}, of them crowds {crowds}, ignored {ignored}"))
    sizes = sorted(account.sizes.items(), key=lambda one: -one[1])
    rows.append(("sizes", ", ".join(f"{width} x {height} ({n})" for (height, width), n in sizes[:5])))
    if len(sizes) > 5:
        rows[-1] = ("sizes", f"{rows[-1][1]} and {len(sizes) - 5} more")
    return {
        "name": account.split,
        "rows": rows,
        "notes": account.notes,
        "groups": _groups(account.findings),
        "classes": [(name, *counts) for name, counts in account.classes.items()],
        "pixels": [(name, *counts) for name, counts in account.pixels.items()],
        "examples": list(_examples(account)),
    }


def _groups(findings: Sequence[Problem]) -> list[dict[str, object]]:
    return [
        {
            "rule": group[0].rule,
            "kind": "warning" if group[0].warning else "error",
            "wanted": RULES.get(group[0].rule, ""),
            "count": len(group),
            "shown": group[:_SHOWN_OF_RULE],
        }
        for group in by_rule(findings)
    ]


# ----------------------------------------------------------------------------------------------------------- examples
def _examples(account: Account) -> Iterable[Example]:
    """Images with their labels: first those in which something was found, then some spread over the split."""
    reader = account.reader
    if reader is None:
        return
    faults = _by_image(account)
    chosen = [*list(faults)[: _EXAMPLES // 2], *spread(len(reader), _EXAMPLES)]
    for index in [index for index in dict.fromkeys(chosen) if index not in account.faulty][:_EXAMPLES]:
        try:
            sample = reader.read(index)
        except DataError:  # changed since it was checked
            continue
        lines = [f"{problem.where}: {problem.fault}" for problem in faults.get(index, ())]
        yield Example(sample.file_name, lines, _picture(sample, reader.classes, reader.semantic_classes))


def _by_image(account: Account) -> dict[int, list[Problem]]:
    """The findings of each image, as far as a label file of the image's own name tells whose they are."""
    reader = account.reader
    assert reader is not None
    place_of = {PurePosixPath(name).stem: index for index, name in enumerate(reader.file_names)}
    found: dict[int, list[Problem]] = {}
    for problem in account.findings:
        place = place_of.get(Path(problem.file).stem)
        if place is not None:
            found.setdefault(place, []).append(problem)
    return found


def _picture(sample: Sample, classes: Sequence[str], semantic_classes: Sequence[str]) -> str:
    """A JPEG as a data URI: the semantic map below, boxes, masks and classes over it."""
    image, geometry = fitted_image(displayable(sample.image), _SIDE)
    labels = fitted_truth(sample.labels, geometry)
    if labels.semantic is not None:
        image = draw(image, None, semantic_classes, truth=labels.keep(frozenset({"semantic"})))
    rest = labels.keep(labels.known - {"semantic"})
    if rest.known or labels.semantic is None:
        image = draw(image, None, classes, truth=rest)
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode('ascii')}"
