"""A COCO annotation file, judged element by element: what can be used, and a problem for each thing that cannot."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from visionkit.data.readers.objects import Box
from visionkit.data.readers.segmentation import segmentation_fault
from visionkit.data.readers.source import fit_box
from visionkit.data.validate import Problem
from visionkit.errors import DataError
from visionkit.structures import ImageId

_REMOVE = "correct it, or remove the annotation"


def load_document(file: Path) -> dict[str, Any]:
    """Return the parsed file, its `images` and `categories` (and `annotations`, where there are any) being lists.

    Raises:
        DataError: it cannot be read, is not JSON, or is no COCO annotation file.
    """
    try:
        document: Any = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON ({error}); write the file again") from None
    if not isinstance(document, dict):
        mend = "give the annotation file with images and categories, not a result file"
        raise DataError(f"{file}: not a JSON object; {mend}")
    for key in ("images", "categories", "annotations"):
        if key not in document and key == "annotations":
            continue
        if not isinstance(document.get(key), list):
            fault = f"'{key}' is not a list" if key in document else f"no list '{key}'"
            raise DataError(f"{file}: {fault}; a COCO annotation file has images, annotations and categories")
    return document


def read_categories(rows: Sequence[Any], file: Path) -> dict[ImageId, str]:
    """Return the class name of each category id, in the file's order.

    Raises:
        DataError: an id or a name is missing or stands there twice. Nothing can be left out here: annotations refer
            to them.
    """
    names: dict[ImageId, str] = {}
    for i, row in enumerate(rows):
        where = f"{file}: categories[{i}]"
        if not isinstance(row, dict) or not _is_id(row.get("id")):
            raise DataError(f"{where}.id: a whole number or a string is wanted; correct it")
        name = row.get("name")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{where}.name: a name is wanted, not {_shown(name)}; correct it")
        if row["id"] in names:
            raise DataError(f"{where}.id: {_shown(row['id'])} is the id of '{names[row['id']]}' already; renumber it")
        if name in names.values():
            raise DataError(f"{where}.name: '{name}' stands there twice; rename it, or merge the two categories")
        names[row["id"]] = name
    return names


@dataclass(frozen=True)
class ImageRow:
    """A usable entry of `images`: its place in the list, id, name inside the image folder, recorded (height, width)."""

    place: int
    image_id: ImageId
    file_name: str
    size: tuple[int, int] | None


def read_images(rows: Sequence[Any], file: Path) -> tuple[list[ImageRow], list[Problem]]:
    """Return the usable images in the file's order, and the problems of the others. Files are not looked at."""
    images: list[ImageRow] = []
    problems: list[Problem] = []
    ids: dict[ImageId, int] = {}
    names: dict[ImageId, int] = {}
    for place, row in enumerate(rows):
        try:
            image = _image(row, place)
            _refuse_twice("id", image.image_id, ids)
            _refuse_twice("file_name", image.file_name, names)
        except _Fault as fault:
            problems.append(fault.problem(file, f"images[{place}]"))
            continue
        ids[image.image_id] = names[image.file_name] = place
        images.append(image)
    return images, problems


@dataclass
class Objects:
    """The usable annotations in the file's order, list by list, and what was found on the way."""

    owners: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    ignore: list[bool] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    segmentations: list[Any] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unlisted: Counter[str] = field(default_factory=Counter)
    clipped: int = 0


def read_annotations(
    rows: Sequence[Any],
    file: Path,
    *,
    all_images: Sequence[Any],
    owner_of: Mapping[ImageId, int],
    sizes: Sequence[tuple[int, int]],
    category_names: Mapping[ImageId, str],
    label_of: Mapping[str, int],
) -> Objects:
    """Judge the annotations.

    Args:
        rows: the file's `annotations`.
        file: its name, for the problems.
        all_images: the file's `images`; annotations of those that cannot be used are passed over in silence, because
            the image's own problem says it all.
        owner_of: the index of each usable image by its id.
        sizes: (height, width) of each usable image.
        category_names: the class name of each category id.
        label_of: the label of each wanted class name.
    """
    result = Objects()
    known = {row["id"] for row in all_images if isinstance(row, dict) and _is_id(row.get("id"))}
    ids: dict[ImageId, int] = {}
    for place, row in enumerate(rows):
        try:
            owner, name = _references(row, known, owner_of, category_names)
            if owner is None:
                continue
            if name not in label_of:
                result.unlisted[name] += 1
                continue
            number = row.get("id")
            if _is_id(number) and ids.setdefault(number, place) != place:
                raise _Fault("id", f"{_shown(number)} is that of annotations[{ids[number]}] already", "renumber it")
            _append(result, row, owner, sizes[owner], label_of[name])
        except _Fault as fault:
            result.problems.append(fault.problem(file, f"annotations[{place}]"))
    return result


# -------------------------------------------------------------------------------------------------------- one element
class _Fault(Exception):
    def __init__(self, key: str, what: str, mend: str = _REMOVE) -> None:
        super().__init__(key, what, mend)
        self.key, self.what, self.mend = key, what, mend

    def problem(self, file: Path, where: str) -> Problem:
        return Problem(str(file), f"{where}.{self.key}" if self.key else where, self.what, self.mend)


def _refuse_twice(key: str, value: ImageId, seen: Mapping[ImageId, int]) -> None:
    if value in seen:
        raise _Fault(key, f"{_shown(value)} is that of images[{seen[value]}] already", "remove one of them")


def _image(row: Any, place: int) -> ImageRow:
    if not isinstance(row, dict):
        raise _Fault("", f"an object is wanted, not {_shown(row)}", "write the entry again")
    if not _is_id(row.get("id")):
        raise _Fault("id", f"a whole number or a string is wanted, not {_shown(row.get('id'))}", "correct it")
    name = row.get("file_name")
    if not isinstance(name, str) or name.strip() in ("", "."):
        raise _Fault("file_name", f"a file name is wanted, not {_shown(name)}", "correct it")
    name = name.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or path.parts[0].endswith(":"):
        raise _Fault("file_name", f"'{name}' leaves the folder", "give the name relative to the image folder")
    if row.get("height") is None and row.get("width") is None:
        return ImageRow(place, row["id"], path.as_posix(), None)
    return ImageRow(place, row["id"], path.as_posix(), (_pixels(row, "height"), _pixels(row, "width")))


def _pixels(row: Mapping[str, Any], key: str) -> int:
    value = row.get(key)
    if not _is_number(value) or value <= 0 or value != int(value):
        raise _Fault(key, f"whole pixels are wanted, not {_shown(value)}", "correct it")
    return int(value)


def _references(
    row: Any, known: set[ImageId], owner_of: Mapping[ImageId, int], category_names: Mapping[ImageId, str]
) -> tuple[int | None, str]:
    """The image's index (None where the image cannot be used) and the class name."""
    if not isinstance(row, dict):
        raise _Fault("", f"an object is wanted, not {_shown(row)}", "write the entry again")
    image_id, category_id = row.get("image_id"), row.get("category_id")
    if not _is_id(image_id) or image_id not in known:
        raise _Fault("image_id", f"{_shown(image_id)} is not in images")
    if not _is_id(category_id) or category_id not in category_names:
        raise _Fault("category_id", f"{_shown(category_id)} is not in categories")
    return owner_of.get(image_id), category_names[category_id]


def _append(result: Objects, row: Mapping[str, Any], owner: int, size: tuple[int, int], label: int) -> None:
    fitted = fit_box(_corners(row.get("bbox")), size)
    if isinstance(fitted, str):
        raise _Fault("bbox", f"{fitted}: {_shown(row['bbox'])}")
    crowd, ignore = (_flag(row, key) for key in ("iscrowd", "ignore"))
    area = row.get("area")
    if area is not None and (not _is_number(area) or area < 0):
        raise _Fault("area", f"a number of pixels is wanted, not {_shown(area)}")
    segmentation = row.get("segmentation") or None
    if segmentation is not None:
        fault = segmentation_fault(segmentation, size)
        if fault:
            raise _Fault("segmentation", fault)
    box, was_clipped = fitted
    result.owners.append(owner)
    result.boxes.append(box)
    result.labels.append(label)
    result.crowd.append(crowd and not ignore)
    result.ignore.append(ignore)
    result.areas.append(math.nan if area is None else float(area))
    result.segmentations.append(segmentation)
    result.clipped += was_clipped


def _corners(bbox: Any) -> Box:
    """xywh to xyxy."""
    if bbox is None:
        raise _Fault("bbox", "there is no box", "add it as [x, y, width, height]")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(value) for value in bbox):
        raise _Fault("bbox", f"four finite numbers [x, y, width, height] are wanted, not {_shown(bbox)}")
    x, y, width, height = (float(value) for value in bbox)
    if width < 0 or height < 0:
        raise _Fault("bbox", f"width and height must be positive: {_shown(bbox)}")
    return x, y, x + width, y + height


def _flag(row: Mapping[str, Any], key: str) -> bool:
    value = row.get(key, 0)
    if value not in (0, 1):  # True and False are 1 and 0
        raise _Fault(key, f"must be 0 or 1, not {_shown(value)}")
    return bool(value)


def _is_id(value: Any) -> TypeGuard[ImageId]:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18  # false for nan


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"
