"""The annotations of a COCO panoptic file, judged element by element and kept in flat arrays."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from visionkit.data.flat import Strings, offsets_of
from visionkit.data.readers.coco_columns import is_id
from visionkit.data.readers.coco_faults import Fault, FaultError
from visionkit.data.readers.coco_json import Images
from visionkit.data.validate import Problem, refusal
from visionkit.structures import ImageId

_MOST = 1 << 24
_MEND = "correct it, or remove the image with its annotation"


@dataclass(frozen=True)
class Segments:
    """One image's segments: the PNG's name, and for each its id there, its category's number, whether it is a crowd."""

    file_name: str
    ids: list[int]
    categories: list[int]
    crowd: list[bool]


@dataclass(frozen=True, eq=False)
class SegmentTable:
    """The segments of all entries of a file.

    Attributes:
        file_names: of the PNGs.
        offsets: (E + 1,) int64; the segments of entry e are offsets[e] to offsets[e + 1].
        ids: (S,) int64, in the PNG.
        categories: (S,) int64, the number of the category in the file's order.
        crowd: (S,) bool.
    """

    file_names: Strings
    offsets: np.ndarray
    ids: np.ndarray
    categories: np.ndarray
    crowd: np.ndarray

    def segments(self, entry: int) -> Segments:
        """Return those of one entry."""
        rows = slice(int(self.offsets[entry]), int(self.offsets[entry + 1]))
        columns = (column[rows].tolist() for column in (self.ids, self.categories, self.crowd))
        return Segments(self.file_names[entry], *columns)


def read_things(rows: Sequence[Mapping[str, Any]], file: Path) -> tuple[str, ...]:
    """Return the names of the categories that are things, in the file's order; `read_categories` has checked the rest.

    Raises:
        DataError: a category does not say whether it is a thing, or none is.
    """
    for i, row in enumerate(rows):
        if row.get("isthing") not in (0, 1):
            mend = "write 1 for things and 0 for stuff (panoptic categories say it, those of instances do not)"
            fault = f"0 or 1 is wanted, not {row.get('isthing')!r}"
            raise refusal(Problem(str(file), f"categories[{i}].isthing", fault, mend, rule="flag-invalid"))
    things = tuple(row["name"] for row in rows if row["isthing"])
    if not things:
        fault = "none is a thing (isthing: 1)"
        raise refusal(Problem(str(file), "categories", fault, "panoptic labels have some", rule="file-format"))
    return things


class SegmentRows:
    """Gathers the entries of a panoptic file's `annotations`, some thousands at a time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._places: list[int] = []
        self._image_ids: list[ImageId] = []
        self._names: list[str] = []
        self._counts = array("q")
        self._ids, self._crowd = array("q"), array("B")
        self._category_ids: list[Any] = []
        self._faults: list[tuple[int, Any, Fault]] = []

    def take(self, rows: Sequence[Any], first: int) -> None:
        """Add entries, the first of which stands at place `first`."""
        for place, row in enumerate(rows, first):
            try:
                segments = _segments(row)
            except FaultError as error:
                image_id = row.get("image_id") if isinstance(row, dict) else None
                self._faults.append((place, image_id, error.fault))
                continue
            self._places.append(place)
            self._image_ids.append(row["image_id"])
            self._names.append(row["file_name"])
            self._counts.append(len(segments))
            self._ids.extend(one["id"] for one in segments)
            self._category_ids.extend(one.get("category_id") for one in segments)
            self._crowd.extend(int(one.get("iscrowd", 0)) for one in segments)

    def finish(
        self, images: Images, categories: Sequence[ImageId]
    ) -> tuple[SegmentTable, dict[ImageId, int | None], list[Problem]]:
        """Return the table, the entry of each image id that has one (None where it has a fault), and the faults."""
        numbers = {one: number for number, one in enumerate(categories)}
        category = [numbers.get(one, -1) if is_id(one) else -1 for one in self._category_ids]
        offsets = offsets_of(np.frombuffer(self._counts, np.int64) if self._counts else np.zeros(0, np.int64))
        unknown = np.flatnonzero(np.array(category, np.int64) < 0)
        first_unknown: dict[int, int] = {}
        for segment in unknown.tolist():
            first_unknown.setdefault(int(np.searchsorted(offsets, segment, side="right")) - 1, segment)
        found: dict[ImageId, int | None] = {}
        faults = list(self._faults)
        for entry, (place, image_id) in enumerate(zip(self._places, self._image_ids, strict=True)):
            fault = None
            if image_id not in images.known:
                fault = Fault("", "image-unknown", f"image_id {image_id!r} is not in images", _MEND)
            elif image_id in found:
                fault = Fault("", "image-duplicate", f"image_id {image_id!r} has an entry already", _MEND)
            elif entry in first_unknown:
                segment = first_unknown[entry]
                key = f"segments_info[{segment - int(offsets[entry])}]"
                said = f"category_id {self._category_ids[segment]!r} is not in categories"
                fault = Fault(key, "category-unknown", said, _MEND)
            if fault is None:
                found[image_id] = entry
            else:
                faults.append((place, image_id, fault))
        for _, image_id, _ in faults:
            if is_id(image_id):
                found.setdefault(image_id, None)
        faults.sort(key=lambda one: one[0])
        table = SegmentTable(
            Strings.of(self._names),
            offsets,
            ids=np.array(self._ids, np.int64),
            categories=np.array(category, np.int64),
            crowd=np.array(self._crowd, np.bool_),
        )
        return table, found, [fault.problem(self.file, f"annotations[{place}]") for place, _, fault in faults]


def _segments(row: Any) -> list[dict[str, Any]]:
    if not isinstance(row, dict):
        raise FaultError("", "annotation-format", f"an object is wanted, not {row!r}", _MEND)
    image_id, name, segments = row.get("image_id"), row.get("file_name"), row.get("segments_info")
    if not is_id(image_id):
        raise FaultError("", "image-unknown", f"image_id {image_id!r} is not in images", _MEND)
    if not isinstance(name, str) or not name.strip() or PurePosixPath(name).is_absolute() or ".." in name.split("/"):
        said = f"file_name {name!r}: the name of a PNG in the folder of segments is wanted"
        raise FaultError("", "path-outside" if isinstance(name, str) and name.strip() else "mask-missing", said, _MEND)
    if not isinstance(segments, list):
        raise FaultError("", "annotation-format", "no list segments_info", _MEND)
    seen: set[int] = set()
    for number, one in enumerate(segments):
        rule, said = _segment_fault(one, seen)
        if said:
            raise FaultError(f"segments_info[{number}]", rule, said, _MEND)
        seen.add(one["id"])
    return segments


def _segment_fault(one: Any, seen: set[int]) -> tuple[str, str]:
    if not isinstance(one, dict):
        return "annotation-format", f"an object is wanted, not {one!r}"
    number = one.get("id")
    if type(number) is not int or not 0 < number < _MOST:
        return "id-invalid", f"id {number!r}: a whole number from 1 to {_MOST - 1} is wanted"
    if number in seen:
        return "id-duplicate", f"id {number} stands there twice"
    if one.get("iscrowd", 0) not in (0, 1):
        return "flag-invalid", f"iscrowd must be 0 or 1, not {one['iscrowd']!r}"
    return "", ""
