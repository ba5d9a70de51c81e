from __future__ import annotations

import numpy as np
import pytest

from visionkit.metrics.classification import TopK
from visionkit.metrics.coco import CocoDetection
from visionkit.metrics.localization import LocalizationAccuracy
from visionkit.metrics.panoptic import PanopticQuality
from visionkit.metrics.semantic import SemanticScores
from visionkit.predictions import Classification, Detections, Localization, PanopticMap, Segment, SemanticMap
from visionkit.report.worst import LEAST_SCORE, confused_pairs, shown_threshold, worst_images
from visionkit.structures import Labels

SIZE = (20, 40)
CLASSES = ("ant", "bee")
LEFT, RIGHT, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [30, 10, 40, 20]


def detections(*rows: tuple[list[int], int, float]) -> Detections:
    boxes, labels, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)
    )


def objects(*rows: tuple[list[int], int]) -> Labels:
    boxes, labels = zip(*rows, strict=True) if rows else ((), ())
    return Labels(
        size=SIZE, boxes=np.array(boxes, np.float64).reshape(-1, 4), labels=np.array(labels, np.int64).reshape(-1)
    )


def one_class(label: int, **more: np.ndarray) -> Labels:
    return Labels(size=SIZE, class_scores=np.eye(2, dtype=np.float32)[label], **more)


def test_detections_that_are_missed_confused_and_invented_are_told_worst_first() -> None:
    metric = CocoDetection(CLASSES)
    metric.update("right", detections((LEFT, 0, 0.9)), objects((LEFT, 0)))
    metric.update("confused", detections((LEFT, 1, 0.98), (RIGHT, 0, 0.9)), objects((LEFT, 0), (RIGHT, 0)))
    metric.update("missed", detections((LEFT, 0, 0.9)), objects((LEFT, 0), (RIGHT, 0), (FAR, 1)))
    metric.update("invented", detections((LEFT, 1, 0.7), (FAR, 1, 0.6)), objects())
    assert worst_images(metric, CLASSES, threshold=0.5, most=9) == worst_images(metric, CLASSES, threshold=0.5)
    told = [(one.image_id, one.reason) for one in worst_images(metric, CLASSES, threshold=0.5)]
    assert told == [
        ("invented", "2 × bee where there is none, up to 0.70"),  # F1 0, two faults
        ("missed", "missed 1 of 2 ant; missed 1 of 1 bee"),  # F1 1/2, two faults
        ("confused", "ant taken for bee at 0.98"),  # F1 1/2, one fault
    ]
    assert [one.image_id for one in worst_images(metric, CLASSES, threshold=0.65, most=1)] == ["invented"]
    assert "up to" not in worst_images(metric, CLASSES, threshold=0.65)[0].reason


def test_the_threshold_of_the_pictures_is_that_of_the_best_f1() -> None:
    metric = CocoDetection(CLASSES)
    assert shown_threshold(metric) == LEAST_SCORE
    metric.update(1, detections((LEFT, 0, 0.8), (FAR, 0, 0.1)), objects((LEFT, 0)))
    assert shown_threshold(metric) == pytest.approx(0.8)
    assert shown_threshold(TopK(CLASSES)) == LEAST_SCORE


def test_the_most_certain_wrong_class_is_the_worst_and_pairs_are_counted() -> None:
    metric = TopK(CLASSES)
    for image_id, label, score in (("a", 0, 0.6), ("b", 0, 0.02), ("c", 0, 0.4), ("d", 1, 0.3)):
        metric.update(image_id, Classification(np.array([score, 1 - score], np.float32)), one_class(label))
    assert [(one.image_id, one.reason) for one in worst_images(metric, CLASSES, threshold=0.3)] == [
        ("b", "ant taken for bee at 0.98"),
        ("c", "ant taken for bee at 0.60"),
    ]
    (pair,) = confused_pairs(metric, CLASSES)
    assert (pair.true, pair.said, pair.count, pair.of, pair.examples) == ("ant", "bee", 2, 3, ("b", "c"))
    assert confused_pairs(CocoDetection(CLASSES), CLASSES) == []


def test_of_several_labels_an_unknown_one_is_no_fault() -> None:
    metric = TopK(CLASSES, multi_label=True)
    unknown = Labels(size=SIZE, class_scores=np.array([1, -1], np.float32))
    metric.update("unknown", Classification(np.array([0.9, 0.9], np.float32)), unknown)
    metric.update("wrong", Classification(np.array([0.2, 0.9], np.float32)), one_class(0))
    (one,) = worst_images(metric, CLASSES, threshold=0.3)
    assert (one.image_id, one.reason) == ("wrong", "missed ant (0.20); bee where there is none, at 0.90")


def test_a_box_beside_the_object_and_a_wrong_class_are_told() -> None:
    metric = LocalizationAccuracy(CLASSES)
    scores, truth = np.array([0.9, 0.1], np.float32), np.array([0, 0, 10, 10], np.float64)
    for image_id, box, label in (("right", LEFT, 0), ("half", [0, 0, 10, 4], 0), ("named", LEFT, 1)):
        boxes = np.array([box] * 2, np.float32)
        metric.update(image_id, Localization(scores, boxes), one_class(label, box=truth))
    assert [(one.image_id, one.reason) for one in worst_images(metric, CLASSES, threshold=0.3)] == [
        ("named", "bee taken for ant at 0.90; IoU of the box 1.00"),
        ("half", "IoU of the box 0.40"),
    ]


def test_of_maps_the_classes_of_least_iou_are_told() -> None:
    truth = np.zeros(SIZE, np.uint8)
    truth[:, 20:] = 1
    said = truth.copy()
    said[:, 20:30] = 0
    metric = SemanticScores(CLASSES)
    metric.update("right", SemanticMap(truth), Labels(size=SIZE, semantic=truth))
    metric.update("wrong", SemanticMap(said), Labels(size=SIZE, semantic=truth))
    (one,) = worst_images(metric, CLASSES, threshold=0.3)
    assert (one.image_id, one.reason) == ("wrong", "IoU of bee 0.50, ant 0.67; 25 % of the pixels wrong")
    assert one.badness == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)


def test_of_panoptic_maps_segments_that_are_missed_and_invented_are_told() -> None:
    metric = PanopticQuality(CLASSES, ())
    truth = Labels(
        size=SIZE,
        boxes=np.zeros((0, 4)),
        labels=np.zeros(0, np.int64),
        masks=(),
        semantic=np.zeros(SIZE, np.uint8),
    )
    found = PanopticMap(np.ones(SIZE, np.int32), (Segment(1, 1, False, 1.0, SIZE[0] * SIZE[1]),))
    metric.update(1, found, truth)
    (one,) = worst_images(metric, CLASSES, threshold=0.3)
    assert (one.badness, one.reason) == (1.0, "PQ 0.00; missed 1 × ant; invented 1 × bee")
