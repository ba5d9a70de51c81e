"""YOLO text: boxes, polygons, names, where files lie, faults, real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit.data.readers import Yolo
from visionkit.errors import ConfigError, DataError

COCO128 = Path(__file__).parents[3] / "../shared/data/coco128"


def write(
    root: Path, name: str, lines: str | None, *, images: str = "images/train", labels: str = "labels/train"
) -> None:
    """Write an image of 40 x 60 (height, width) and its label file; none when None."""
    for folder in (images, labels):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40)).save(root / images / f"{name}.jpg")
    if lines is not None:
        (root / labels / f"{name}.txt").write_text(lines)


def refusal(root: Path, kind: type[Exception] = DataError, **arguments: object) -> str:
    with pytest.raises(kind) as error:
        Yolo(root, "train", **arguments)
    return str(error.value)


def test_boxes_come_from_centre_and_sides(tmp_path: Path) -> None:
    write(tmp_path, "a", "1 0.5 0.5 0.5 0.25\n0 0.25 0.25 0.5 0.5\n")
    reader = Yolo(tmp_path, "train", names=["cat", "dog"])
    assert reader.classes == ("cat", "dog") and list(reader.category_ids) == [0, 1] and reader.fields == {"boxes"}
    labels = reader.labels(0)
    assert labels.boxes.tolist() == [[15, 15, 45, 25], [0, 0, 30, 20]] and labels.labels.tolist() == [1, 0]
    assert labels.areas.tolist() == [300, 600] and labels.masks is None


def test_polygons_give_masks_and_a_mixed_image_does_not_know_them(tmp_path: Path) -> None:
    square = "0 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75\n"
    write(tmp_path, "a", square)
    write(tmp_path, "b", square + "0 0.5 0.5 0.5 0.25\n")
    write(tmp_path, "c", "")
    reader = Yolo(tmp_path, "train", names=["cat"])
    assert reader.fields == {"boxes", "masks"}
    labels = reader.labels(0)
    assert labels.boxes == pytest.approx(np.array([[6, 10, 30, 30]]))
    assert labels.bitmaps()[0, 10:30, 6:30].all() and labels.areas.tolist() == [24 * 20] == [labels.bitmaps().sum()]
    assert reader.labels(1).masks is None and len(reader.labels(1).boxes) == 2
    assert reader.labels(2).masks == ()  # known to be empty
    assert "objects with a box alone: 1; the masks of their images are unknown" in reader.notes


def test_an_image_without_label_file_is_empty_or_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a", "0 0.5 0.5 0.5 0.25")
    write(tmp_path, "b", None)
    (tmp_path / "labels/train/lost.txt").write_text("0 0.5 0.5 0.1 0.1")
    reader = Yolo(tmp_path, "train", names=["cat"])
    assert len(reader) == 2 and reader.labels(1).boxes.shape == (0, 4)
    assert reader.notes[0] == "label files without an image: 1"
    assert reader.notes[1].startswith("images without a label file: 1, taken to hold no object")
    assert Yolo(tmp_path, "train", names=["cat"], unlabelled="skip").file_names == ["images/train/a.jpg"]
    assert "empty or skip" in refusal(tmp_path, ConfigError, names=["cat"], unlabelled="drop")


def test_numbers_may_have_gaps_and_return_as_category_ids(tmp_path: Path) -> None:
    write(tmp_path, "a", "90 0.5 0.5 0.5 0.25\n13 0.5 0.5 0.5 0.25\n")
    (tmp_path / "data.yaml").write_text("names:\n  13: stop sign\n  44: bottle\n  90: toothbrush\n")
    reader = Yolo(tmp_path, "train")
    assert reader.classes == ("stop sign", "bottle", "toothbrush") and list(reader.category_ids) == [13, 44, 90]
    assert reader.labels(0).labels.tolist() == [2, 0]
    chosen = Yolo(tmp_path, "train", classes=["toothbrush"])
    assert list(chosen.category_ids) == [90] and chosen.labels(0).labels.tolist() == [0]
    assert chosen.notes == ["objects of classes that data.classes does not list were left out: stop sign 1"]


def test_names_from_classes_txt_or_data_classes_or_none(tmp_path: Path) -> None:
    write(tmp_path, "a", "1 0.5 0.5 0.5 0.25")
    assert "nothing says what the class numbers mean" in refusal(tmp_path, ConfigError)
    assert Yolo(tmp_path, "train", classes=["x", "y"]).labels(0).labels.tolist() == [1]
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert Yolo(tmp_path, "train", classes=["dog"]).labels(0).labels.tolist() == [0]


@pytest.mark.parametrize("entry", ["images/train", "../train/images", "[images/train]", "train.txt"])
def test_data_yaml_says_where_the_images_are(tmp_path: Path, entry: str) -> None:
    folder = "train/images" if entry.startswith("..") else "images/train"
    write(tmp_path, "a", "0 0.5 0.5 0.5 0.25", images=folder, labels=folder.replace("images", "labels"))
    (tmp_path / "train.txt").write_text("./images/train/a.jpg\n")
    (tmp_path / "data.yaml").write_text(f"path: ../somewhere/else\ntrain: {entry}\nval: images/val\nnames: [cat]\n")
    reader = Yolo(tmp_path, "train")
    assert reader.file_names == [f"{folder}/a.jpg"] and len(reader.labels(0).boxes) == 1
    with pytest.raises(DataError, match=r"no split 'trian' \(did you mean 'train'\?\); it has train, val"):
        Yolo(tmp_path, "trian")
    with pytest.raises(DataError, match="val: 'images/val' is not there"):
        Yolo(tmp_path, "val")


def test_data_yaml_may_list_folders_and_text_files_and_has_a_test_split(tmp_path: Path) -> None:
    for name, folder in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "late")):
        write(tmp_path, name, "0 0.5 0.5 0.5 0.25", images=f"{folder}/images", labels=f"{folder}/labels")
    (tmp_path / "more.txt").write_text("/somebody/elses/set/two/images/c.jpg\n")
    (tmp_path / "data.yaml").write_text("names: {0: cat}\ntrain: [one/images, more.txt]\ntest: late/images\n")
    assert Yolo(tmp_path, "train").file_names == ["one/images/a.jpg", "one/images/b.jpg", "two/images/c.jpg"]
    assert Yolo(tmp_path, "test").file_names == ["late/images/d.jpg"]
    assert len(Yolo(tmp_path, "all", fractions={"all": 1.0})) == 4
    (tmp_path / "more.txt").write_text("two/images/c.jpg\ntwo/images/e.jpg\n./two/images/c.jpg\n")
    said = refusal(tmp_path)
    assert "more.txt: line 2: 'two/images/e.jpg' is no image of the data set" in said
    assert "more.txt: line 3: './two/images/c.jpg' stands in line 1 already" in said


def test_templates_positions_and_labels_beside_the_images(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path, name, "0 0.5 0.5 0.5 0.25", images="data", labels="data")
    positions = {"train": [0, 2], "val": [2, None]}
    reader = Yolo(tmp_path, "val", names=["cat"], images="data/{name}", positions=positions)
    assert reader.file_names == ["data/c.jpg"] and len(reader.labels(0).boxes) == 1
    write(tmp_path, "a", "0 0.5 0.5 0.5 0.25", images="images/train", labels="other/train")
    templates = {"images": "images/{split}/{name}", "labels": "other/{split}/{name}"}
    assert len(Yolo(tmp_path, "train", names=["cat"], **templates).labels(0).boxes) == 1
    write(tmp_path, "b", "0 0.5 0.5 0.5 0.25", images="images/val", labels="other/val")
    pooled = Yolo(tmp_path, "train", names=["cat"], **templates, positions=positions)
    assert pooled.file_names == ["images/train/a.jpg", "images/val/b.jpg"] and len(pooled.labels(1).boxes) == 1
    assert "the source's own splits are not used: train, val" in pooled.notes


def test_faults_are_named_with_file_and_line(tmp_path: Path) -> None:
    lines = (
        "0 0.5 0.5 0.5 0.25\n7 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1\n0 30 20 10 10\n0 0.5 0.5 0 0.1\n0 a 0.5 0.1 0.1\n"
        "0 nan 0.5 0.1 0.1\n0.5 0.5 0.5 0.1 0.1\n0 0.1 0.1 0.2 0.2 0.9\n"
    )
    write(tmp_path, "a", lines)
    said = refusal(tmp_path, names=["cat"])
    for line, fault in {
        2: "class 7 is not among the names",
        3: "4 numbers; class x y width height",
        4: "30 is not a share of the image's side from 0 to 1",
        5: "the box has no area",
        6: "'0 a 0.5 0.1 0.1' are no numbers",
        7: "a number is not finite",
        8: "class 0.5 is not among the names",
        9: "6 numbers",
    }.items():
        assert f"{tmp_path}/labels/train/a.txt: line {line}: {fault}" in said
    reader = Yolo(tmp_path, "train", names=["cat"], on_error="skip")
    assert len(reader.problems) == 8 and len(reader.labels(0).boxes) == 1


@pytest.mark.skipif(not COCO128.is_dir(), reason="coco128 is not there")
def test_coco128_boxes_and_polygons() -> None:
    boxes = Yolo(
        COCO128,
        "train2017",
        names="object_detection/config.yaml",
        images="images/{split}/{name}",
        labels="object_detection/labels/{split}/{name}.txt",
    )
    assert len(boxes) == 128 and len(boxes.classes) == 80 and boxes.fields == {"boxes"} and not boxes.problems
    assert boxes.class_counts().sum() == 929
    assert "label files without an image: 2" in boxes.notes
    polygons = Yolo(
        COCO128,
        "train2017",
        names="instance_segmentation/config.yaml",
        images="images/{split}/{name}",
        labels="instance_segmentation/labels/{split}/{name}.txt",
        unlabelled="skip",
        on_error="skip",
    )
    assert len(polygons) == 100 and polygons.fields == {"boxes", "masks"}
    assert list(polygons.category_ids)[11:13] == [13, 14]  # COCO's own ids, without 12
