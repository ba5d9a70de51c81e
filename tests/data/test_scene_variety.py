from __future__ import annotations

import math

import numpy as np
import pytest

from visionkit.config import compose
from visionkit.data.readers.shapes import Shapes
from visionkit.data.scene_objects import Knobs
from visionkit.data.scene_variety import Variety, checked_variety
from visionkit.errors import ConfigError, DataError

NAMES = tuple(Knobs.__dataclass_fields__)
FIXED = dict.fromkeys(NAMES, 0.5)


def make(folder, **changes) -> Shapes:
    return Shapes("train", **{"size": 96, "count": 12, "cache_folder": folder, **changes})


def test_each_scene_draws_its_own_values_within_the_ranges_whatever_is_drawn_of_others():
    ranges = {**FIXED, "clutter": (0.2, 0.4), "viewpoint": (0.0, 1.0)}
    variety = Variety(ranges, objects=(3, 5), extent=(0.1, 0.2))
    drawn = [variety.of_scene(7, "train", index) for index in range(300)]
    assert {objects for objects, _, _ in drawn} == {3, 4, 5}
    clutter = np.array([knobs.clutter for _, knobs, _ in drawn])
    viewpoint = np.array([knobs.viewpoint for _, knobs, _ in drawn])
    assert 0.2 <= clutter.min() < 0.21 < 0.39 < clutter.max() <= 0.4
    assert viewpoint.min() < 0.02 and viewpoint.max() > 0.98
    assert abs(np.corrcoef(clutter, viewpoint)[0, 1]) < 0.2, "one draw must not serve two knobs"
    assert {knobs.occlusion for _, knobs, _ in drawn} == {0.5}
    assert drawn[::-1] == [variety.of_scene(7, "train", index) for index in reversed(range(300))]
    other = Variety({**ranges, "viewpoint": 0.5}, objects=(3, 5), extent=(0.1, 0.2))
    again = [other.of_scene(7, "train", index) for index in range(300)]
    assert [(one[0], one[1].clutter, one[2]) for one in again] == [(one[0], one[1].clutter, one[2]) for one in drawn]
    for seed, split in ((8, "train"), (7, "val")):
        assert [variety.of_scene(seed, split, index) for index in range(5)] != drawn[:5]


def test_a_crowd_has_room():
    """At most √(1 / n) is usual: 1/5 of 25 objects, and 1.6 times that for the largest of them."""
    variety = Variety(FIXED, objects=25, extent=(0.05, 0.9))
    extents = np.array([variety.of_scene(0, "train", index)[2] for index in range(400)])
    assert extents[:, 0].min() == 0.05
    assert 0.31 < extents[:, 1].max() <= 0.2 * 1.6
    usual = np.sqrt(extents[extents[:, 0] > 0.05].prod(axis=1))
    assert usual.max() <= 0.2
    alone = [Variety(FIXED, objects=1, extent=(0.05, 0.9)).of_scene(0, "train", index)[2] for index in range(400)]
    assert max(high for _, high in alone) == 0.9
    narrow = Variety(FIXED, objects=100, extent=(0.3, 0.4)).of_scene(0, "train", 0)[2]
    assert narrow == (0.3, pytest.approx(0.4))  # as small as they come, though there is no room


def test_objects_are_as_many_and_as_large_as_asked_for(tmp_path):
    tidy = dict.fromkeys(NAMES, 0.0)
    reader = make(tmp_path, size=320, count=10, objects=[2, 4], extent=[0.2, 0.25], **tidy)
    labels = [reader.labels(index) for index in range(10)]
    assert {len(label.boxes) for label in labels} == {2, 3, 4}
    longer = np.concatenate([(label.boxes[:, 2:] - label.boxes[:, :2]).max(axis=1) for label in labels]) / 320
    assert 0.19 < longer.min() < longer.max() < 0.26


def test_a_range_of_one_value_draws_the_scenes_of_that_value(tmp_path):
    plain, ranged = make(tmp_path / "a", objects=3), make(tmp_path / "b", objects=[3, 3], clutter=[0.5, 0.5])
    assert all(np.array_equal(plain.read(i).image, ranged.read(i).image) for i in range(4))


@pytest.mark.parametrize("fields", [{"boxes"}, {"boxes", "masks"}, {"semantic"}, {"class_scores", "box"}])
def test_labels_that_nobody_reads_are_left_out_and_the_others_stay(tmp_path, fields):
    reader = make(tmp_path, objects=1)
    narrow = reader.narrowed(frozenset(fields))
    whole, some = reader.labels(3), narrow.labels(3)
    assert narrow.fields == some.known == fields
    for name in fields:
        assert np.array_equal(getattr(some, name), getattr(whole, name)), name
    assert np.array_equal(narrow.read(3).image, reader.read(3).image)
    assert reader.labels(3).known == reader.fields  # the reader itself goes on as before
    assert narrow.label_parts() == reader.label_parts()


def test_worlds_of_other_ranges_do_not_share_their_files_and_known_worlds_keep_theirs(tmp_path):
    worlds = [{}, {"clutter": [0.0, 1.0]}, {"clutter": [0.0, 0.9]}, {"objects": [1, 3]}, {"extent": [0.1, 0.3]}]
    folders = [make(tmp_path, **changes).folder for changes in worlds]
    assert len(set(folders)) == len(worlds)
    assert folders[0].parent.name == "0398dd3ac70ff394"  # of the files that earlier versions left


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clutter": (0.6, 0.4)}, r"clutter=\(0.6, 0.4\): a number from 0"),
        ({"clutter": (0.1, 0.2, 0.3)}, r"or \[low, high\]"),
        ({"clutter": (0.1, 1.2)}, "from 0 .* to 1"),
        ({"clutter": (0.1, math.nan)}, "clutter="),
        ({"clutter": True}, "clutter=True"),
        ({"objects": (0, 3)}, "objects=.*whole number from 1"),
        ({"objects": (3, 2)}, r"\[least, most\]"),
        ({"objects": (1.5, 2)}, "objects="),
        ({"objects": True}, "objects=True"),
        ({"extent": 0.3}, r"extent=0.3: \[low, high\]"),
        ({"extent": (0.0, 0.3)}, "above 0"),
        ({"extent": (0.4, 0.3)}, "extent="),
        ({"extent": "ab"}, "extent='ab'"),
    ],
)
def test_ranges_that_are_none_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        checked_variety(**{"objects": None, "extent": None, **FIXED, **change})


def test_a_number_of_objects_may_be_a_range_on_the_command_line():
    assert compose("train", ["data.objects=[1, 8]"]).data.objects == [1, 8]
    for typed in ("[3, 1]", "[1, 2, 3]", "many", "0", "1.5"):
        with pytest.raises(ConfigError, match=r"data\.objects=.*: 1 or more, or \[least, most\], is wanted"):
            compose("train", [f"data.objects={typed}"])


@pytest.mark.parametrize(("task", "size"), [("detect", 640), ("instance", 640), ("semantic", 512), ("panoptic", 640)])
def test_varied_scenes_are_learned_as_photographs_are(task, size):
    cfg, photographs = (compose("train", [f"task={task}", *more]) for more in (["data=shapes_varied"], COCO))
    assert cfg.image_size == size
    for group in ("model", "augment", "optim", "schedule", "engine", "head", "preprocess"):
        assert cfg[group] == photographs[group], group
    assert cfg.data.batch_size == photographs.data.batch_size


COCO = ["data=coco", "data.root=/x"]
