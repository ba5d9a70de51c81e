from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from visionkit.data import field_classes
from visionkit.data.class_map import ClassMap, class_map
from visionkit.errors import DataError
from visionkit.structures import IGNORE_INDEX, LABEL_FIELDS, Labels

EVERY = frozenset(LABEL_FIELDS)


@dataclass
class Source:
    """What a class map asks of a reader."""

    classes: tuple[str, ...] = ("cat", "dog", "cow")
    semantic_classes: tuple[str, ...] = ("sky", "road")
    fields: frozenset[str] = field(default=EVERY)


def labels(**changes):
    known = {
        "boxes": np.array([[0.0, 0, 2, 2], [1, 1, 3, 3]]),
        "labels": np.array([2, 0]),
        "class_scores": np.array([0, 1, 0], np.float32),
        "box": np.array([0.0, 0, 2, 2]),
        "semantic": np.array([[0, 1], [IGNORE_INDEX, 1]], np.uint8),
        **changes,
    }
    return Labels(size=(2, 2), **known)


def test_boxes_images_and_pixels_have_a_class_list_each():
    mapped = ClassMap(
        Source(),
        classes=("cow", "bird", "cat", "dog"),
        image_classes=("dog", "cat", "cow"),
        semantic_classes=("tree", "road", "sky"),
        fields=EVERY,
    )(labels())
    assert mapped.labels.tolist() == [0, 2]
    assert mapped.class_scores.tolist() == [1, 0, 0]
    assert mapped.class_scores.dtype == np.float32
    assert mapped.semantic.tolist() == [[2, 1], [IGNORE_INDEX, 1]]
    assert np.array_equal(mapped.boxes, labels().boxes)
    assert mapped.known_classes is None


def test_images_have_the_list_of_boxes_if_none_is_given():
    mapped = ClassMap(Source(), classes=("bird", "cow", "dog", "cat"), semantic_classes=("sky", "road"), fields=EVERY)
    assert mapped(labels()).class_scores.tolist() == [0, 0, 1, 0]


def test_what_a_set_labels_is_told_in_the_models_list():
    """A class of the model that the source lacks is not known of its images."""
    known = np.array([True, False, True])
    mapped = ClassMap(Source(), classes=("cow", "bird", "dog", "cat"), fields=frozenset({"boxes"}))(
        labels(known_classes=known)
    )
    assert mapped.known_classes.tolist() == [True, False, False, True]
    assert mapped.known_classes.dtype == np.bool_
    assert known.tolist() == [True, False, True]


def test_known_classes_are_of_boxes_alone():
    mapped = ClassMap(Source(), classes=(), image_classes=("cow", "dog", "cat"), fields=frozenset({"class_scores"}))(
        labels(known_classes=np.array([True, False, True]))
    )
    assert mapped.known == {"class_scores"}
    assert mapped.known_classes is None
    assert mapped.class_scores.tolist() == [0, 1, 0]


def test_fields_that_nobody_wants_become_unknown_and_their_classes_do_not_matter():
    wanted = ClassMap(Source(), classes=("whale",), semantic_classes=("road", "sky"), fields=frozenset({"semantic"}))
    assert wanted(labels()).known == {"semantic"}
    masks = ClassMap(Source(), classes=("cat", "dog", "cow"), fields=frozenset({"masks"}))
    assert masks(labels()).known == {"boxes"}, "masks come with their boxes"


def test_a_reader_of_several_sets_says_which_classes_each_field_uses():
    """Of a set of boxes (cat) beside a set of whole images (dog, cow) the detector needs to know cat alone."""
    reader = Source()
    reader.field_classes = {"boxes": ("cat",), "class_scores": ("dog", "cow"), "semantic": ()}
    assert field_classes(reader) is reader.field_classes
    assert field_classes(Source()) == {
        "boxes": reader.classes, "class_scores": reader.classes, "semantic": reader.semantic_classes
    }  # fmt: skip
    mapping = ClassMap(
        reader,
        classes=("cat",),
        image_classes=("cow", "dog"),
        semantic_classes=("road", "sky"),
        fields=frozenset({"boxes", "class_scores", "semantic"}),
    )
    mapped = mapping(labels(labels=np.array([0, 0]), known_classes=np.array([True, False, False])))
    assert mapped.labels.tolist() == [0, 0]
    assert mapped.known_classes.tolist() == [True]
    assert mapped.class_scores.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ("cat", "dgo", "cow")}, r"the model lacks: dog \(did you mean 'dgo'\?\).*data\.classes=\[…\]"),
        ({"image_classes": ("cat", "dog")}, r"the model lacks: cow; the model knows cat, dog\."),
        ({"semantic_classes": ("road",)}, r"the model lacks: sky.*head\.semantic\.classes=\[…\]"),
    ],
)
def test_a_class_that_the_model_lacks_is_refused(arguments, message):
    given = {"classes": ("cat", "dog", "cow"), "semantic_classes": ("sky", "road"), "fields": EVERY, **arguments}
    with pytest.raises(DataError, match=message):
        ClassMap(Source(), **given)


def test_class_map_by_hand():
    assert class_map(("b", "a"), ("a", "c", "b")).tolist() == [2, 0]
    assert class_map(("b", "a"), ("a",), used=("a",)).tolist() == [-1, 0]
    assert class_map((), ("a",)).tolist() == []
    assert field_classes(SimpleNamespace(classes=("a",), semantic_classes=()))["boxes"] == ("a",)
