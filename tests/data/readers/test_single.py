"""Boxes as the one object of localization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from visionkit.data.readers import SingleObject
from visionkit.errors import ConfigError, DataError
from visionkit.structures import Labels

BOXES = np.array([[0, 0, 10, 10], [5, 5, 30, 25], [0, 0, 40, 40], [1, 1, 26, 21]], np.float64)


@pytest.fixture
def reader(make_reader: Callable):
    """Two images: one with four objects, of which the third, the largest, is a crowd; and one without."""
    made = make_reader(count=2)
    crowd = np.array([False, False, True, False])
    labels = Labels(size=(48, 64), boxes=BOXES, labels=np.array([2, 0, 1, 1]), crowd=crowd)
    empty = Labels(size=(64, 48), boxes=np.zeros((0, 4)), labels=np.zeros(0, np.int64))
    made.samples = [replace(made.samples[0], labels=labels), replace(made.samples[1], labels=empty)]
    made.fields = frozenset({"boxes"})
    return made


@pytest.mark.parametrize(("box", "row", "scores"), [("largest", 1, [1, 0, 0]), ("first", 0, [0, 0, 1])])
def test_the_object_is_chosen_among_those_that_count(reader, box, row, scores) -> None:
    single = SingleObject(reader, box)
    assert single.fields == {"boxes", "box", "class_scores"}
    labels = single.read(0).labels
    assert labels.box.tolist() == BOXES[row].tolist() and labels.class_scores.tolist() == scores
    assert len(labels.boxes) == 4


def test_an_image_without_objects_knows_neither(reader) -> None:
    assert SingleObject(reader, "first").labels(1).known == {"boxes"}


def test_several_objects_are_refused_at_once_with_the_image_and_the_key(reader) -> None:
    with pytest.raises(DataError, match=r"000\.png: 3 objects, .*; choose with data\.box=largest or data\.box=first"):
        SingleObject(reader)
    reader.samples = reader.samples[1:]
    assert len(SingleObject(reader)) == 2


def test_wrong_uses_are_told(reader) -> None:
    with pytest.raises(ConfigError, match=r"data\.box=bigest: largest or first is wanted \(did you mean 'largest'\?\)"):
        SingleObject(reader, "bigest")
    reader.fields = frozenset({"semantic"})
    with pytest.raises(DataError, match="knows no boxes"):
        SingleObject(reader, "first")
