"""The annotations of a COCO file as flat columns, gathered a few thousand at a time.

Whole chunks are converted by column; an annotation that is not of the plain kind (its types are checked, not its
values) is taken apart by itself, and what its types cannot be is noted as a fault.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeGuard

import numpy as np

from visionkit.data.readers.coco_faults import Fault, shown
from visionkit.data.readers.segmentation import FlatSegmentations
from visionkit.structures import ImageId

LARGEST = 1e18
_FLAGS = ("iscrowd", "ignore")


@dataclass
class _Chunk:
    """Columns of one chunk, a row an annotation; `bbox` has four numbers a row."""

    ids: array[int]
    image_ids: array[int]
    category_ids: array[int]
    bbox: array[float]
    crowd: array[int]
    ignore: array[int]
    areas: array[float]


class AnnotationColumns:
    """All annotations of a file in its order, without judging what they refer to.

    Attributes:
        ids, image_ids, category_ids: int64; 0 where it is absent or a string (see `odd`).
        bbox: float64, [x, y, width, height] one after the other; nan where it is at fault.
        crowd, ignore: uint8. areas: float64, nan where absent.
        odd: (id, image_id, category_id) of annotations in which one of the three is not a whole number, by place.
        faults: what is wrong with single annotations, by place.
        without_crowd, without_area: how many annotations lack `iscrowd` or `area`.
        segmentations: a row an annotation.
    """

    def __init__(self) -> None:
        self.columns = _Chunk(array("q"), array("q"), array("q"), array("d"), array("B"), array("B"), array("d"))
        self.segmentations = FlatSegmentations()
        self.odd: dict[int, tuple[Any, Any, Any]] = {}
        self.faults: dict[int, Fault] = {}
        self.without_crowd = self.without_area = 0

    def __len__(self) -> int:
        return len(self.columns.ids)

    def take(self, rows: Sequence[Any], first: int) -> None:
        """Add annotations, the first of which stands at place `first`."""
        chunk = self._plain(rows)
        if chunk is None:
            rows = [self._tidied(row, first + i) for i, row in enumerate(rows)]
            chunk = self._plain(rows)
        assert chunk is not None
        for name, column in vars(self.columns).items():
            column.extend(getattr(chunk, name))
        segmentations = [row.get("segmentation") for row in rows]
        for place, fault in self.segmentations.extend(segmentations).items():
            self.faults.setdefault(first + place, Fault("segmentation", *fault))

    def _plain(self, rows: Sequence[Any]) -> _Chunk | None:
        """The columns of rows that are all of the plain kind, else None."""
        if set(map(type, rows)) != {dict}:
            return None
        ids, image_ids, category_ids, boxes, crowd, ignore, areas = (
            [row.get(key) for row in rows]
            for key in ("id", "image_id", "category_id", "bbox", "iscrowd", "ignore", "area")
        )
        if any(set(map(type, column)) != {int} for column in (ids, image_ids, category_ids)):
            return None
        if set(map(type, boxes)) != {list} or set(map(len, boxes)) != {4}:
            return None
        numbers = list(chain.from_iterable(boxes))
        if not set(map(type, numbers)) <= {int, float} or not set(map(type, areas)) <= {int, float, type(None)}:
            return None
        try:
            if not set(crowd) <= {0, 1, None} or not set(ignore) <= {0, 1, None}:
                return None
            without_crowd, without_area = crowd.count(None), areas.count(None)
            chunk = _Chunk(
                array("q", ids),
                array("q", image_ids),
                array("q", category_ids),
                array("d", numbers),
                array("B", [int(bool(one)) for one in crowd]),
                array("B", [int(bool(one)) for one in ignore]),
                array("d", [math.nan if one is None else one for one in areas] if without_area else areas),
            )
        except (TypeError, OverflowError):  # a list is not hashable, a number beyond 64 bits
            return None
        self.without_crowd += without_crowd
        self.without_area += without_area
        return chunk

    def _tidied(self, row: Any, place: int) -> dict[str, Any]:
        """An annotation made plain: what cannot be used of it is neutral, and noted."""
        if not isinstance(row, dict):
            self.faults[place] = Fault(
                "", "annotation-format", f"an object is wanted, not {shown(row)}", "write it again"
            )
            row = {}
        three = (row.get("id"), row.get("image_id"), row.get("category_id"))
        if not all(_is_small(one) for one in three):
            self.odd[place] = three
        tidy = {
            key: one if _is_small(one) else 0 for key, one in zip(("id", "image_id", "category_id"), three, strict=True)
        }
        tidy["bbox"] = self._box(row.get("bbox"), place)
        for key in _FLAGS:
            tidy[key] = row.get(key)
            if tidy[key] is not None and not (isinstance(tidy[key], int | float) and tidy[key] in (0, 1)):
                self._note(place, Fault(key, "flag-invalid", f"must be 0 or 1, not {shown(tidy[key])}"))
                tidy[key] = 0
        tidy["area"] = row.get("area")
        if tidy["area"] is not None and not is_number(tidy["area"]):
            said = f"a number of pixels is wanted, not {shown(tidy['area'])}"
            self._note(place, Fault("area", "area-invalid", said))
            tidy["area"] = 0.0
        tidy["segmentation"] = row.get("segmentation")
        return tidy

    def _box(self, bbox: Any, place: int) -> list[float]:
        if bbox is None:
            self._note(place, Fault("bbox", "box-missing", "there is no box", "add it as [x, y, width, height]"))
        elif isinstance(bbox, list) and len(bbox) == 4 and all(is_number(value) for value in bbox):
            return [float(value) for value in bbox]
        else:
            numbers = isinstance(bbox, list) and len(bbox) == 4 and all(type(one) in (int, float) for one in bbox)
            said = f"four finite numbers [x, y, width, height] are wanted, not {shown(bbox)}"
            self._note(place, Fault("bbox", "box-not-finite" if numbers else "box-format", said))
        return [math.nan] * 4

    def _note(self, place: int, fault: Fault) -> None:
        self.faults.setdefault(place, fault)

    def arrays(self) -> Mapping[str, np.ndarray]:
        """The columns as arrays; `bbox` (A, 4)."""
        made = {
            name: np.frombuffer(column, column.typecode) if len(column) else np.zeros(0, column.typecode)
            for name, column in vars(self.columns).items()
        }
        return made | {"bbox": made["bbox"].reshape(-1, 4)}


def is_id(value: Any) -> TypeGuard[ImageId]:
    """Whether it is a whole number or a string."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a finite number that can be calculated with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST  # false for nan


def _is_small(value: Any) -> bool:
    return type(value) is int and abs(value) < LARGEST
