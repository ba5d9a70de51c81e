"""Every format, written as COCO JSON by `fix=` and read back: the same images, classes, boxes, masks and ids."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from visionkit.data.check import check_split
from visionkit.data.export_coco import export_coco, renumbered, write_coco
from visionkit.data.readers import Coco, Masks, coco_index
from visionkit.data.readers.source import semantic_category_ids
from visionkit.data.validate import errors_of
from visionkit.structures import IGNORE_INDEX, Labels

_FILE = Path(__file__).parents[2] / "contracts" / "test_readers.py"
_SPEC = importlib.util.spec_from_file_location("reader_makers", _FILE)
assert _SPEC is not None and _SPEC.loader is not None
contracts = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(contracts)

GENERATED = {"shapes", "mixture"}
"""Images that are no files, or lie in several folders."""
FORMATS = sorted(contracts.MAKERS.keys() - GENERATED)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_goes_to_coco_and_comes_back(tmp_path: Path, name: str) -> None:
    source = contracts.MAKERS[name](tmp_path / "set", "train")
    write_coco(source, tmp_path / "train.json")
    again = Coco(tmp_path / "set", "train", annotations=tmp_path / "train.json")
    assert not again.problems
    assert list(again.classes) == list(source.classes)
    assert list(again.category_ids) == _ids(source, "categories", source.category_ids)
    assert list(again.semantic_classes) == list(source.semantic_classes)
    assert list(again.semantic_category_ids) == _ids(source, "semantic_categories", semantic_category_ids(source))
    assert list(again.image_ids) == list(source.image_ids) and list(again.file_names) == list(source.file_names)
    assert ("semantic" in again.fields) == ("semantic" in source.fields)
    for index in range(len(source)):
        _assert_same(source.labels(index), again.labels(index), again.fields)
        np.testing.assert_array_equal(source.read(index).image, again.read(index).image)
    account = check_split(lambda: again, "train")
    assert errors_of(account.findings) == []


def _ids(source, key, own):
    """A COCO file's category id 0 is a fault, which is mended; the class number 0 of another format is none."""
    return list(range(1, len(own) + 1)) if key in renumbered(source) else list(own)


def _assert_same(one: Labels, other: Labels, fields: frozenset[str]) -> None:
    assert one.size == other.size
    if one.semantic is not None:
        np.testing.assert_array_equal(one.semantic, other.semantic)
    elif "semantic" in fields:
        assert (other.semantic == IGNORE_INDEX).all()  # not known, and no pixel is told
    if one.boxes is None:
        told = [] if one.class_scores is None else np.flatnonzero(one.class_scores).tolist()
        assert ([] if other.labels is None else other.labels.tolist()) == told
        return
    for field in ("boxes", "labels", "crowd", "ignore", "areas"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    if one.masks is not None and (one.boxes.size or "masks" in fields):
        np.testing.assert_array_equal(one.bitmaps(), other.bitmaps())


def test_generated_scenes_keep_their_maps(tmp_path: Path) -> None:
    """The scenes are no files, but their labels are told in full."""
    source = contracts.make_shapes(tmp_path / "set", "train")
    document = export_coco(source)
    for row in document["images"]:
        file = tmp_path / row["file_name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (row["width"], row["height"])).save(file)
    (tmp_path / "train.json").write_text(json.dumps(document))
    again = Coco(tmp_path, "train")
    assert again.fields == {"boxes", "masks", "semantic"}
    for index in range(len(source)):
        _assert_same(source.labels(index), again.labels(index), again.fields)


# ----------------------------------------------------------------------------------------------------- semantic maps
@pytest.fixture
def sky_and_sea(tmp_path: Path) -> Masks:
    """Values 0 and 7, and 255 to be ignored; the second mask is of nothing else."""
    for folder in ("images/train", "masks/train"):
        (tmp_path / folder).mkdir(parents=True)
    for number, mask in enumerate(([[0, 0, 7], [255, 7, 7]], [[255, 255]])):
        values = np.array(mask, np.uint8)
        Image.fromarray(values).save(tmp_path / f"masks/train/{number}.png")
        Image.new("RGB", values.shape[::-1]).save(tmp_path / f"images/train/{number}.png")
    return Masks(tmp_path, "train", names={"sky": 0, "sea": 7}, ignore_index=255)


def test_maps_alone_are_written_as_cocos_stuff(sky_and_sea: Masks) -> None:
    document = export_coco(sky_and_sea)
    assert document["categories"] == [{"id": 0, "name": "sky", "isthing": 0}, {"id": 7, "name": "sea", "isthing": 0}]
    sky, sea = document["annotations"]
    assert {key: sky[key] for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd")} == {
        "id": 1, "image_id": 1, "category_id": 0, "bbox": [0, 0, 2, 1], "area": 2, "iscrowd": 0,
    }  # fmt: skip
    assert (sea["category_id"], sea["bbox"], sea["area"]) == (7, [1, 0, 2, 2], 3)
    assert coco_mask.decode(sea["segmentation"]).tolist() == [[0, 0, 1], [0, 1, 1]]
    assert "semantic_annotations" not in document


def test_chosen_classes_of_maps_and_pixels_of_two(sky_and_sea: Masks, tmp_path: Path) -> None:
    document = export_coco(sky_and_sea)
    document["annotations"].append({**document["annotations"][0], "id": 9, "category_id": 7})
    (tmp_path / "train.json").write_text(json.dumps(document))
    assert Coco(tmp_path, "train").labels(0).semantic.tolist() == [[255, 255, 1], [255, 1, 1]]
    sea = Coco(tmp_path, "train", classes=["sea"])
    assert sea.labels(0).semantic.tolist() == [[0, 0, 0], [255, 0, 0]]
    assert (sea.semantic_classes, sea.semantic_category_ids, sea.classes) == (("sea",), (7,), ())
    assert sea.notes == ["semantic annotations of classes that data.classes does not list were left out: sky 1"]
    assert sea.narrowed(frozenset({"boxes"})).labels(0).semantic is None


def test_maps_come_back_from_the_cache(sky_and_sea: Masks, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_index, "LEAST_BYTES", 0)
    write_coco(sky_and_sea, tmp_path / "train.json")
    os.utime(tmp_path / "train.json", (1, 1))
    first = Coco(tmp_path, "train")
    monkeypatch.setattr(coco_index, "build_index", None)
    again = Coco(tmp_path, "train")
    for index in range(2):
        np.testing.assert_array_equal(first.labels(index).semantic, again.labels(index).semantic)
    assert again.semantic_classes == ("sky", "sea") and again.fields == {"semantic"}


def test_faults_of_maps_name_their_list(tmp_path: Path) -> None:
    document = export_coco(contracts.make_joined(tmp_path / "set", "train"))
    rows = document["semantic_annotations"]
    rows[0]["category_id"] = 99
    rows[1]["segmentation"]["size"] = [1, 1]
    del rows[2]["segmentation"]
    (tmp_path / "train.json").write_text(json.dumps(document))
    reader = Coco(tmp_path / "set", "train", annotations=tmp_path / "train.json", on_error="skip")
    assert [(problem.rule, problem.where) for problem in errors_of(reader.problems)] == [
        ("category-unknown", "semantic_annotations[0].category_id"),
        ("rle-invalid", "semantic_annotations[1].segmentation"),
        ("segmentation-format", "semantic_annotations[2].segmentation"),
    ]
    assert errors_of(reader.problems)[0].fault == "99 is not in semantic_categories"
