"""Other images or labels are told apart, wherever the same ones lie."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit.data.fingerprint import differences, fingerprint
from visionkit.data.flat import Ids, Strings
from visionkit.data.readers import (
    Coco,
    CocoPanoptic,
    Csv,
    Folder,
    Joined,
    Masks,
    Mixture,
    Shapes,
    SingleObject,
    Voc,
    Yolo,
)
from visionkit.data.readers.first import First
from visionkit.structures import LABEL_FIELDS, Labels

ALL = frozenset(LABEL_FIELDS)


def image(path: Path, value: int = 0, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def coco(root: Path) -> None:
    for name in ("a", "b"):
        image(root / f"images/{name}.jpg")
    boxes = [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 12], "area": 100, "iscrowd": 0,
              "segmentation": [[1, 2, 11, 2, 11, 14]]},
             {"id": 2, "image_id": 2, "category_id": 4, "bbox": [5, 5, 5, 5], "area": 25, "iscrowd": 0,
              "segmentation": [[5, 5, 10, 5, 10, 10]]}]  # fmt: skip
    images = [{"id": i, "file_name": f"{name}.jpg", "height": 30, "width": 40} for i, name in ((1, "a"), (2, "b"))]
    content = {
        "images": images,
        "annotations": boxes,
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
    }
    (root / "train.json").write_text(json.dumps(content))


def edited(file: str, old: str, new: str):
    def change(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return change


def panoptic(root: Path) -> None:
    coco(root)
    image(root / "panoptic_train/a.png", (7, 0, 0))
    segment = {"id": 7, "category_id": 3, "iscrowd": 0, "area": 1200, "bbox": [0, 0, 40, 30]}
    entry = {"image_id": 1, "file_name": "a.png", "segments_info": [segment]}
    images = [{"id": 1, "file_name": "a.jpg", "height": 30, "width": 40}]
    categories = [{"id": 3, "name": "cat", "isthing": 1}, {"id": 4, "name": "sky", "isthing": 0}]
    content = {"images": images, "annotations": [entry], "categories": categories}
    (root / "panoptic_train.json").write_text(json.dumps(content))


def csv(root: Path) -> None:
    image(root / "a.jpg")
    (root / "train.csv").write_text("image,xmin,ymin,xmax,ymax,label\na.jpg,1,2,10,12,cat\n")


def folder(root: Path) -> None:
    image(root / "train/cat/a.jpg")
    image(root / "train/dog/b.jpg")


def moved(old: str, new: str):
    return lambda root: (root / old).rename(root / new)


def yolo(root: Path) -> None:
    image(root / "images/train/a.jpg")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text("0 .1 .1 .5 .1 .5 .5\n")
    (root / "data.yaml").write_text("names: [cat, dog]\n")


def voc(root: Path) -> None:
    image(root / "JPEGImages/a.jpg")
    image(root / "SegmentationClass/a.png", 1, "L")
    image(root / "SegmentationObject/a.png", 1, "L")
    for kind in ("Main", "Segmentation"):
        (root / "ImageSets" / kind).mkdir(parents=True)
        (root / "ImageSets" / kind / "train.txt").write_text("a\n")
    (root / "Annotations").mkdir()
    (root / "Annotations/a.xml").write_text(
        "<annotation><filename>a.jpg</filename><size><width>40</width><height>30</height><depth>3</depth></size><object>"
        "<name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
    )


def masks(root: Path) -> None:
    image(root / "images/a.png")
    image(root / "masks/a.png", 1, "L")


def half_other(file: str):
    """Another mask of the same size in pixels."""

    def change(root: Path) -> None:
        pixels = np.ones((30, 40), np.uint8)
        pixels[:, 20:] = 2
        Image.fromarray(pixels).save(root / file)

    return change


KINDS = {
    "coco, a box": (coco, lambda root: Coco(root, "train"), edited("train.json", "[5, 5, 5, 5]", "[5, 5, 5, 6]")),
    "coco, a corner of a mask": (coco, lambda root: Coco(root, "train"), edited("train.json", "10, 10]]", "10, 11]]")),
    "coco, a class": (coco, lambda root: Coco(root, "train"), edited("train.json", '_id": 4, "b', '_id": 3, "b')),
    "coco, a crowd": (coco, lambda root: Coco(root, "train"), edited("train.json", '"iscrowd": 0', '"iscrowd": 1')),
    "panoptic, a segment": (
        panoptic, lambda root: CocoPanoptic(root, "train"), edited("panoptic_train.json", 'crowd": 0', 'crowd": 1'),
    ),
    "csv, a box": (csv, lambda root: Csv(root, "train"), edited("train.csv", "1,2,10,12", "1,2,10,13")),
    "folder, a class": (folder, lambda root: Folder(root, "train"), moved("train/dog/b.jpg", "train/cat/b.jpg")),
    "yolo, a polygon": (yolo, lambda root: Yolo(root, "train"), edited("labels/train/a.txt", ".1 .5 .5", ".1 .4 .5")),
    "voc, a box": (voc, lambda root: Voc(root, "train"), edited("Annotations/a.xml", "<ymax>9<", "<ymax>8<")),
    "voc, a mask of classes": (
        voc, lambda root: Voc(root, "train", kind="semantic"), half_other("SegmentationClass/a.png"),
    ),
    "voc, a mask of objects": (
        voc, lambda root: Voc(root, "train", kind="instances"), half_other("SegmentationObject/a.png"),
    ),
    "masks of classes": (
        masks, lambda root: Masks(root, "train", names=["sky", "cat", "dog"], positions={"train": [0, 1]}),
        half_other("masks/a.png"),
    ),
    "masks of objects": (
        masks, lambda root: Masks(root, "train", kind="instances", positions={"train": [0, 1]}),
        half_other("masks/a.png"),
    ),
    "one object": (coco, lambda root: SingleObject(Coco(root, "train")), edited("train.json", "[5, 5, 5", "[5, 5, 6")),
    "two sets": (coco, lambda root: Mixture({"x": Coco(root, "train")}), edited("train.json", "[5, 5, 5", "[5, 5, 6")),
    "the first": (coco, lambda root: First(Coco(root, "train"), 2), edited("train.json", "[5, 5, 5", "[5, 5, 6")),
    "joined": (
        coco, lambda root: Joined(root, "train", readers={"x": Coco}), edited("train.json", "[5, 5, 5", "[5, 5, 6"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_another_label_is_told_and_another_place_is_not(tmp_path, kind):
    make, read, change = KINDS[kind]
    make(tmp_path / "here")
    here = fingerprint(read(tmp_path / "here"), ALL)
    assert json.loads(json.dumps(here)) == here
    assert differences(here, fingerprint(read(tmp_path / "here"), ALL)) == ""
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert differences(here, fingerprint(read(tmp_path / "there"), ALL)) == ""
    change(tmp_path / "there")
    assert differences(here, fingerprint(read(tmp_path / "there"), ALL)) in ("other labels", OTHER_IMAGES)


OTHER_IMAGES = "other images (2 by other names or ids, or in another order)"


def test_generated_scenes_are_told_by_what_they_are_drawn_from():
    one = fingerprint(Shapes("train", size=64, count=5), ALL)
    assert differences(one, fingerprint(Shapes("train", size=64, count=5), ALL)) == ""
    assert differences(one, fingerprint(Shapes("train", size=64, count=4), ALL)) == "5 images -> 4 images"
    for other in (Shapes("train", size=32, count=5), Shapes("train", size=64, count=5, clutter=0.1)):
        assert differences(one, fingerprint(other, ALL)) == "other labels"


def test_labels_that_nobody_learns_from_do_not_count(tmp_path):
    coco(tmp_path)
    before = Coco(tmp_path, "train")
    edited("train.json", "10, 10]]", "10, 11]]")(tmp_path)
    after = Coco(tmp_path, "train")
    assert differences(fingerprint(before, ALL), fingerprint(after, ALL)) == "other labels"
    boxes = frozenset({"boxes"})
    assert differences(fingerprint(before, boxes), fingerprint(after, boxes)) == ""


def test_a_file_of_another_layout_holds_the_same_data(tmp_path):
    coco(tmp_path)
    before = fingerprint(Coco(tmp_path, "train"), ALL)
    content = json.loads((tmp_path / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps({"info": {"date": "today"}, **content}, indent=2))
    assert differences(before, fingerprint(Coco(tmp_path, "train"), ALL)) == ""


class Own:
    """A reader of somebody's own, without any of the methods that a reader may have."""

    classes, category_ids, semantic_classes, fields = ("cat",), (1,), (), frozenset({"class_scores"})

    def __init__(self, count: int, changed: int = -1) -> None:
        self.image_ids, self.file_names, self.changed = list(range(count)), [f"{i}.jpg" for i in range(count)], changed

    def __len__(self) -> int:
        return len(self.image_ids)

    def labels(self, index: int) -> Labels:
        return Labels(size=(4, 4), class_scores=np.array([index == self.changed], np.float32))


def test_a_reader_of_ones_own_is_told_by_some_of_its_labels():
    assert differences(fingerprint(Own(50), ALL), fingerprint(Own(50), ALL)) == ""
    assert differences(fingerprint(Own(50), ALL), fingerprint(Own(50, 17), ALL)) == "other labels"
    assert differences(fingerprint(Own(2000), ALL), fingerprint(Own(2000, 1990), ALL)) == "other labels"


def test_names_and_ids_count_with_their_order():
    one, other = Own(3), Own(3)
    other.image_ids = [0, 2, 1]
    said = "other images (3 by other names or ids, or in another order)"
    assert differences(fingerprint(one, ALL), fingerprint(other, ALL)) == said
    other.image_ids = Ids.of([0, 1, 2])
    other.file_names = Strings.of(one.file_names)
    assert differences(fingerprint(one, ALL), fingerprint(other, ALL)) == "", "however they are held"
    other.file_names = ["0.jpg", "1.jpg\udcff", "2.jpg"]  # not UTF-8 on the disk
    assert differences(fingerprint(one, ALL), fingerprint(other, ALL)) == said


def test_a_hundred_thousand_images_take_less_than_two_seconds():
    """As many objects and corners as COCO's training images have."""
    from visionkit.data.readers.objects import make_table

    rng = np.random.default_rng(0)
    reader = Own(118_287)
    reader.image_ids = Ids.of(reader.image_ids)
    reader.file_names = Strings.of(f"train2017/{i:012d}.jpg" for i in range(len(reader)))
    objects = 860_001
    table = make_table(
        len(reader),
        owners=rng.integers(len(reader), size=objects),
        boxes=rng.random((objects, 4)),
        labels=rng.integers(80, size=objects),
        ignore=np.zeros(objects, bool),
    )
    corners = rng.random(26_000_000)
    reader.label_parts = lambda: [table, {"coordinates": corners}]
    began = time.process_time()
    fingerprint(reader, ALL)
    assert time.process_time() - began < 2
