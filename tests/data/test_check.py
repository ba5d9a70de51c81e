"""The full check: what it counts, what it finds beside the readers, what it writes, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit import cli
from visionkit.data.check import check_across, check_split
from visionkit.data.check_run import check_data
from visionkit.data.polygons import crossing_edges
from visionkit.data.readers import Coco, Folder, Masks, Voc, Yolo
from visionkit.errors import DataError

SIDES = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>20</ymax></bndbox>"


def make_voc(root: Path, *, extra: str = "", split: str = "train", shade: int = 0) -> Voc:
    """Two images; the first has a cat and a difficult dog, the second nothing."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = [f"{split}_{letter}" for letter in "ab"]
    for place, name in enumerate(names):
        Image.new("RGB", (60, 40), (shade, 100 * place, 7)).save(root / f"JPEGImages/{name}.jpg")
    cat = f"<object><name>cat</name>{SIDES.format(1, 30)}</object>"
    dog = f"<object><name>dog</name><difficult>1</difficult>{SIDES.format(40, 60)}</object>"
    (root / f"Annotations/{names[0]}.xml").write_text(f"<annotation>{cat}{dog}{extra}</annotation>")
    (root / f"Annotations/{names[1]}.xml").write_text("<annotation/>")
    (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(reversed(names)))
    return Voc(root, split, on_error="skip")


def rules(account) -> list[tuple[str, bool]]:
    return [(problem.rule, problem.warning) for problem in account.findings]


def opener(reader):
    return {reader.split: lambda: reader}


def test_what_a_sound_split_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_data(opener(make_voc(tmp_path))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "== train",
        "images: 2 (60 x 40)",
        "objects: 2, of them crowds 0, ignored 1",
        "images without objects: 1",
        "labelled: boxes",
    ]
    assert [line.split() for line in lines[5:8]] == [
        ["class", "objects", "images"],
        ["cat", "1", "1"],
        ["dog", "1", "1"],
    ]
    assert lines[8].startswith(f"warning [images-empty] {tmp_path} (train): 1 of 2 images hold no object: JPEGImages/")
    assert lines[-3:-1] == ["== all splits", "errors: 0, warnings: 1"] and "images-empty" in lines[-1]


def test_an_error_ends_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faulty = "<object><name>cow</name><bndbox><xmin>1</xmin></bndbox></object>"
    assert check_data(opener(make_voc(tmp_path, extra=faulty))) == 2
    said = capsys.readouterr().out
    assert f"error [box-format] {tmp_path}/Annotations/train_a.xml: object[3]/bndbox/ymin" in said
    assert "errors: 1, warnings: 1" in said


def test_findings_of_one_rule_are_cut_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faulty = "<object><name>cow</name><bndbox><xmin>1</xmin></bndbox></object>"
    assert check_data(opener(make_voc(tmp_path, extra=13 * faulty))) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("error [box-format]")]) == 11
    assert "error [box-format] … and 3 more" in lines and "errors: 13, warnings: 1" in lines


def test_a_set_that_cannot_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_data({"val": lambda: Folder(tmp_path / "none", "val")}, fix=tmp_path / "fixed.json") == 2
    said = capsys.readouterr().out
    assert "could not be opened" in said and "error [root-missing]" in said
    assert "was not written: nothing of 'val' can be used" in said
    assert list(tmp_path.iterdir()) == []


def test_every_pixel_is_looked_at(tmp_path: Path) -> None:
    """A file whose beginning and end are sound is found damaged, and left out of what is written."""
    reader = make_voc(tmp_path / "set")
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    file = tmp_path / "set/JPEGImages/train_a.jpg"
    Image.fromarray(noise).save(file, "PNG")
    data = bytearray(file.read_bytes())
    data[200:300] = bytes(100)
    file.write_bytes(data)
    account = check_split(lambda: Voc(reader.root, "train", on_error="skip"), "train")
    assert ("image-unreadable", False) in rules(account) and account.faulty == {1} and account.usable
    assert check_data(opener(Voc(reader.root, "train", on_error="skip")), fix=tmp_path / "fixed.json") == 0
    assert [row["file_name"] for row in json.loads((tmp_path / "fixed.json").read_text())["images"]] == [
        "JPEGImages/train_b.jpg"
    ]


def test_pixels_of_semantic_classes_are_counted(tmp_path: Path) -> None:
    for folder in ("images/train", "masks/train"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(tmp_path / "images/train/1.png")
    Image.fromarray(np.array([[0, 0, 1, 1, 255, 255]] * 4, np.uint8)).save(tmp_path / "masks/train/1.png")
    names = {"sky": 0, "road": 1, "sea": 2}
    account = check_split(lambda: Masks(tmp_path, "train", names=names, ignore_index=255), "train")
    assert account.pixels == {"sky": (8, 1), "road": (8, 1), "sea": (0, 0)}
    (absent,) = account.findings
    assert absent.rule == "class-absent" and absent.warning and "no example of sea" in absent.fault


def test_the_same_image_in_two_splits(tmp_path: Path) -> None:
    """By content, not by name: both splits' second images are alike, the first ones differ."""
    for split, shade in (("train", 10), ("val", 20)):
        make_voc(tmp_path, split=split, shade=shade)
    (tmp_path / "JPEGImages/val_b.jpg").write_bytes((tmp_path / "JPEGImages/train_b.jpg").read_bytes())
    accounts = [check_split(lambda split=split: Voc(tmp_path, split), split) for split in ("train", "val")]
    (found,) = check_across(accounts)
    assert found.rule == "image-in-splits" and found.warning and found.file.endswith("val_b.jpg")
    assert "train_b.jpg, which is in split 'train'" in found.fault
    assert check_across(accounts[:1]) == []


def test_an_image_turned_by_exif_is_read_as_recorded(tmp_path: Path) -> None:
    """Stored 60 wide and 40 high, shown 40 wide: labels of 60 x 40 were drawn on it as it is stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = {"id": 1, "file_name": "a.png", "height": 40, "width": 60}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [40, 5, 20, 20], "area": 400, "iscrowd": 0}
    document = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "train.json").write_text(json.dumps(document))
    reader = Coco(tmp_path, "train")
    np.testing.assert_array_equal(reader.read(0).image, pixels)
    account = check_split(lambda: reader, "train")
    assert rules(account) == [("size-exif", True)]
    assert account.findings[0].fault == "the recorded size is 60 x 40, but EXIF orientation makes the image 40 x 60"
    image |= {"height": 60, "width": 40}
    box["bbox"] = [5, 5, 20, 20]
    (tmp_path / "train.json").write_text(json.dumps(document))
    upright = Coco(tmp_path, "train")
    assert upright.read(0).image.shape == (60, 40, 3) and rules(check_split(lambda: upright, "train")) == []


@pytest.mark.parametrize(
    ("points", "crosses"),
    [
        ([[0, 0], [4, 0], [4, 4], [0, 4]], None),
        ([[0, 0], [4, 4], [4, 0], [0, 4]], (0, 2)),
        ([[0, 0], [4, 0], [4, 4]], None),
        ([[0, 0], [4, 0], [4, 4], [2, 0], [0, 4]], None),  # a point on another edge only touches it
        ([[0, 0], [4, 0], [4, 4], [2, -1], [0, 4]], (0, 2)),
        ([[0, 0], [9, 0], [9, 9], [1, 1], [1, 8], [0, 8]], None),
    ],
)
def test_polygons_that_cross_themselves(points, crosses) -> None:
    assert crossing_edges(np.array(points, np.float64)) == crosses


def bow_tie(root: Path, **ids) -> Coco:
    """One image of 60 x 40 with a bow tie, of category 3 "tie"."""
    Image.new("RGB", (60, 40)).save(root / "a.png")
    tie = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 200, "iscrowd": 0}
    tie |= {"segmentation": [[10, 10, 30, 30, 30, 10, 10, 30]]}
    image, category = {"id": 1, "file_name": "a.png", "height": 40, "width": 60}, {"id": 3, "name": "tie"}
    for key, value in ids.items():
        tie[key] = value
        (image if key == "image_id" else category)["id"] = value
    (root / "train.json").write_text(json.dumps({"images": [image], "annotations": [tie], "categories": [category]}))
    return Coco(root, "train")


def test_a_polygon_that_crosses_itself_is_an_error_trained_on_and_mended(tmp_path: Path, capsys) -> None:
    reader = bow_tie(tmp_path)
    assert check_data(opener(reader)) == 2
    said = "annotations[0].segmentation[0]: the polygon crosses itself: the edge from (10, 10) to (30, 30) crosses"
    assert said in capsys.readouterr().out
    assert check_data(opener(reader), fix=tmp_path / "fixed.json") == 0
    fixed = Coco(tmp_path, "train", annotations=tmp_path / "fixed.json")
    assert check_data(opener(fixed)) == 0
    np.testing.assert_array_equal(fixed.labels(0).bitmaps(), reader.labels(0).bitmaps())
    assert 150 < reader.labels(0).bitmaps().sum() < 250  # the two triangles, not the square around them


@pytest.mark.parametrize(("key", "number", "rule"), [
    ("image_id", 0, "id-zero"), ("image_id", "x", "id-string"),
    ("category_id", 0, "id-zero"), ("category_id", "x", "id-string"),
])  # fmt: skip
def test_ids_that_others_cannot_bear_are_renumbered(tmp_path: Path, key, number, rule, capsys) -> None:
    reader = bow_tie(tmp_path, **{key: number})
    assert (rule, False) in rules(check_split(lambda: reader, "train"))
    what = {"image_id": "images", "category_id": "categories"}[key]
    assert getattr(reader, f"{key}s") == ((number,) if key == "category_id" else [number])  # as predictions have it
    assert check_data(opener(reader), fix=tmp_path / "fixed.json") == 0
    said = f"note: {what} are numbered from 1; a model trained on the original predicts with the original's ids"
    assert said in capsys.readouterr().out.splitlines()
    document = json.loads((tmp_path / "fixed.json").read_text())
    assert document["annotations"][0][key] == document[what][0]["id"] == 1
    assert check_data(opener(Coco(tmp_path, "train", annotations=tmp_path / "fixed.json"))) == 0


def test_class_numbers_of_other_formats_may_be_zero(tmp_path: Path) -> None:
    """What `fix` writes of them keeps the ids of predictions.json, and is sound."""
    for folder in ("images/train", "labels/train"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(tmp_path / "images/train/a.png")
    (tmp_path / "labels/train/a.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "data.yaml").write_text("names: [cat]")
    reader = Yolo(tmp_path, "train")
    assert check_data(opener(reader), fix=tmp_path / "fixed.json") == 0
    assert json.loads((tmp_path / "fixed.json").read_text())["categories"] == [{"id": 0, "name": "cat"}]
    assert check_data(opener(Coco(tmp_path, "train", annotations=tmp_path / "fixed.json"))) == 0


# ---------------------------------------------------------------------------------------------------- what is written
def test_a_repaired_copy_is_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faulty = "<object><name>cow</name><bndbox><xmin>1</xmin></bndbox></object>"
    reader = make_voc(tmp_path / "set", extra=faulty)
    before = {file: file.read_bytes() for file in (tmp_path / "set").rglob("*.*")}
    assert check_data(opener(reader), fix=tmp_path / "fixed.json") == 0
    assert f"wrote {tmp_path / 'fixed.json'}" in capsys.readouterr().out
    assert check_data(opener(reader), fix=tmp_path / "fixed.json") == 0  # its own file may be written anew
    assert {file: file.read_bytes() for file in (tmp_path / "set").rglob("*.*")} == before
    account = check_split(lambda: Coco(tmp_path / "set", "train", annotations=tmp_path / "fixed.json"), "train")
    assert [problem for problem in account.findings if not problem.warning] == []
    assert account.objects == (2, 0, 1)


def test_originals_are_never_written_over(tmp_path: Path) -> None:
    reader = make_voc(tmp_path / "set")
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "set/Annotations/train_a.xml")
    before = (tmp_path / "set/Annotations/train_a.xml").read_bytes()
    for name in ("fix", "page"):
        for path in (tmp_path / "set/Annotations/train_a.xml", link, tmp_path / "set/x/../JPEGImages/train_b.jpg"):
            with pytest.raises(DataError, match=r"inside the data set's folder, where nothing is overwritten"):
                check_data(opener(reader), **{name: path})
        with pytest.raises(DataError, match=r"is a folder; give the name of a file in it"):
            check_data(opener(reader), **{name: tmp_path / "set/Annotations"})
    other = tmp_path / "notes.json"
    other.write_text("{}")
    with pytest.raises(DataError, match=r"notes\.json: is there already, and was not written by check_data"):
        check_data(opener(reader), fix=other)
    assert (tmp_path / "set/Annotations/train_a.xml").read_bytes() == before and other.read_text() == "{}"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.json", "notes.json", "set"]


def test_nothing_is_written_where_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_voc(tmp_path)
    for name in "ab":
        (tmp_path / f"JPEGImages/train_{name}.jpg").write_bytes(b"")
    assert check_data(opener(Voc(tmp_path, "train", on_error="skip")), fix=tmp_path / "fixed.json") == 2
    assert "the split holds no usable image" in capsys.readouterr().out
    assert not (tmp_path / "fixed.json").exists()


# ----------------------------------------------------------------------------------------------------------- the tool
def test_the_tool_checks_every_split_and_writes_page_and_copy(tmp_path: Path, capsys) -> None:
    for split, shade in (("train", 10), ("val", 200)):
        make_voc(tmp_path / "set", split=split, shade=shade)
    typed = ["check_data", "data=voc", f"data.root={tmp_path / 'set'}"]
    assert cli.main([*typed, f"page={tmp_path / 'a page.html'}"]) == 0
    said = capsys.readouterr().out
    assert "== train" in said and "== val" in said and f"wrote {tmp_path / 'a page.html'}" in said
    assert cli.main([*typed, "data.split=val", f"fix={tmp_path / 'fixed.json'}"]) == 0
    assert len(json.loads((tmp_path / "fixed.json").read_text())["images"]) == 2
    assert cli.main([*typed, f"fix={tmp_path / 'all.json'}"]) == 2
    assert "one split is written; choose it with data.split (train, val)" in capsys.readouterr().err


def test_the_tool_takes_lists_by_their_roles(tmp_path: Path, capsys) -> None:
    make_voc(tmp_path, split="val")
    typed = ["check_data", "data=voc", f"data.root={tmp_path}", "data.splits={train: val, val: null, test: null}"]
    assert cli.main(typed) == 0
    assert capsys.readouterr().out.startswith("== val\n")
