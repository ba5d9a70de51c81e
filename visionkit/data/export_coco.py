"""Any reader's split as a COCO annotation file, with the ids of predictions.json."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.errors import DataError
from visionkit.interfaces import Reader
from visionkit.structures import Labels


def export_coco(reader: Reader) -> dict[str, Any]:
    """Return the split as a COCO document: images, annotations (numbered from 1), categories.

    Image and category ids are the reader's own. Boxes are [x, y, width, height], masks compressed run lengths. An
    object that is ignored gets `ignore: 1` and also `iscrowd: 1`, because pycocotools disregards the former and only
    thus leaves it out. An image without boxes but with a class gets one annotation per class: its one object's box if
    that is known, else the whole image. Semantic maps are not part of the format.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    ids = list(reader.category_ids)
    for index in range(len(reader)):
        labels = reader.labels(index)
        height, width = (int(side) for side in labels.size)
        image_id = reader.image_ids[index]
        images.append({"id": image_id, "file_name": reader.file_names[index], "height": height, "width": width})
        rows = _objects(labels) if labels.boxes is not None else _whole_image(labels)
        for label, row in rows:
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": image_id, "category_id": ids[label], **row})
    categories = [{"id": number, "name": name} for number, name in zip(ids, reader.classes, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(reader: Reader, path: Path) -> None:
    """Write `export_coco(reader)` to `path`, which appears whole or not at all; its folder is made.

    Raises:
        DataError: `path` is the file that the reader reads, or cannot be written.
    """
    source = getattr(reader, "annotations", None)
    if source is not None and path.exists() and path.samefile(source):
        raise DataError(f"{path}: is the file that is read; choose another name for the corrected one")
    text = json.dumps(export_coco(reader), allow_nan=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
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
    return [x1, y1, x2 - x1, y2 - y1]
