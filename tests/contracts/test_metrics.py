"""The contract of every metric. A new one is a row of `CASES`."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionkit.interfaces import Metric
from visionkit.metrics import (
    CocoDetection,
    CocoInstances,
    LocalizationAccuracy,
    PanopticQuality,
    SemanticScores,
    TopK,
)
from visionkit.metrics.panoptic import panoptic_truth
from visionkit.predictions import (
    Classification,
    Detections,
    Instances,
    Localization,
    PanopticMap,
    Prediction,
    Segment,
    SemanticMap,
)
from visionkit.structures import RLE, Geometry, Labels

CLASSES = [f"class {k}" for k in range(6)]
SIZE = (400, 400)


@dataclass(frozen=True)
class Case:
    """A metric, and for it: labels, what is predicted of them, what is labelled but shows nothing to find.

    Attributes:
        make: the metric.
        truth: labels of a random image.
        perfect: the right prediction for labels.
        some: a prediction that is right in part.
        nothing: a prediction that finds nothing.
        empty: labels in which nothing is to be found.
        errors: the numbers of which a lower one is better.
    """

    make: Callable[[], Metric]
    truth: Callable[[np.random.Generator], Labels]
    perfect: Callable[[Labels], Prediction]
    some: Callable[[Labels, np.random.Generator], Prediction]
    nothing: Prediction
    empty: Labels
    errors: frozenset[str] = frozenset()


def _boxes(rng: np.random.Generator) -> Labels:
    """One object of each size and class in a grid, 5 px apart at least."""
    count = 6
    sides = np.array([20.0, 50.0, 120.0])[rng.permutation(count) % 3]
    corner = np.stack([np.arange(count) % 3, np.arange(count) // 3], axis=1) * 125.0
    boxes = np.concatenate([corner, corner + sides[:, None]], axis=1)
    return Labels(size=SIZE, boxes=boxes, labels=rng.permutation(count))


def _found(truth: Labels) -> Detections:
    scores = np.linspace(0.9, 0.5, len(truth.boxes)).astype(np.float32)
    return Detections(truth.boxes.astype(np.float32), scores, truth.labels)


def _half_found(truth: Labels, rng: np.random.Generator) -> Detections:
    right = _found(truth)
    boxes = right.boxes + rng.normal(0, 4, right.boxes.shape).astype(np.float32)
    return Detections(boxes, np.sort(rng.random(len(boxes)).astype(np.float32))[::-1], right.labels)


def _rectangles(boxes: np.ndarray) -> tuple[RLE, ...]:
    bitmaps = np.zeros((*SIZE, len(boxes)), np.uint8, order="F")
    for number, (x1, y1, x2, y2) in enumerate(boxes.round().astype(int).clip(0)):
        bitmaps[y1:y2, x1:x2, number] = 1
    return tuple(coco_mask.encode(bitmaps))


def _masks(rng: np.random.Generator) -> Labels:
    truth = _boxes(rng)
    return replace(truth, masks=_rectangles(truth.boxes))


def _with_rectangles(found: Detections) -> Instances:
    """Each box as an instance that fills it."""
    boxes, unmixed = found.boxes.round().clip(0), (np.zeros((len(found), 0), np.float32), np.zeros((0, 1, 1)))
    geometry, rles = Geometry(SIZE, SIZE, (1.0, 1.0)), _rectangles(found.boxes)
    return Instances(boxes, found.scores, found.labels, *unmixed, geometry, 400.0, rles)


def _one_hot(rng: np.random.Generator) -> Labels:
    return Labels(size=SIZE, class_scores=np.eye(6, dtype=np.float32)[rng.integers(1, 6)])


def _several(rng: np.random.Generator) -> Labels:
    scores = (rng.random(6) < 0.5).astype(np.float32)
    scores[rng.integers(1, 6)] = 1
    return Labels(size=SIZE, class_scores=scores)


def _guess(truth: Labels, rng: np.random.Generator) -> Classification:
    return Classification((truth.class_scores * 0.5 + rng.random(6)).astype(np.float32))


def _map(rng: np.random.Generator) -> Labels:
    """Classes 0 to 2 in the left half, 3 to 5 in the right one, in blocks; a part is unlabelled."""
    blocks = rng.permuted(np.arange(8 * 4).reshape(8, 4) % 3, axis=1)
    semantic = np.concatenate([blocks, blocks + 3], axis=1).repeat(50, 0).repeat(50, 1).astype(np.uint8)
    semantic[100:130, 80:300] = 255
    return Labels(size=SIZE, semantic=semantic)


def _half_right_map(truth: Labels, rng: np.random.Generator) -> SemanticMap:
    right = truth.semantic % 6
    return SemanticMap(np.where(rng.random((8, 8)).repeat(50, 0).repeat(50, 1) < 0.5, right, 5 - right))


def _one_object(rng: np.random.Generator) -> Labels:
    corner = rng.integers(0, 200, 2)
    return replace(_one_hot(rng), box=np.concatenate([corner, corner + rng.integers(50, 200, 2)]).astype(np.float64))


def _placed(truth: Labels) -> Localization:
    return Localization(truth.class_scores, np.tile(truth.box, (6, 1)).astype(np.float32))


def _half_placed(truth: Labels, rng: np.random.Generator) -> Localization:
    boxes = _placed(truth).boxes + rng.normal(0, 25, (6, 4)).astype(np.float32)
    return Localization(rng.random(6).astype(np.float32), boxes)


def _segments(rng: np.random.Generator) -> Labels:
    """Stuff in the left half, three things that overlap in the right one, void around them."""
    left = rng.permuted(np.arange(24).reshape(8, 3) % 3, axis=1).repeat(50, 0).repeat(50, 1)
    semantic = np.full(SIZE, 255, np.uint8)
    semantic[:, :150] = left
    boxes = np.array([[200.0, y, 300 + y, y + 150] for y in (0, 100, 200)])
    labels = rng.permutation(3)
    for (x1, y1, x2, y2), label in zip(boxes.astype(int), labels, strict=True):
        semantic[y1:y2, x1:x2] = 3 + label
    return Labels(size=SIZE, boxes=boxes, labels=labels, masks=_rectangles(boxes), semantic=semantic)


def _as_map(ids: np.ndarray, labels: np.ndarray) -> PanopticMap:
    areas = np.bincount(ids.ravel(), minlength=len(labels) + 1)
    there = [k for k in range(1, len(labels) + 1) if areas[k]]
    return PanopticMap(ids, tuple(Segment(k, int(labels[k - 1]), False, 1.0, int(areas[k])) for k in there))


def _segmented(truth: Labels) -> PanopticMap:
    wanted = panoptic_truth(truth, CLASSES, CLASSES[3:])
    return _as_map(wanted.ids, wanted.labels)


def _half_segmented(truth: Labels, rng: np.random.Generator) -> PanopticMap:
    wanted = panoptic_truth(truth, CLASSES, CLASSES[3:])
    lost = rng.random((8, 8)).repeat(50, 0).repeat(50, 1) < 0.3
    return _as_map(np.where(lost, 0, wanted.ids).astype(np.int32), wanted.labels)


CASES = {
    "LocalizationAccuracy": Case(
        make=lambda: LocalizationAccuracy(CLASSES),
        truth=_one_object,
        perfect=_placed,
        some=_half_placed,
        nothing=Localization(np.array([1, 0, 0, 0, 0, -1], np.float32), np.zeros((6, 4), np.float32)),
        empty=Labels(size=SIZE),
        errors=frozenset({"top1_error", "top5_error", "class_wrong_only", "place_wrong_only", "both_wrong"}),
    ),
    "PanopticQuality": Case(
        make=lambda: PanopticQuality(CLASSES, CLASSES[3:]),
        truth=_segments,
        perfect=_segmented,
        some=_half_segmented,
        nothing=PanopticMap(np.zeros(SIZE, np.int32), ()),
        empty=Labels(
            size=SIZE,
            boxes=np.zeros((0, 4)),
            labels=np.zeros(0, np.int64),
            masks=(),
            semantic=np.full(SIZE, 255, np.uint8),
        ),
    ),
    "CocoInstances": Case(
        make=lambda: CocoInstances(CLASSES),
        truth=_masks,
        perfect=lambda truth: _with_rectangles(_found(truth)),
        some=lambda truth, rng: _with_rectangles(_half_found(truth, rng)),
        nothing=_with_rectangles(Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int))),
        empty=Labels(size=SIZE, boxes=np.zeros((0, 4)), labels=np.zeros(0, np.int64), masks=()),
    ),
    "SemanticScores": Case(
        make=lambda: SemanticScores(CLASSES),
        truth=_map,
        perfect=lambda truth: SemanticMap(truth.semantic % 6),
        some=_half_right_map,
        nothing=SemanticMap(np.repeat(np.array([[3, 0]], np.uint8), 200, 1).repeat(400, 0)),
        empty=Labels(size=SIZE, semantic=np.full(SIZE, 255, np.uint8)),
    ),
    "CocoDetection": Case(
        make=lambda: CocoDetection(CLASSES),
        truth=_boxes,
        perfect=_found,
        some=_half_found,
        nothing=Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)),
        empty=Labels(size=SIZE, boxes=np.zeros((0, 4)), labels=np.zeros(0, np.int64)),
    ),
    "CocoDetection with VOC's numbers": Case(
        make=lambda: CocoDetection(CLASSES, voc=True),
        truth=_boxes,
        perfect=_found,
        some=_half_found,
        nothing=Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)),
        empty=Labels(size=SIZE, boxes=np.zeros((0, 4)), labels=np.zeros(0, np.int64)),
    ),
    "TopK": Case(
        make=lambda: TopK(CLASSES),
        truth=_one_hot,
        perfect=lambda truth: Classification(truth.class_scores),
        some=_guess,
        nothing=Classification(np.array([1, 0, 0, 0, 0, -1], np.float32)),
        empty=Labels(size=SIZE),
    ),
    "TopK, all numbers": Case(
        make=lambda: TopK(CLASSES, numbers=["f1", "top1", "top5", "mean_class_accuracy"]),
        truth=_one_hot,
        perfect=lambda truth: Classification(truth.class_scores),
        some=_guess,
        nothing=Classification(np.array([1, 0, 0, 0, 0, -1], np.float32)),
        empty=Labels(size=SIZE),
    ),
    "TopK, multi-label, all numbers": Case(
        make=lambda: TopK(CLASSES, multi_label=True, numbers=["mAP", "f1"]),
        truth=_several,
        perfect=lambda truth: Classification(truth.class_scores),
        some=_guess,
        nothing=Classification(np.zeros(6, np.float32)),
        empty=Labels(size=SIZE, class_scores=np.zeros(6, np.float32)),
    ),
    "TopK, multi-label": Case(
        make=lambda: TopK(CLASSES, multi_label=True),
        truth=_several,
        perfect=lambda truth: Classification(truth.class_scores),
        some=_guess,
        nothing=Classification(np.zeros(6, np.float32)),
        empty=Labels(size=SIZE, class_scores=np.zeros(6, np.float32)),
    ),
}
Row = tuple[int, Prediction, Labels]


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def rows(case: Case) -> list[Row]:
    rng = np.random.default_rng(0)
    truths = [case.truth(rng) for _ in range(24)]
    return [(image_id, case.some(truth, rng), truth) for image_id, truth in enumerate(truths, start=1)]


def filled(case: Case, rows: list[Row]) -> Metric:
    metric = case.make()
    for row in rows:
        metric.update(*row)
    return metric


def worth(case: Case, metric: Metric) -> dict[str, float]:
    """The numbers, each turned so that 1 is the best."""
    return {name: 1 - value if name in case.errors else value for name, value in metric.compute().items()}


def test_is_a_metric_and_names_its_numbers(case: Case, rows: list[Row]) -> None:
    metric = filled(case, rows)
    assert isinstance(metric, Metric)
    numbers = metric.compute()
    assert metric.headline in numbers
    assert all(type(name) is str and type(value) is float for name, value in numbers.items())
    assert all(0 < value <= 1 for value in numbers.values())
    assert min(numbers.values()) < 1


def test_perfect_is_one(case: Case, rows: list[Row]) -> None:
    metric = filled(case, [(image_id, case.perfect(truth), truth) for image_id, _, truth in rows])
    numbers = worth(case, metric)
    assert numbers == pytest.approx(dict.fromkeys(numbers, 1.0))
    assert metric.reasons == {}


def test_nothing_found_is_worth_little_and_never_nan(case: Case, rows: list[Row]) -> None:
    numbers = worth(case, filled(case, [(image_id, case.nothing, truth) for image_id, _, truth in rows]))
    if "both_wrong" in numbers:  # and so it is never one of the two alone
        assert numbers.pop("class_wrong_only") == numbers.pop("place_wrong_only") == 1
    if "mAP" in numbers:  # of scores that are all equal it is the share of images that have the class
        share = float(np.mean([truth.class_scores for _, _, truth in rows]))
        assert numbers.pop("mAP") == pytest.approx(share)
    if "top5" in numbers:  # of six classes five are named whatever is said
        assert 0 <= numbers.pop("top5") < 1
    assert numbers == pytest.approx(dict.fromkeys(numbers, 0.0))


def test_nothing_to_find_is_nan_with_a_reason(case: Case) -> None:
    for metric in (case.make(), filled(case, [(1, case.nothing, case.empty)])):
        numbers = metric.compute()
        assert all(np.isnan(value) for value in numbers.values())
        assert set(metric.reasons) == set(numbers)
        assert all(metric.reasons.values())


def test_reasons_go_when_numbers_come(case: Case, rows: list[Row]) -> None:
    metric = case.make()
    metric.compute()
    for row in rows:
        metric.update(*row)
    metric.compute()
    assert metric.reasons == {}


def test_merged_shards_equal_one(case: Case, rows: list[Row]) -> None:
    whole = filled(case, rows).compute()
    shards = [filled(case, rows[rank::3]) for rank in range(3)]
    first = shards[0]
    first.compute()  # what was computed before must not stay
    first.merge(shard.state() for shard in shards[1:])
    assert first.compute() == whole


def test_no_image_is_counted_twice(case: Case, rows: list[Row]) -> None:
    whole = filled(case, rows).compute()
    twice = filled(case, rows + rows[:5])
    twice.merge([filled(case, rows[3:]).state(), twice.state()])
    assert twice.compute() == pytest.approx(whole, abs=1e-12)
    assert set(twice.state()) == {image_id for image_id, _, _ in rows}


def test_order_does_not_matter(case: Case, rows: list[Row]) -> None:
    order = np.random.default_rng(1).permutation(len(rows))
    assert filled(case, [rows[i] for i in order]).compute() == filled(case, rows).compute()  # to the last bit


def test_state_is_plain_and_survives_pickling(case: Case, rows: list[Row]) -> None:
    metric = filled(case, rows)
    state = metric.state()
    assert all(type(values) is dict for values in state.values())
    assert all(type(value) is np.ndarray for values in state.values() for value in values.values())
    other = case.make()
    other.merge([pickle.loads(pickle.dumps(state))])
    assert other.compute() == metric.compute()


def test_image_ids_may_be_strings(case: Case, rows: list[Row]) -> None:
    numbers = filled(case, [(f"{image_id:03}", prediction, truth) for image_id, prediction, truth in rows]).compute()
    assert numbers == pytest.approx(filled(case, rows).compute(), abs=1e-12)


def test_truth_and_prediction_stay_as_they_are(case: Case, rows: list[Row]) -> None:
    before = pickle.dumps(rows)
    filled(case, rows).compute()
    assert pickle.dumps(rows) == before
