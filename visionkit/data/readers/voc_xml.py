"""One annotation file of Pascal VOC."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from visionkit.data.readers.objects import Box
from visionkit.data.validate import Problem
from visionkit.plain_files import check_regular

SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """One object: its number in the file from 1, its class, its box as it stands there, and the flag `difficult`."""

    number: int
    name: str
    box: Box
    difficult: bool


@dataclass(frozen=True)
class VocRecord:
    """One annotation file: its recorded (height, width), its objects, and the faults of others.

    `problem` is set where nothing of it can be used.
    """

    file: Path
    size: tuple[int, int] | None = None
    objects: tuple[VocObject, ...] = ()
    object_problems: tuple[Problem, ...] = ()
    problem: Problem | None = field(default=None)


def parse_voc(file: Path) -> VocRecord:
    """Read one annotation file; what is wrong with it, or with single objects, stands in the record."""
    try:
        check_regular(file)
        data = file.read_bytes()
    except FileNotFoundError:
        fault, mend = "no such annotation file", "restore it, or take the name out of the split"
        return VocRecord(file, problem=Problem(str(file), "", fault, mend, "file-missing"))
    except OSError as error:
        said = f"cannot be read ({error.strerror})"
        return VocRecord(file, problem=Problem(str(file), "", said, "check its permissions", "file-unreadable"))
    # A document type may define entities that expand without end, and VOC files have none. The NULs are UTF-16's.
    if b"<!DOCTYPE" in data.replace(b"\0", b""):
        fault = "a DOCTYPE declaration is not allowed"
        return VocRecord(file, problem=Problem(str(file), "", fault, "remove the declaration", "file-format"))
    try:
        tree = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two: a false encoding declaration
        said = f"not well-formed XML ({error})"
        return VocRecord(file, problem=Problem(str(file), "", said, "write the file again", "file-unreadable"))
    objects, problems = [], []
    for number, element in enumerate(tree.findall("object"), 1):
        try:
            objects.append(_object(element, number))
        except _FaultyElement as broken:
            mend = "correct it, or remove the object"
            problems.append(Problem(str(file), f"object[{number}]/{broken.where}", broken.what, mend, broken.rule))
    return VocRecord(file, _recorded_size(tree), tuple(objects), tuple(problems))


class _FaultyElement(Exception):
    def __init__(self, where: str, what: str, rule: str) -> None:
        super().__init__(where, what, rule)
        self.where, self.what, self.rule = where, what, rule


def _object(element: ElementTree.Element, number: int) -> VocObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise _FaultyElement("name", "the object has no name", "label-missing")
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise _FaultyElement("difficult", f"must be 0 or 1, not '{difficult}'", "flag-invalid")
    x1, y1, x2, y2 = (_side(element, side) for side in SIDES)
    return VocObject(number, name, (x1, y1, x2, y2), difficult == "1")


def _side(element: ElementTree.Element, side: str) -> float:
    text = (element.findtext(f"bndbox/{side}") or "").strip()
    try:
        value = float(text)
    except ValueError:
        if text:
            raise _FaultyElement(f"bndbox/{side}", f"'{text}' is not a number", "box-format") from None
        missing = "box-missing" if element.find("bndbox") is None else "box-format"
        raise _FaultyElement(f"bndbox/{side}", "the number is missing", missing) from None
    if not math.isfinite(value):
        raise _FaultyElement(f"bndbox/{side}", f"'{text}' is not a number", "box-not-finite")
    return value


def _recorded_size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width) as recorded, None where it is missing or 0: some tools never fill it in, and nothing needs it."""
    try:
        height, width = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def other_records(annotations: Path, known: Mapping[str, VocRecord]) -> dict[str, VocRecord]:
    """The annotation files of the other splits: each split shall have the same class list."""
    return {file.stem: parse_voc(file) for file in annotations.glob("*.xml") if file.stem not in known}


def class_names(records: Mapping[str, VocRecord]) -> set[str]:
    """The names of all objects."""
    return {row.name for record in records.values() for row in record.objects}
