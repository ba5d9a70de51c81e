"""The one gate in front of every COCO backend: what passes is complete, finite, consistent and numbered from 1.

The backends score bad input silently: an annotation id of 0 gives AP 0 for a perfect box, a box of NaN gives AP 1,
annotations of equal id collapse into one, detections of unknown images or classes vanish. An id of 0, or none, is
mended here by numbering anew; all else is refused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.errors import DataError

Row = dict[str, Any]
_LARGEST = sys.float_info.max
XYWH = "a box is [x, y, width, height] in pixels, all finite, no side negative"
LARGEST_AREA = 1e10
"""Pixels. COCO's range of all areas ends here: what is larger would be left out in silence."""
_SMALLER = "COCO's numbers are of objects of up to 10^10 pixels, whose coordinates are below 10^9"
FARTHEST = 1e9
"""Pixels. Products of larger coordinates lose the pixel, or are infinite."""
MOST_PIXELS = 2**32
"""Of an image: the lengths of a run-length encoding are 32-bit."""
POLYGON_MARGIN = 10_000
"""Pixels that a polygon may leave its image by: it is drawn whole before it is cut."""


def validated(
    ground_truth: Mapping[str, Any] | str | Path,
    detections: Sequence[Mapping[str, Any]] | Mapping[str, Any] | str | Path,
    iou_type: str,
) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """Return fresh COCO dicts of truth and detections, numbered from 1 in the order of the ids; nothing is mutated.

    Raises:
        DataError: names the place as a JSON pointer, the value and the mend.
    """
    truth = _Side(*_loaded(ground_truth, "ground truth"))
    if not isinstance(truth.content, Mapping):
        kind = type(truth.content).__name__
        raise truth.fault(
            "", kind, "is no COCO data set", "give a dict with images, annotations and categories", code="file-format"
        )
    images, categories = truth.numbered("images"), truth.numbered("categories")
    results = _Side(*_loaded(detections, "detections"))
    if isinstance(results.content, Mapping) and "annotations" not in results.content:
        keys = ", ".join(str(key) for key in results.content)
        mend = "give the list of result rows, with several heads that of one"
        raise results.fault("", keys, "are keys of no result file", mend, code="file-format")
    sizes = truth.image_sizes if iou_type == "segm" else {}
    names = {row["id"]: str(row.get("name", row["id"])) for _, row in truth.rows("categories")}
    fresh = {
        "images": [{"id": number, **_size_keys(sizes.get(value))} for value, number in images.items()],
        "categories": [{"id": number, "name": names[value]} for value, number in categories.items()],
    }
    truth_rows: list[Row] = []
    result_rows: list[Row] = []
    seen: dict[Any, str] = {}
    for pointer, row in truth.rows("annotations"):
        if row.get("id") is not None:
            truth.unique(pointer, row, seen)
        new = _placed(truth, pointer, row, images, categories) | {"id": len(truth_rows) + 1}
        truth_rows.append(new | _truth_row(truth, pointer, row, sizes.get(row["image_id"])))
    for pointer, row in results.rows("annotations" if isinstance(results.content, Mapping) else ""):
        new = _placed(results, pointer, row, images, categories) | {"id": len(result_rows) + 1, "iscrowd": 0}
        result_rows.append(new | _result_row(results, pointer, row, sizes.get(row["image_id"])))
    return fresh | {"annotations": truth_rows}, fresh | {"annotations": result_rows}


class _Side:
    """One of the two inputs with its name, for messages."""

    def __init__(self, content: Any, name: str) -> None:
        self.content = content
        self.name = name

    def fault(self, pointer: str, value: object, problem: str, mend: str, *, code: str) -> DataError:
        text = repr(value)
        text = text if len(text) <= 80 else f"{text[:77]}..."
        return DataError(f"{self.name}: {pointer or '/'}: {text} {problem}: {mend}", code=code)

    def rows(self, key: str) -> list[tuple[str, Mapping[str, Any]]]:
        """The rows under `key`, or of the content itself where `key` is empty, each with its pointer."""
        content = self.content[key] if key and key in self.content else (None if key else self.content)
        pointer = f"/{key}" if key else ""
        if not isinstance(content, Sequence) or isinstance(content, str | bytes):
            raise self.fault(
                pointer, content, "is no list", f"give a list of {key or 'result rows'}", code="file-format"
            )
        for index, row in enumerate(content):
            if not isinstance(row, Mapping):
                raise self.fault(f"{pointer}/{index}", row, "is no object", "give a dict per row", code="file-format")
        return [(f"{pointer}/{index}", row) for index, row in enumerate(content)]

    def numbered(self, key: str) -> dict[Any, int]:
        """The ids of images or categories, numbered from 1 in their order, numbers before strings."""
        seen: dict[Any, str] = {}
        for pointer, row in self.rows(key):
            self.unique(pointer, row, seen)
        ordered = sorted(seen, key=lambda value: (isinstance(value, str), value))
        return {value: number for number, value in enumerate(ordered, start=1)}

    def unique(self, pointer: str, row: Mapping[str, Any], seen: dict[Any, str]) -> None:
        """Put the id of `row` into `seen`, the pointers by id; refuse one that is there."""
        value = self.identifier(f"{pointer}/id", row.get("id"))
        if value in seen:
            raise self.fault(
                f"{pointer}/id",
                value,
                f"is also the id of {seen[value]}",
                "give every one its own",
                code="id-duplicate",
            )
        seen[value] = pointer

    @cached_property
    def image_sizes(self) -> dict[Any, tuple[int, int]]:
        """(height, width) by image id."""
        sizes = {}
        for pointer, row in self.rows("images"):
            for key in ("height", "width"):
                value: Any = row.get(key)
                if not _is_number(value) or value < 1 or value != int(value):
                    raise self.fault(
                        f"{pointer}/{key}",
                        value,
                        "is no size",
                        "masks need each image's size in pixels",
                        code="size-invalid",
                    )
            height, width = int(row["height"]), int(row["width"])
            if height * width >= MOST_PIXELS:
                raise self.fault(
                    pointer,
                    f"{height} x {width}",
                    "is too large for masks",
                    "give fewer than 2³² pixels",
                    code="image-too-large",
                )
            sizes[row["id"]] = (height, width)
        return sizes

    def identifier(self, pointer: str, value: Any) -> int | str:
        if isinstance(value, str):
            return value
        if _is_number(value) and value == int(value):
            return int(value)
        raise self.fault(pointer, value, "is no id", "ids are whole numbers or strings", code="id-invalid")


def _loaded(source: Any, name: str) -> tuple[Any, str]:
    if not isinstance(source, str | Path):
        return source, name
    try:
        return json.loads(Path(source).read_text(encoding="utf-8")), str(source)
    except OSError as error:
        raise DataError(
            f"{source}: cannot be read ({error.strerror}): give the path of a COCO JSON file", code="file-unreadable"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{source}: is not JSON ({error}): give the path of a COCO JSON file", code="file-unreadable"
        ) from error


def _truth_row(side: _Side, pointer: str, row: Mapping[str, Any], size: tuple[int, int] | None) -> Row:
    """Box or mask, area and crowd flag of an annotation; `size` is the image's where masks are compared."""
    flags = {key: _flag(side, f"{pointer}/{key}", row.get(key, 0), mend) for key, mend in _FLAGS.items()}
    new: Row = {"iscrowd": flags["iscrowd"], "difficult": flags["ignore"] | flags["difficult"]}
    if size is None:
        new["bbox"] = _box(side, f"{pointer}/bbox", row.get("bbox"))
    else:
        new["segmentation"] = _rle(side, f"{pointer}/segmentation", row.get("segmentation"), size)
        new["bbox"] = coco_mask.toBbox(new["segmentation"]).tolist()
    new["area"] = _truth_area(side, pointer, row, new)
    return new


def _result_row(side: _Side, pointer: str, row: Mapping[str, Any], size: tuple[int, int] | None) -> Row:
    """Score, box or mask, and area of a detection; as in pycocotools its area is that of the box if it has one."""
    if not _is_number(row.get("score")):
        raise side.fault(
            f"{pointer}/score", row.get("score"), "is no score", "give a finite number", code="score-invalid"
        )
    new: Row = {"score": float(row["score"])}
    if size is not None:
        new["segmentation"] = _rle(side, f"{pointer}/segmentation", row.get("segmentation"), size)
    if size is None or row.get("bbox"):
        new["bbox"] = _box(side, f"{pointer}/bbox", row.get("bbox"))
        new["area"] = new["bbox"][2] * new["bbox"][3]
    else:
        new["bbox"] = coco_mask.toBbox(new["segmentation"]).tolist()
        new["area"] = float(coco_mask.area(new["segmentation"]))
    return new


_FLAGS = {
    "iscrowd": "give 1 for a region of many objects, else 0",
    "ignore": "give 1 for an object that need not be found, else 0",
    "difficult": "give 1 for an object that need not be found, else 0",
}


def _flag(side: _Side, pointer: str, value: Any, mend: str) -> int:
    if not isinstance(value, bool | np.bool_) and not (_is_number(value) and value in (0, 1)):
        raise side.fault(pointer, value, "is neither 0 nor 1", mend, code="flag-invalid")
    return int(value)


def _size_keys(size: tuple[int, int] | None) -> Row:
    return {} if size is None else {"height": size[0], "width": size[1]}


def _placed(
    side: _Side, pointer: str, row: Mapping[str, Any], images: Mapping[Any, int], categories: Mapping[Any, int]
) -> Row:
    """A new row that says only to which image and category, by their new numbers, `row` belongs."""
    new: Row = {}
    for key, known in (("image_id", images), ("category_id", categories)):
        value = row.get(key)
        if type(value) not in (int, str):
            value = side.identifier(f"{pointer}/{key}", value)
        if value not in known:
            other = "the ground truth has it as a " + ("number" if isinstance(value, str) else "string")
            alike = str(value) in {str(identifier) for identifier in known}
            mend = f"{other}; write ids alike" if alike else "take it out, or give the ground truth that it belongs to"
            raise side.fault(
                f"{pointer}/{key}", value, "is not in the ground truth", mend, code=f"{key.removesuffix('_id')}-unknown"
            )
        new[key] = known[value]
    return new


def _box(side: _Side, pointer: str, value: Any) -> list[float]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or len(value) != 4:
        raise side.fault(pointer, value, "is no box", XYWH, code="box-format")
    for index, number in enumerate(value):
        if not _is_number(number) or (index > 1 and number < 0):
            raise side.fault(f"{pointer}/{index}", number, "cannot be in a box", XYWH, code="box-format")
    if max(map(abs, value)) > FARTHEST or value[2] * value[3] > LARGEST_AREA:
        raise side.fault(pointer, value, "is too large", _SMALLER, code="box-outside")
    return [float(number) for number in value]


def _truth_area(side: _Side, pointer: str, row: Mapping[str, Any], new: Row) -> float:
    value = row.get("area")
    if value is not None:
        if not _is_number(value) or value < 0:
            raise side.fault(
                f"{pointer}/area", value, "is no area", "give pixels, or leave it out", code="area-invalid"
            )
        if value > LARGEST_AREA:
            raise side.fault(f"{pointer}/area", value, "is too large", _SMALLER, code="area-invalid")
        return float(value)
    mask = new.get("segmentation")
    if mask is None and row.get("segmentation"):
        mask = _rle(side, f"{pointer}/segmentation", row["segmentation"], side.image_sizes[row["image_id"]])
    return float(coco_mask.area(mask)) if mask is not None else new["bbox"][2] * new["bbox"][3]


def _rle(side: _Side, pointer: str, value: Any, size: tuple[int, int]) -> Row:
    """A mask as compressed run-length encoding, from polygons or either kind of run-length encoding."""
    height, width = size
    if isinstance(value, list) and value:
        for index, polygon in enumerate(value):
            numbers = isinstance(polygon, list) and all(_is_number(number) for number in polygon)
            if not numbers or len(polygon) < 6 or len(polygon) % 2:
                mend = "give at least three points as [x1, y1, x2, y2, ...]"
                raise side.fault(f"{pointer}/{index}", polygon, "is no polygon", mend, code="polygon-short")
            for axis, side_length in enumerate((width, height)):
                far = [at for at in polygon[axis::2] if not -POLYGON_MARGIN <= at <= side_length + POLYGON_MARGIN]
                if far:
                    raise side.fault(
                        f"{pointer}/{index}",
                        far[0],
                        f"is far outside {width} x {height}",
                        "give pixels",
                        code="polygon-outside",
                    )
        return dict(coco_mask.merge(coco_mask.frPyObjects(value, height, width)))
    if not isinstance(value, Mapping) or not {"size", "counts"} <= set(value):
        raise side.fault(
            pointer, value, "is no mask", "give polygons or a run-length encoding", code="segmentation-format"
        )
    if not isinstance(value["size"], Sequence | np.ndarray) or list(value["size"]) != [height, width]:
        raise side.fault(
            f"{pointer}/size", value["size"], f"is not the image's {[height, width]}", "encode it anew", code="rle-size"
        )
    counts = value["counts"]
    listed = isinstance(counts, Sequence | np.ndarray) and not isinstance(counts, str | bytes)
    if listed and not all(_is_number(run) and run == int(run) for run in counts):
        raise side.fault(
            f"{pointer}/counts", counts, "are no lengths of runs", "encode the mask anew", code="rle-invalid"
        )
    runs = np.array([int(run) for run in counts]) if listed else _runs(counts)
    if runs is None or runs.dtype.kind not in "iu" or (runs < 0).any() or runs.sum() != height * width:
        raise side.fault(
            f"{pointer}/counts",
            counts,
            f"do not fill {height} x {width} pixels",
            "encode the mask anew",
            code="rle-invalid",
        )
    if isinstance(counts, str | bytes):
        return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
    return dict(coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width))


def _runs(counts: Any) -> np.ndarray | None:
    """The lengths of the runs of a compressed encoding, None if it is none.

    Each run is written in groups of 5 bits, lowest first, as a character from "0" on; 32 marks that another follows and
    16 in the last one the sign; from the fourth run on the difference to the run before the last is written.
    """
    if not isinstance(counts, str | bytes) or not counts:
        return None
    text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    groups = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    last = (groups & 32) == 0
    if not last[-1]:
        return None
    ends = np.flatnonzero(last)
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > 12:
        return None
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    values = np.add.reduceat((groups & 31) << (5 * place), starts)
    values -= np.where(groups[ends] & 16, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _is_number(value: Any) -> bool:
    """Is it a finite number? Nearly all are of the first two types, and there are millions."""
    if type(value) in (float, int) or isinstance(value, np.integer | np.floating):
        return bool(-_LARGEST <= value <= _LARGEST)
    return False
