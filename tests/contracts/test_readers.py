"""What every reader must do, run on a small generated data set of each format."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit.data.export_coco import export_coco, renumbered
from visionkit.data.readers import (
    Auto,
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
from visionkit.data.validate import fast_check
from visionkit.errors import DataError
from visionkit.interfaces import Reader
from visionkit.structures import IGNORE_INDEX, LABEL_FIELDS, Labels, Sample

SIZES = [(40, 60), (50, 30), (64, 64)]
Maker = Callable[[Path, str], Reader]
BOXES = [[(2.5, 3.0, 20.0, 30.0, "cat"), (10.0, 10.0, 60.0, 40.0, "dog")], [], [(0.0, 0.0, 64.0, 64.0, "dog")]]


def save_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"image_{number}.png")


def make_coco(root: Path, split: str) -> Reader:
    save_images(root / "images")
    images = [{"id": 10 + n, "file_name": f"image_{n}.png", "height": h, "width": w} for n, (h, w) in enumerate(SIZES)]
    annotations = []
    for number, rows in enumerate(BOXES):
        for x1, y1, x2, y2, name in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 + number,
                    "category_id": {"cat": 7, "dog": 0}[name],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "cat"}, {"id": 0, "name": "dog"}],
    }
    (root / "train.json").write_text(json.dumps(document))
    return Coco(root, split)


def make_voc(root: Path, split: str) -> Reader:
    save_images(root / "JPEGImages")
    (root / "Annotations").mkdir()
    for number, rows in enumerate(BOXES):
        objects = "".join(
            f"<object><name>{name}</name><difficult>{int(name == 'cat')}</difficult><bndbox><xmin>{x1}</xmin>"
            f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for x1, y1, x2, y2, name in rows
        )
        (root / "Annotations" / f"image_{number}.xml").write_text(f"<annotation>{objects}</annotation>")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("image_0\nimage_1\nimage_2\n")
    return Voc(root, split)


def make_folder(root: Path, split: str) -> Reader:
    save_images(root / "train" / "cat")
    save_images(root / "train" / "dog")
    return Folder(root, split)


def make_shapes(root: Path, split: str) -> Reader:
    return Shapes(split, size=(48, 64), count=3, cache_folder=root)


def make_coco_panoptic(root: Path, split: str) -> Reader:
    """Ground everywhere but for a strip of void; the segments' ids are those that colours have."""
    save_images(root / "train")
    folder = root / "annotations" / "panoptic_train"
    folder.mkdir(parents=True)
    entries = []
    for number, ((height, width), rows) in enumerate(zip(SIZES, BOXES, strict=True)):
        ids = np.full((height, width), 70_000)
        ids[:, :2] = 0
        segments = [{"id": 70_000, "category_id": 5, "iscrowd": 0}]
        for place, (x1, y1, x2, y2, name) in enumerate(rows):
            ids[int(y1) : int(y2), int(x1) : int(x2)] = 300 + place
            segments.append({"id": 300 + place, "category_id": {"cat": 7, "dog": 0}[name], "iscrowd": 0})
        segments = [one for one in segments if (ids == one["id"]).any()]
        pixels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"segments_{number}.png")
        entries.append({"image_id": 10 + number, "file_name": f"segments_{number}.png", "segments_info": segments})
    images = [{"id": 10 + n, "file_name": f"image_{n}.png", "height": h, "width": w} for n, (h, w) in enumerate(SIZES)]
    categories = [
        {"id": 7, "name": "cat", "isthing": 1},
        {"id": 5, "name": "ground", "isthing": 0},
        {"id": 0, "name": "dog", "isthing": 1},
    ]
    document = {"images": images, "annotations": entries, "categories": categories}
    folder.with_suffix(".json").write_text(json.dumps(document))
    return CocoPanoptic(root, split)


def save_masks(root: Path, folder: str) -> None:
    """Value 1 where the first box is, 2 where the second is, 0 elsewhere."""
    (root / folder).mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        mask = np.zeros((height, width), np.uint8)
        for value, (x1, y1, x2, y2, _) in enumerate(BOXES[number], 1):
            mask[int(y1) : int(y2), int(x1) : int(x2)] = value
        Image.fromarray(mask).save(root / folder / f"image_{number}.png")


def make_semantic(root: Path, split: str) -> Reader:
    save_images(root / "images" / "train")
    save_masks(root, "masks/train")
    return Masks(root, split, classes=["ground", "cat", "dog"])


def make_instances(root: Path, split: str) -> Reader:
    save_images(root / "train")
    save_masks(root, "trainannot")
    return Masks(root, split, kind="instances")


def make_csv(root: Path, split: str) -> Reader:
    save_images(root / "images")
    rows = [
        f"image_{n}.png,{x1},{y1},{x2},{y2},{name}" for n, boxes in enumerate(BOXES) for x1, y1, x2, y2, name in boxes
    ]
    (root / "train.csv").write_text("\n".join([*rows, "image_1.png,,,,,"]))
    return Csv(root, split)


def make_csv_classes(root: Path, split: str) -> Reader:
    save_images(root / "images")
    (root / "labels.csv").write_text(
        "file,label,split\nimage_0.png,cat,train\nimage_1.png,dog,train\nimage_0.png,dog,train"
    )
    return Csv(root, split)


def write_yolo(root: Path, lines: list[list[str]]) -> None:
    save_images(root / "images" / "train")
    (root / "labels" / "train").mkdir(parents=True)
    for number, rows in enumerate(lines):
        if rows:
            (root / "labels" / "train" / f"image_{number}.txt").write_text("\n".join(rows))
    (root / "data.yaml").write_text("names: {0: dog, 7: cat}")


def make_yolo(root: Path, split: str) -> Reader:
    lines = []
    for (height, width), rows in zip(SIZES, BOXES, strict=True):
        shares = [
            ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            for x1, y1, x2, y2, _ in rows
        ]
        lines.append(
            [f"{7 * (row[4] == 'cat')} {' '.join(map(str, one))}" for one, row in zip(shares, rows, strict=True)]
        )
    write_yolo(root, lines)
    return Yolo(root, split)


def make_yolo_polygons(root: Path, split: str) -> Reader:
    lines = []
    for (height, width), rows in zip(SIZES, BOXES, strict=True):
        corners = [
            [x1 / width, y1 / height, x2 / width, y1 / height, x2 / width, y2 / height, x1 / width, y2 / height]
            for x1, y1, x2, y2, _ in rows
        ]
        lines.append(
            [f"{7 * (row[4] == 'cat')} {' '.join(map(str, one))}" for one, row in zip(corners, rows, strict=True)]
        )
    write_yolo(root, lines)
    return Yolo(root, split)


def make_single(root: Path, split: str) -> Reader:
    return SingleObject(make_coco(root, split), "largest")


def make_joined(root: Path, split: str) -> Reader:
    make_coco(root, "train")
    save_masks(root, "masks")
    pixels = partial(Masks, images="images/{name}", masks="masks/{name}", positions={"train": [0, 2]})
    pixels = partial(pixels, names=["ground", "cat", "dog"])
    return Joined(root, split, readers={"objects": Coco, "pixels": pixels})


def make_mixture(root: Path, split: str) -> Reader:
    return Mixture({"objects": make_coco(root / "a", split), "pixels": make_semantic(root / "b", split)})


def save_voc_masks(root: Path) -> None:
    """The boxes as SegmentationObject, their classes (cat 8, dog 12) as SegmentationClass."""
    make_voc(root, "train")
    (root / "ImageSets" / "Segmentation").mkdir()
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("image_0\nimage_1\nimage_2\n")
    save_masks(root, "SegmentationObject")
    (root / "SegmentationClass").mkdir()
    for number, rows in enumerate(BOXES):
        ids = np.asarray(Image.open(root / "SegmentationObject" / f"image_{number}.png"))
        classes = np.array([0, *({"cat": 8, "dog": 12}[name] for *_, name in rows)], np.uint8)[ids]
        Image.fromarray(classes).save(root / "SegmentationClass" / f"image_{number}.png")


def make_voc_kind(root: Path, split: str, kind: str) -> Reader:
    save_voc_masks(root)
    return Voc(root, split, kind=kind)


def make_cityscapes(root: Path, split: str) -> Reader:
    """Ids are class * 1000 + number, images in folders of cities; the mask of image 2 has a group of dogs."""
    for number, (height, width) in enumerate(SIZES):
        folders = [root / f"{kind}/train/city_{number}" for kind in ("left", "fine")]
        ids = np.zeros((height, width), np.uint16)
        for place, (x1, y1, x2, y2, name) in enumerate(BOXES[number]):
            ids[int(y1) : int(y2), int(x1) : int(x2)] = {"cat": 24, "dog": 26}[name] * 1000 + place
        ids = np.where(ids == 26000, 26, ids).astype(np.uint16)
        for folder, kind, picture in zip(
            folders, ("photo", "ids"), (np.zeros((height, width, 3), np.uint8) + 9, ids), strict=True
        ):
            folder.mkdir(parents=True)
            Image.fromarray(picture).save(folder / f"{number}_{kind}.png")
    templates = {"images": "left/{split}/*/{name}_photo.png", "masks": "fine/{split}/*/{name}_ids.png"}
    return Masks(root, split, kind="instances", divisor=1000, names={"cat": 24, "dog": 26}, **templates)


def make_auto(root: Path, split: str, make: Maker, task: str) -> Reader:
    make(root, "train")
    return Auto(root, split, task=task)


def make_auto_voc(root: Path, split: str) -> Reader:
    save_voc_masks(root)
    return Auto(root, split, task="panoptic")


def make_listed(root: Path, split: str, make: Maker, reader: Callable[..., Reader]) -> Reader:
    """The same images by a list of two of them, in another order."""
    names = sorted(make(root, "train").file_names)
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text(f"{names[2]}\n{names[0]}\n")
    return reader(root, split, lists={"train": "lists/train.txt"})


MAKERS = {
    "auto_coco": partial(make_auto, make=make_coco, task="instance"),
    "auto_csv": partial(make_auto, make=make_csv_classes, task="classify"),
    "auto_folder": partial(make_auto, make=make_folder, task="classify"),
    "auto_masks": partial(make_auto, make=make_instances, task="instance"),
    "auto_voc": make_auto_voc,
    "auto_yolo": partial(make_auto, make=make_yolo, task="detect"),
    "cityscapes": make_cityscapes,
    "listed_coco": partial(make_listed, make=make_coco, reader=Coco),
    "listed_csv": partial(make_listed, make=make_csv, reader=Csv),
    "listed_folder": partial(make_listed, make=make_folder, reader=Folder),
    "listed_voc": partial(make_listed, make=make_voc, reader=Voc),
    "listed_yolo": partial(make_listed, make=make_yolo, reader=Yolo),
    "voc_all": partial(make_voc_kind, kind="all"),
    "voc_instances": partial(make_voc_kind, kind="instances"),
    "voc_semantic": partial(make_voc_kind, kind="semantic"),
    "coco": make_coco,
    "coco_panoptic": make_coco_panoptic,
    "csv": make_csv,
    "csv_classes": make_csv_classes,
    "folder": make_folder,
    "instances": make_instances,
    "joined": make_joined,
    "mixture": make_mixture,
    "semantic": make_semantic,
    "shapes": make_shapes,
    "single": make_single,
    "voc": make_voc,
    "yolo": make_yolo,
    "yolo_polygons": make_yolo_polygons,
}


@pytest.fixture(params=sorted(MAKERS))
def maker(request: pytest.FixtureRequest) -> Maker:
    return MAKERS[request.param]


@pytest.fixture
def reader(maker: Maker, tmp_path: Path) -> Reader:
    return maker(tmp_path / "set", "train")


def assert_same(first: Labels, second: Labels) -> None:
    assert first.size == second.size and first.known == second.known and first.masks == second.masks
    for name in ("boxes", "labels", "crowd", "ignore", "areas", "class_scores", "box", "semantic"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


def test_is_a_reader(reader: Reader) -> None:
    assert isinstance(reader, Reader)


def test_lengths_agree(reader: Reader) -> None:
    assert len(reader) == len(reader.image_ids) == len(reader.file_names) > 0
    assert len(reader.classes) == len(reader.category_ids)
    assert len(reader.classes) + len(reader.semantic_classes) > 0


def test_ids_and_names_are_unique(reader: Reader) -> None:
    for values in (reader.image_ids, reader.file_names, reader.classes, reader.category_ids, reader.semantic_classes):
        assert len(set(values)) == len(values)
    assert all(type(value) in (int, str) for value in (*reader.image_ids, *reader.category_ids))


def test_file_names_are_relative_with_forward_slashes(reader: Reader) -> None:
    assert not any(name.startswith("/") or "\\" in name or ".." in name for name in reader.file_names)


def test_known_fields_are_among_those_declared(reader: Reader) -> None:
    assert reader.fields <= frozenset(LABEL_FIELDS)
    known = [reader.labels(index).known for index in range(len(reader))]
    assert all(row <= reader.fields for row in known)
    assert frozenset().union(*known) == reader.fields


def test_labels_stay_in_range(reader: Reader) -> None:
    for index in range(len(reader)):
        labels = reader.labels(index)
        height, width = labels.size
        assert type(height) is int and type(width) is int
        if labels.boxes is not None:
            x1, y1, x2, y2 = labels.boxes.T
            assert (x1 < x2).all() and (y1 < y2).all()
            assert (labels.boxes[:, :2] >= -1).all() and (x2 <= width + 1).all() and (y2 <= height + 1).all()
            assert ((labels.labels >= 0) & (labels.labels < len(reader.classes))).all()
            assert np.isfinite(labels.areas).all() and (labels.areas > 0).all()
        if labels.class_scores is not None:
            assert labels.class_scores.shape == (len(reader.classes),)
            assert ((labels.class_scores >= 0) & (labels.class_scores <= 1)).all()
        if labels.semantic is not None:
            assert set(np.unique(labels.semantic)) <= {*range(len(reader.semantic_classes)), 255}


def test_masks_have_the_image_size_and_fill_their_boxes(reader: Reader) -> None:
    for index in range(len(reader)):
        labels = reader.labels(index)
        if labels.masks is None:
            continue
        bitmaps = labels.bitmaps()
        assert bitmaps.shape == (len(labels.boxes), *labels.size)
        for bitmap, box in zip(bitmaps, labels.boxes, strict=True):
            rows, columns = np.nonzero(bitmap)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(extent, box, atol=1.01)


def test_read_gives_the_labels_and_an_image_of_their_size(reader: Reader) -> None:
    for index in range(len(reader)):
        sample = reader.read(index)
        assert isinstance(sample, Sample)
        assert_same(sample.labels, reader.labels(index))
        assert sample.image.shape == (*sample.labels.size, 3) and sample.image.dtype == np.uint8
        assert sample.image_id == reader.image_ids[index] and sample.file_name == reader.file_names[index]


def test_changing_what_was_read_changes_nothing(reader: Reader) -> None:
    before = reader.labels(0)
    spoiled = reader.read(0)
    spoiled.image[:] = 0
    for name in ("boxes", "labels", "crowd", "ignore", "areas", "class_scores", "box", "semantic"):
        value = getattr(spoiled.labels, name)
        if value is not None and value.flags.writeable:
            value[...] = 0
    assert_same(reader.labels(0), before)
    assert reader.read(0).image.any()


def test_is_deterministic(maker: Maker, tmp_path: Path) -> None:
    one, other = maker(tmp_path / "one", "train"), maker(tmp_path / "other", "train")
    assert list(one.image_ids) == list(other.image_ids) and list(one.file_names) == list(other.file_names)
    for index in reversed(range(len(one))):  # in another order
        assert_same(one.labels(index), other.labels(index))
        np.testing.assert_array_equal(one.read(index).image, other.read(index).image)


def test_travels_to_a_worker(reader: Reader) -> None:
    copy = pickle.loads(pickle.dumps(reader))
    assert len(copy) == len(reader) and list(copy.classes) == list(reader.classes)
    assert_same(copy.labels(0), reader.labels(0))
    np.testing.assert_array_equal(copy.read(0).image, reader.read(0).image)


def test_index_outside_is_an_error(reader: Reader) -> None:
    with pytest.raises(IndexError):
        reader.read(len(reader))


def test_unknown_split_is_refused_with_a_suggestion(maker: Maker, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'trian' \(did you mean 'train'\?\); it has .*train"):
        maker(tmp_path / "set", "trian")


def test_passes_the_fast_check(reader: Reader) -> None:
    assert fast_check(reader) == []


def test_exports_as_coco_with_its_own_ids(reader: Reader) -> None:
    """But for category 0 of COCO's own files, which is mended."""
    document = json.loads(json.dumps(export_coco(reader)))
    assert [row["id"] for row in document["images"]] == list(reader.image_ids)
    of_objects = reader.fields != {"semantic"}
    classes = reader.classes if of_objects else reader.semantic_classes
    ids = list(reader.category_ids if of_objects else reader.semantic_category_ids)
    if renumbered(reader):
        assert 0 in ids
        ids = list(range(1, len(ids) + 1))
    assert [(row["id"], row["name"]) for row in document["categories"]] == list(zip(ids, classes, strict=True))
    for key in document.keys() & {"annotations", "semantic_annotations"}:
        assert [row["id"] for row in document[key]] == list(range(1, len(document[key]) + 1))
    wanted = 0
    for index in range(len(reader)):
        labels = reader.labels(index)
        if not of_objects:
            wanted += len(set(np.unique(labels.semantic).tolist()) - {IGNORE_INDEX})
        elif labels.boxes is not None:
            wanted += len(labels.labels)
        elif labels.class_scores is not None:
            wanted += int((labels.class_scores > 0).sum())
    assert len(document["annotations"]) == wanted > 0
