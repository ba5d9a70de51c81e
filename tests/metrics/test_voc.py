"""VOC's average precision: the values of a known case, by hand, and against a plain script of its rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visionkit.errors import DataError, UserError
from visionkit.metrics import CocoDetection, CocoInstances, voc_evaluate
from visionkit.metrics.voc import VOC_NUMBERS
from visionkit.predictions import Detections, Instances
from visionkit.structures import Geometry, Labels

FIXTURES = Path(__file__).parents[2].parent / "shared" / "data" / "coco_eval_fixtures"


def dataset(boxes: list[Any], **flags: list[int]) -> dict[str, Any]:
    """One image; boxes as [category id, xmin, ymin, xmax, ymax]; flags row by row."""
    rows = [
        {"image_id": 1, "category_id": k, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        | {name: values[row] for name, values in flags.items()}
        for row, (k, x1, y1, x2, y2) in enumerate(boxes)
    ]
    categories = [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}]
    return {"images": [{"id": 1}, {"id": 2}], "categories": categories, "annotations": rows}


def results(*boxes: Any, image_id: int = 1) -> list[dict[str, Any]]:
    """Boxes as [category id, score, xmin, ymin, xmax, ymax]."""
    return [
        {"image_id": image_id, "category_id": k, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for k, score, x1, y1, x2, y2 in boxes
    ]


def known_case() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Files of lines "class [score] x y width height", one a image."""
    sides: dict[str, list[dict[str, Any]]] = {"gts": [], "dets": []}
    for side, rows in sides.items():
        for file in sorted((FIXTURES / "voc" / side).glob("*.txt")):
            for line in file.read_text().splitlines():
                _, *numbers = line.split()
                *score, x, y, width, height = map(float, numbers)
                row = {"image_id": file.stem, "category_id": "object", "bbox": [x, y, width, height]}
                rows.append(row | ({"score": score[0]} if score else {}))
    images = [{"id": file.stem} for file in sorted((FIXTURES / "voc" / "gts").glob("*.txt"))]
    truth = {"images": images, "categories": [{"id": "object", "name": "object"}], "annotations": sides["gts"]}
    return truth, sides["dets"]


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the fixtures are not beside the repository")
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.75])
def test_the_known_values(threshold: float) -> None:
    expected = json.loads((FIXTURES / "expected.json").read_text())["voc_case"]
    numbers = voc_evaluate(*known_case(), threshold)
    names = ["VOC_AP", "VOC07_AP", "VOC_AP/object", "VOC07_AP/object"]
    assert list(numbers) == names
    of = {"VOC_AP": "every_point", "VOC07_AP": "eleven_point"}
    assert numbers == pytest.approx(
        {name: expected[of[name.partition("/")[0]]][str(threshold)] for name in names}, abs=1e-9
    )


def test_both_areas_by_hand() -> None:
    # Of three cats two are found, with a false alarm between them: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3.
    truth = dataset([[9, 0, 0, 40, 40], [9, 100, 0, 140, 40], [9, 200, 0, 240, 40], [3, 0, 0, 10, 10]])
    found = results([9, 0.7, 100, 0, 140, 40], [9, 0.8, 500, 500, 540, 540], [9, 0.9, 0, 0, 40, 40])
    numbers = voc_evaluate(truth, found)
    assert numbers["VOC_AP/cat"] == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert numbers["VOC07_AP/cat"] == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)  # 0 to 0.3, and 0.4 to 0.6
    assert numbers["VOC_AP/dog"] == numbers["VOC07_AP/dog"] == 0
    assert numbers["VOC_AP"] == pytest.approx(numbers["VOC_AP/cat"] / 2)
    assert list(numbers) == ["VOC_AP", "VOC07_AP", "VOC_AP/dog", "VOC_AP/cat", "VOC07_AP/dog", "VOC07_AP/cat"]


def test_pixels_on_the_edges_are_inside() -> None:
    # 10 x 10 pixels from 0 to 9, of which the upper 5 rows are found: an IoU of one half, reached; by edges 36 / 81.
    truth = dataset([[9, 0, 0, 9, 9]])
    assert voc_evaluate(truth, results([9, 0.5, 0, 0, 9, 4]))["VOC_AP"] == 1
    assert voc_evaluate(truth, results([9, 0.5, 0, 0, 9, 4]), 0.51)["VOC_AP"] == 0


def test_a_detection_answers_for_the_object_that_it_overlaps_most_and_for_no_other() -> None:
    # COCO would give the second one the object on the right, which it reaches, too.
    truth = dataset([[9, 0, 0, 99, 99], [9, 20, 0, 119, 99]])
    found = results([9, 0.9, 0, 0, 99, 99], [9, 0.8, 5, 0, 104, 99])
    assert voc_evaluate(truth, found)["VOC_AP"] == pytest.approx(0.5)


@pytest.mark.parametrize("flag", ["difficult", "ignore", "iscrowd"])
def test_difficult_objects_need_not_be_found_and_may_be(flag: str) -> None:
    truth = dataset([[9, 0, 0, 99, 99], [9, 200, 0, 299, 99]], **{flag: [0, 1]})
    on_it = [[9, 0.9, 200, 0, 299, 99], [9, 0.8, 200, 0, 299, 98]]
    assert voc_evaluate(truth, results(*on_it, [9, 0.1, 0, 0, 99, 99]))["VOC_AP"] == 1
    assert voc_evaluate(truth, results([9, 0.9, 200, 0, 240, 99], [9, 0.1, 0, 0, 99, 99]))["VOC_AP"] == 0.5
    alone = voc_evaluate(dataset([[9, 0, 0, 99, 99]], **{flag: [1]}), results(*on_it))
    assert all(np.isnan(value) for value in alone.values())


def test_nothing_found_nothing_there_and_what_is_wrong() -> None:
    truth = dataset([[9, 0, 0, 9, 9]])
    assert voc_evaluate(truth, [])["VOC_AP"] == 0
    assert np.isnan(voc_evaluate(truth, [])["VOC_AP/dog"])
    assert voc_evaluate(truth, results([9, 0.9, 0, 0, 9, 9], image_id=2))["VOC07_AP"] == 0
    empty = voc_evaluate(dataset([]), results([9, 0.9, 0, 0, 9, 9]))
    assert all(np.isnan(value) for value in empty.values())
    with pytest.raises(DataError, match=r"^detections: /0/bbox/2: -5 cannot be in a box"):
        voc_evaluate(truth, results([9, 0.9, 5, 0, 0, 9]))
    with pytest.raises(DataError, match=r"^ground truth: /categories: 'cat' is the name of two: give every category"):
        voc_evaluate({**truth, "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "cat"}]}, [])
    with pytest.raises(UserError, match=r"iou_threshold is above 0 and at most 1, not 50"):
        voc_evaluate(truth, [], 50)


def by_the_rules(truth: dict[str, Any], found: list[dict[str, Any]], category: int) -> list[float]:
    """The development kit's loop over the detections, one by one."""
    there = [row for row in truth["annotations"] if row["category_id"] == category]
    wanted = sum(not row["difficult"] for row in there)
    taken, right, wrong, recall, precision = set(), 0, 0, [], []
    mine = [row for row in found if row["category_id"] == category]
    for row in sorted(mine, key=lambda row: (-row["score"], row["image_id"])):
        best, which = 0.0, None
        for number, one in enumerate(there):
            (x, y, w, h), (u, v, s, t) = row["bbox"], one["bbox"]
            across, down = min(x + w, u + s) - max(x, u) + 1, min(y + h, v + t) - max(y, v) + 1
            if one["image_id"] != row["image_id"] or across <= 0 or down <= 0:
                continue
            iou = across * down / ((w + 1) * (h + 1) + (s + 1) * (t + 1) - across * down)
            best, which = (iou, number) if iou > best else (best, which)
        if which is not None and best >= 0.5 and there[which]["difficult"]:
            continue
        hit = which is not None and best >= 0.5 and which not in taken
        taken |= {which} if hit else set()
        right, wrong = right + hit, wrong + (not hit)
        recall.append(right / wanted if wanted else 0)
        precision.append(right / (right + wrong))
    if not wanted:
        return [float("nan")] * 2
    eleven = [max([p for p, r in zip(precision, recall, strict=True) if r >= k * 0.1], default=0) for k in range(11)]
    steps = np.diff([0, *recall])
    every = sum(step * max(precision[k:]) for k, step in enumerate(steps))
    return [float(every), sum(eleven) / 11]


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_rules_one_by_one_and_as_a_metric_of_runs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = dataset([], difficult=[])
    for image_id in (1, 2):
        corner, sides = rng.integers(0, 60, (12, 2)), rng.integers(1, 60, (12, 2))
        for box in np.concatenate([corner, sides], axis=1).tolist():
            row = {"image_id": image_id, "category_id": int(rng.choice([3, 9])), "bbox": box}
            truth["annotations"].append(row | {"difficult": int(rng.random() < 0.2)})
    found = []
    for k in range(300):
        near = truth["annotations"][rng.integers(0, 24)]
        box = (np.array(near["bbox"]) + rng.integers(-4, 5, 4)).clip(0).tolist()
        found.append({**near, "bbox": box, "score": round(float(rng.random()), 2)} if k % 5 else {**near, "score": 0.5})
    numbers = voc_evaluate(truth, found)
    for category, name in ((9, "cat"), (3, "dog")):
        # More than a hundred detections of a class in an image: VOC counts them all. Of equal scores in one image the
        # order of the list decides on both sides.
        expected = by_the_rules(truth, found, category)
        assert [numbers[f"{number}/{name}"] for number in VOC_NUMBERS] == pytest.approx(expected, abs=1e-12)
    boxes, masked = CocoDetection(["cat", "dog"], [9, 3], voc=True), CocoInstances(["cat", "dog"], [9, 3], voc=True)
    for image_id in (1, 2):
        objects = [row for row in truth["annotations"] if row["image_id"] == image_id]
        mine = [row for row in found if row["image_id"] == image_id]
        labels = Labels(
            size=(200, 200),
            boxes=xyxy(objects),
            labels=np.array([[9, 3].index(row["category_id"]) for row in objects]),
            ignore=np.array([bool(row["difficult"]) for row in objects]),
        )
        scores = np.array([row["score"] for row in mine])
        rows = xyxy(mine), scores, np.array([[9, 3].index(row["category_id"]) for row in mine])
        grid = np.zeros((len(mine), 1)), np.zeros((1, 1, 1)), Geometry((200, 200), (200, 200), (1.0, 1.0)), 200.0
        boxes.update(image_id, Detections(*rows), labels)
        masked.update(image_id, Instances(*rows, *grid), labels)
    of_runs, of_instances = boxes.compute(), masked.compute()
    for name in VOC_NUMBERS:
        assert of_runs[name] == of_instances[f"box_{name}"] == pytest.approx(numbers[name], abs=1e-12)
    assert of_runs["AP50"] == of_instances["box_AP50"]


def xyxy(rows: list[dict[str, Any]]) -> np.ndarray:
    boxes = np.array([row["bbox"] for row in rows], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
