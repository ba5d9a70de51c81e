"""Splits written as COCO files, read back, and scored by pycocotools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visionkit.data.export_coco import export_coco, write_coco
from visionkit.data.readers import Coco, Folder, Shapes, Voc
from visionkit.errors import DataError


def make_voc(root: Path, extra: str = "") -> Voc:
    """Two images; the first has a cat and a difficult dog, the second nothing."""
    (root / "JPEGImages").mkdir(parents=True)
    (root / "Annotations").mkdir()
    (root / "ImageSets/Main").mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (60, 40)).save(root / f"JPEGImages/{name}.jpg")
    sides = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>20</ymax></bndbox>"
    cat = f"<object><name>cat</name>{sides.format(1, 30)}</object>"
    dog = f"<object><name>dog</name><difficult>1</difficult>{sides.format(40, 60)}</object>"
    (root / "Annotations/a.xml").write_text(f"<annotation>{cat}{dog}{extra}</annotation>")
    (root / "Annotations/b.xml").write_text("<annotation/>")
    (root / "ImageSets/Main/train.txt").write_text("b\na\n")
    return Voc(root, "train", on_error="skip")


def test_voc_as_coco(tmp_path: Path) -> None:
    document = export_coco(make_voc(tmp_path))
    assert document["images"] == [
        {"id": 1, "file_name": "JPEGImages/b.jpg", "height": 40, "width": 60},
        {"id": 2, "file_name": "JPEGImages/a.jpg", "height": 40, "width": 60},
    ]
    assert document["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    cat = {"id": 1, "image_id": 2, "category_id": 1, "bbox": [1, 2, 29, 18], "area": 522, "iscrowd": 0}
    dog = {"id": 2, "image_id": 2, "category_id": 2, "bbox": [40, 2, 20, 18], "area": 360, "iscrowd": 1, "ignore": 1}
    assert document["annotations"] == [cat, dog]


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    source = make_voc(tmp_path)
    write_coco(source, tmp_path / "new" / "train.json")
    again = Coco(tmp_path, "train", annotations=tmp_path / "new" / "train.json")
    assert again.file_names == source.file_names and again.image_ids == source.image_ids
    for index in range(2):
        one, other = source.labels(index), again.labels(index)
        for name in ("boxes", "labels", "crowd", "ignore", "areas"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["train.json"]


def test_shapes_with_masks_score_one_against_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = Shapes("val", size=64, count=4, cache_folder=tmp_path)
    write_coco(reader, tmp_path / "val.json")
    truth = COCO(str(tmp_path / "val.json"))
    results = [
        {key: row[key] for key in ("image_id", "category_id", "segmentation", "bbox")} | {"score": 0.9}
        for row in truth.dataset["annotations"]
    ]
    assert results
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(truth, truth.loadRes([dict(row) for row in results]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0)
    capsys.readouterr()


def test_whole_images_get_one_annotation_per_class(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (6, 4)).save(tmp_path / "train" / name / "1.png")
    document = export_coco(Folder(tmp_path, "train"))
    assert document["annotations"] == [
        {"id": n, "image_id": n, "category_id": n, "bbox": [0, 0, 6, 4], "area": 24, "iscrowd": 0} for n in (1, 2)
    ]


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    write_coco(make_voc(tmp_path), tmp_path / "train.json")
    before = (tmp_path / "train.json").read_bytes()
    reader = Coco(tmp_path, "train")
    with pytest.raises(DataError, match=r"train\.json: is the file that is read; choose another name"):
        write_coco(reader, tmp_path / "ImageSets" / ".." / "train.json")
    assert (tmp_path / "train.json").read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written"):
        write_coco(reader, tmp_path / "file" / "out.json")
