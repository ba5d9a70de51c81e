"""The contract of every metric. A new one is a row of `CASES`."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from visionkit.interfaces import Metric
from visionkit.metrics import CocoDetection, TopK
from visionkit.predictions import Classification, Detections, Prediction
from visionkit.structures import Labels

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
    """

    make: Callable[[], Metric]
    truth: Callable[[np.random.Generator], Labels]
    perfect: Callable[[Labels], Prediction]
    some: Callable[[Labels, np.random.Generator], Prediction]
    nothing: Prediction
    empty: Labels


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


def _one_hot(rng: np.random.Generator) -> Labels:
    return Labels(size=SIZE, class_scores=np.eye(6, dtype=np.float32)[rng.integers(1, 6)])


def _several(rng: np.random.Generator) -> Labels:
    scores = (rng.random(6) < 0.5).astype(np.float32)
    scores[rng.integers(1, 6)] = 1
    return Labels(size=SIZE, class_scores=scores)


def _guess(truth: Labels, rng: np.random.Generator) -> Classification:
    return Classification((truth.class_scores * 0.5 + rng.random(6)).astype(np.float32))


CASES = {
    "CocoDetection": Case(
        make=lambda: CocoDetection(CLASSES),
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
    numbers = metric.compute()
    assert numbers == pytest.approx(dict.fromkeys(numbers, 1.0))
    assert metric.reasons == {}


def test_nothing_found_is_worth_little_and_never_nan(case: Case, rows: list[Row]) -> None:
    numbers = filled(case, [(image_id, case.nothing, truth) for image_id, _, truth in rows]).compute()
    share = 0.0
    if "mAP" in numbers:  # of scores that are all equal it is the share of images that have the class
        share = float(np.mean([truth.class_scores for _, _, truth in rows]))
    if "top5" in numbers:  # of six classes five are named whatever is said
        assert 0 <= numbers.pop("top5") < 1
    assert numbers == pytest.approx(dict.fromkeys(numbers, share))


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
    assert first.compute() == pytest.approx(whole, abs=1e-12)


def test_no_image_is_counted_twice(case: Case, rows: list[Row]) -> None:
    whole = filled(case, rows).compute()
    twice = filled(case, rows + rows[:5])
    twice.merge([filled(case, rows[3:]).state(), twice.state()])
    assert twice.compute() == pytest.approx(whole, abs=1e-12)
    assert set(twice.state()) == {image_id for image_id, _, _ in rows}


def test_order_does_not_matter(case: Case, rows: list[Row]) -> None:
    order = np.random.default_rng(1).permutation(len(rows))
    assert filled(case, [rows[i] for i in order]).compute() == pytest.approx(filled(case, rows).compute(), abs=1e-12)


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
