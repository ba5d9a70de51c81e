"""COCO's panoptic files: what is read from them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit.data.readers import CocoPanoptic
from visionkit.errors import DataError
from visionkit.metrics.panoptic import panoptic_truth

SIZE = (6, 8)
CATEGORIES = [
    {"id": 3, "name": "car", "isthing": 1},
    {"id": 90, "name": "sky", "isthing": 0},
    {"id": 8, "name": "cat", "isthing": 1},
    {"id": 91, "name": "road", "isthing": 0},
]
CAR, CROWD, CAT, SKY, ROAD = 5, 256, 65536 * 7, 16_777_215, 1 + 256 * 2 + 65536 * 3


def ids_of_the_image() -> np.ndarray:
    """Void on top, then sky, and on the road a car, a crowd of cars and a cat in two parts."""
    ids = np.zeros(SIZE, np.int64)
    ids[1:3] = SKY
    ids[3:] = ROAD
    ids[4:6, 0:2] = CAR
    ids[4, 3:6] = CROWD
    ids[5, 3] = ids[3, 7] = CAT
    return ids


def segments_of_the_image() -> list[dict]:
    of = {CAR: 3, CROWD: 3, CAT: 8, SKY: 90, ROAD: 91}
    return [{"id": number, "category_id": category, "iscrowd": int(number == CROWD)} for number, category in of.items()]


def save(root: Path, *, ids: np.ndarray | None = None, categories=None, images=None, **entry) -> Path:
    """A set of one image, number 17; `entry` changes what the annotation file says of it."""
    ids = ids_of_the_image() if ids is None else ids
    folder = root / "annotations" / "panoptic_val2017"
    folder.mkdir(parents=True)
    (root / "val2017").mkdir()
    Image.fromarray(np.full((*SIZE, 3), 99, np.uint8)).save(root / "val2017" / "photo.png")
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(colours).save(folder / "photo_ids.png")
    row = {"image_id": 17, "file_name": "photo_ids.png", "segments_info": segments_of_the_image(), **entry}
    document = {
        "images": images or [{"id": 17, "file_name": "photo.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [row],
        "categories": CATEGORIES if categories is None else categories,
    }
    folder.with_suffix(".json").write_text(json.dumps(document))
    return root


def test_things_and_pixels(tmp_path):
    reader = CocoPanoptic(save(tmp_path), "val")
    assert (reader.classes, reader.category_ids) == (("car", "cat"), (3, 8))
    assert reader.semantic_classes == ("sky", "road", "car", "cat")
    assert reader.semantic_category_ids == (90, 91, 3, 8)
    assert (reader.image_ids, reader.file_names) == ([17], ["val2017/photo.png"])
    labels = reader.labels(0)
    assert labels.labels.tolist() == [0, 0, 1] and labels.crowd.tolist() == [False, True, False]
    assert labels.boxes.tolist() == [[0, 4, 2, 6], [3, 4, 6, 5], [3, 3, 8, 6]]
    assert labels.areas.tolist() == [4, 3, 2]
    ids = ids_of_the_image()
    for bitmap, number in zip(labels.bitmaps(), (CAR, CROWD, CAT), strict=True):
        assert (bitmap == (ids == number)).all()
    wanted = np.full(SIZE, 255)
    for number, value in ((SKY, 0), (ROAD, 1), (CAR, 2), (CROWD, 2), (CAT, 3)):
        wanted[ids == number] = value
    assert (labels.semantic == wanted).all()
    assert reader.class_counts().tolist() == [2, 1]
    assert reader.notes == reader.problems == []


def test_the_truth_made_of_the_labels_is_that_of_the_file(tmp_path):
    reader = CocoPanoptic(save(tmp_path), "val")
    truth = panoptic_truth(reader.labels(0), reader.semantic_classes, reader.classes)
    ids = ids_of_the_image()
    pairs = np.unique(np.stack([truth.ids.ravel(), ids.ravel()]), axis=1)
    assert pairs.shape[1] == 6 and (truth.ids[ids == 0] == 0).all()  # one to one
    assert sorted(reader.semantic_classes[label] for label in truth.labels) == ["car", "car", "cat", "road", "sky"]
    assert truth.crowd.sum() == 1


def test_classes_can_be_chosen(tmp_path):
    reader = CocoPanoptic(save(tmp_path), "val", classes=["cat"], semantic_classes=["road", "cat"])
    labels = reader.labels(0)
    assert labels.labels.tolist() == [0] and reader.category_ids == (8,)
    assert reader.semantic_category_ids == (91, 8)
    assert np.unique(labels.semantic).tolist() == [0, 1, 255]
    assert reader.notes == ["objects of classes that data.classes does not list were left out: car 2"]
    with pytest.raises(DataError, match=r"no class 'sky'.*it has car, cat"):
        CocoPanoptic(tmp_path, "val", classes=["sky"])


def test_files_can_lie_elsewhere(tmp_path):
    save(tmp_path)
    (tmp_path / "annotations" / "panoptic_val2017").rename(tmp_path / "panoptic_val2017")
    assert len(CocoPanoptic(tmp_path, "val")) == 1
    (tmp_path / "annotations" / "panoptic_val2017.json").rename(tmp_path / "other.json")
    (tmp_path / "panoptic_val2017").rename(tmp_path / "other")
    assert len(CocoPanoptic(tmp_path, "val", annotations="other.json")) == 1
    (tmp_path / "other").rename(tmp_path / "gone")
    with pytest.raises(DataError, match=r"other: no such folder; unpack the PNGs"):
        CocoPanoptic(tmp_path, "val", annotations="other.json")


# -------------------------------------------------------------------------------------------------------------- faults
def test_segments_of_png_and_file_must_agree(tmp_path):
    ids = ids_of_the_image()
    ids[0, 0] = 12
    reader = CocoPanoptic(save(tmp_path / "a", ids=ids), "val")
    with pytest.raises(DataError, match=r"photo_ids.png: pixels of segments .* does not tell of: 12; correct"):
        reader.labels(0)
    ids = ids_of_the_image()
    ids[ids == CAR] = ROAD
    reader = CocoPanoptic(save(tmp_path / "b", ids=ids), "val")
    with pytest.raises(DataError, match=r"photo_ids.png: no pixel of segments that .* tells of: 5; correct"):
        reader.read(0)


def test_a_png_that_is_missing_or_of_another_size_is_refused(tmp_path):
    save(tmp_path / "a")
    (tmp_path / "a" / "annotations" / "panoptic_val2017" / "photo_ids.png").unlink()
    with pytest.raises(DataError, match=r"photo_ids.png: no such file; restore it"):
        CocoPanoptic(tmp_path / "a", "val")
    save(tmp_path / "b", ids=ids_of_the_image()[:, :7])
    with pytest.raises(DataError, match=r"photo_ids.png: the segments are of 7 x 6, their image .* is 8 x 6; restore"):
        CocoPanoptic(tmp_path / "b", "val")
    reader = CocoPanoptic(tmp_path / "b", "val", on_error="skip")
    assert len(reader) == 0 and len(reader.problems) == 1


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"image_id": 5}, "annotations[0]: image_id 5 is not in images"),
        ({"file_name": "../photo.png"}, "annotations[0]: file_name '../photo.png'"),
        ({"segments_info": None}, "annotations[0]: no list segments_info"),
        ({"segments_info": [{"id": 0, "category_id": 3}]}, "annotations[0].segments_info[0]: id 0: a whole number"),
        ({"segments_info": [{"id": 1, "category_id": 4}]}, "segments_info[0]: category_id 4 is not in categories"),
        ({"segments_info": [{"id": 1, "category_id": 3, "iscrowd": 2}]}, "segments_info[0]: iscrowd must be 0 or 1"),
        ({"segments_info": [{"id": 1, "category_id": 3}] * 2}, "segments_info[1]: id 1 stands there twice"),
        ({"segments_info": ["car"]}, "segments_info[0]: an object is wanted, not 'car'"),
    ],
)
def test_faults_of_the_annotation_file_are_named(tmp_path, entry, said):
    with pytest.raises(DataError) as caught:
        CocoPanoptic(save(tmp_path, **entry), "val")
    assert said in str(caught.value)
    reader = CocoPanoptic(tmp_path, "val", on_error="skip")
    assert len(reader) == 0
    assert len(reader.problems) == (2 if "image_id" in entry else 1)  # told once, unless the image has no entry at all


def test_what_is_no_panoptic_file_is_refused(tmp_path):
    without = [{"id": 3, "name": "car"}]
    with pytest.raises(DataError, match=r"categories\[0\].isthing: 0 or 1 is wanted, not None; write 1 for things"):
        CocoPanoptic(save(tmp_path / "a", categories=without), "val")
    stuff = [{"id": 3, "name": "sky", "isthing": 0}]
    with pytest.raises(DataError, match="none is a thing"):
        CocoPanoptic(save(tmp_path / "b", categories=stuff), "val")
    with pytest.raises(DataError, match=r"no split 'train'; it has val2017"):
        CocoPanoptic(tmp_path / "a", "train")


def test_images_without_file_or_entry_are_named(tmp_path):
    images = [{"id": 17, "file_name": "photo.png"}, {"id": 18, "file_name": "gone.png"}]
    with pytest.raises(DataError, match=r"images\[1\].file_name: 'gone.png' is not there; looked in images/, val2017/"):
        CocoPanoptic(save(tmp_path / "a", images=images), "val")
    save(tmp_path / "b", images=[*images[:1], {"id": 19, "file_name": "other.png"}])
    (tmp_path / "b" / "val2017" / "other.png").write_bytes((tmp_path / "b" / "val2017" / "photo.png").read_bytes())
    with pytest.raises(DataError, match=r"images\[1\]: no entry of annotations is of this image; add it"):
        CocoPanoptic(tmp_path / "b", "val")
    assert CocoPanoptic(tmp_path / "b", "val", on_error="skip").image_ids == [17]
