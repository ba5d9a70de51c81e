"""Recognising formats: what is chosen, what is said, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit import cli
from visionkit.data.readers import Auto
from visionkit.data.readers.recognise import Listing
from visionkit.errors import ConfigError, DataError
from visionkit.structures import IGNORE_INDEX

SHARED = Path(__file__).parents[3] / "../shared/data"
BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"


def save(root: Path, *names: str, size: tuple[int, int] = (8, 6), value: int = 0) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        is_image = name.endswith(".jpg") or "leftImg8bit" in name
        Image.new("RGB" if is_image else "L", size, value if not is_image else 0).save(root / name)


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def coco(root: Path, name: str, image: str = "a.jpg") -> None:
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    images = [{"id": 1, "file_name": image, "height": 6, "width": 8}]
    write(root, name, json.dumps({"images": images, "annotations": [row], "categories": [{"id": 1, "name": "cat"}]}))


def voc(root: Path) -> None:
    save(root, "JPEGImages/a.jpg")
    write(root, "Annotations/a.xml", f"<annotation><object><name>cat</name>{BOX}</object></annotation>")
    write(root, "ImageSets/Main/train.txt", "a\n")


def voc_masks(root: Path) -> None:
    voc(root)
    write(root, "ImageSets/Segmentation/train.txt", "a\n")
    save(root, "SegmentationClass/a.png", value=8)
    save(root, "SegmentationObject/a.png", value=1)


def yolo(root: Path) -> None:
    save(root, "images/train/a.jpg")
    write(root, "labels/train/a.txt", "0 0.5 0.5 0.5 0.5\n")
    write(root, "classes.txt", "cat\n")


def roboflow(root: Path) -> None:
    save(root, "train/images/a.jpg", "valid/images/b.jpg")
    write(root, "train/labels/a.txt", "0 0.5 0.5 0.5 0.5\n")
    write(root, "data.yaml", "names: [cat]\ntrain: ../train/images\nval: ../valid/images\n")


def coco_by_split(root: Path) -> None:
    save(root, "train/a.jpg", "valid/b.jpg")
    coco(root, "train/_annotations.coco.json")
    coco(root, "valid/_annotations.coco.json", "b.jpg")


def standard_coco(root: Path) -> None:
    save(root, "train2017/a.jpg")
    coco(root, "annotations/instances_train2017.json")
    write(root, "annotations/panoptic_train2017.json", "{}")


def masks(root: Path) -> None:
    save(root, "images/a.jpg", "images/b.jpg", "masks/a.png", "masks/b.png")
    write(root, "classes.txt", "sky\nroad\n")


def mask_labels(root: Path) -> None:
    save(root, "images/train/a.jpg", "labels/train/a.png")
    write(root, "classes.txt", "sky\nroad\n")


def cityscapes(root: Path) -> None:
    save(root, "leftImg8bit/train/ulm/ulm_0_leftImg8bit.png")
    ids = np.full((6, 8), 3, np.uint8)  # out of roi
    ids[:, :4], ids[:, 6:] = 7, 26  # road, car
    folder = root / "gtFine/train/ulm"
    folder.mkdir(parents=True)
    Image.fromarray(ids).save(folder / "ulm_0_gtFine_labelIds.png")
    ids = ids.astype(np.uint16)
    ids[:, 6:] = 26001
    Image.fromarray(ids).save(folder / "ulm_0_gtFine_instanceIds.png")


def boxes_csv(root: Path) -> None:
    save(root, "images/a.jpg")
    write(root, "train.csv", "filename,xmin,ymin,xmax,ymax,class\na.jpg,1,1,5,5,cat\n")


def class_csv(root: Path) -> None:
    save(root, "images/a.jpg")
    write(root, "train.csv", "file,label\na.jpg,cat\n")


def folders(root: Path) -> None:
    save(root, "training/cat/a.jpg", "training/dog/b.jpg")


@pytest.mark.parametrize(
    ("make", "task", "kind", "seen"),
    [
        (standard_coco, "detect", "Coco", "data=coco, because there is annotations/instances_train2017.json; not read"),
        (
            coco_by_split,
            "detect",
            "Coco",
            "data=coco, because there is train/_annotations.coco.json, valid/_annotations",
        ),
        (voc, "detect", "Voc", "data=voc (data.reader.kind=boxes), because there is Annotations/a.xml"),
        (voc_masks, "detect", "Voc", "data=voc (data.reader.kind=boxes)"),
        (voc_masks, "semantic", "Voc", "data=voc (data.reader.kind=semantic)"),
        (voc_masks, "instance", "Voc", "data=voc (data.reader.kind=instances)"),
        (voc_masks, "panoptic", "Voc", "data=voc (data.reader.kind=all)"),
        (yolo, "detect", "Yolo", "data=yolo, because there is images/ with labels/train/a.txt"),
        (roboflow, "detect", "Yolo", "data=yolo, because there is data.yaml with names and splits"),
        (masks, "semantic", "Masks", "data=masks, because there is images/ with masks/"),
        (masks, "instance", "Masks", "data=masks (data.reader.kind=instances), because there is images/ with masks/"),
        (mask_labels, "semantic", "Masks", "data=masks, because there is images/ with labels/"),
        (cityscapes, "semantic", "Masks", "data=masks, because there is leftImg8bit/ with gtFine/"),
        (cityscapes, "instance", "Masks", "data=masks (data.reader.kind=instances)"),
        (boxes_csv, "detect", "Csv", "data=csv, because there is train.csv"),
        (class_csv, "classify", "Csv", "data=csv, because there is train.csv"),
        (folders, "classify", "Folder", "data=folder, because there is training/cat/, training/dog/"),
    ],
)
def test_a_format_is_recognised_and_said(tmp_path: Path, make, task: str, kind: str, seen: str) -> None:
    make(tmp_path)
    reader = Auto(tmp_path, "train", task=task)
    assert type(reader).__name__ == kind and len(reader) >= 1
    assert reader.notes[0].startswith(f"{tmp_path} is read as {seen}")
    reader.read(0)


def test_a_split_of_another_usual_name_is_the_same(tmp_path: Path) -> None:
    coco_by_split(tmp_path)
    assert Auto(tmp_path, "val", task="detect").file_names == ["valid/b.jpg"]
    with pytest.raises(DataError, match=r"no test/_annotations\.coco\.json; choose a split with data\.splits"):
        Auto(tmp_path, "test", task="detect")
    folders(tmp_path / "f")
    with pytest.raises(DataError, match="no split 'val'; it has training"):
        Auto(tmp_path / "f", "val", task="classify")


def test_cityscapes_has_its_classes_and_ids(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    pixels = Auto(tmp_path, "train", task="semantic")
    assert len(pixels.semantic_classes) == 19 and pixels.semantic_category_ids[13] == 26
    assert pixels.labels(0).semantic[0].tolist() == [0] * 4 + [IGNORE_INDEX] * 2 + [13] * 2
    objects = Auto(tmp_path, "train", task="instance")
    assert objects.classes[2] == "car" and objects.category_ids[2] == 26
    assert objects.labels(0).boxes.tolist() == [[6, 0, 8, 6]] and objects.labels(0).labels.tolist() == [2]


def test_label_files_come_before_folders_and_two_of_them_are_refused(tmp_path: Path) -> None:
    yolo(tmp_path)
    folders(tmp_path)
    reader = Auto(tmp_path, "train", task="detect")
    assert "not read, unless data= names it: folder (training/cat/, training/dog/)" in reader.notes[0]
    assert type(Auto(tmp_path, "training", task="classify")).__name__ == "Folder"  # the task decides
    voc(tmp_path)
    with pytest.raises(DataError, match=r"several formats fit: voc, because .*; yolo, because .*data=voc or data=yolo"):
        Auto(tmp_path, "train", task="detect")


def test_what_does_not_fit_the_task_is_read_all_the_same(tmp_path: Path) -> None:
    voc(tmp_path)
    assert Auto(tmp_path, "train", task="semantic").fields == {"boxes"}  # whoever trains on it says what is lacking


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, "the folder is empty; say what it is with data=coco"),
        (lambda root: save(root, "photos/a.jpg"), "no known format; it holds photos/; say what it is with data=coco"),
        (
            lambda root: voc(root / "VOC2012"),
            r"VOC2012/ looks like voc \(Annotations/a\.xml\): give data\.root=.*VOC2012",
        ),
        (lambda root: write(root, "my.json", "{}"), r"give data=coco data\.annotations\.train=my\.json"),
        (lambda root: write(root, "notes.csv", "a,b,c\n"), r"give data=csv data\.annotations\.train=notes\.csv"),
    ],
)
def test_nothing_that_is_known_is_refused_with_what_was_seen(tmp_path: Path, make, said: str) -> None:
    (tmp_path / "set").mkdir()
    make(tmp_path / "set")
    with pytest.raises(DataError, match=said):
        Auto(tmp_path / "set", "train", task="detect")


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    voc(tmp_path / "elsewhere")
    (tmp_path / "set").mkdir()
    for name in ("Annotations", "JPEGImages"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere" / name)
    with pytest.raises(DataError, match=r"links that leave it are not followed: Annotations, JPEGImages"):
        Auto(tmp_path / "set", "train")
    (tmp_path / "set/loop").symlink_to(tmp_path / "set")
    assert Listing(tmp_path / "set").some("loop", {".xml"}) is None


def test_annotations_that_are_given_decide(tmp_path: Path) -> None:
    save(tmp_path, "a.jpg")
    coco(tmp_path, "anything.json")
    assert type(Auto(tmp_path, "train", annotations="anything.json")).__name__ == "Coco"
    write(tmp_path, "any.csv", "a.jpg,cat\n")
    assert type(Auto(tmp_path, "train", annotations="any.csv")).__name__ == "Csv"


def test_an_argument_that_the_reader_does_not_take_is_refused(tmp_path: Path) -> None:
    voc(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.ignore_index: .* is read as data=voc, which takes no ignore_index"):
        Auto(tmp_path, "train", ignore_index=3)
    assert Auto(tmp_path, "val", fractions={"val": 1.0}).file_names == ["JPEGImages/a.jpg"]


def test_the_note_is_printed_by_check_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voc(tmp_path)
    assert cli.main(["check_data", f"data.root={tmp_path}", "data.split=train"]) == 0
    assert f"{tmp_path} is read as data=voc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "task", "kind", "count"),
    [
        ("bccd", "detect", "Voc", 205),
        ("camvid", "semantic", "Masks", 367),
        ("coco128", "instance", "Coco", 100),
        ("hymenoptera", "classify", "Folder", 243),
        ("caltech101_loc", "localize", "Csv", 1648),
    ],
)
def test_real_sets(name: str, task: str, kind: str, count: int) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not there")
    names = [f"c{number}" for number in range(12)] if name == "camvid" else None
    reader = Auto(SHARED / name, "train", task=task, names=names, on_error="skip")
    assert type(reader).__name__ == kind and len(reader) == count
