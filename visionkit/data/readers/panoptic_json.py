"""The annotations of a COCO panoptic file, judged element by element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from visionkit.data.validate import Problem
from visionkit.errors import DataError
from visionkit.structures import ImageId

_MOST = 1 << 24


@dataclass(frozen=True)
class Segments:
    """One image's segments: the PNG's name, and for each its id there, its class name, and whether it is a crowd."""

    file_name: str
    ids: tuple[int, ...]
    names: tuple[str, ...]
    crowd: tuple[bool, ...]


def read_things(rows: Sequence[Mapping[str, Any]], file: Path) -> tuple[str, ...]:
    """Return the names of the categories that are things, in the file's order; `read_categories` has checked the rest.

    Raises:
        DataError: a category does not say whether it is a thing, or none is.
    """
    for i, row in enumerate(rows):
        if row.get("isthing") not in (0, 1):
            mend = "write 1 for things and 0 for stuff (panoptic categories say it, those of instances do not)"
            raise DataError(f"{file}: categories[{i}].isthing: 0 or 1 is wanted, not {row.get('isthing')!r}; {mend}")
    things = tuple(row["name"] for row in rows if row["isthing"])
    if not things:
        raise DataError(f"{file}: categories: none is a thing (isthing: 1); panoptic labels have some")
    return things


def read_segments(
    rows: Sequence[Any], file: Path, images: Sequence[Any], category_names: Mapping[ImageId, str]
) -> tuple[dict[ImageId, Segments | None], list[Problem]]:
    """Return the segments of each image id that has an entry, None where the entry has a fault, and the faults.

    Args:
        rows: the file's `annotations`.
        file: for the messages.
        images: the file's `images`.
        category_names: the class name of each category id.
    """
    known = {row["id"] for row in images if isinstance(row, dict) and isinstance(row.get("id"), int | str)}
    result: dict[ImageId, Segments | None] = {}
    problems: list[Problem] = []
    for place, row in enumerate(rows):
        where = f"annotations[{place}]"
        fault = _entry_fault(row, known, result)
        segments = row["segments_info"] if fault is None else []
        seen: set[int] = set()
        for number, one in enumerate(segments):
            fault = _segment_fault(one, category_names, seen)
            if fault is not None:
                where = f"{where}.segments_info[{number}]"
                break
            seen.add(one["id"])
        if fault is not None:
            problems.append(Problem(str(file), where, fault, "correct it, or remove the image with its annotation"))
            if isinstance(row, dict) and isinstance(row.get("image_id"), int | str):
                result.setdefault(row["image_id"], None)
            continue
        result[row["image_id"]] = Segments(
            row["file_name"],
            tuple(one["id"] for one in segments),
            tuple(category_names[one["category_id"]] for one in segments),
            tuple(bool(one.get("iscrowd", 0)) for one in segments),
        )
    return result, problems


def _entry_fault(row: Any, known: set[ImageId], seen: Mapping[ImageId, Segments | None]) -> str | None:
    if not isinstance(row, dict):
        return f"an object is wanted, not {row!r}"
    image_id, name = row.get("image_id"), row.get("file_name")
    if not isinstance(image_id, int | str) or image_id not in known:
        return f"image_id {image_id!r} is not in images"
    if image_id in seen:
        return f"image_id {image_id!r} has an entry already"
    if not isinstance(name, str) or not name.strip() or PurePosixPath(name).is_absolute() or ".." in name.split("/"):
        return f"file_name {name!r}: the name of a PNG in the folder of segments is wanted"
    if not isinstance(row.get("segments_info"), list):
        return "no list segments_info"
    return None


def _segment_fault(one: Any, category_names: Mapping[ImageId, str], seen: set[int]) -> str | None:
    if not isinstance(one, dict):
        return f"an object is wanted, not {one!r}"
    number, category = one.get("id"), one.get("category_id")
    if type(number) is not int or not 0 < number < _MOST:
        return f"id {number!r}: a whole number from 1 to {_MOST - 1} is wanted"
    if number in seen:
        return f"id {number} stands there twice"
    if not isinstance(category, int | str) or category not in category_names:
        return f"category_id {category!r} is not in categories"
    if one.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd must be 0 or 1, not {one['iscrowd']!r}"
    return None
