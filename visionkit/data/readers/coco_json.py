"""The images and categories of a COCO annotation file, judged element by element."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from visionkit.data.flat import Ids, Strings
from visionkit.data.readers.coco_columns import LARGEST, is_id, is_number
from visionkit.data.readers.coco_faults import FaultError, shown
from visionkit.data.validate import Problem, refusal
from visionkit.errors import DataError
from visionkit.structures import ImageId

LISTS = ("images", "categories", "annotations", "semantic_annotations", "semantic_categories")
_OPTIONAL = LISTS[2:]


def check_members(members: Mapping[str, Any], file: Path) -> None:
    """Refuse a file without the lists `images` and `categories`, or one of whose other lists is none.

    Raises:
        DataError: it is no COCO annotation file.
    """
    for key in LISTS:
        if key not in members and key in _OPTIONAL:
            continue
        if not isinstance(members.get(key), list):
            fault = f"'{key}' is not a list" if key in members else f"no list '{key}'"
            mend = "a COCO annotation file has images, annotations and categories"
            raise refusal(Problem(str(file), "", fault, mend, rule="file-format"))


def are_stuff(rows: Sequence[Any]) -> bool:
    """Whether categories say that all of them are stuff (isthing: 0): regions of pixels, no objects."""
    return len(rows) > 0 and all(isinstance(row, dict) and row.get("isthing") == 0 for row in rows)


def read_categories(rows: Sequence[Any], file: Path, key: str = "categories") -> dict[ImageId, str]:
    """Return the class name of each category id, in the file's order. key: of the list.

    Raises:
        DataError: an id or a name is missing or stands there twice. Nothing can be left out here: annotations refer
            to them.
    """
    names: dict[ImageId, str] = {}
    for i, row in enumerate(rows):
        where = f"{key}[{i}]"
        if not isinstance(row, dict) or not is_id(row.get("id")):
            raise _refusal(file, f"{where}.id", "id-invalid", "a whole number or a string is wanted", "correct it")
        name, number = row.get("name"), row["id"]
        if not isinstance(name, str) or not name.strip():
            raise _refusal(file, f"{where}.name", "category-name", f"a name is wanted, not {shown(name)}", "correct it")
        if number in names:
            fault = f"{shown(number)} is the id of '{names[number]}' already"
            raise _refusal(file, f"{where}.id", "category-duplicate", fault, "renumber it")
        if str(number) in map(str, names):
            raise _refusal(file, f"{where}.id", "id-collides", _collides(number), "renumber it")
        if name in names.values():
            mend = "rename it, or merge the two categories"
            raise _refusal(file, f"{where}.name", "category-duplicate", f"'{name}' stands there twice", mend)
        names[number] = name
    return names


@dataclass(frozen=True, eq=False)
class Images:
    """The usable images of a file, in its order.

    Attributes:
        places: (M,) int64, their places in the list.
        ids: the file's own.
        names: relative to the image folder, with forward slashes.
        sizes: (M, 2) int64 recorded (height, width); 0 where the file has none.
        known: every id of the list, also of the images that cannot be used; empty where the images come from a cache.
        problems: those of the other images.
    """

    places: np.ndarray
    ids: Ids
    names: Strings
    sizes: np.ndarray
    known: frozenset[ImageId]
    problems: Sequence[Problem]


class ImageRows:
    """Gathers the images of a file, a few thousand at a time. Image files are not looked at."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._places: list[int] = []
        self._ids: dict[ImageId, int] = {}
        self._texts: dict[str, ImageId] = {}
        self._names: dict[str, int] = {}
        self._sizes: list[tuple[int, int]] = []
        self._known: set[ImageId] = set()
        self._problems: list[Problem] = []

    def take(self, rows: Sequence[Any], first: int) -> None:
        """Add images, the first of which stands at place `first`."""
        for place, row in enumerate(rows, first):
            try:
                number, name, size = _image(row)
                if number in self._ids:
                    raise _twice("id", "id-duplicate", number, self._ids[number])
                if self._texts.setdefault(str(number), number) != number:
                    raise FaultError("id", "id-collides", _collides(number), "renumber it")
                if name in self._names:
                    raise _twice("file_name", "image-duplicate", name, self._names[name])
            except FaultError as error:
                self._problems.append(error.fault.problem(self.file, f"images[{place}]"))
            else:
                self._ids[number] = self._names[name] = place
                self._places.append(place)
                self._sizes.append(size)
            if isinstance(row, dict) and is_id(row.get("id")):
                self._known.add(row["id"])

    def finish(self) -> Images:
        """Return what was gathered."""
        return Images(
            places=np.array(self._places, np.int64),
            ids=Ids.of(list(self._ids)),
            names=Strings.of(self._names),
            sizes=np.array(self._sizes, np.int64).reshape(-1, 2),
            known=frozenset(self._known),
            problems=self._problems,
        )


def read_images(rows: Iterable[Any], file: Path) -> Images:
    """Return the usable images of a list, and the problems of the others."""
    gathered = ImageRows(file)
    gathered.take(list(rows), 0)
    return gathered.finish()


def _image(row: Any) -> tuple[ImageId, str, tuple[int, int]]:
    """The id, the file name and the recorded (height, width), zeros where there is none."""
    if not isinstance(row, dict):
        raise FaultError("", "annotation-format", f"an object is wanted, not {shown(row)}", "write the entry again")
    number, name = row.get("id"), row.get("file_name")
    if not is_id(number) or (isinstance(number, int) and abs(number) >= LARGEST):
        raise FaultError("id", "id-invalid", f"a whole number or a string is wanted, not {shown(number)}", "correct it")
    height, width = row.get("height"), row.get("width")
    name = _file_name(name)
    if height is None and width is None:
        return number, name, (0, 0)
    return number, name, (_pixels("height", height), _pixels("width", width))


def _file_name(name: Any) -> str:
    if not isinstance(name, str) or name.strip() in ("", "."):
        raise FaultError("file_name", "image-missing", f"a file name is wanted, not {shown(name)}", "correct it")
    if name.replace("_", "a").replace(".", "a", name.count(".") if ".." not in name else 0).isalnum():
        return name  # a plain name, as nearly all are
    name = name.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or path.parts[0].endswith(":"):
        mend = "give the name relative to the image folder"
        raise FaultError("file_name", "path-outside", f"'{name}' leaves the folder", mend)
    return path.as_posix()


def _pixels(key: str, value: Any) -> int:
    if type(value) is int and 0 < value < LARGEST:
        return value
    if not is_number(value) or value <= 0 or value != math.floor(value):
        raise FaultError(key, "size-invalid", f"whole pixels are wanted, not {shown(value)}", "correct it")
    return int(value)


def _twice(key: str, rule: str, value: ImageId, first: int) -> FaultError:
    return FaultError(key, rule, f"{shown(value)} is that of images[{first}] already", "remove one of them")


def _collides(number: ImageId) -> str:
    return f"{shown(number)} is there as a {'number' if isinstance(number, str) else 'string'}, too"


def _refusal(file: Path, where: str, rule: str, fault: str, mend: str) -> DataError:
    return refusal(Problem(str(file), where, fault, mend, rule=rule))
