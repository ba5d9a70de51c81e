from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from visionkit.build import build_model, describe_model
from visionkit.config import compose
from visionkit.data.validate import Problem
from visionkit.engine.run_data import answered, choose_heads, class_lists, first, remarks, run_steps
from visionkit.errors import ConfigError, DataError
from visionkit.structures import LABEL_FIELDS, Labels, Sample

TINY = ("image_size=64", "model.width=0.25")


@dataclass
class Source:
    """Three images without pixels worth looking at; image 2 has two objects, of which the second is the larger one."""

    fields: frozenset[str] = frozenset(LABEL_FIELDS)
    classes: tuple[str, ...] = ("cat", "dog")
    semantic_classes: tuple[str, ...] = ("sky", "road", "sea")
    category_ids: tuple[int, ...] = (1, 2)

    def __post_init__(self):
        self.image_ids = (1, 2, 3)
        self.file_names = ("1.png", "2.png", "3.png")

    def __len__(self):
        return 3

    def labels(self, index):
        boxes = np.array([[0.0, 0, 4, 4], [2, 2, 9, 9]])[: 1 + (index == 1)]
        return Labels(size=(10, 10), boxes=boxes, labels=np.arange(len(boxes)))

    def read(self, index):
        return Sample(np.zeros((10, 10, 3), np.uint8), self.labels(index), index + 1, self.file_names[index])


def composed(*typed):
    """Without what the generated scenes change in the heads."""
    return compose("train", [*TINY, "data=coco", "data.root=/x", *typed])


# ------------------------------------------------------------------------------------------------------ which heads
@pytest.mark.parametrize(
    ("fields", "heads"),
    [
        (LABEL_FIELDS, ["classification", "localization", "detection", "semantic", "instance"]),
        (("boxes",), ["detection"]),
        (("boxes", "masks"), ["detection", "instance"]),
        (("boxes", "semantic"), ["detection", "semantic"]),
        (("class_scores",), ["classification"]),
        (("class_scores", "box"), ["classification", "localization"]),
    ],
)
def test_without_heads_every_head_is_taken_whose_labels_the_data_have(fields, heads):
    cfg = composed("task=multitask")
    choose_heads(cfg, Source(frozenset(fields)))
    assert sorted(cfg.heads) == sorted(heads)
    assert list(cfg.head) == list(cfg.heads)


def test_heads_that_were_named_stay():
    cfg = composed("task=multitask", "heads=[semantic, detection]")
    choose_heads(cfg, Source())
    assert list(cfg.heads) == ["semantic", "detection"]


@pytest.mark.parametrize(
    ("typed", "fields", "said"),
    [
        (("task=multitask",), (), "heads: no head learns from no labels at all"),
        (("task=multitask",), ("box",), "heads: no head learns from box"),
        (("task=semantic",), ("boxes",), "task=semantic: needs semantic, but the data has only boxes"),
        (("task=instance",), ("boxes", "semantic"), "needs masks, but the data has only boxes, semantic"),
        (("task=classify",), ("boxes",), "task=classify: needs class_scores, but the data has only boxes"),
        (("task=localize",), ("class_scores",), "needs box, but the data has only class_scores"),
        (("task=multitask", "heads=[detection, semantic]"), ("boxes",), "needs semantic, but the data has only boxes"),
    ],
)
def test_labels_that_the_data_lack_are_named(typed, fields, said):
    with pytest.raises(ConfigError, match=said):
        choose_heads(composed(*typed), Source(frozenset(fields)))


# ------------------------------------------------------------------------------------------------ boxes as one object
def test_boxes_answer_for_localization_where_data_box_says_which():
    source = Source(frozenset({"boxes"}))
    for box, wanted in (("largest", [2, 2, 9, 9]), ("first", [0, 0, 4, 4])):
        reader = answered(source, {"box": box}, frozenset({"box", "class_scores"}))
        assert reader.fields == {"boxes", "box", "class_scores"}
        assert reader.labels(1).box.tolist() == wanted
    with pytest.raises(DataError, match=r"2\.png: 2 objects, but localization is of one; .* data\.box=largest"):
        answered(source, {"box": None}, frozenset({"box"}))


def test_data_of_one_object_each_need_no_answer_and_others_are_left_alone():
    source = Source(frozenset({"boxes"}))
    assert answered(source, {"box": None}, frozenset({"boxes"})) is source
    with_box = Source(frozenset({"boxes", "box", "class_scores"}))
    assert answered(with_box, {"box": "largest"}, frozenset({"box"})) is with_box
    whole = Source(frozenset({"class_scores"}))
    assert answered(whole, {}, frozenset({"box"})) is whole


def test_localization_chosen_by_its_task_takes_boxes():
    cfg = composed("task=localize", "data.box=first")
    choose_heads(cfg, Source(frozenset({"boxes"})))
    assert list(cfg.heads) == ["localization"]
    with pytest.raises(DataError, match=r"2\.png"):
        choose_heads(composed("task=localize"), Source(frozenset({"boxes"})))


# --------------------------------------------------------------------------------------------------------- class lists
def lists_of(*typed):
    cfg = composed("task=multitask", *typed)
    choose_heads(cfg, Source())
    return class_lists(build_model(describe_model(cfg, Source())))


def test_each_kind_of_label_has_its_class_list():
    assert lists_of() == {
        "classes": ("cat", "dog"), "semantic_classes": ("sky", "road", "sea"), "image_classes": ("cat", "dog")
    }  # fmt: skip
    typed = ("heads=[classification, instance]", "head.classification.classes=[dog, cat, cow]")
    assert lists_of(*typed) == {
        "classes": ("cat", "dog"), "semantic_classes": (), "image_classes": ("dog", "cat", "cow")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("heads", "typed"),
    [
        ("detection, instance", "head.instance.classes=[dog, cat]"),
        ("classification, localization", "head.localization.classes=[cat]"),
    ],
)
def test_heads_that_learn_from_the_same_labels_have_one_class_list(heads, typed):
    with pytest.raises(ConfigError, match=rf"the heads {heads} learn from the same labels, .*one list"):
        lists_of(f"heads=[{heads}]", typed, *(("neck=none",) if "localization" in heads else ()))


# ------------------------------------------------------------------------------------------------------------- the rest
def test_first_images_and_steps():
    source = Source()
    assert first(source, None) is source
    assert len(first(source, 2)) == 2
    assert len(first(source, 9)) == 3
    cfg = composed("data.batch_size=2", "engine.accumulate=2", "engine.epochs=3")
    assert run_steps(cfg, 9) == (3, 9)
    assert run_steps(composed("data.batch_size=2", "engine.epochs=3", "engine.max_steps=5"), 9) == (5, 5)


def test_remarks_are_of_notes_of_what_was_left_out_and_of_classes_without_an_example():
    source = Source()
    source.notes = ["one note"]
    source.problems = [Problem("a.jpg", "", "empty", "remove it", rule="image-unreadable")]
    source.class_counts = lambda: np.array([3, 0])
    note, left_out, absent = remarks("train", source)
    assert note == "one note"
    assert left_out.startswith("train: left out by data.on_error=skip: 1 problem in the data:")
    assert "a.jpg: empty" in left_out
    assert "no example of dog" in absent
    assert remarks("val", source) == [note, *(line.replace("train", "val", 1) for line in (left_out, absent))]


def test_a_neck_that_no_chosen_head_reads_is_left_out():
    cfg = composed("task=multitask")
    choose_heads(cfg, Source(frozenset({"class_scores"})))
    assert (list(cfg.heads), cfg.model.neck) == (["classification"], None)
    cfg = composed("task=multitask")
    choose_heads(cfg, Source(frozenset({"boxes"})))
    assert cfg.model.neck is not None


@pytest.mark.parametrize(
    ("typed", "images", "epochs"),
    [
        ([], 292, 100),  # ten steps an epoch
        ([], 50, 500),  # two steps an epoch: 1,000 of them
        ([], 50_000, 100),
        ([], 1_281_167, 7),  # 40,037 steps an epoch: at most 300,000
        (["schedule=fast"], 292, 40),
        (["schedule=long"], 292, 300),
        (["schedule=long", "engine.epochs=7"], 292, 7),
        (["schedule.least_steps=0"], 50, 100),
    ],
)
def test_training_lasts_as_the_schedule_says(typed, images, epochs):
    cfg = compose("train", ["task=detect", "data=bccd", *typed])
    steps_per_epoch, total = run_steps(cfg, images)
    assert total == epochs * steps_per_epoch


def test_a_typed_schedule_wins_over_that_of_the_data_set():
    assert run_steps(compose("train", ["task=instance", "data=pennfudan"]), 120) == (15, 50 * 15)
    assert run_steps(compose("train", ["task=instance", "data=pennfudan", "schedule=long"]), 120) == (15, 300 * 15)
