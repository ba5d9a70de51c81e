from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from visionkit.metrics.classification import TopK
from visionkit.metrics.coco import CocoDetection
from visionkit.metrics.localization import LocalizationAccuracy
from visionkit.metrics.semantic import SemanticScores
from visionkit.predictions import Classification, Detections, Localization
from visionkit.report.confidence import Scored, best_of_all, best_thresholds, plot_f1, scored, told
from visionkit.structures import Labels

CLASSES = ("a", "b", "c")


def given() -> Scored:
    """Of a (3 to be found) scores .9 right, .8 wrong, .7 and .7 right; of b (1 to be found) .6 wrong; of c nothing."""
    return Scored(
        scores=np.array([0.7, 0.9, 0.6, 0.8, 0.7]),
        labels=np.array([0, 0, 1, 0, 0]),
        right=np.array([True, True, False, False, True]),
        there=np.array([3, 1, 0]),
    )


def test_the_best_threshold_of_each_class_by_hand() -> None:
    best = best_thresholds(given(), CLASSES)
    a, b = best["a"], best["b"]
    assert a is not None
    assert b is not None
    # F1 from .9: 2/4; from .8: 2/5; from .7: 6/7.
    assert (a.f1, a.threshold, a.precision, a.recall) == pytest.approx((6 / 7, 0.7, 3 / 4, 1.0))
    assert (b.f1, b.threshold) == (0.0, 0.0)
    assert best["c"] is None
    whole = best_of_all(given())
    assert (whole.f1, whole.threshold) == pytest.approx((6 / 8, 0.7))
    assert np.isnan(told(best)["c"]["best F1"])
    assert told(best)["a"] == pytest.approx(
        {"best F1": 6 / 7, "at score": 0.7, "precision there": 3 / 4, "recall there": 1.0}
    )


def test_predictions_are_gathered_from_each_kind_of_metric() -> None:
    truth = Labels(
        size=(20, 20),
        boxes=np.array([[0, 0, 10, 10.0], [10, 10, 20, 20]]),
        labels=np.array([0, 1]),
        ignore=np.array([False, True]),
        class_scores=np.array([0, 1, 0], np.float32),
        box=np.array([0, 0, 10, 10.0]),
    )
    detection = CocoDetection(CLASSES)
    boxes = np.array([[0, 0, 10, 10], [10, 10, 20, 20], [0, 10, 5, 20]], np.float32)
    detection.update(1, Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 1, 1])), truth)
    found = scored(detection, CLASSES)
    assert found is not None  # what lies on an ignored object is neither right nor wrong
    assert found.labels.tolist() == [0, 1]
    assert found.right.tolist() == [True, False]
    assert found.there.tolist() == [1, 0, 0]
    scores = np.array([0.2, 0.7, 0.1], np.float32)
    one, several, place = TopK(CLASSES), TopK(CLASSES, multi_label=True), LocalizationAccuracy(CLASSES)
    one.update(1, Classification(scores), truth)
    several.update(1, Classification(scores), truth)
    place.update(1, Localization(scores, boxes), truth)
    assert [scored(metric, CLASSES).right.tolist() for metric in (one, several, place)] == [  # type: ignore[union-attr]
        [True],
        [False, True, False],
        [False],  # the box of class b lies elsewhere
    ]
    assert scored(SemanticScores(CLASSES), CLASSES) is None


def test_curves_are_drawn_for_few_and_for_many_classes(tmp_path: Path) -> None:
    assert plot_f1(given(), CLASSES, tmp_path / "few.png") == tmp_path / "few.png"
    many = Scored(np.linspace(0, 1, 40), np.arange(40), np.ones(40, bool), np.ones(40, np.int64))
    assert plot_f1(many, [f"class {k}" for k in range(40)], tmp_path / "many.png") is not None
    nothing = Scored(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(3, np.int64))
    assert plot_f1(nothing, CLASSES, tmp_path / "none.png") is None
    assert {file.name for file in tmp_path.iterdir()} == {"few.png", "many.png"}
