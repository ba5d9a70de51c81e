from __future__ import annotations

import numpy as np
import pytest

from visionkit.errors import UserError
from visionkit.predictions import Classification, Detections, PanopticMap, Segment, SemanticMap
from visionkit.selection import Selection
from visionkit.structures import IGNORE_INDEX

KNOWN = {"detection": ("cell", "plate")}


def detections():
    boxes = np.zeros((4, 4), np.float32)
    return Detections(boxes, np.array([0.9, 0.5, 0.3, 0.1], np.float32), np.array([0, 1, 0, 1]), ("cell", "plate"))


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ({}, [0.9, 0.5, 0.3, 0.1]),
        ({"score": 0.3}, [0.9, 0.5, 0.3]),  # at least, in the scores' own precision
        ({"score": 0.9}, [0.9]),
        ({"score": {"cell": 0.5}}, [0.9, 0.5, 0.1]),
        ({"score": {"cell": 0.5}, "usual": 0.3}, [0.9, 0.5]),
        ({"classes": ["plate"]}, [0.5, 0.1]),
        ({"classes": ["plate"], "score": 0.2}, [0.5]),
        ({"classes": []}, []),
    ],
)
def test_objects_by_class_and_score(arguments, kept):
    one = Selection(KNOWN, **arguments)({"detection": detections()})["detection"]
    assert one.scores.tolist() == pytest.approx(kept)
    assert one.names == ("cell", "plate")


def test_whole_images_and_maps_by_class():
    known = {"c": ("a", "b", "c"), "s": ("a", "b", "c"), "p": ("a", "b", "c")}
    ids = np.array([[1, 2, 0]], np.int32)
    segments = (Segment(1, 0, True, 0.9, 1), Segment(2, 1, False, 1.0, 1))
    found = Selection(known, classes=["b", "c"], score=0.99)({
        "c": Classification(np.array([0.6, 0.3, 0.1], np.float32)),
        "s": SemanticMap(np.array([[0, 1, 2, IGNORE_INDEX]], np.uint8)),
        "p": PanopticMap(ids, segments),
    })  # fmt: skip
    assert found["c"].scores.tolist() == pytest.approx([0, 0.3, 0.1])
    assert found["s"].classes.tolist() == [[IGNORE_INDEX, 1, 2, IGNORE_INDEX]]
    assert found["p"].ids.tolist() == [[0, 2, 0]]
    assert found["p"].segments == segments[1:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"classes": ["cel"]},
            r"classes: there is no class 'cel' \(did you mean 'cell'\?\); the model knows cell, plate",
        ),
        ({"classes": "cell"}, r"classes=cell: a list is wanted, such as \[cell\]"),
        ({"score": {"rbc": 0.3}}, "score: there is no class 'rbc'"),
        ({"score": 1.5}, "score=1.5: a share from 0 to 1"),
        ({"score": {"cell": -1}}, "score.cell=-1: a share"),
        ({"score": "high"}, "score=high: a share"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Selection(KNOWN, **arguments)
