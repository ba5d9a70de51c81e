"""Random ground truths and detections: both backends and our own metrics equal plain pycocotools, or say what is wrong.

Plain pycocotools reads the very input. Sides and scores come from few values, so that ties, sizes on the borders of the
area ranges and more detections than are counted are common.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visionkit.errors import DataError
from visionkit.metrics import CocoDetection, CocoInstances, coco_evaluate
from visionkit.metrics.coco_numbers import NUMBERS
from visionkit.predictions import Detections, Instances
from visionkit.structures import Geometry, Labels

Truth, Results = dict[str, Any], list[dict[str, Any]]
SIZE = (110, 120)
SIDES = st.sampled_from([0, 1, 20, 31.75, 32, 32.25, 64, 96, 96.5])
PLACES = st.sampled_from([0, 0.25, 2, 5, 10])
SCORES = st.sampled_from([-1, 0, 0.25, 0.5, 0.5, 0.75, 1e9])
PROPERTY = settings(
    derandomize=True, max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@st.composite
def scenes(draw: st.DrawFn, *, masks: bool = False) -> tuple[Truth, Results]:
    image_ids = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))
    category_ids = draw(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True))
    numbers = st.integers(1, 32) if masks else SIDES
    placed = st.fixed_dictionaries(
        {
            "image_id": st.sampled_from(image_ids),
            "category_id": st.sampled_from(category_ids),
            "bbox": st.tuples(*[st.integers(0, 20) if masks else PLACES] * 2, numbers, numbers).map(list),
        }
    )
    objects = draw(st.lists(placed, max_size=8))
    for number, row in enumerate(objects, start=1):
        area = row["bbox"][2] * row["bbox"][3]
        row |= {"id": number, "iscrowd": int(draw(st.integers(0, 5)) == 0)}
        row["area"] = draw(st.sampled_from([area, area, 32.0**2, 96.0**2, 96.0**2 + 1]))
    found = draw(st.lists(st.tuples(placed, SCORES), max_size=12))
    results = [{**row, "score": score} for row, score in found]
    if objects:
        exact = draw(st.lists(st.tuples(st.sampled_from(objects), SCORES), max_size=4))
        results += [{key: row[key] for key in ("image_id", "category_id", "bbox")} | {"score": s} for row, s in exact]
    results = draw(st.permutations(results))
    if results and not masks and draw(st.integers(0, 9)) == 0:  # more than are counted
        results = [{**row, "score": row["score"] - k / 64} for row in results[:3] for k in range(60)]
    results = copy.deepcopy(results)
    if masks:
        for row in [*objects, *results]:
            row["segmentation"] = rectangle(*row["bbox"])
        for row in results:
            del row["bbox"]
    images = [{"id": value, "height": SIZE[0], "width": SIZE[1]} for value in image_ids]
    categories = [{"id": value, "name": f"class {value}"} for value in category_ids]
    return {"images": images, "categories": categories, "annotations": objects}, results


def rectangle(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    bitmap = np.zeros(SIZE, np.uint8, order="F")
    bitmap[y : y + height, x : x + width] = 1
    encoded = coco_mask.encode(bitmap)
    return {"size": list(SIZE), "counts": encoded["counts"].decode()}


def plain(truth: Truth, results: Results, iou_type: str) -> list[float]:
    """pycocotools' stats by itself, -1 as nan."""
    with contextlib.redirect_stdout(io.StringIO()):
        there, found = COCO(), COCO()
        there.dataset = copy.deepcopy(truth)
        there.createIndex()
        found.dataset = {**there.dataset, "annotations": []}
        found.createIndex()
        if results:
            found = there.loadRes(copy.deepcopy(results))
        evaluation = COCOeval(there, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float("nan") if value == -1 else float(value) for value in evaluation.stats]


def own(truth: Truth, results: Results, iou_type: str) -> list[float]:
    """The same by the metric that scores runs, fed image by image."""
    ids = [category["id"] for category in truth["categories"]]
    metric = (CocoDetection if iou_type == "bbox" else CocoInstances)([str(value) for value in ids], ids)
    for image in reversed(truth["images"]):
        objects = [row for row in truth["annotations"] if row["image_id"] == image["id"]]
        found = [row for row in results if row["image_id"] == image["id"]]
        masks = [row["segmentation"] for row in found] if iou_type == "segm" else []
        labels = Labels(
            size=SIZE,
            boxes=xyxy([row["bbox"] for row in objects]),
            labels=np.array([ids.index(row["category_id"]) for row in objects], np.int64),
            crowd=np.array([row["iscrowd"] for row in objects], bool),
            areas=np.array([row["area"] for row in objects], np.float64),
            masks=tuple(row["segmentation"] for row in objects) if iou_type == "segm" else None,
        )
        boxes = xyxy(coco_mask.toBbox(masks) if masks else [row["bbox"] for row in found if iou_type == "bbox"])
        scores = np.array([row["score"] for row in found], np.float64)
        rows = boxes, scores, np.array([ids.index(row["category_id"]) for row in found], np.int64)
        if iou_type == "bbox":
            metric.update(image["id"], Detections(*rows), labels)
        else:
            grid = np.zeros((len(found), 1)), np.zeros((1, 1, 1)), Geometry(SIZE, SIZE, (1.0, 1.0)), 120.0
            metric.update(image["id"], Instances(*rows, *grid, rles=tuple(masks)), labels)
    numbers = metric.compute()
    assert {name for name in NUMBERS if np.isnan(numbers[name])} == {n for n in metric.reasons if n in NUMBERS}
    return [numbers[name] for name in NUMBERS]


def xyxy(rows: Any) -> np.ndarray:
    boxes = np.array(rows, np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def all_equal(truth: Truth, results: Results, iou_type: str) -> None:
    expected = plain(truth, results, iou_type)
    np.testing.assert_array_equal(list(coco_evaluate(truth, results, iou_type).values()), expected)
    np.testing.assert_array_equal(own(truth, results, iou_type), expected)
    if find_spec("faster_coco_eval") is not None:
        numbers = coco_evaluate(truth, results, iou_type, "faster-coco-eval")
        # pycocotools adds 2^-52 to each divisor, and says 0.9999999999999998 for 1.
        np.testing.assert_allclose(list(numbers.values()), expected, rtol=0, atol=1e-12)


@PROPERTY
@given(scenes())
def test_boxes_equal_plain_pycocotools(scene: tuple[Truth, Results]) -> None:
    all_equal(*scene, "bbox")


@PROPERTY
@given(scenes(masks=True))
def test_masks_equal_plain_pycocotools(scene: tuple[Truth, Results]) -> None:
    all_equal(*scene, "segm")


# ------------------------------------------------------------------------------------------------------ invalid input
NAN, INFINITE = float("nan"), float("inf")
Change = Callable[[dict[str, Any]], Any]


def put(key: str, *values: Any) -> list[Change]:
    return [lambda row, value=value: row.update({key: value}) for value in values]


def put_in(key: str, place: Any, *values: Any) -> list[Change]:
    def change(row: dict[str, Any], value: Any) -> None:
        row[key] = copy.deepcopy(row[key])
        row[key][place] = value

    return [lambda row, value=value: change(row, value) for value in values]


PLACED = [
    *put("image_id", 77, "1", None, 1.5, NAN, [1], True, {}),
    *put("category_id", 777, "1", None, INFINITE, []),
]
BOXES = [
    *put("bbox", None, [], [1, 2, 3], "box", {"x": 1}, [1, 2, 3, 4, 5], [0, 0, 1e6, 1e6], [1e10, 0, 1, 1]),
    *[change for place in range(4) for change in put_in("bbox", place, NAN, INFINITE, -INFINITE, None, "5", [1], True)],
    *[change for place in (2, 3) for change in put_in("bbox", place, -1, -1e-9)],
]
MASKS = [
    *put("segmentation", None, [], "mask", [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, NAN, 4, 5, 6]], [1, 2]),
    *put("segmentation", [[0, 0, 1e9, 0, 0, 5]], [[0, 0, 5, -1e300, 0, 5]], {"size": SIZE}, {"counts": [1]}),
    *put_in("segmentation", "size", [10, 10], list(reversed(SIZE)), None, 5, "ab"),
    *put_in("segmentation", "counts", [], [5], [-1, 13201], [[1], 2], [1.5], ["a"], None, "", "\n", "é", "0", "~~", 7),
]
TRUTH = [
    *put("iscrowd", 2, -1, None, "yes", NAN, [0]),
    *put("area", -1, NAN, INFINITE, "12", 1e11, [1]),
    *put("id", 1.5, NAN, [], True),
    *put("ignore", 2),
]
FOUND = put("score", None, NAN, INFINITE, "0.5", [], True)
WHOLE: list[Change] = [
    *put("images", None, {}, [{}], [5], [{"id": None}]),
    *put("categories", None, [{"id": 1}, {"id": 1}], [[]]),
    *put("annotations", None, "x", [None], {"0": {}}),
    lambda truth: truth["images"].append(dict(truth["images"][0])),
    lambda truth: truth["categories"].append({"id": float(truth["categories"][0]["id"])}),
    lambda truth: truth["annotations"].append(dict(truth["annotations"][0])),
    lambda truth: truth.pop("annotations"),
]
SIZES = [*put("height", None, 0, -5, 1.5, NAN, "5", 10**8), *put("width", None, 50, 10**400)]


CHANGES = {
    "bbox": {"truth": WHOLE, "objects": [*PLACED, *TRUTH, *BOXES], "found": [*PLACED, *FOUND, *BOXES]},
    "segm": {
        "truth": WHOLE,
        "images": SIZES,
        "objects": [*PLACED, *TRUTH, *MASKS],
        "found": [*PLACED, *FOUND, *MASKS],
    },
}


def places(truth: Truth, results: Results) -> dict[str, list[dict[str, Any]]]:
    return {"truth": [truth], "images": truth["images"], "objects": truth["annotations"], "found": results}


def refused(truth: Any, results: Any, iou_type: str) -> None:
    """Both names of backends are behind one gate: one line, with a JSON pointer and a mend."""
    with pytest.raises(DataError) as caught:
        coco_evaluate(truth, results, iou_type)
    message = str(caught.value)
    assert "\n" not in message
    assert message.count(": ") >= 3, message  # whose input, where, what is wrong, how to mend it
    assert message.startswith(("ground truth: /", "detections: /"))


@PROPERTY
@given(scenes(), scenes(masks=True), st.data())
def test_what_is_not_valid_is_refused_in_one_line(
    boxes: tuple[Truth, Results], masks: tuple[Truth, Results], data: st.DataObject
) -> None:
    iou_type = data.draw(st.sampled_from(sorted(CHANGES)))
    truth, results = copy.deepcopy(boxes if iou_type == "bbox" else masks)
    assume(truth["annotations"] and results)
    where, changes = data.draw(st.sampled_from(sorted(CHANGES[iou_type].items())))
    data.draw(st.sampled_from(changes))(data.draw(st.sampled_from(places(truth, results)[where])))
    refused(truth, results, iou_type)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_every_fault_is_refused_wherever_it_is(iou_type: str) -> None:
    row = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "segmentation": rectangle(10, 10, 20, 20)}
    rows = [row, {**row, "image_id": 2}]
    images = [{"id": value, "height": SIZE[0], "width": SIZE[1]} for value in (1, 2)]
    objects = [{**one, "id": number, "iscrowd": 0, "area": 400} for number, one in enumerate(rows)]
    categories = [{"id": 1, "name": "cell"}]
    valid = {"images": images, "categories": categories, "annotations": objects}, [{**one, "score": 1} for one in rows]
    assert coco_evaluate(*valid, iou_type)["AP"] == pytest.approx(1.0)
    for where, changes in CHANGES[iou_type].items():
        for change in changes:
            truth, results = copy.deepcopy(valid)
            change(places(truth, results)[where][-1])
            refused(truth, results, iou_type)
