"""Any reader's split as a COCO annotation file, with the ids of predictions.json."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.data.readers.coco_index import MARK
from visionkit.data.readers.source import semantic_category_ids
from visionkit.errors import DataError
from visionkit.interfaces import Reader
from visionkit.structures import IGNORE_INDEX, Labels

_HEAD = 512
"""`MARK` stands among the first bytes of what is written, which may be written anew."""
OF_OBJECTS = frozenset({"boxes", "masks", "class_scores", "box"})
"""The fields of which a COCO file of objects tells; an image without an annotation is empty there."""


def export_coco(reader: Reader, *, leave_out: Collection[int] = ()) -> dict[str, Any]:
    """Return the split as a COCO document: images, annotations (numbered from 1), categories.

    Image and category ids are the reader's own; where a COCO file's ids are faulty (`Coco.harmless`: 0 and strings),
    all of that list are numbered from 1. Boxes are [x, y, width, height], such that x + width gives the right edge
    again to the last bit; masks are compressed run lengths. An object that is ignored gets `ignore: 1` and also
    `iscrowd: 1`, because pycocotools disregards the former and only thus leaves it out. An image without boxes but
    with a class gets one annotation per class: its one object's box if that is known, else the whole image.

    Semantic maps become an annotation per image and class that it shows, with all of its pixels as mask, `iscrowd` 0;
    pixels to be ignored are in none. If the reader knows nothing else these are `annotations`, and the categories say
    isthing: 0, as in COCO's stuff files; else they are lists of their own, `semantic_annotations` and
    `semantic_categories`, of which other tools know nothing.

    Args:
        reader: the split.
        leave_out: indices of images that are not to be written.
    """
    ids = _Ids(reader)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    semantic: list[dict[str, Any]] = []
    for index in range(len(reader)):
        if index in leave_out:
            continue
        labels = reader.labels(index)
        height, width = (int(side) for side in labels.size)
        image_id = ids.images[index]
        images.append({"id": image_id, "file_name": reader.file_names[index], "height": height, "width": width})
        rows = _objects(labels) if labels.boxes is not None else _whole_image(labels)
        _add(annotations, image_id, ids.categories, rows)
        _add(semantic, image_id, ids.semantic, _regions(labels))
    info = {"description": MARK}  # without `info`, pycocotools cannot load results
    categories = [{"id": number, "name": name} for number, name in zip(ids.categories, reader.classes, strict=True)]
    stuff = [
        {"id": number, "name": name, "isthing": 0}
        for number, name in zip(ids.semantic, reader.semantic_classes, strict=True)
    ]
    if "semantic" not in reader.fields:
        return {"info": info, "images": images, "annotations": annotations, "categories": categories}
    if not reader.fields & OF_OBJECTS:
        return {"info": info, "images": images, "annotations": semantic, "categories": stuff}
    return {
        "info": info,
        "images": images,
        "annotations": annotations,
        "categories": categories,
        "semantic_annotations": semantic,
        "semantic_categories": stuff,
    }


def renumbered(reader: Reader) -> list[str]:
    """The lists (images, categories, semantic_categories) whose ids are not written as the reader has them."""
    lists: dict[str, None] = {}
    for source in sources(reader):
        for fault in getattr(source, "harmless", ()):
            key = fault.where.partition("[")[0]
            if key != "images" or reader.image_ids == source.image_ids:  # sets that are mixed have ids of their own
                lists[key] = None
    return list(lists)


class _Ids:
    """The ids that are written, of each image and of each class."""

    def __init__(self, reader: Reader) -> None:
        lists = renumbered(reader)
        of_maps = "semantic_categories" if reader.fields & OF_OBJECTS else "categories"
        own = semantic_category_ids(reader)
        self.images = range(1, len(reader) + 1) if "images" in lists else reader.image_ids
        self.categories = range(1, len(reader.classes) + 1) if "categories" in lists else reader.category_ids
        self.semantic = range(1, len(own) + 1) if of_maps in lists else own


def _add(
    annotations: list[dict[str, Any]], image_id: Any, ids: Sequence[Any], rows: Sequence[tuple[int, dict[str, Any]]]
) -> None:
    for label, row in rows:
        number = len(annotations) + 1
        annotations.append({"id": number, "image_id": image_id, "category_id": ids[label], **row})


def write_coco(reader: Reader, path: Path, *, leave_out: Collection[int] = ()) -> None:
    """Write `export_coco(reader)` to `path`, which appears whole or not at all; its folder is made.

    Raises:
        DataError: `path` is a file of the data set or cannot be written.
    """
    refuse_original(path, reader)
    text = json.dumps(export_coco(reader, leave_out=leave_out), allow_nan=False)
    write_whole(path, text)


def refuse_original(path: Path, reader: Reader) -> None:
    """Refuse to write where a file of the reader's data set lies, or any other that is not ours to replace.

    Raises:
        DataError: `path` is a folder, or a file that is there already: one that is read, any inside the data set's
            folder, or one outside of it that `write_coco` or a check's page has not written.
    """
    path = path.resolve()
    if path.is_dir():
        raise DataError(f"{path}: is a folder; give the name of a file in it", code="file-not-written")
    if not path.exists():
        return
    for source in sources(reader):
        read = getattr(source, "annotations", None)
        if read is not None and path.samefile(read):
            raise DataError(
                f"{path}: is the file that is read; choose another name for the corrected one", code="file-not-written"
            )
        root = getattr(source, "root", None)
        if root is not None and path.is_relative_to(Path(root).resolve()):
            fault = "is there already, inside the data set's folder, where nothing is overwritten"
            raise DataError(f"{path}: {fault}; choose another name", code="file-not-written")
    with path.open("rb") as file:
        if MARK.encode() not in file.read(_HEAD):
            raise DataError(
                f"{path}: is there already, and was not written by check_data; choose another name",
                code="file-not-written",
            )


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path`, which appears whole or not at all; its folder is made.

    Raises:
        DataError: it cannot be written.
    """
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
        ) as file:
            temporary = Path(file.name)
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                temporary.chmod(0o644)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as fault:
        raise DataError(
            f"{path}: cannot be written ({fault.strerror}); choose another place", code="file-not-written"
        ) from None


def sources(reader: Reader) -> Iterator[Any]:
    """The reader and those inside it, of which some are made."""
    yield reader
    inside = [getattr(reader, "reader", None), *getattr(reader, "readers", ())]
    for one in inside:
        if one is not None:
            yield from sources(one)


def _objects(labels: Labels) -> list[tuple[int, dict[str, Any]]]:
    boxes, areas = labels.boxes, labels.areas
    assert boxes is not None and areas is not None
    assert labels.labels is not None and labels.crowd is not None and labels.ignore is not None
    rows = []
    for i, label in enumerate(labels.labels.tolist()):
        ignore = bool(labels.ignore[i])
        row = {"bbox": _xywh(boxes[i]), "area": float(areas[i]), "iscrowd": int(bool(labels.crowd[i]) or ignore)}
        if ignore:
            row["ignore"] = 1
        if labels.masks is not None:
            mask = labels.masks[i]
            row["segmentation"] = {"size": [int(side) for side in mask["size"]], "counts": mask["counts"].decode()}
        rows.append((label, row))
    return rows


def _regions(labels: Labels) -> list[tuple[int, dict[str, Any]]]:
    """For each class of the semantic map its pixels."""
    rows = []
    for label in [] if labels.semantic is None else np.unique(labels.semantic).tolist():
        if label != IGNORE_INDEX:
            mask = coco_mask.encode(np.asfortranarray(labels.semantic == label, np.uint8))
            segmentation = {"size": [int(side) for side in mask["size"]], "counts": mask["counts"].decode()}
            area, box = float(coco_mask.area(mask)), coco_mask.toBbox(mask).tolist()
            rows.append((label, {"bbox": box, "area": area, "iscrowd": 0, "segmentation": segmentation}))
    return rows


def _whole_image(labels: Labels) -> list[tuple[int, dict[str, Any]]]:
    if labels.class_scores is None:
        return []
    height, width = labels.size
    box = np.array([0, 0, width, height], np.float64) if labels.box is None else labels.box
    x, y, across, down = _xywh(box)
    row = {"bbox": [x, y, across, down], "area": across * down, "iscrowd": 0}
    return [(label, dict(row)) for label in np.flatnonzero(labels.class_scores > 0).tolist()]


def _xywh(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, _side(x1, x2), _side(y1, y2)]


def _side(start: float, end: float) -> float:
    """The number of fewest digits that, added to `start`, gives `end`: mostly the one that the source had."""
    side = end - start
    for digits in range(1, 16):
        if start + round(side, digits) == end:
            return round(side, digits)
    return side
