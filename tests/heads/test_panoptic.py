"""The panoptic merge on predictions worked by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from visionkit.errors import ConfigError
from visionkit.heads import PanopticMerge
from visionkit.interfaces import Merge
from visionkit.metrics import PanopticQuality
from visionkit.predictions import Instances, PanopticMap, Segment, SemanticMap
from visionkit.structures import Geometry

SIZE = (4, 10)
HEADS = {
    "semantic": SimpleNamespace(needs=frozenset({"semantic"}), classes=("sky", "road", "car")),
    "instance": SimpleNamespace(needs=frozenset({"boxes", "masks"}), classes=("cat", "car")),
}
SKY, ROAD, CAR, CAT = range(4)
"""Of the panoptic classes; the instance head has cat and car as 0 and 1."""


def merged(semantic, *objects, **options) -> PanopticMap:
    """objects: (score, label, first column, one past the last), as high as the image."""
    boxes = np.array([[x1, 0, x2, SIZE[0]] for _, _, x1, x2 in objects], np.float32).reshape(-1, 4)
    instances = Instances(
        boxes,
        np.array([score for score, *_ in objects], np.float32),
        np.array([label for _, label, *_ in objects], np.int64),
        np.ones((len(objects), 1), np.float32),
        np.ones((1, *SIZE), np.float32),
        Geometry(SIZE, SIZE, (1.0, 1.0)),
        1.0,
    )
    predictions = {"semantic": SemanticMap(np.asarray(semantic, np.uint8)), "instance": instances, "other": None}
    return PanopticMerge(HEADS, **options).merge(predictions)


def columns(found: PanopticMap) -> list[int]:
    """The ids of the first row; all rows are alike."""
    assert (found.ids == found.ids[:1]).all()
    return found.ids[0].tolist()


def test_is_a_merge_of_both_class_lists():
    merge = PanopticMerge(HEADS)
    assert isinstance(merge, Merge)
    assert merge.classes == ("sky", "road", "car", "cat")
    assert merge.things == ("cat", "car")
    assert merge.reads == ("semantic", "instance")
    metric = merge.metric()
    assert isinstance(metric, PanopticQuality) and (metric.classes, metric.things) == (merge.classes, merge.things)


def test_better_instances_lie_above_worse_ones_and_stuff_fills_the_rest():
    semantic = np.tile([SKY] * 5 + [ROAD] * 5, (4, 1))
    found = merged(semantic, (0.6, 0, 2, 6), (0.9, 1, 4, 7))
    assert columns(found) == [3, 3, 2, 2, 1, 1, 1, 4, 4, 4]
    assert found.segments == (
        Segment(1, CAR, True, pytest.approx(0.9), 12),
        Segment(2, CAT, True, pytest.approx(0.6), 8),
        Segment(3, SKY, False, 1.0, 8),
        Segment(4, ROAD, False, 1.0, 12),
    )


def test_an_instance_of_which_better_ones_leave_too_little_is_dropped():
    semantic = np.full(SIZE, SKY)
    found = merged(semantic, (0.9, 1, 0, 5), (0.8, 0, 2, 7))  # 2 of 5 columns are left
    assert [one.label for one in found.segments] == [CAR, SKY]
    assert columns(found) == [1] * 5 + [2] * 5
    assert len(merged(semantic, (0.9, 1, 0, 5), (0.8, 0, 2, 7), overlap=0.4).segments) == 3
    assert len(merged(semantic, (0.9, 1, 0, 5), (0.8, 0, 3, 7)).segments) == 3  # a half is enough


def test_what_is_hidden_whole_is_no_segment():
    found = merged(np.full(SIZE, SKY), (0.9, 1, 0, 5), (0.8, 0, 2, 4), overlap=0.0)
    assert [one.label for one in found.segments] == [CAR, SKY]


def test_low_scores_are_left_out():
    found = merged(np.full(SIZE, SKY), (0.9, 1, 0, 5), (0.29, 0, 6, 8))
    assert [one.label for one in found.segments] == [CAR, SKY]
    assert len(merged(np.full(SIZE, SKY), (0.9, 1, 0, 5), (0.29, 0, 6, 8), score_threshold=0.2).segments) == 3


def test_things_of_the_semantic_map_without_an_instance_have_no_segment():
    semantic = np.tile([CAR] * 5 + [SKY] * 5, (4, 1))
    assert columns(merged(semantic, (0.9, 1, 0, 2))) == [1, 1, 0, 0, 0, 2, 2, 2, 2, 2]
    assert merged(np.full(SIZE, CAR)).segments == ()


def test_small_stuff_is_dropped():
    semantic = np.tile([ROAD] + [SKY] * 9, (4, 1))
    assert columns(merged(semantic, stuff_area=0.1)) == [2] + [1] * 9
    assert columns(merged(semantic, stuff_area=0.11)) == [0] + [1] * 9


def test_predictions_stay_as_they_are_and_the_map_agrees_with_its_segments():
    semantic = np.tile([SKY] * 5 + [ROAD] * 5, (4, 1)).astype(np.uint8)
    before = semantic.copy()
    found = merged(semantic, (0.6, 0, 2, 6), (0.9, 1, 4, 7))
    assert (semantic == before).all() and found.ids.dtype == np.int32
    assert {one.id: one.area for one in found.segments} == dict(
        zip(*np.unique(found.ids, return_counts=True), strict=True)
    )
    rows = found.to_coco(3, [10, 20, 30, 40])
    assert [one["category_id"] for one in rows[0]["segments_info"]] == [30, 40, 10, 20]


@pytest.mark.parametrize(
    ("heads", "options", "said"),
    [
        (HEADS, {"semantic": "semantics"}, r"semantic=semantics: no head of that name \(did you mean 'semantic'\?\)"),
        (HEADS, {"instance": "semantic"}, "instance=semantic: this head predicts no masks; name one that does"),
        (HEADS, {"overlap": 1.5}, "overlap=1.5 must be from 0 to 1"),
        ({}, {}, "semantic=semantic: no head of that name"),
    ],
)
def test_wrong_arguments_are_refused(heads, options, said):
    with pytest.raises(ConfigError, match=said):
        PanopticMerge(heads, **options)


def test_predictions_of_another_kind_are_refused():
    instances = SemanticMap(np.zeros(SIZE, np.uint8))
    with pytest.raises(TypeError, match="a SemanticMap and Instances are wanted, not SemanticMap and SemanticMap"):
        PanopticMerge(HEADS).merge({"semantic": instances, "instance": instances})
