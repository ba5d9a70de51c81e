"""COCO JSON: values, kinds of masks, where files are looked for, faults and what is said of them, real data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from visionkit.data.readers import Coco
from visionkit.data.readers.segmentation import _unpacked, segmentation_fault, to_rle
from visionkit.data.validate import errors_of
from visionkit.errors import DataError

DATA = Path(__file__).parents[3] / "../shared/data"
COCO128, FIXTURES = DATA / "coco128", DATA / "coco_eval_fixtures"

HEIGHT, WIDTH = 8, 10


def box(number: int = 1, bbox: object = (1, 2, 3, 4), **more: object) -> dict[str, Any]:
    return {"id": number, "image_id": 5, "category_id": 3, "bbox": list(bbox), "iscrowd": 0} | more


def document(*annotations: dict[str, Any], **more: object) -> dict[str, Any]:
    return {
        "images": [{"id": 5, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": list(annotations),
        "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}],
    } | more


def save(root: Path, content: object, *images: str, name: str = "train.json") -> Path:
    for image in images or ("images/a.png",):
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / image)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return root / name


def refusal(root: Path, split: str = "train", **arguments: object) -> str:
    with pytest.raises(DataError) as error:
        Coco(root, split, **arguments)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------------- values
def test_boxes_ids_and_order_are_the_files_own(tmp_path: Path) -> None:
    content = document(
        box(8, (1, 2, 3, 4), area=7.5),
        {"id": 2, "image_id": 0, "category_id": 90, "bbox": [0.5, 0, 2, 2]},
        box(4, (0, 0, 10, 8), category_id=90, iscrowd=1),
        box(5, (0, 0, 2, 2), iscrowd=1, ignore=1),
    )
    content["images"] += [{"id": 0, "file_name": "b.png", "height": HEIGHT, "width": WIDTH}]
    content["images"] += [{"id": "x9", "file_name": "deep/c.png"}]  # its size comes from the file
    save(tmp_path, content, "images/a.png", "b.png", "train/deep/c.png")
    reader = Coco(tmp_path, "train")
    assert reader.classes == ("dog", "cat") and reader.category_ids == (90, 3)
    assert reader.image_ids == [5, 0, "x9"]
    assert reader.file_names == ["images/a.png", "b.png", "train/deep/c.png"]
    labels = reader.labels(0)
    assert labels.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 10, 8], [0, 0, 2, 2]]
    assert labels.labels.tolist() == [1, 0, 1]
    assert labels.crowd.tolist() == [False, True, False] and labels.ignore.tolist() == [False, False, True]
    assert labels.areas.tolist() == [7.5, 80, 4]
    assert labels.masks is None and reader.fields == {"boxes"}
    assert reader.labels(1).boxes.tolist() == [[0.5, 0, 2.5, 2]]
    assert reader.labels(2).size == (8, 10) and reader.labels(2).boxes.shape == (0, 4)
    assert reader.class_counts().tolist() == [2, 2]


def test_classes_choose_and_order(tmp_path: Path) -> None:
    save(tmp_path, document(box(1), box(2, category_id=90), box(3, (0, 0, 0, 0), category_id=90)))
    reader = Coco(tmp_path, "train", classes=["cat"])
    assert reader.category_ids == (3,) and reader.labels(0).labels.tolist() == [0]
    assert reader.notes == ["objects of classes that data.classes does not list were left out: dog 2"]
    assert "no class 'cats' (did you mean 'cat'?); it has dog, cat" in refusal(tmp_path, classes=["cats"])


def test_file_without_annotations_is_unlabelled(tmp_path: Path) -> None:
    content = document()
    del content["annotations"]
    save(tmp_path, content)
    reader = Coco(tmp_path, "train")
    assert reader.fields == frozenset() and reader.labels(0).known == frozenset()
    assert reader.class_counts().tolist() == [0, 0]


def test_box_over_the_edge(tmp_path: Path) -> None:
    save(tmp_path, document(box(1, (-0.5, 0, 11, 8.5)), box(2, (-3, 2, 20, 4))))
    reader = Coco(tmp_path, "train")
    assert reader.labels(0).boxes.tolist() == [[-0.5, 0, 10.5, 8.5], [0, 2, 10, 6]]
    assert reader.notes == ["boxes that reach over the image's edge by more than 1 px were clipped: 1"]


# -------------------------------------------------------------------------------------------------------------- masks
def bitmap() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:6, 1:4] = 1
    mask[3, 2] = 0
    return mask


def plain_runs(mask: np.ndarray) -> list[int]:
    runs, value = [0], 0
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def test_all_kinds_of_masks_become_one(tmp_path: Path) -> None:
    compressed = coco_mask.encode(np.asfortranarray(bitmap()))
    square = [1, 2, 4, 2, 4, 6, 1, 6]
    kinds = [
        [square, [6.0, 2.0, 8.0, 2.0, 8.0, 4.0, 6.0, 4.0]],
        {"size": [HEIGHT, WIDTH], "counts": plain_runs(bitmap())},
        {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()},
    ]
    save(tmp_path, document(*(box(n, segmentation=kind, iscrowd=int(n == 2)) for n, kind in enumerate(kinds, 1))))
    reader = Coco(tmp_path, "train")
    assert reader.fields == {"boxes", "masks"}
    labels = reader.labels(0)
    first, second, third = labels.bitmaps()
    assert first[2:6, 1:4].all() and first[2:4, 6:8].all() and first.sum() == 12 + 4
    np.testing.assert_array_equal(second, bitmap())
    np.testing.assert_array_equal(third, bitmap())
    assert all(isinstance(mask["counts"], bytes) for mask in labels.masks)
    assert labels.crowd.tolist() == [False, True, False]
    assert labels.areas.tolist() == [first.sum(), 11, 11]  # without an area of its own, the mask's


def test_objects_without_a_mask(tmp_path: Path) -> None:
    content = document(box(1, segmentation=[[1, 2, 4, 2, 4, 6]]), box(2))
    content["images"] += [{"id": 6, "file_name": "b.png"}, {"id": 7, "file_name": "c.png"}]
    content["annotations"].append(box(3, image_id=6, segmentation=[[1, 2, 4, 2, 4, 6]]))
    save(tmp_path, content, "a.png", "b.png", "c.png")
    reader = Coco(tmp_path, "train")
    assert reader.labels(0).masks is None and len(reader.labels(1).masks) == 1
    assert reader.labels(2).masks == ()  # known to be empty
    assert reader.notes == ["objects without a segmentation: 1; the masks of their images are unknown"]


def test_masks_go_with_their_boxes_in_any_order(tmp_path: Path) -> None:
    def square(number: int, image_id: int, x: int) -> dict[str, Any]:
        outline = [x, 1, x + 2, 1, x + 2, 3, x, 3]
        return box(number, (x, 1, 2, 2), image_id=image_id, segmentation=[outline])

    content = document(square(1, 6, 0), square(2, 5, 2), square(3, 6, 4), square(4, 5, 6))
    content["images"].append({"id": 6, "file_name": "b.png"})
    save(tmp_path, content, "a.png", "b.png")
    reader = Coco(tmp_path, "train")
    for index, wanted in enumerate([[2, 6], [0, 4]]):
        labels = reader.labels(index)
        assert labels.boxes[:, 0].tolist() == wanted
        assert [int(np.nonzero(mask)[1].min()) for mask in labels.bitmaps()] == wanted


SEGMENTATION_FAULTS = {
    "two points": ([[1, 1, 2, 2]], "polygon 0 has 4 numbers; x and y of at least three points are wanted"),
    "odd": ([[1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 3, 3, 4]], "polygon 1 has 7 numbers"),
    "nan": ([[1, 1, 2, float("nan"), 3, 3]], "polygon 0 holds something that is not a finite number"),
    "text": ([[1, 1, 2, "2", 3, 3]], "polygon 0 holds something that is not a finite number"),
    "flat": ([1, 1, 2, 2, 3, 3], "polygon 0 is not a list of numbers"),
    "far out": ([[1, 1, 1e9, 1, 3, 3]], "polygon 0 reaches far out of the image of 10 x 8"),
    "size": ({"size": [10, 8], "counts": [80]}, "the run lengths are of size [10, 8] but the image is [8, 10]"),
    "short": ({"size": [8, 10], "counts": [40, 30]}, "the run lengths sum to 70, but the image has 80 pixels"),
    "long": ({"size": [8, 10], "counts": "PP4"}, "the run lengths"),
    "negative": ({"size": [8, 10], "counts": [90, -10]}, "the run lengths cannot be read"),
    "garbage": ({"size": [8, 10], "counts": "~~~"}, "the run lengths cannot be read"),
    "cut": ({"size": [8, 10], "counts": "P"}, "the run lengths cannot be read"),
    "no runs": ({"size": [8, 10]}, "the run lengths cannot be read"),
    "kind": ("mask.png", "neither a list of polygons nor run lengths"),
}


@pytest.mark.parametrize("case", sorted(SEGMENTATION_FAULTS))
def test_faulty_segmentation_is_refused(tmp_path: Path, case: str) -> None:
    segmentation, said = SEGMENTATION_FAULTS[case]
    save(tmp_path, document(box(1), box(2, segmentation=segmentation)))
    assert f"annotations[1].segmentation: {said}" in refusal(tmp_path)
    assert len(Coco(tmp_path, "train", on_error="skip").labels(0).boxes) == 1


def test_compressed_runs_are_read_as_pycocotools_writes_them() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        height, width = generator.integers(1, 300, 2).tolist()
        mask = (generator.random((height, width)) < generator.random() ** 3).astype(np.uint8)
        counts = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
        assert _unpacked(counts) == plain_runs(mask)
        rle = {"size": [height, width], "counts": counts}
        assert segmentation_fault(rle, (height, width)) is None
        np.testing.assert_array_equal(coco_mask.decode(to_rle(rle, (height, width))), mask)


# ------------------------------------------------------------------------------------------------- where files are
@pytest.mark.parametrize("place", ["images", "train", "train2017", "images/train", "images/train2017", "."])
def test_images_are_found(tmp_path: Path, place: str) -> None:
    save(tmp_path, document(box()), f"{place}/a.png")
    reader = Coco(tmp_path, "train")
    assert reader.file_names == ["a.png" if place == "." else f"{place}/a.png"]
    assert reader.read(0).image.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", ["annotations/instances_train2017.json", "instances_train.json", "train.json"])
def test_annotations_are_found(tmp_path: Path, name: str) -> None:
    file = save(tmp_path, document(box()), name=name)
    save(tmp_path, document(), name="annotations/instances_trainval2017.json")  # another split
    assert Coco(tmp_path, "train").annotations == file


def test_annotations_named_or_ambiguous_or_missing(tmp_path: Path) -> None:
    for year in (2014, 2017):
        save(tmp_path, document(box()), name=f"annotations/instances_train{year}.json")
    message = refusal(tmp_path)
    assert "instances_train2014.json, instances_train2017.json; say data.annotations.train=FILE" in message
    inside = "annotations/instances_train2014.json"
    assert len(Coco(tmp_path, "train", annotations=inside)) == 1
    assert len(Coco(tmp_path, "train", annotations=tmp_path / inside)) == 1
    assert "gone.json: no such file, seen from" in refusal(tmp_path, annotations="gone.json")
    assert "no split 'trian2017' (did you mean 'train2017'?)" in refusal(tmp_path, "trian2017")
    (tmp_path / "empty").mkdir()
    assert "looked for annotations/instances_train*.json, instances_train.json and train.json" in refusal(
        tmp_path / "empty"
    )


def test_missing_image_says_where_it_was_looked_for(tmp_path: Path) -> None:
    file = save(tmp_path, document(box(), images=[{"id": 5, "file_name": "b.png"}]), "images/train2017/a.png")
    said = "images[0].file_name: 'b.png' is not there; looked in images/, images/train2017/, data.root itself; restore"
    assert f"{file}: {said}" in refusal(tmp_path)
    reader = Coco(tmp_path, "train", on_error="skip")
    assert len(reader) == 0 and len(errors_of(reader.problems)) == 1  # its annotations are not reported once more


# ------------------------------------------------------------------------------------------------------------- faults
FAULTS = {
    "bbox": [
        ((1, 2, 0, 4), "bbox: the box has no area: [1, 2, 0, 4]; correct it, or remove the annotation"),
        ((1, 2, -3, 4), "bbox: width and height must be positive: [1, 2, -3, 4]"),
        ((20, 2, 3, 4), "bbox: the box is outside the image of 10 x 8: [20, 2, 3, 4]"),
        ((1, 2, float("nan"), 4), "bbox: four finite numbers [x, y, width, height] are wanted, not [1, 2, NaN, 4]"),
        ((1, 2, 1e400, 4), "bbox: four finite numbers"),
        ((1, 2, 10**400, 4), "bbox: four finite numbers"),
        ((1, 2, 3), "bbox: four finite numbers [x, y, width, height] are wanted, not [1, 2, 3]"),
        ((1, "2", 3, 4), "bbox: four finite numbers"),
    ],
    "more": [
        ({"bbox": None}, "bbox: there is no box; add it as [x, y, width, height]"),
        ({"image_id": 6}, "image_id: 6 is not in images"),
        ({"image_id": None}, "image_id: nothing is not in images"),
        ({"category_id": 4}, "category_id: 4 is not in categories"),
        ({"category_id": [3]}, "category_id: [3] is not in categories"),
        ({"id": 1}, "id: 1 is that of annotations[0] already; renumber it"),
        ({"iscrowd": 2}, "iscrowd: must be 0 or 1, not 2"),
        ({"area": -1}, "area: a number of pixels is wanted, not -1"),
    ],
}


@pytest.mark.parametrize(("bbox", "said"), FAULTS["bbox"])
def test_faulty_box_stops_or_is_left_out(tmp_path: Path, bbox: tuple[float, ...], said: str) -> None:
    file = save(tmp_path, document(box(1), box(2, bbox)))
    message = refusal(tmp_path)
    assert f"{file}: annotations[1].{said}" in message and "1 problem " in message and "on_error=skip" in message
    reader = Coco(tmp_path, "train", on_error="skip")
    assert reader.labels(0).boxes.tolist() == [[1, 2, 4, 6]] and len(errors_of(reader.problems)) == 1


@pytest.mark.parametrize(("change", "said"), FAULTS["more"])
def test_faulty_annotation_stops_or_is_left_out(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    save(tmp_path, document(box(1), box(2) | change))
    assert f"annotations[1].{said}" in refusal(tmp_path)
    assert len(Coco(tmp_path, "train", on_error="skip").labels(0).boxes) == 1


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"id": 5, "file_name": "b.png"}, "images[1].id: 5 is that of images[0] already; remove one of them"),
        ({"id": 6, "file_name": "a.png"}, 'images[1].file_name: "a.png" is that of images[0] already'),
        ({"id": 1.5, "file_name": "b.png"}, "images[1].id: a whole number or a string is wanted, not 1.5"),
        ({"id": True, "file_name": "b.png"}, "images[1].id: a whole number or a string is wanted, not true"),
        ({"id": 6}, "images[1].file_name: a file name is wanted, not nothing"),
        ({"id": 6, "file_name": "../b.png"}, "images[1].file_name: '../b.png' leaves the folder; give the name"),
        ({"id": 6, "file_name": "/b.png"}, "images[1].file_name: '/b.png' leaves the folder"),
        ({"id": 6, "file_name": "..\\b.png"}, "images[1].file_name: '../b.png' leaves the folder"),
        ({"id": 6, "file_name": "C:\\b.png"}, "images[1].file_name: 'C:/b.png' leaves the folder"),
        ({"id": 6, "file_name": "."}, 'images[1].file_name: a file name is wanted, not "."'),
        ({"id": 6, "file_name": "b.png", "height": 0, "width": 10}, "images[1].height: whole pixels are wanted, not 0"),
        (
            {"id": 6, "file_name": "b.png", "height": 10, "width": 8},
            "images[1]: the recorded size is 8 x 10 but b.png is 10 x 8",
        ),
        (
            {"id": 6, "file_name": "b.png", "height": 8, "width": 8},
            "images[1]: the recorded size is 8 x 8 but b.png is 10 x 8; correct the size",
        ),
        ("b.png", 'images[1]: an object is wanted, not "b.png"'),
    ],
)
def test_faulty_image_stops_or_is_left_out(tmp_path: Path, image: object, said: str) -> None:
    content = document(box())
    content["images"].append(image)
    file = save(tmp_path, content, "images/a.png", "images/b.png")
    assert f"{file}: {said}" in refusal(tmp_path)
    reader = Coco(tmp_path, "train", on_error="skip")
    assert reader.image_ids == [5] and len(reader.labels(0).boxes) == 1


def test_damaged_image_is_named_and_left_out(tmp_path: Path) -> None:
    content = document(box())
    content["images"].append({"id": 6, "file_name": "b.png", "height": HEIGHT, "width": WIDTH})
    save(tmp_path, content, "images/a.png", "images/b.png")
    path = tmp_path / "images/b.png"
    path.write_bytes(path.read_bytes()[:-30])
    assert f"{path}: the file ends too early (a broken copy or download); save it again" in refusal(tmp_path)
    assert Coco(tmp_path, "train", on_error="skip").image_ids == [5]


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    save(tmp_path, document(*(box(n, (1, 1, 0, 0)) for n in range(1, 13)), box(20, category_id=8)))
    message = refusal(tmp_path)
    assert "13 problems in the data" in message and "annotations[9]" in message and "and 3 more" in message
    assert "annotations[10]" not in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object; give the annotation file with images and categories, not a result file"),
        ("{}", "no list 'images'"),
        ({"images": [], "annotations": []}, "no list 'categories'"),
        (document(annotations=None), "'annotations' is not a list"),
        (document(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "categories[1].id: 1 is the id of 'a'"),
        (document(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]), "categories[1].name: 'a' stands there"),
        (document(categories=[{"id": 1}]), "categories[0].name: a name is wanted, not nothing"),
        (document(categories=[{"name": "a"}]), "categories[0].id: a whole number or a string is wanted"),
    ],
)
def test_what_is_no_coco_file_is_refused_even_with_skip(tmp_path: Path, content: object, said: str) -> None:
    file = save(tmp_path, content)
    message = refusal(tmp_path, on_error="skip")
    assert message.startswith(str(file)) and said in message


# ---------------------------------------------------------------------------------------------------------- real data
@pytest.mark.skipif(not COCO128.is_dir(), reason="coco128 is not beside the project")
@pytest.mark.parametrize(("split", "images", "objects"), [("train", 100, 746), ("val", 100, 712)])
def test_coco128(split: str, images: int, objects: int) -> None:
    reader = Coco(COCO128, split)
    assert len(reader) == images and reader.class_counts().sum() == objects
    assert len(reader.classes) == 80 and reader.category_ids[-1] == 90
    assert reader.file_names[0].startswith(f"images/{split}2017/")
    assert reader.fields == {"boxes", "masks"} and not reader.problems
    sample = reader.read(7)
    assert len(sample.labels.masks) == len(sample.labels.boxes)


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="coco_eval_fixtures is not beside the project")
def test_coco_ground_truth_survives_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = FIXTURES / "instances_val2014_100.json"
    content = json.loads(source.read_text())
    (tmp_path / "val2014").mkdir()
    for image in content["images"]:
        Image.new("1", (image["width"], image["height"])).save(tmp_path / "val2014" / image["file_name"])
    reader = Coco(tmp_path, "val", annotations=source.resolve())
    assert len(reader) == 100 and reader.class_counts().sum() == 839 and not reader.notes
    truth = COCO(str(source))
    capsys.readouterr()
    crowds = 0
    for index, image_id in enumerate(reader.image_ids):
        labels, rows = reader.labels(index), truth.loadAnns(truth.getAnnIds([image_id]))
        boxes = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_array_equal(labels.boxes, boxes)
        assert labels.areas.tolist() == [row["area"] for row in rows]
        assert [reader.category_ids[label] for label in labels.labels] == [row["category_id"] for row in rows]
        assert [dict(mask) for mask in labels.masks] == [truth.annToRLE(row) for row in rows]
        crowds += int(labels.crowd.sum())
    assert crowds == 9
