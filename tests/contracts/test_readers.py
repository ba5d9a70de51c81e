"""What every reader must do, run on a small generated data set of each format."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit.data.export_coco import export_coco
from visionkit.data.readers import Coco, Folder, Shapes, Voc
from visionkit.data.validate import fast_check
from visionkit.errors import DataError
from visionkit.interfaces import Reader
from visionkit.structures import LABEL_FIELDS, Labels, Sample

SIZES = [(40, 60), (50, 30), (64, 64)]
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


MAKERS = {"coco": make_coco, "voc": make_voc, "folder": make_folder, "shapes": make_shapes}
Maker = Callable[[Path, str], Reader]


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
    assert len(reader.classes) == len(reader.category_ids) > 0


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
    document = json.loads(json.dumps(export_coco(reader)))
    assert [row["id"] for row in document["images"]] == list(reader.image_ids)
    assert [(row["id"], row["name"]) for row in document["categories"]] == list(
        zip(reader.category_ids, reader.classes, strict=True)
    )
    assert [row["id"] for row in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    wanted = 0
    for index in range(len(reader)):
        labels = reader.labels(index)
        wanted += len(labels.labels) if labels.boxes is not None else int((labels.class_scores > 0).sum())
    assert len(document["annotations"]) == wanted > 0
