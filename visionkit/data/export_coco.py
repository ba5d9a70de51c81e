"""Any reader's split as a COCO annotation file, with the ids of predictions.json."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.errors import DataError
from visionkit.interfaces import Reader
from visionkit.structures import Labels

MARK = "written by visionkit"
"""Stands near the beginning of what is written, which may be written anew."""
_HEAD = 512
CARRIED = frozenset({"boxes", "masks", "class_scores", "box"})
"""The fields of which a COCO file can tell."""


def export_coco(reader: Reader, *, leave_out: Collection[int] = ()) -> dict[str, Any]:
    """Return the split as a COCO document: images, annotations (numbered from 1), categories.

    Image and category ids are the reader's own. Boxes are [x, y, width, height], such that x + width gives the right
    edge again to the last bit; masks are compressed run lengths. An object that is ignored gets `ignore: 1` and also
    `iscrowd: 1`, because pycocotools disregards the former and only thus leaves it out. An image without boxes but
    with a class gets one annotation per class: its one object's box if that is known, else the whole image. Semantic
    maps are not part of the format.

    Args:
        reader: the split.
        leave_out: indices of images that are not to be written.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    ids = list(reader.category_ids)
    for index in range(len(reader)):
        if index in leave_out:
            continue
        labels = reader.labels(index)
        height, width = (int(side) for side in labels.size)
        image_id = reader.image_ids[index]
        images.append({"id": image_id, "file_name": reader.file_names[index], "height": height, "width": width})
        rows = _objects(labels) if labels.boxes is not None else _whole_image(labels)
        for label, row in rows:
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": image_id, "category_id": ids[label], **row})
    categories = [{"id": number, "name": name} for number, name in zip(ids, reader.classes, strict=True)]
    info = {"description": MARK}  # without `info`, pycocotools cannot load results
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def write_coco(reader: Reader, path: Path, *, leave_out: Collection[int] = ()) -> None:
    """Write `export_coco(reader)` to `path`, which appears whole or not at all; its folder is made.

    Raises:
        DataError: `path` is a file of the data set or cannot be written, or the set knows nothing that COCO can hold.
    """
    refuse_original(path, reader)
    if not reader.fields & CARRIED:
        fault = "COCO JSON holds boxes, masks and classes, but the data knows semantic maps alone"
        raise DataError(f"{path}: {fault}; leave out fix")
    text = json.dumps(export_coco(reader, leave_out=leave_out), allow_nan=False)
    write_whole(path, text)


def left_out_of_coco(reader: Reader) -> list[str]:
    """Return a line for each thing that the reader knows and a COCO file does not hold."""
    if "semantic" not in reader.fields or not reader.fields & CARRIED:
        return []
    return ["semantic maps are no part of COCO JSON and were left out"]


def refuse_original(path: Path, reader: Reader) -> None:
    """Refuse to write where a file of the reader's data set lies, or any other that is not ours to replace.

    Raises:
        DataError: `path` is a folder, or a file that is there already: one that is read, any inside the data set's
            folder, or one outside of it that `write_coco` or a check's page has not written.
    """
    path = path.resolve()
    if path.is_dir():
        raise DataError(f"{path}: is a folder; give the name of a file in it")
    if not path.exists():
        return
    for source in sources(reader):
        read = getattr(source, "annotations", None)
        if read is not None and path.samefile(read):
            raise DataError(f"{path}: is the file that is read; choose another name for the corrected one")
        root = getattr(source, "root", None)
        if root is not None and path.is_relative_to(Path(root).resolve()):
            fault = "is there already, inside the data set's folder, where nothing is overwritten"
            raise DataError(f"{path}: {fault}; choose another name")
    with path.open("rb") as file:
        if MARK.encode() not in file.read(_HEAD):
            raise DataError(f"{path}: is there already, and was not written by check_data; choose another name")


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
        raise DataError(f"{path}: cannot be written ({fault.strerror}); choose another place") from None


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
