"""COCO's numbers: against the published ones, by hand, and against pycocotools on random scenes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visionkit.errors import DataError, UserError
from visionkit.metrics import CocoDetection, coco_evaluate
from visionkit.metrics.coco_numbers import NUMBERS
from visionkit.predictions import Detections
from visionkit.structures import Labels

FIXTURES = Path(__file__).parents[2].parent / "shared" / "data" / "coco_eval_fixtures"
BACKENDS = ["pycocotools", "faster", "faster-coco-eval"]


def truth_of(boxes: Any, labels: Any = None, **more: Any) -> Labels:
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    labels = np.zeros(len(boxes), np.int64) if labels is None else np.asarray(labels, np.int64)
    return Labels(size=(1000, 1000), boxes=boxes, labels=labels, **more)


def found(boxes: Any, scores: Any, labels: Any = None) -> Detections:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), np.int64) if labels is None else np.asarray(labels, np.int64)
    return Detections(boxes, np.asarray(scores, np.float32), labels)


def scored(prediction: Detections, truth: Labels, classes: int = 1) -> dict[str, float]:
    metric = CocoDetection([f"class {k}" for k in range(classes)])
    metric.update(1, prediction, truth)
    return metric.compute()


def dataset(**more: Any) -> dict[str, Any]:
    """One image, one category, one box of 100 x 100."""
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 100, 100], "area": 10000, "iscrowd": 0}
    sides = {"images": [{"id": 1, "height": 200, "width": 200}], "categories": [{"id": 1, "name": "cell"}]}
    return {**sides, "annotations": [row], **more}


def result(**more: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 1, "bbox": [10, 10, 100, 100], "score": 0.9, **more}


# ------------------------------------------------------------------------------------------------------ coco_evaluate
@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the fixtures are not beside the repository")
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_published_numbers(iou_type: str, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    if backend != "pycocotools":
        pytest.importorskip("faster_coco_eval")
    expected = json.loads((FIXTURES / "expected.json").read_text())[iou_type]
    results = FIXTURES / f"instances_val2014_fake{iou_type}100_results.json"
    numbers = coco_evaluate(FIXTURES / "instances_val2014_100.json", str(results), iou_type, backend)
    assert numbers == pytest.approx(expected, abs=1e-9)
    assert list(numbers) == list(NUMBERS)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_backends_score_silently_wrong_is_right_here(backend: str) -> None:
    if backend != "pycocotools":
        pytest.importorskip("faster_coco_eval")
    truth = dataset()
    truth["annotations"] = [
        {"id": 0, "image_id": 1, "category_id": 1, "bbox": [10, 10, 100, 100]},  # id 0; no area, no iscrowd
        {"image_id": 1, "category_id": 1, "bbox": [150, 150, 20, 20]},  # no id
    ]
    results = [result(), result(bbox=[150, 150, 20, 20])]
    before = copy.deepcopy((truth, results))
    numbers = coco_evaluate(truth, results, backend=backend)
    assert [numbers[name] for name in ("AP", "AP_small", "AP_large", "AR1")] == pytest.approx([1, 1, 1, 0.5])
    assert np.isnan(numbers["AP_medium"])
    assert (truth, results) == before


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("results", [[], {"annotations": []}])
def test_no_detection_is_zero_and_no_object_is_not_a_number(backend: str, results: Any) -> None:
    if backend != "pycocotools":
        pytest.importorskip("faster_coco_eval")
    numbers = coco_evaluate(dataset(), results, backend=backend)
    zero = {"AP", "AP50", "AP75", "AP_large", "AR1", "AR10", "AR100", "AR_large"}
    assert {name for name, value in numbers.items() if value == 0} == zero
    assert all(np.isnan(numbers[name]) for name in set(NUMBERS) - zero)
    for truth, rows in (
        (dataset(annotations=[]), [result()]),
        ({"images": [], "categories": [], "annotations": []}, []),
    ):
        assert all(np.isnan(value) for value in coco_evaluate(truth, rows, backend=backend).values())


def test_string_ids_are_taken_if_both_sides_use_them() -> None:
    truth = dataset(images=[{"id": "a"}, {"id": "b"}], categories=[{"id": "cell", "name": "cell"}])
    truth["annotations"][0].update(image_id="b", category_id="cell")
    assert coco_evaluate(truth, [result(image_id="b", category_id="cell")])["AP"] == pytest.approx(1.0)
    with pytest.raises(DataError, match=r"detections: /0/image_id: 'x' is not in the ground truth: take it out"):
        coco_evaluate(truth, [result(image_id="x", category_id="cell")])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"bbox": [10, 10, float("nan"), 100]}, "/0/bbox/2: nan cannot be in a box"),
        ({"bbox": [10, 10, -5, 100]}, "/0/bbox/2: -5 cannot be in a box"),
        ({"bbox": [10, 10, 100]}, r"/0/bbox: \[10, 10, 100\] is no box"),
        ({"bbox": [10, "10", 100, 100]}, "/0/bbox/1: '10' cannot be in a box"),
        (
            {"bbox": [0, 0, 1e6, 1e6]},
            r"/0/bbox: \[0, 0, 1000000.0, 1000000.0\] is too large: COCO's numbers are of obj",
        ),
        ({"score": None}, "/0/score: None is no score"),
        ({"score": float("inf")}, "/0/score: inf is no score"),
        ({"image_id": 2}, "/0/image_id: 2 is not in the ground truth"),
        ({"image_id": "1"}, "/0/image_id: '1' is not .*: the ground truth has it as a number; write ids alike"),
        ({"category_id": 7}, "/0/category_id: 7 is not in the ground truth"),
        ({"category_id": True}, "/0/category_id: True is no id"),
    ],
)
def test_bad_detections_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^detections: {message}"):
        coco_evaluate(dataset(), [result(**row)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [{"id": 1}, {"id": 1}]}, "/images/1/id: 1 is also the id of /images/0"),
        ({"categories": [{"id": 1}, {"id": 1.0}]}, "/categories/1/id: 1 is also the id of /categories/0"),
        ({"annotations": [{**result(), "id": 5}] * 2}, "/annotations/1/id: 5 is also the id of /annotations/0: give"),
        ({"annotations": [{**result(), "area": 2e10}]}, "/annotations/0/area: 20000000000.0 is too large"),
        ({"categories": [{"name": "cell"}]}, "/categories/0/id: None is no id"),
        ({"annotations": None}, "/annotations: None is no list"),
        ({"annotations": ["x"]}, "/annotations/0: 'x' is no object"),
        ({"annotations": [{**result(), "iscrowd": 2}]}, "/annotations/0/iscrowd: 2 is neither 0 nor 1"),
        ({"annotations": [{**result(), "area": -1}]}, "/annotations/0/area: -1 is no area"),
        ({"annotations": [{**result(), "category_id": 3}]}, "/annotations/0/category_id: 3 is not in the ground truth"),
        ({"annotations": [{**result(), "bbox": None}]}, "/annotations/0/bbox: None is no box"),
    ],
)
def test_a_bad_ground_truth_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^ground truth: {message}"):
        coco_evaluate(dataset(**change), [result()])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "/0/segmentation: None is no mask"),
        ([[1, 1, 5, 5]], r"/0/segmentation/0: \[1, 1, 5, 5\] is no polygon"),
        ({"size": [10, 10], "counts": [100]}, r"/0/segmentation/size: \[10, 10\] is not the image's \[200, 200\]"),
        ({"size": [200, 200], "counts": [100]}, r"/0/segmentation/counts: \[100\] do not fill 200 x 200 pixels"),
        ({"size": [200, 200], "counts": "0"}, "/0/segmentation/counts: '0' do not fill"),
        ({"size": [200, 200], "counts": "~~~"}, "/0/segmentation/counts: '~~~' do not fill"),
        ({"size": [200, 200], "counts": ""}, "/0/segmentation/counts: '' do not fill"),
    ],
)
def test_bad_masks_are_refused(mask: Any, message: str) -> None:
    truth = dataset()
    truth["annotations"][0]["segmentation"] = [[10, 10, 110, 10, 110, 110, 10, 110]]
    with pytest.raises(DataError, match=f"^detections: {message}"):
        coco_evaluate(truth, [result(segmentation=mask)], "segm")


def test_masks_of_every_kind_are_one_mask() -> None:
    polygon = [[10, 10, 110, 10, 110, 110, 10, 110]]
    runs = [10 * 200 + 10, 100] + [100, 100] * 99 + [90 + 90 * 200]
    truth = dataset()
    for truth_mask in (polygon, {"size": [200, 200], "counts": runs}):
        truth["annotations"][0] = {k: v for k, v in truth["annotations"][0].items() if k not in ("area", "bbox")}
        truth["annotations"][0]["segmentation"] = truth_mask
        numbers = coco_evaluate(truth, [result(segmentation=polygon)], "segm")
        assert numbers["AP"] == numbers["AP_large"] == pytest.approx(1.0)


def test_files_and_arguments_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json: cannot be read"):
        coco_evaluate(tmp_path / "absent.json", [])
    (tmp_path / "half.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"half\.json: is not JSON"):
        coco_evaluate(dataset(), tmp_path / "half.json")
    with pytest.raises(DataError, match=r"detection, masks.* of one"):
        coco_evaluate(dataset(), {"detection": [], "masks": []})
    with pytest.raises(UserError, match="iou_type is 'bbox' or 'segm', not 'box'"):
        coco_evaluate(dataset(), [], "box")
    with pytest.raises(UserError, match="backend is"):
        coco_evaluate(dataset(), [], backend="fast")


# ------------------------------------------------------------------------------------------------------ CocoDetection
def test_average_precision_by_hand() -> None:
    # Of three objects two are found, with a false alarm between them: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3.
    # Its envelope is 1 up to recall 1/3 (34 of the 101 points), 2/3 up to 2/3 (33 points), 0 beyond.
    truth = truth_of([[0, 0, 40, 40], [100, 0, 140, 40], [200, 0, 240, 40]])
    numbers = scored(found([[0, 0, 40, 40], [500, 500, 540, 540], [100, 0, 140, 40]], [0.9, 0.8, 0.7]), truth)
    expected = (34 * 1 + 33 * 2 / 3) / 101
    assert numbers["AP"] == numbers["AP50"] == numbers["AP75"] == numbers["AP_medium"] == pytest.approx(expected)
    assert (numbers["AR1"], numbers["AR10"], numbers["AR100"]) == pytest.approx((1 / 3, 2 / 3, 2 / 3))
    assert np.isnan(numbers["AP_small"])


def test_thresholds_count_from_a_half_to_95_hundredths() -> None:
    # An IoU of 0.72: right at 0.50, 0.55, 0.60, 0.65 and 0.70.
    numbers = scored(found([[0, 0, 72, 100]], [0.5]), truth_of([[0, 0, 100, 100]]))
    assert (numbers["AP"], numbers["AP50"], numbers["AP75"]) == pytest.approx((0.5, 1.0, 0.0))


def test_a_second_detection_of_an_object_is_wrong_and_the_better_scored_one_counts() -> None:
    truth = truth_of([[0, 0, 100, 100]])
    assert scored(found([[0, 0, 100, 100], [0, 0, 100, 99]], [0.9, 0.8]), truth)["AP"] == pytest.approx(1.0)
    numbers = scored(found([[0, 0, 100, 60], [0, 0, 100, 100]], [0.9, 0.8]), truth)
    # At 0.50 to 0.60 the first one takes the object; above, it is a false alarm before the right one.
    assert numbers["AP"] == pytest.approx((3 * 1 + 7 * 0.5) / 10)


def test_what_crowds_cover_is_ignored() -> None:
    truth = truth_of([[0, 0, 100, 100], [200, 0, 800, 600]], crowd=np.array([False, True]))
    inside = [[210 + 50 * k, 100, 240 + 50 * k, 130] for k in range(5)]  # small, all in the crowd
    assert scored(found([*inside, [0, 0, 100, 100]], [0.9] * 5 + [0.1]), truth)["AP"] == pytest.approx(1.0)


def test_ignored_objects_absorb_detections_by_plain_iou() -> None:
    truth = truth_of([[0, 0, 100, 100], [200, 0, 800, 600]], ignore=np.array([False, True]))
    on_it = [[200, 0, 800, 600], [200, 0, 800, 599]]
    assert scored(found([*on_it, [0, 0, 100, 100]], [0.9, 0.8, 0.1]), truth)["AP"] == pytest.approx(1.0)
    # Not so what merely lies inside, which a crowd would absorb.
    assert scored(found([[210, 100, 240, 130], [0, 0, 100, 100]], [0.9, 0.1]), truth)["AP"] == pytest.approx(0.5)
    # An object that counts goes before one that is ignored, though it overlaps less.
    both = truth_of([[0, 0, 100, 90], [0, 0, 100, 100]], ignore=np.array([False, True]))
    assert scored(found([[0, 0, 100, 100]], [0.9]), both)["AP50"] == pytest.approx(1.0)


def test_sizes_go_by_the_source_s_own_area() -> None:
    numbers = scored(found([[0, 0, 100, 100]], [0.9]), truth_of([[0, 0, 100, 100]], areas=np.array([500.0])))
    assert numbers["AP_small"] == pytest.approx(1.0)
    assert np.isnan(numbers["AP_large"])


def test_reasons_say_why_there_is_no_number() -> None:
    metric = CocoDetection(["cell", "nucleus"])
    metric.update(1, found([[0, 0, 100, 100]], [0.9]), truth_of([[0, 0, 100, 100]]))
    numbers = metric.compute()
    assert set(metric.reasons) == {name for name, value in numbers.items() if np.isnan(value)}
    assert metric.reasons["AR_small"] == "no labelled object of at most 32² pixels"
    per_class = metric.per_class()
    assert per_class["cell"] == pytest.approx(1.0)
    assert np.isnan(per_class["nucleus"])


def test_the_table_of_classes_by_hand() -> None:
    # Of two cells one is met at an IoU of 0.72 and one not at all; a crowd of cells and an ignored one do not count.
    boxes = [[0, 0, 100, 100], [200, 0, 300, 100], [400, 0, 500, 100], [600, 0, 700, 100]]
    crowd, ignore = np.array([False, False, True, False]), np.array([False, False, False, True])
    metric = CocoDetection(["nucleus", "cell"], [7, 3], voc=True)
    truth = truth_of(boxes, [1, 1, 1, 1], crowd=crowd, ignore=ignore)
    metric.update(1, found([[0, 0, 72, 100]], [0.9], [1]), truth)
    table = metric.class_table()
    assert list(table) == ["nucleus", "cell"]
    # Precision is 1 up to a recall of 1/2, at 51 of the 101 points: at five of ten thresholds, 0.75 not among them.
    cell = {"AP": 51 / 101 / 2, "AP50": 51 / 101, "AP75": 0.0, "AR100": 0.25, "VOC_AP": 0.5, "VOC07_AP": 6 / 11}
    assert table["cell"] == pytest.approx({**cell, "objects": 2})
    assert type(table["cell"]["objects"]) is int
    assert table["nucleus"].pop("objects") == 0
    assert all(np.isnan(value) for value in table["nucleus"].values())
    assert list(table["nucleus"]) == list(cell)
    assert {"VOC_AP": 0.5, "VOC07_AP": 6 / 11}.items() <= metric.compute().items()
    assert "VOC_AP" not in CocoDetection(["cell"]).compute()


def test_what_a_broken_model_gives_is_refused() -> None:
    metric, truth = CocoDetection(["cell"]), truth_of([[0, 0, 100, 100]])
    for prediction in (found([[0, 0, np.nan, 1]], [0.9]), found([[0, 0, 1, 1]], [np.nan])):
        with pytest.raises(ValueError, match="image 7: a predicted box or score is not finite"):
            metric.update(7, prediction, truth)
    with pytest.raises(ValueError, match="image 7: label 1 with 1 classes"):
        metric.update(7, found([[0, 0, 1, 1]], [0.9], [1]), truth)
    with pytest.raises(ValueError, match="1 category ids beside 2 classes"):
        CocoDetection(["a", "b"], [1])


def random_scene(rng: np.random.Generator, classes: int, detections: int) -> tuple[Detections, Labels]:
    """Objects of all sizes, some crowds, detections on and beside them, many equal scores."""
    objects = int(rng.integers(0, 12))
    corner, sides = rng.uniform(0, 500, (objects, 2)), np.exp(rng.uniform(2, 5.3, (objects, 2)))
    areas, crowd = sides.prod(axis=1) * rng.uniform(0.4, 1, objects), rng.random(objects) < 0.15
    labels = rng.integers(0, classes, objects)
    truth = truth_of(np.concatenate([corner, corner + sides], axis=1), labels, areas=areas, crowd=crowd)
    corner = rng.uniform(0, 500, (detections, 2))
    boxes = np.concatenate([corner, corner + np.exp(rng.uniform(2, 5, (detections, 2)))], axis=1)
    found_labels = rng.integers(0, classes, detections)
    if objects:
        on_object, near = rng.integers(0, objects, detections), rng.random(detections) < 0.5
        boxes[near] = truth.boxes[on_object[near]] + rng.normal(0, 5, (near.sum(), 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        found_labels[near] = labels[on_object[near]]
    scores = np.sort(np.round(rng.random(detections), 2))[::-1]
    return found(boxes, scores, found_labels), truth


@pytest.mark.parametrize("seed", range(9))
def test_equals_pycocotools_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, detections = [(1, 150), (3, 20), (10, 120)][seed % 3]
    ids = rng.permutation(100)[:classes].tolist()
    scenes = {int(image_id): random_scene(rng, classes, detections) for image_id in rng.permutation(1000)[:8]}
    metric = CocoDetection([str(k) for k in range(classes)], ids)
    rows, annotations = [], []
    for image_id, (prediction, truth) in scenes.items():
        metric.update(image_id, prediction, truth)
        rows += prediction.to_coco(image_id, ids)
        for box, label, area, crowd in zip(truth.boxes, truth.labels, truth.areas, truth.crowd, strict=True):
            bbox = [*box[:2], *(box[2:] - box[:2])]
            place = {"image_id": image_id, "category_id": ids[label]}
            annotations.append({**place, "bbox": bbox, "area": float(area), "iscrowd": int(crowd)})
    sides = {"images": [{"id": image_id} for image_id in scenes], "categories": [{"id": k} for k in ids]}
    expected = coco_evaluate({**sides, "annotations": annotations}, rows)
    np.testing.assert_array_equal(list(metric.compute().values()), list(expected.values()))


def test_of_objects_overlapped_alike_the_last_is_taken_as_in_pycocotools() -> None:
    truth = truth_of([[0, 0, 100, 100], [20, 0, 120, 100]])
    prediction = found([[10, 0, 110, 100], [20, 0, 120, 100]], [0.9, 0.8])
    annotations = [{**result(), "bbox": [x, 0, 100, 100]} for x in (0, 20)]
    expected = coco_evaluate(dataset(annotations=annotations), prediction.to_coco(1, [1]))
    assert scored(prediction, truth) == pytest.approx(expected, nan_ok=True)
    assert expected["AR100"] < 0.8  # the second one finds its object taken


def test_most_detections_of_a_class_are_a_hundred() -> None:
    boxes = [[10 * k, 0, 10 * k + 9, 9] for k in range(150)]
    metric = CocoDetection(["cell", "nucleus"])
    labels = np.repeat([0, 1], [110, 40])
    metric.update(1, found(boxes, np.linspace(0.1, 0.9, 150), labels), truth_of([[0, 0, 9, 9]]))
    kept = metric.state()[1]["labels"]
    assert ((kept == 0).sum(), (kept == 1).sum()) == (100, 40)
    assert metric.compute()["AP"] == 0.0  # the object is the 110th of its class


def test_images_whose_boxes_are_unknown_are_not_counted() -> None:
    metric = CocoDetection(["cell"])
    metric.update(1, found([[0, 0, 9, 9]], [0.9]), Labels(size=(10, 10)))
    assert metric.state() == {}
    metric.update(2, found([[0, 0, 9, 9]], [0.95]), truth_of([]))  # known to be empty: a false alarm
    metric.update(3, found([[0, 0, 9, 9]], [0.9]), truth_of([[0, 0, 9, 9]]))
    assert metric.compute()["AP"] == pytest.approx(0.5)


def test_of_classes_that_the_images_set_does_not_label_nothing_counts():
    box, other = [[0.0, 0, 10, 10]], [[20.0, 20, 30, 30]]
    found = Detections(np.float32(box + other), np.float32([0.5, 0.9]), np.array([0, 1]))
    for known, worth in ((None, 0.5), (np.array([True, False]), 1.0)):
        metric = CocoDetection(("cat", "dog"))
        metric.update(1, found, Labels(size=(40, 40), boxes=np.array(box), labels=np.array([0]), known_classes=known))
        both = Labels(size=(40, 40), boxes=np.array(other), labels=np.array([1]))
        metric.update(2, Detections(np.float32(other), np.float32([0.8]), np.array([1])), both)
        # The better scored dog of image 1 is wrong where dogs are labelled: precision of one half at each recall.
        assert metric.per_class()["dog"] == pytest.approx(worth)
        assert metric.per_class()["cat"] == pytest.approx(1.0)
