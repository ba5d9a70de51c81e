"""What counts as the same, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from visionkit.export.parity import BOUNDS, Disagreement, Parity
from visionkit.predictions import Classification, Detections, Localization, PanopticMap, Segment, SemanticMap

BOXES = [[0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 90]]


def detections(boxes=BOXES, scores=(0.9, 0.5, 0.3), labels=(0, 1, 0)):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)
    )


def compare(wanted, found, zoom=1.0, thresholds=None):
    parity = Parity(BOUNDS["fp32"], thresholds={"head": thresholds or {}})
    parity.add({"head": wanted}, {"head": found}, zoom)
    return parity


def test_equal_objects_in_another_order():
    other = detections([BOXES[1], BOXES[0], BOXES[2]], (0.5, 0.9, 0.3), (1, 0, 0))
    assert (compare(detections(), other).objects, compare(detections(), other).pixels) == (3, 0.0)


@pytest.mark.parametrize(
    "other",
    [
        detections([]  , (), ()),
        detections(BOXES[:2], (0.9, 0.5), (0, 1)),
        detections([*BOXES, [5, 70, 9, 80]], (0.9, 0.5, 0.3, 0.2), (0, 1, 0, 1)),
        detections(labels=(0, 0, 0)),
        detections(scores=(0.9, 0.49, 0.3)),
        detections([[3, 3, 60, 13], *BOXES[1:]]),
        Classification(np.zeros(3, np.float32)),
    ],
)  # fmt: skip
def test_other_objects_disagree_either_way(other):
    for wanted, found in ((detections(), other), (other, detections())):
        with pytest.raises(Disagreement, match="head 'head'"):
            compare(wanted, found)


def test_boxes_may_differ_by_a_share_of_a_canvas_pixel():
    moved = detections((np.array(BOXES) + 0.004).tolist())
    assert compare(detections(), moved, zoom=5.0).pixels == pytest.approx(0.0008, rel=0.01)
    with pytest.raises(Disagreement):
        compare(detections(), moved)


def test_one_of_two_equal_ones_is_a_tie_and_more_are_none():
    tied = detections([[1, 0, 11, 10], *BOXES[1:]])
    assert compare(detections(), tied).tied == 1
    moved = detections([[1, 0, 11, 10], [21, 20, 41, 40], BOXES[2]])
    with pytest.raises(Disagreement, match="2 of 3 objects have another one"):
        compare(detections(), moved)


def test_where_lists_end_ends_may_differ():
    fewer = detections(BOXES[:2], (0.9, 0.5), (0, 1))
    assert compare(detections(), fewer, thresholds={"score_threshold": 0.2995}).tied == 0
    assert compare(detections(), detections([*BOXES[:2], [7, 7, 9, 9]]), thresholds={"most": 3}).tied == 0


def test_numbers_that_are_none_disagree():
    with pytest.raises(Disagreement, match="scores differ by nan"):
        compare(Classification(np.ones(2, np.float32)), Classification(np.full(2, np.nan, np.float32)))


def test_scores_boxes_and_maps():
    one = Localization(np.ones(1, np.float32), np.zeros((1, 4), np.float32))
    with pytest.raises(Disagreement, match="boxes differ by 1 pixels"):
        compare(one, Localization(one.scores, one.boxes + 1))
    classes = np.zeros((100, 100), np.uint8)
    other = classes.copy()
    other[0, :10] = 1
    assert compare(SemanticMap(classes), SemanticMap(other)).maps == pytest.approx(0.001)
    other[0, 10] = 1
    with pytest.raises(Disagreement, match=r"0\.11% of the pixels"):
        compare(SemanticMap(classes), SemanticMap(other))
    with pytest.raises(Disagreement, match="shape"):
        compare(SemanticMap(classes), SemanticMap(classes[1:]))


def test_panoptic_maps_are_compared_by_class_whatever_the_ids():
    ids = np.repeat(np.array([[0, 1, 2]], np.int32), 100, 0)
    one = PanopticMap(ids, (Segment(1, 4, True, 0.9, 100), Segment(2, 5, False, 1.0, 100)))
    swapped = PanopticMap(
        np.array([0, 2, 1], np.int32)[ids], (Segment(2, 4, True, 0.9, 100), Segment(1, 5, False, 1.0, 100))
    )
    assert compare(one, swapped).maps == 0
    with pytest.raises(Disagreement):
        compare(one, PanopticMap(ids, (Segment(1, 5, True, 0.9, 100), Segment(2, 5, False, 1.0, 100))))
