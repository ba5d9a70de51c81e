"""The index of a COCO file: as json.load has it, cached, and noticed when the file changes."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random

import numpy as np
import pytest
from PIL import Image

from visionkit.data.readers import Coco, coco_files, coco_index, coco_stream
from visionkit.data.readers.coco_index import build_index, open_index
from visionkit.data.readers.coco_stream import stream
from visionkit.data.readers.objects import fit_boxes
from visionkit.data.readers.source import fit_box
from visionkit.errors import DataError


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Cache even the smallest files, in a folder of the test's own."""
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_index, "LEAST_BYTES", 0)
    monkeypatch.setattr(coco_files, "LEAST_CACHED", 0)
    return tmp_path / "cache"


def document(images=3, objects=9, name="a"):
    return {
        "images": [{"id": i + 1, "file_name": f"{i}.png", "height": 8, "width": 10} for i in range(images)],
        "annotations": [
            {
                "id": n + 1,
                "image_id": n % images + 1,
                "category_id": 1,
                "bbox": [n % 5, 1, 3, 4.5],
                "area": 7 + n,
                "iscrowd": 0,
                "segmentation": [[1, 1, 4, 1, 4, 5 + n / 10], [5, 5, 7, 5, 7, 7, 5, 7]][: 1 + n % 2],
            }
            for n in range(objects)
        ],
        "categories": [{"id": 1, "name": name}],
    }


def write(root, content):
    (root / "images").mkdir(exist_ok=True)
    for image in content["images"]:
        Image.new("RGB", (10, 8)).save(root / "images" / image.get("file_name", "none.png"))
    (root / "train.json").write_text(json.dumps(content))
    return root / "train.json"


def same(one, other):
    assert one.file_names == other.file_names and one.image_ids == other.image_ids
    for index in range(len(one)):
        mine, theirs = one.labels(index), other.labels(index)
        for field in ("boxes", "labels", "crowd", "ignore", "areas"):
            np.testing.assert_array_equal(getattr(mine, field), getattr(theirs, field))
        assert mine.masks == theirs.masks


# ---------------------------------------------------------------------------------------------------------- streaming
def test_streamed_elements_are_those_of_json(tmp_path, monkeypatch):
    monkeypatch.setattr(coco_stream, "_CHUNK", 3)
    content = {"a": [1, {"b": [2]}, "]", None, 1.5, [], "x"], "ü": {"a": [3]}, "empty": [], "c": "no list", "last": [1]}
    file = tmp_path / "f.json"
    for text in (
        json.dumps(content),
        json.dumps(content, indent=2),
        " \n" + json.dumps(content, separators=(",", ":")),
    ):
        file.write_text(text)
        taken = {key: [] for key in ("a", "empty", "c")}

        def take(key, taken=taken):
            return lambda rows, first: taken[key].extend(enumerate(rows, first))

        members, digest = stream(file, {key: take(key) for key in taken})
        assert taken == {"a": list(enumerate(content["a"])), "empty": [], "c": []}
        assert members == content | {"a": []} and len(digest) == 64


@pytest.mark.parametrize(
    "text",
    ['{"a": [1, 2}', '{"a": [1 2]}', '{"a": [1,]}', '{"a": [1]', '{"a" [1]}', '{"a": [1]} x', "{'a': 1}", '{"a": }',
     '{"a": [1], }', "", "{", "nul", '{"a": [' * 100_000],
)  # fmt: skip
def test_what_json_refuses_is_refused(tmp_path, text):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(DataError, match="not valid JSON"):
        stream(tmp_path / "f.json", {"a": lambda rows, first: None})


def test_a_list_that_stands_there_twice_is_refused(tmp_path):
    (tmp_path / "f.json").write_text('{"a": [1], "a": [2]}')
    with pytest.raises(DataError, match="'a' stands there twice"):
        stream(tmp_path / "f.json", {"a": lambda rows, first: None})


def test_chunks_and_odd_rows_make_no_difference(tmp_path, monkeypatch):
    content = document(images=4, objects=40)
    content["annotations"][7]["iscrowd"] = True
    content["annotations"][8]["id"] = None
    del content["annotations"][20]["segmentation"]
    random.Random(0).shuffle(content["annotations"])
    write(tmp_path, content)
    whole = Coco(tmp_path, "train")
    monkeypatch.setattr(coco_stream, "_CHUNK", 3)
    same(Coco(tmp_path, "train"), whole)
    assert sum(len(whole.labels(i).boxes) for i in range(4)) == 40
    assert sum(int(whole.labels(i).crowd.sum()) for i in range(4)) == 1


def test_annotations_may_come_before_images(tmp_path):
    content = document()
    write(tmp_path, content)
    before = Coco(tmp_path, "train")
    (tmp_path / "train.json").write_text(json.dumps(dict(reversed(content.items()))))
    same(Coco(tmp_path, "train"), before)


# -------------------------------------------------------------------------------------------------------------- cache
def test_reopened_index_is_the_same_and_reads_no_json(tmp_path, cached, monkeypatch):
    content = document()
    content["images"][1]["id"] = content["annotations"][1]["image_id"] = "x9"
    content["annotations"] += [{**content["annotations"][0], "id": 99, "bbox": [1, 1, 0, 4]}, {"id": 100}]
    content["images"].append({"id": 50})
    write(tmp_path, content)
    made = Coco(tmp_path, "train", on_error="skip")
    monkeypatch.setattr(coco_index, "build_index", None)
    monkeypatch.setattr(coco_files, "check_images", None)
    again = Coco(tmp_path, "train", on_error="skip")
    same(again, made)
    assert again.problems == made.problems and again.notes == made.notes and len(made.problems) > 3
    assert again.image_ids == [1, "x9", 3]
    assert not [file for file in tmp_path.rglob("*.flat") if cached not in file.parents]


def test_changed_file_is_noticed(tmp_path, cached):
    file = write(tmp_path, document(name="cat"))
    assert Coco(tmp_path, "train").classes == ("cat",)
    times = file.stat().st_mtime_ns
    file.write_text(json.dumps(document(name="dog")))
    os.utime(file, ns=(times, times))
    assert Coco(tmp_path, "train").classes == ("dog",)


def test_damaged_or_other_cache_is_made_anew(tmp_path, cached, monkeypatch):
    file = write(tmp_path, document())
    wanted = Coco(tmp_path, "train")
    for entry in cached.rglob("*.flat"):
        entry.write_bytes(entry.read_bytes()[:-9])
    same(Coco(tmp_path, "train"), wanted)
    monkeypatch.setattr(coco_index, "_VERSION", 99)
    assert open_index(file).images.names == ["0.png", "1.png", "2.png"]


def test_small_files_leave_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache"))
    write(tmp_path, document())
    Coco(tmp_path, "train")
    assert not (tmp_path / "cache").exists()


def test_images_are_looked_at_again_where_they_changed(tmp_path, cached):
    write(tmp_path, document())
    assert len(Coco(tmp_path, "train")) == 3
    (tmp_path / "images/1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1\.png"):
        Coco(tmp_path, "train")
    assert Coco(tmp_path, "train", on_error="skip").image_ids == [1, 3]
    (tmp_path / "images/1.png").unlink()
    with pytest.raises(DataError, match=r"'1\.png' is not there"):
        Coco(tmp_path, "train")
    Image.new("RGB", (10, 8)).save(tmp_path / "images/1.png")
    assert len(Coco(tmp_path, "train")) == 3


def test_index_needs_no_images(tmp_path):
    file = tmp_path / "train.json"
    file.write_text(json.dumps(document()))
    index, _ = build_index(file)
    assert index.images.names == ["0.png", "1.png", "2.png"] and index.objects.offsets.tolist() == [0, 3, 6, 9]
    assert index.objects.segmentations.polygons(1) == [[1, 1, 4, 1, 4, 5.1], [5, 5, 7, 5, 7, 7, 5, 7]]


def test_narrowed_labels_have_no_masks(tmp_path):
    write(tmp_path, document())
    whole = Coco(tmp_path, "train")
    narrow = whole.narrowed(frozenset({"boxes"}))
    assert narrow.fields == {"boxes"} and narrow.labels(0).masks is None
    np.testing.assert_array_equal(narrow.labels(0).boxes, whole.labels(0).boxes)
    assert whole.labels(0).masks is not None and whole.fields == {"boxes", "masks"}


# -------------------------------------------------------------------------------------------------------------- rules
CASES = {
    "id-zero": {"id": 0},
    "id-string": {"id": "7"},
    "id-duplicate": {"id": 1},
    "id-invalid": {"id": 1.5},
    "image-unknown": {"image_id": 9},
    "category-unknown": {"category_id": 9},
    "box-missing": {"bbox": None},
    "box-format": {"bbox": [1, 2, 3]},
    "box-not-finite": {"bbox": [1, 2, float("nan"), 4]},
    "box-negative": {"bbox": [1, 2, -3, 4]},
    "box-zero-area": {"bbox": [1, 2, 0, 4]},
    "box-outside": {"bbox": [20, 2, 3, 4]},
    "flag-invalid": {"iscrowd": 2},
    "area-invalid": {"area": float("inf")},
    "polygon-empty": {"segmentation": []},
    "polygon-short": {"segmentation": [[1, 1, 2, 2]]},
    "polygon-odd": {"segmentation": [[1, 1, 2, 2, 3, 3, 4]]},
    "polygon-not-finite": {"segmentation": [[1, 1, 2, float("inf"), 3, 3]]},
    "polygon-outside": {"segmentation": [[1, 1, 900, 2, 3, 3]]},
    "rle-size": {"segmentation": {"size": [10, 8], "counts": [80]}},
    "rle-invalid": {"segmentation": {"size": [8, 10], "counts": [79]}},
    "segmentation-format": {"segmentation": "mask.png"},
    "area-missing": {"area": None},
    "iscrowd-missing": {"iscrowd": None},
}


@pytest.mark.parametrize("rule", CASES)
def test_each_fault_names_its_rule(tmp_path, rule):
    content = document(objects=3)
    content["annotations"][1] |= CASES[rule]
    write(tmp_path, content)
    (found,) = Coco(tmp_path, "train", on_error="skip").problems
    assert found.rule == rule and found.warning == rule.endswith("-missing") * (rule != "box-missing")
    kept = found.warning or rule in ("id-zero", "id-string", "id-invalid")
    assert Coco(tmp_path, "train", on_error="skip").class_counts().sum() == 2 + kept


def test_boxes_that_look_like_two_corners(tmp_path):
    content = document(objects=4)
    for row, bbox in zip(
        content["annotations"], [[1, 2, 4, 6], [5, 3, 9, 8], [6, 4, 10, 7], [2, 2, 3, 3]], strict=True
    ):
        row["bbox"] = bbox
    write(tmp_path, content)
    with pytest.raises(DataError, match="these look like xyxy, not xywh"):
        Coco(tmp_path, "train")
    reader = Coco(tmp_path, "train", on_error="skip")
    assert [problem.rule for problem in reader.problems] == ["box-xyxy"] and reader.class_counts().sum() == 0
    content["annotations"][0]["bbox"] = [5, 5, 2, 2]  # no two corners
    write(tmp_path, content)
    assert "box-xyxy" not in [problem.rule for problem in Coco(tmp_path, "train").problems]


def test_many_boxes_are_fitted_as_one_is():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(-6, 16, (500, 4)).round(1)
    boxes[:, 2:] = boxes[:, :2] + rng.uniform(0.1, 12, (500, 2)).round(1)
    sizes = rng.integers(4, 12, (500, 2))
    fitted, clipped, outside = fit_boxes(boxes, sizes)
    for i in range(500):
        one = fit_box(boxes[i].tolist(), (int(sizes[i, 0]), int(sizes[i, 1])))
        assert isinstance(one, str) == outside[i]
        if not isinstance(one, str):
            assert (tuple(fitted[i].tolist()), bool(clipped[i])) == one
    assert outside.any() and clipped.any()


@pytest.mark.parametrize("text", ['{"images": [1, 2]}', '{"images": [1, '])
def test_cycles_are_looked_for_again_after_reading(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    seen = []
    with contextlib.suppress(DataError):
        stream(tmp_path / "a.json", {"images": lambda rows, first: seen.append(gc.isenabled())})
    assert seen in ([False], [])
    assert gc.isenabled()
