"""What opening a large annotation file costs: a generated one of COCO's size, its index, and workers reading labels."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

import numpy as np

from visionkit.data.readers.coco_index import CocoIndex, open_index
from visionkit.data.readers.coco_objects import use_objects
from visionkit.engine.processes import own_memory

IMAGES, BOXES = 118_000, 860_000
"""As many as COCO's train2017 has, nearly."""
_CLASSES = 80
_POINTS = 24
"""Of a polygon on average."""


def index_benchmark(*, workers: int, images: int = IMAGES, boxes: int = BOXES) -> dict[str, Any]:
    """Generate an annotation file, and time `json.load` on it, its index made, and reopened from the cache; then let
    `workers` processes read the labels of all images, and say by how many MB the memory of their own grew.

    Image files are not looked at. Everything is written to a folder that is removed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="visionkit-index-") as folder,
        mock.patch.dict(os.environ, {"VISIONKIT_CACHE": folder}),
    ):
        file = Path(folder) / "instances.json"
        with file.open("w", encoding="ascii") as opened:
            _generate(opened, images, boxes)
        seconds: dict[str, float] = {}
        worked: dict[str, float] = {}
        for name, act in (
            ("json_load", lambda: _load(file)),
            ("index", lambda: open_index(file)),
            ("reopen", lambda: open_index(file)),
        ):
            began, at_work = time.perf_counter(), time.process_time()
            result = act()
            seconds[name] = round(time.perf_counter() - began, 3)
            worked[name] = round(time.process_time() - at_work, 3)
            del result
            gc.collect()
        growth = _growth(open_index(file), workers, images)
        told = {
            "images": images,
            "boxes": boxes,
            "file_mb": round(file.stat().st_size / 1e6, 1),
            "seconds": seconds,
            "cpu_seconds": worked,
            "index_to_json_load": round(seconds["index"] / seconds["json_load"], 3),
            "worker_growth_mb": growth,
        }
    print(f"{images} images, {boxes} boxes with polygons, {told['file_mb']} MB: json.load {seconds['json_load']} s")
    ratio = f"{told['index_to_json_load']}x (CPU {worked['json_load']} and {worked['index']} s)"
    print(f"index {seconds['index']} s, {ratio}; reopened {seconds['reopen']} s")
    print(f"{workers} workers reading all labels grew by {growth} MB")
    return told


def _load(file: Path) -> Any:
    with file.open(encoding="ascii") as opened:
        return json.load(opened)


def _growth(index: CocoIndex, workers: int, images: int) -> list[float]:
    """The growth of each worker's own memory while it reads its share of an epoch, made from polygons to masks."""
    assert index.objects is not None
    used = use_objects(
        index.objects,
        Path("generated"),
        images=np.arange(images),
        sizes=index.images.sizes,
        names=list(index.categories.values()),
        labels=np.arange(len(index.categories)),
    )

    def read(told: Connection, which: int) -> None:
        table, segmentations = used.table, index.objects.segmentations if index.objects is not None else None
        assert segmentations is not None
        gc.freeze()
        for start, one in (
            (True, range(which, min(images, 100 * workers), workers)),
            (False, range(which, images, workers)),
        ):
            for image in one:
                rows = table.rows(image)
                size = (int(index.images.sizes[image, 0]), int(index.images.sizes[image, 1]))
                boxes = table.boxes[rows].copy()
                masks = [segmentations.rle(row, size) for row in table.order[rows].tolist()]
                assert len(boxes) == len(masks) and index.images.ids[image] and index.images.names[image]
            if start:
                before = own_memory(os.getpid())
        told.send(round(own_memory(os.getpid()) - before, 1))

    context = multiprocessing.get_context("fork")
    pairs = [context.Pipe(duplex=False) for _ in range(workers)]
    running = [context.Process(target=read, args=(pairs[which][1], which)) for which in range(workers)]
    for process in running:
        process.start()
    growth = [receiver.recv() for receiver, _ in pairs]
    for process in running:
        process.join()
    return growth


# --------------------------------------------------------------------------------------------------------- generating
def _generate(file: TextIO, images: int, boxes: int) -> None:
    """Write annotations as COCO's train2017 has them: as many bytes and polygon points an object."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(240, 641, (images, 2))
    file.write('{"info": {"description": "generated"}, "licenses": [], "images": [')
    _write(file, (_image(number, size) for number, size in enumerate(sizes.tolist(), 1)))
    file.write('], "annotations": [')
    owners = rng.integers(images, size=boxes)
    _write(file, (_annotation(n, int(owner) + 1, sizes[owner], rng) for n, owner in enumerate(owners.tolist(), 1)))
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, _CLASSES + 1)]
    file.write(f'], "categories": {json.dumps(categories)}}}')


def _write(file: TextIO, rows: Iterator[dict[str, Any]]) -> None:
    comma = ""
    for row in rows:
        file.write(comma + json.dumps(row))
        comma = ", "


def _image(number: int, size: list[int]) -> dict[str, Any]:
    name = f"{number:012}.jpg"
    urls = {"coco_url": f"http://images.cocodataset.org/train2017/{name}", "date_captured": "2013-11-14 16:28:13"}
    return {"license": 1, "file_name": name, "height": size[0], "width": size[1], "id": number, **urls}


def _annotation(number: int, image_id: int, size: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """An object whose outline is an ellipse."""
    height, width = np.maximum(4.0, rng.random(2) ** 2 * size * 0.9)
    y, x = rng.random(2) * (size - (height, width))
    angles = np.linspace(0, 2 * np.pi, max(3, int(rng.poisson(_POINTS))), endpoint=False)
    points = np.stack([x + width * (0.5 + 0.5 * np.cos(angles)), y + height * (0.5 + 0.5 * np.sin(angles))], axis=1)
    return {
        "segmentation": [points.round(2).reshape(-1).tolist()],
        "area": round(float(height * width * np.pi / 4), 4),
        "iscrowd": 0,
        "image_id": image_id,
        "bbox": [round(float(value), 2) for value in (x, y, width, height)],
        "category_id": int(rng.integers(1, _CLASSES + 1)),
        "id": number,
    }
