"""How long our metric and pycocotools take over the same scenes.

python -c "from tests.metrics.test_coco_speed import compare; print(compare(5000))"
"""

from __future__ import annotations

import contextlib
import io
import time
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visionkit.metrics import CocoDetection
from visionkit.metrics.coco_numbers import NUMBERS
from visionkit.predictions import Detections
from visionkit.structures import ImageId, Labels

CLASSES = 80


def crowded(images: int) -> list[tuple[ImageId, Detections, Labels]]:
    """As in COCO 7 objects an image, and 100 detections of it, half of them near an object."""
    rng, rows = np.random.default_rng(0), []
    for image_id in range(1, images + 1):
        objects = 1 + int(rng.poisson(6.3))
        corner, sides = rng.uniform(0, 500, (objects, 2)), np.exp(rng.uniform(2, 5.5, (objects, 2)))
        boxes, labels = np.concatenate([corner, corner + sides], axis=1), rng.integers(0, CLASSES, objects)
        crowd, areas = rng.random(objects) < 0.01, sides.prod(axis=1) * 0.6
        truth = Labels(size=(800, 800), boxes=boxes, labels=labels, crowd=crowd, areas=areas)
        of = rng.integers(0, objects, 100)
        found = boxes[of] + rng.normal(0, 0.12, (100, 4)) * np.tile(sides[of], 2)
        found[50:] += rng.uniform(-300, 300, (50, 1))
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        scores = np.sort(rng.beta(1, 4, 100).astype(np.float32))[::-1]
        shown = rng.permutation(100)
        said = np.where(rng.random(100) < 0.8, labels[of], rng.integers(0, CLASSES, 100))[shown]
        rows.append((image_id, Detections(found[shown].astype(np.float32), scores, said), truth))
    return rows


def compare(images: int) -> dict[str, Any]:
    """Seconds of CPU time that each takes from its inputs in memory to the numbers, and whether these are equal."""
    scenes = crowded(images)
    ids = list(range(1, CLASSES + 1))
    started = time.process_time()
    metric = CocoDetection([str(number) for number in ids], ids)
    for scene in scenes:
        metric.update(*scene)
    numbers = metric.compute()
    ours = time.process_time() - started
    annotations, results = [], []
    for image_id, prediction, truth in scenes:
        results += prediction.to_coco(image_id, ids)
        for box, label, area, crowd in zip(truth.boxes, truth.labels, truth.areas, truth.crowd, strict=True):
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": ids[label], "area": area}
            annotations.append(row | {"bbox": [*box[:2], *(box[2:] - box[:2])], "iscrowd": int(crowd)})
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO()
        there.dataset = {"images": [{"id": scene[0]} for scene in scenes], "categories": [{"id": k} for k in ids]}
        there.dataset["annotations"] = annotations
        there.createIndex()
        found = there.loadRes(results)
        started = time.process_time()
        evaluation = COCOeval(there, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        plain = time.process_time() - started
    equal = bool(np.array_equal([numbers[name] for name in NUMBERS], evaluation.stats))
    return {"images": images, "CocoDetection": ours, "pycocotools": plain, "equal": equal}


def test_ours_takes_less_than_a_third_of_the_time_and_gives_the_same_numbers() -> None:
    told = compare(60)
    assert told["equal"]
    assert told["CocoDetection"] < told["pycocotools"] / 3
