"""COCO's numbers for masks: the published ones, pycocotools' on random scenes, and what is unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionkit.metrics import CocoDetection, CocoInstances, coco_evaluate
from visionkit.metrics.coco_numbers import NUMBERS
from visionkit.predictions import Detections, Instances
from visionkit.structures import Geometry, Labels

FIXTURES = Path(__file__).parents[2].parent / "shared" / "data" / "coco_eval_fixtures"
SIZE = (60, 80)


def instances_of(rles: Any, scores: Any, labels: Any, size: tuple[int, int] = SIZE) -> Instances:
    """Instances whose masks are given, their boxes those around the masks."""
    boxes = coco_mask.toBbox(list(rles)) if len(rles) else np.zeros((0, 4))
    boxes[:, 2:] += boxes[:, :2]
    return Instances(
        boxes=boxes.astype(np.float32),
        scores=np.asarray(scores, np.float32),
        labels=np.asarray(labels, np.int64),
        coefficients=np.zeros((len(rles), 1), np.float16),
        prototypes=np.zeros((1, 1, 1), np.float16),
        geometry=Geometry(size, size, (1.0, 1.0)),
        stride=float(max(size)),
        rles=tuple(rles),
    )


def rectangle(x1: int, y1: int, x2: int, y2: int) -> dict[str, Any]:
    bitmap = np.zeros(SIZE, np.uint8, order="F")
    bitmap[y1:y2, x1:x2] = 1
    encoded: dict[str, Any] = coco_mask.encode(bitmap)
    return encoded


def truth_of(rles: Any, labels: Any = None, *, masks: bool = True, **more: Any) -> Labels:
    boxes = np.asarray(coco_mask.toBbox(list(rles)), np.float64) if len(rles) else np.zeros((0, 4))
    boxes[:, 2:] += boxes[:, :2]
    labels = np.zeros(len(boxes), np.int64) if labels is None else np.asarray(labels, np.int64)
    more.setdefault("areas", np.array([float(coco_mask.area(rle)) for rle in rles]))
    return Labels(size=SIZE, boxes=boxes, labels=labels, masks=tuple(rles) if masks else None, **more)


def plain(rle: Any) -> dict[str, Any]:
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the fixtures are not beside the repository")
def test_published_numbers() -> None:
    dataset = json.loads((FIXTURES / "instances_val2014_100.json").read_text())
    results = json.loads((FIXTURES / "instances_val2014_fakesegm100_results.json").read_text())
    ids = [category["id"] for category in dataset["categories"]]
    number = {category_id: label for label, category_id in enumerate(ids)}
    metric = CocoInstances([category["name"] for category in dataset["categories"]], ids)
    for image in dataset["images"]:
        size = (image["height"], image["width"])
        there = [row for row in dataset["annotations"] if row["image_id"] == image["id"]]
        found = [row for row in results if row["image_id"] == image["id"]]
        masks = []
        for row in there:
            objects = coco_mask.frPyObjects(row["segmentation"], *size)
            masks.append(coco_mask.merge(objects) if isinstance(objects, list) else objects)
        boxes = np.array([row["bbox"] for row in there], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        truth = Labels(
            size=size,
            boxes=boxes,
            labels=np.array([number[row["category_id"]] for row in there], np.int64),
            crowd=np.array([bool(row["iscrowd"]) for row in there], bool),
            areas=np.array([float(row["area"]) for row in there]),
            masks=tuple(masks),
        )
        rles = [{**row["segmentation"], "counts": row["segmentation"]["counts"].encode()} for row in found]
        labels = [number[row["category_id"]] for row in found]
        prediction = instances_of(rles, [row["score"] for row in found], labels, size)
        # float32 would make scores equal that are not.
        object.__setattr__(prediction, "scores", np.array([row["score"] for row in found], np.float64))
        metric.update(image["id"], prediction, truth)
    expected = json.loads((FIXTURES / "expected.json").read_text())["segm"]
    numbers = metric.compute()
    assert {name: numbers[name] for name in NUMBERS} == pytest.approx(expected, abs=1e-12)
    backend = coco_evaluate(dataset, results, "segm")
    np.testing.assert_array_equal([numbers[name] for name in NUMBERS], [backend[name] for name in NUMBERS])


def random_scene(rng: np.random.Generator, classes: int, detections: int) -> tuple[Instances, Labels]:
    """Ragged objects that overlap, some crowds; detections that are objects moved by some pixels, or anything."""

    def blob() -> np.ndarray:
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        centre, radius = rng.uniform(0, SIZE), rng.uniform(2, 28, 2)
        inside = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2 < 1
        return inside & (rng.random(SIZE) < 0.95)

    objects = [blob() for _ in range(int(rng.integers(0, 8)))]
    objects = [one for one in objects if one.any()]
    labels = rng.integers(0, classes, len(objects))
    found, found_labels = [], rng.integers(0, classes, detections)
    for row in range(detections):
        which = int(rng.integers(0, len(objects))) if objects and rng.random() < 0.7 else -1
        found.append(np.roll(objects[which], rng.integers(-3, 4, 2), (0, 1)) if which >= 0 else blob())
        found_labels[row] = labels[which] if which >= 0 else found_labels[row]
    encoded = [[coco_mask.encode(np.asfortranarray(one, np.uint8)) for one in side] for side in (objects, found)]
    crowd = rng.random(len(objects)) < 0.2
    scores = np.sort(np.round(rng.random(detections), 2))[::-1]
    return instances_of(encoded[1], scores, found_labels), truth_of(encoded[0], labels, crowd=crowd)


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, detections = [(1, 110), (3, 12)][seed % 2]
    ids = rng.permutation(50)[:classes].tolist()
    scenes = {int(image_id): random_scene(rng, classes, detections) for image_id in rng.permutation(99)[:6]}
    metric = CocoInstances([str(k) for k in range(classes)], ids)
    boxes = CocoDetection([str(k) for k in range(classes)], ids)
    rows, annotations = [], []
    for image_id, (prediction, truth) in scenes.items():
        metric.update(image_id, prediction, truth)
        boxes.update(image_id, Detections(prediction.boxes, prediction.scores, prediction.labels), truth)
        # Without a box, as in COCO's own results, the area of a row is that of its mask.
        rows += [{k: v for k, v in row.items() if k != "bbox"} for row in prediction.to_coco(image_id, ids)]
        for rle, label, area, crowd in zip(truth.masks, truth.labels, truth.areas, truth.crowd, strict=True):
            place = {"image_id": image_id, "category_id": ids[label], "area": float(area), "iscrowd": int(crowd)}
            annotations.append({**place, "segmentation": plain(rle)})
    images = [{"id": image_id, "height": SIZE[0], "width": SIZE[1]} for image_id in scenes]
    dataset = {"images": images, "categories": [{"id": k} for k in ids], "annotations": annotations}
    expected, numbers = coco_evaluate(dataset, rows, "segm"), metric.compute()
    np.testing.assert_array_equal([numbers[name] for name in NUMBERS], [expected[name] for name in NUMBERS])
    of_boxes = boxes.compute()
    for name in ("AP", "AP50", "AP75"):
        assert numbers[f"box_{name}"] == of_boxes[name]


def test_masks_and_boxes_by_hand() -> None:
    # The box is met exactly; the mask covers the left 3/4 of the object: right at 0.50 to 0.75, six of ten thresholds.
    metric = CocoInstances(["cell", "nucleus"])
    found = instances_of([rectangle(10, 10, 40, 50)], [0.9], [0])
    object.__setattr__(found, "boxes", np.array([[10, 10, 50, 50]], np.float32))
    metric.update(1, found, truth_of([rectangle(10, 10, 50, 50)]))
    numbers = metric.compute()
    assert [numbers[name] for name in ("AP", "AP50", "AP75", "AR100")] == pytest.approx([0.6, 1, 1, 0.6])
    assert [numbers[name] for name in ("box_AP", "box_AP50", "box_AP75")] == pytest.approx([1, 1, 1])
    assert metric.headline == "AP"
    assert metric.per_class()["cell"] == pytest.approx(0.6)
    assert np.isnan(metric.per_class()["nucleus"])
    assert set(metric.reasons) == {name for name, value in numbers.items() if np.isnan(value)}


def test_other_classes_masks_are_no_match_and_ignored_objects_are_neither() -> None:
    metric = CocoInstances(["cell", "nucleus"])
    there = [rectangle(0, 0, 40, 40), rectangle(40, 0, 80, 40)]
    truth = truth_of(there, [0, 0], ignore=np.array([False, True]))
    metric.update(1, instances_of([there[1], there[0], there[0]], [0.9, 0.8, 0.7], [0, 1, 0]), truth)
    assert metric.compute()["AP"] == pytest.approx(1.0)


def test_an_image_whose_masks_are_unknown_counts_for_its_boxes_alone() -> None:
    metric = CocoInstances(["cell"])
    there = [rectangle(0, 0, 40, 40)]
    metric.update(1, instances_of(there, [0.5], [0]), truth_of(there))
    metric.update(2, instances_of([rectangle(50, 0, 60, 10)], [0.9], [0]), truth_of(there, masks=False))
    numbers = metric.compute()
    assert numbers["AP"] == pytest.approx(1.0)
    assert numbers["box_AP"] < 0.5  # a false alarm before the right one, and an object that is not found
    metric.update(3, instances_of([], [], []), Labels(size=SIZE))
    assert set(metric.state()) == {1, 2}
    only_boxes = CocoInstances(["cell"])
    only_boxes.update(2, instances_of(there, [0.9], [0]), truth_of(there, masks=False))
    numbers = only_boxes.compute()
    assert np.isnan(numbers["AP"])
    assert numbers["box_AP"] == pytest.approx(1.0)
    assert only_boxes.reasons["AP"] == "no labelled object to be found"


def test_what_does_not_fit_is_refused() -> None:
    metric, there = CocoInstances(["cell"]), [rectangle(0, 0, 40, 40)]
    with pytest.raises(TypeError, match="Instances are wanted, not Detections"):
        metric.update(1, Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)), truth_of(there))
    with pytest.raises(ValueError, match="image 7: label 3 with 1 classes"):
        metric.update(7, instances_of(there, [0.9], [3]), truth_of(there))
    small = instances_of([], [], [], (30, 40))
    with pytest.raises(ValueError, match=r"image 7: masks of \(30, 40\) beside labels of \(60, 80\)"):
        metric.update(7, small, truth_of(there))
