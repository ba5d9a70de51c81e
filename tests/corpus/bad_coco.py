"""Bad COCO files: two photographs of 60 x 40 with a cat and a dog, and one thing wrong."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ARGUMENTS = ("data=coco", "data.splits={train: train, val: null, test: null}")
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def _sound(root: Path) -> dict[str, Any]:
    (root / "images").mkdir(parents=True)
    for name, shade in (("a", 40), ("b", 200)):
        Image.fromarray(np.full((40, 60, 3), shade, np.uint8)).save(root / f"images/{name}.png")
    one = {"iscrowd": 0, "bbox": [10, 10, 20, 20], "area": 400, "segmentation": [SQUARE]}
    return {
        "images": [
            {"id": n, "file_name": f"{name}.png", "height": 40, "width": 60} for n, name in ((1, "a"), (2, "b"))
        ],
        "annotations": [{"id": n, "image_id": n, "category_id": n, **one} for n in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def _set(key: str, place: int, **values: Any) -> Callable[[Path], None]:
    """A sound set in which one entry has other values; those that are ... are taken out."""

    def build(root: Path) -> None:
        document = _sound(root)
        entry = document[key][place]
        entry.update(values)
        for name in [name for name, value in values.items() if value is ...]:
            del entry[name]
        (root / "train.json").write_text(json.dumps(document))

    return build


def _with_id(what: str, number: Any) -> Callable[[Path], None]:
    """A sound set whose first image or category has another id, by which its annotation knows it."""

    def build(root: Path) -> None:
        document = _sound(root)
        {"image": document["images"], "category": document["categories"]}[what][0]["id"] = number
        document["annotations"][0][f"{what}_id"] = number
        (root / "train.json").write_text(json.dumps(document))

    return build


def _document(**values: Any) -> Callable[[Path], None]:
    """A sound set whose file has other values under some keys; those that are ... are taken out."""

    def build(root: Path) -> None:
        document = {key: value for key, value in {**_sound(root), **values}.items() if value is not ...}
        (root / "train.json").write_text(json.dumps(document))

    return build


def _text(text: str) -> Callable[[Path], None]:
    """A set whose annotation file holds something else."""

    def build(root: Path) -> None:
        _sound(root)
        (root / "train.json").write_text(text)

    return build


def _image(data: bytes | None, **values: Any) -> Callable[[Path], None]:
    """A sound set whose first image file holds something else, or is gone."""

    def build(root: Path) -> None:
        _set("images", 0, **values)(root)
        file = root / "images/a.png"
        if data is None:
            file.unlink()
        else:
            file.write_bytes(data)

    return build


def _named(name: str) -> Callable[[Path], None]:
    """A sound set whose first image has another name."""

    def build(root: Path) -> None:
        _set("images", 0, file_name=name)(root)
        (root / "images/a.png").rename(root / "images" / name)

    return build


def _encoded(kind: str, size: tuple[int, int] = (40, 60), **arguments: Any) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, kind, **arguments)
    return file.getvalue()


def _turned() -> bytes:
    """60 x 40 as stored, 40 x 60 as its EXIF orientation shows it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return _encoded("JPEG", exif=exif)


def _damaged() -> bytes:
    """A PNG whose beginning and end are sound, but not what lies between."""
    data = bytearray(_encoded("PNG"))
    data[200:300] = bytes(100)
    return bytes(data)


def _bomb() -> bytes:
    """A PNG whose header tells of 60,000 x 60,000 pixels."""
    data = bytearray(_encoded("PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def _two_splits(root: Path) -> None:
    _document()(root)
    document = json.loads((root / "train.json").read_text())
    (root / "images/c.png").write_bytes((root / "images/b.png").read_bytes())
    document["images"][0]["file_name"] = "c.png"
    del document["images"][1]
    del document["annotations"][1]
    document["annotations"][0]["category_id"] = 1
    document["categories"] = document["categories"][:1]
    (root / "val.json").write_text(json.dumps(document))


def _all_corners(root: Path) -> None:
    """Boxes written as two corners, on every image."""
    document = _sound(root)
    rows = [(30, 20, 58, 38), (35, 25, 50, 39), (40, 5, 55, 30), (20, 20, 59, 39)]
    document["annotations"] = [
        {"id": n, "image_id": 1 + n % 2, "category_id": 1 + n % 2, "bbox": [*row], "area": 9, "iscrowd": 0}
        for n, row in enumerate(rows, 1)
    ]
    (root / "train.json").write_text(json.dumps(document))


BOX = [10, 10, 20, 20]
# fmt: off
CASES: list[tuple[Any, ...]] = [
    # the file
    ("truncated", _text('{"images": [{"id": 1'), "file-unreadable",
     "{root}/train.json: not valid JSON ({*}); write the file again"),
    ("empty_file", _text(""), "file-unreadable",
     "{root}/train.json: not valid JSON ({*}); write the file again"),
    ("nested_without_end", _text("[" * 100_000), "file-unreadable",
     "{root}/train.json: not valid JSON ({*}); write the file again"),
    ("results", _text('[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]'), "file-format",
     "{root}/train.json: not a JSON object; give the annotation file with images and categories, not a result file"),
    ("no_images", _document(images=...), "file-format",
     "{root}/train.json: no list 'images'; a COCO annotation file has images, annotations and categories"),
    ("no_categories", _document(categories=...), "file-format",
     "{root}/train.json: no list 'categories'; a COCO annotation file has images, annotations and categories"),
    ("annotations_by_id", _document(annotations={"1": {}}), "file-format",
     "{root}/train.json: 'annotations' is not a list; a COCO annotation file has images, annotations and categories"),
    ("no_such_folder", lambda root: None, "root-missing",
     "{root}: no such folder; give the data set's folder as data.root"),
    ("no_annotations", lambda root: root.mkdir(), "set-unusable",
     "{root}: no COCO annotations; looked for annotations/instances_train*.json, instances_train.json and train.json; say data.annotations.train=FILE"),
    # images
    ("image_missing", _image(None), "image-missing",
     "{root}/train.json: images[0].file_name: 'a.png' is not there; looked in images/, data.root itself; restore the image, or remove the entry"),
    ("image_empty", _image(b""), "image-unreadable",
     "{root}/images/a.png: the file is empty; save it again as JPEG or PNG, or take it out of the data set"),
    ("image_of_text", _image(b"<html>404 not found</html>"), "image-unreadable",
     "{root}/images/a.png: not an image; save it again as JPEG or PNG, or take it out of the data set"),
    ("image_cut", _image(_encoded("PNG")[:-500]), "image-unreadable",
     "{root}/images/a.png: the file ends too early (a broken copy or download); save it again as JPEG or PNG, or take it out of the data set"),
    ("jpeg_cut", _image(_encoded("JPEG")[:-300]), "image-unreadable",
     "{root}/images/a.png: the file ends too early (a broken copy or download); save it again as JPEG or PNG, or take it out of the data set"),
    ("image_damaged", _image(_damaged()), "image-unreadable",
     "{root}/images/a.png: cannot be decoded ({*}); save it again as JPEG or PNG, or take it out of the data set"),
    ("image_bomb", _image(_bomb()), "image-too-large",
     "{root}/images/a.png: more than 89478485 pixels; cut it into tiles, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file"),
    ("image_no_object", _document(images=[1, 2]), "annotation-format",
     "{root}/train.json: images[0]: an object is wanted, not 1; write the entry again"),
    ("image_without_name", _set("images", 0, file_name=...), "image-missing",
     "{root}/train.json: images[0].file_name: a file name is wanted, not nothing; correct it"),
    ("size_differs", _set("images", 0, width=61), "size-differs",
     "{root}/train.json: images[0]: the recorded size is 61 x 40 but a.png is 60 x 40; correct the size, or restore the image that was labelled"),
    ("size_turned", _set("images", 0, width=40, height=60), "size-differs",
     "{root}/train.json: images[0]: the recorded size is 40 x 60 but a.png is 60 x 40, turned by EXIF or by hand; turn the labels with the image, or the image back"),
    ("size_by_exif", _image(_turned()), "size-exif",
     "{root}/images/a.png: the recorded size is 60 x 40, but EXIF orientation makes the image 40 x 60; it is read as it is stored; save it without EXIF orientation, for other tools turn it"),
    ("size_text", _set("images", 0, width="60"), "size-invalid",
     '{root}/train.json: images[0].width: whole pixels are wanted, not "60"; correct it'),
    ("size_negative", _set("images", 0, width=-60), "size-invalid",
     "{root}/train.json: images[0].width: whole pixels are wanted, not -60; correct it"),
    ("size_infinite", _set("images", 0, width=1e999), "size-invalid",
     "{root}/train.json: images[0].width: whole pixels are wanted, not Infinity; correct it"),
    ("parent_folder", _set("images", 0, file_name="../a.png"), "path-outside",
     "{root}/train.json: images[0].file_name: '../a.png' leaves the folder; give the name relative to the image folder"),
    ("absolute", _set("images", 0, file_name="/etc/passwd"), "path-outside",
     "{root}/train.json: images[0].file_name: '/etc/passwd' leaves the folder; give the name relative to the image folder"),
    ("drive", _set("images", 0, file_name="C:\\images\\a.png"), "path-outside",
     "{root}/train.json: images[0].file_name: 'C:/images/a.png' leaves the folder; give the name relative to the image folder"),
    ("nul", _set("images", 0, file_name="a.png\0"), "path-outside",
     "{root}/train.json: images[0].file_name: 'a.png\\x00' leaves the folder; give the name relative to the image folder"),
    ("escape_code", _named("\x1b[2Ja.png"), "name-unsafe",
     "{root}/images/\\x1b[2Ja.png: the name '\\x1b[2Ja.png' holds '\\x1b'; rename the file"),
    ("script", _named("<script>a.png"), "name-unsafe",
     "{root}/images/<script>a.png: the name '<script>a.png' holds '<s'; rename the file"),
    ("same_file", _set("images", 1, file_name="a.png"), "image-duplicate",
     '{root}/train.json: images[1].file_name: "a.png" is that of images[0] already; remove one of them'),
    # ids and references
    ("image_id_twice", _set("images", 1, id=1), "id-duplicate",
     "{root}/train.json: images[1].id: 1 is that of images[0] already; remove one of them"),
    ("image_id_as_text", _set("images", 1, id="1"), "id-collides",
     '{root}/train.json: images[1].id: "1" is there as a number, too; renumber it'),
    ("image_id_fraction", _set("images", 0, id=1.5), "id-invalid",
     "{root}/train.json: images[0].id: a whole number or a string is wanted, not 1.5; correct it"),
    ("image_id_missing", _set("images", 0, id=...), "id-invalid",
     "{root}/train.json: images[0].id: a whole number or a string is wanted, not nothing; correct it"),
    ("id_twice", _set("annotations", 1, id=1), "id-duplicate",
     "{root}/train.json: annotations[1].id: 1 is that of annotations[0] already; renumber it"),
    ("id_zero", _set("annotations", 0, id=0), "id-zero",
     "{root}/train.json: annotations[0].id: 0 is no match to COCO's tools, which then count the object as missed; number annotations from 1"),
    ("id_text", _set("annotations", 0, id="a"), "id-string",
     '{root}/train.json: annotations[0].id: "a" is a string; number annotations from 1, as COCO\'s tools need it'),
    ("image_id_zero", _with_id("image", 0), "id-zero",
     "{root}/train.json: images[0].id: 0 is taken for no image by some tools; number them from 1 (tools/check_data.py fix=OUT.json does)"),
    ("image_id_text", _with_id("image", "a"), "id-string",
     "{root}/train.json: images[0].id: \"a\" is a string, but COCO's ids are numbers; number them from 1 (tools/check_data.py fix=OUT.json does)"),
    ("category_id_zero", _with_id("category", 0), "id-zero",
     "{root}/train.json: categories[0].id: 0 is taken for the background by some tools; number them from 1 (tools/check_data.py fix=OUT.json does)"),
    ("category_id_text", _with_id("category", "a"), "id-string",
     "{root}/train.json: categories[0].id: \"a\" is a string, but COCO's ids are numbers; number them from 1 (tools/check_data.py fix=OUT.json does)"),
    ("category_id_twice", _set("categories", 1, id=1), "category-duplicate",
     "{root}/train.json: categories[1].id: 1 is the id of 'cat' already; renumber it"),
    ("category_name_twice", _set("categories", 1, name="cat"), "category-duplicate",
     "{root}/train.json: categories[1].name: 'cat' stands there twice; rename it, or merge the two categories"),
    ("category_id_as_text", _set("categories", 1, id="1"), "id-collides",
     '{root}/train.json: categories[1].id: "1" is there as a number, too; renumber it'),
    ("category_without_name", _set("categories", 1, name=...), "category-name",
     "{root}/train.json: categories[1].name: a name is wanted, not nothing; correct it"),
    ("category_of_blanks", _set("categories", 1, name="  "), "category-name",
     '{root}/train.json: categories[1].name: a name is wanted, not "  "; correct it'),
    ("category_html", _set("categories", 1, name="<img src=x>"), "name-unsafe",
     "{root} (train): class 1: the name '<img src=x>' holds '<i'; rename it in the source"),
    ("category_escape_code", _set("categories", 1, name="dog\x1b[31m"), "name-unsafe",
     "{root} (train): class 1: the name 'dog\\x1b[31m' holds '\\x1b'; rename it in the source"),
    ("unknown_image", _set("annotations", 0, image_id=9), "image-unknown",
     "{root}/train.json: annotations[0].image_id: 9 is not in images; correct it, or remove the annotation"),
    ("unknown_category", _set("annotations", 0, category_id=9), "category-unknown",
     "{root}/train.json: annotations[0].category_id: 9 is not in categories; correct it, or remove the annotation"),
    ("no_image_id", _set("annotations", 0, image_id=...), "image-unknown",
     "{root}/train.json: annotations[0].image_id: nothing is not in images; correct it, or remove the annotation"),
    ("annotation_no_object", _document(annotations=[7]), "annotation-format",
     "{root}/train.json: annotations[0]: an object is wanted, not 7; write it again"),
    # boxes
    ("no_box", _set("annotations", 0, bbox=...), "box-missing",
     "{root}/train.json: annotations[0].bbox: there is no box; add it as [x, y, width, height]"),
    ("three_numbers", _set("annotations", 0, bbox=[1, 2, 3]), "box-format",
     "{root}/train.json: annotations[0].bbox: four finite numbers [x, y, width, height] are wanted, not [1, 2, 3]; correct it, or remove the annotation"),
    ("words", _set("annotations", 0, bbox=["1", "2", "3", "4"]), "box-format",
     '{root}/train.json: annotations[0].bbox: four finite numbers [x, y, width, height] are wanted, not ["1", "2", "3", "4"]; correct it, or remove the annotation'),
    ("nan", _set("annotations", 0, bbox=[float("nan"), 10, 20, 20]), "box-not-finite",
     "{root}/train.json: annotations[0].bbox: four finite numbers [x, y, width, height] are wanted, not [NaN, 10, 20, 20]; correct it, or remove the annotation"),
    ("infinite", _set("annotations", 0, bbox=[10, 10, float("inf"), 20]), "box-not-finite",
     "{root}/train.json: annotations[0].bbox: four finite numbers [x, y, width, height] are wanted, not [10, 10, Infinity, 20]; correct it, or remove the annotation"),
    ("negative_width", _set("annotations", 0, bbox=[10, 10, -5, 20]), "box-negative",
     "{root}/train.json: annotations[0].bbox: width and height must be positive: [10, 10, -5, 20]; correct it, or remove the annotation"),
    ("zero_height", _set("annotations", 0, bbox=[10, 10, 20, 0]), "box-zero-area",
     "{root}/train.json: annotations[0].bbox: the box has no area: [10, 10, 20, 0]; correct it, or remove the annotation"),
    ("outside", _set("annotations", 0, bbox=[70, 10, 20, 20]), "box-outside",
     "{root}/train.json: annotations[0].bbox: the box is outside the image of 60 x 40: [70, 10, 20, 20]; correct it, or remove the annotation"),
    ("corners", _all_corners, "box-xyxy",
     "{root}/train.json: annotations: all 4 boxes fit their images as two corners, and many do not as [x, y, width, height]; these look like xyxy, not xywh: write width and height in place of the second corner"),
    # flags and areas
    ("crowd_of_two", _set("annotations", 0, iscrowd=2), "flag-invalid",
     "{root}/train.json: annotations[0].iscrowd: must be 0 or 1, not 2; correct it, or remove the annotation"),
    ("area_negative", _set("annotations", 0, area=-1), "area-invalid",
     "{root}/train.json: annotations[0].area: a number of pixels is wanted, not -1; correct it, or remove the annotation"),
    ("area_text", _set("annotations", 0, area="big"), "area-invalid",
     '{root}/train.json: annotations[0].area: a number of pixels is wanted, not "big"; correct it, or remove the annotation'),
    ("area_missing", _set("annotations", 0, area=...), "area-missing",
     "{root}/train.json: annotations: 1 of 2 lack 'area'; the area of the mask or the box is taken; add it for other tools"),
    ("crowd_missing", _set("annotations", 0, iscrowd=...), "iscrowd-missing",
     "{root}/train.json: annotations: 1 of 2 lack 'iscrowd'; none of them is taken for a crowd; add it for other tools"),
    # segmentations
    ("two_points", _set("annotations", 0, segmentation=[[1, 1, 9, 9]]), "polygon-short",
     "{root}/train.json: annotations[0].segmentation: polygon 0 has 4 numbers; x and y of at least three points are wanted; correct it, or remove the annotation"),
    ("odd_numbers", _set("annotations", 0, segmentation=[[1, 1, 9, 1, 9, 9, 5]]), "polygon-odd",
     "{root}/train.json: annotations[0].segmentation: polygon 0 has 7 numbers; x and y of at least three points are wanted; correct it, or remove the annotation"),
    ("no_polygons", _set("annotations", 0, segmentation=[]), "polygon-empty",
     "{root}/train.json: annotations[0].segmentation: there is no polygon in it; correct it, or remove the annotation"),
    ("empty_polygon", _set("annotations", 0, segmentation=[[]]), "polygon-empty",
     "{root}/train.json: annotations[0].segmentation: polygon 0 has 0 numbers; x and y of at least three points are wanted; correct it, or remove the annotation"),
    ("bow_tie", _set("annotations", 0, segmentation=[[10, 10, 30, 30, 30, 10, 10, 30]]), "polygon-crossing",
     "{root}/train.json: annotations[0].segmentation[0]: the polygon crosses itself: the edge from (10, 10) to (30, 30) crosses the edge from (30, 10) to (10, 30); draw it anew, or let fix=OUT.json write the pixels that COCO's tools fill"),
    ("polygon_nan", _set("annotations", 0, segmentation=[[*SQUARE[:7], float("nan")]]), "polygon-not-finite",
     "{root}/train.json: annotations[0].segmentation: polygon 0 holds something that is not a finite number; correct it, or remove the annotation"),
    ("polygon_far", _set("annotations", 0, segmentation=[[*SQUARE[:7], 9e9]]), "polygon-outside",
     "{root}/train.json: annotations[0].segmentation: polygon 0 reaches far out of the image of 60 x 40; correct it, or remove the annotation"),
    ("polygon_flat", _set("annotations", 0, segmentation=SQUARE), "segmentation-format",
     "{root}/train.json: annotations[0].segmentation: polygon 0 is not a list of numbers; correct it, or remove the annotation"),
    ("segmentation_text", _set("annotations", 0, segmentation="none"), "segmentation-format",
     "{root}/train.json: annotations[0].segmentation: neither a list of polygons nor run lengths; correct it, or remove the annotation"),
    ("rle_turned", _set("annotations", 0, segmentation={"size": [60, 40], "counts": [2400]}), "rle-size",
     "{root}/train.json: annotations[0].segmentation: the run lengths are of size [60, 40] but the image is [40, 60] (height, width); correct it, or remove the annotation"),
    ("rle_short", _set("annotations", 0, segmentation={"size": [40, 60], "counts": [10, 10]}), "rle-invalid",
     "{root}/train.json: annotations[0].segmentation: the run lengths sum to 20, but the image has 2400 pixels; correct it, or remove the annotation"),
    ("rle_negative", _set("annotations", 0, segmentation={"size": [40, 60], "counts": [2410, -10]}), "rle-invalid",
     "{root}/train.json: annotations[0].segmentation: the run lengths cannot be read; correct it, or remove the annotation"),
    ("rle_noise", _set("annotations", 0, segmentation={"size": [40, 60], "counts": "PPPPPPPP"}), "rle-invalid",
     "{root}/train.json: annotations[0].segmentation: the run lengths cannot be read; correct it, or remove the annotation"),
    # the split
    ("no_image", _document(images=[], annotations=[]), "split-empty",
     "{root} (train): the split holds no usable image; choose another data.split or data.root"),
    ("no_object", _document(annotations=[]), "split-empty",
     "{root} (train): none of 2 images has an object; choose another split, or label it"),
    ("no_class", _document(categories=[], annotations=[]), "split-empty",
     "{root} (train): there are no classes; add labels, or list the classes in data.classes"),
    ("class_absent", _set("annotations", 1, category_id=1), "class-absent",
     "{root} (train): no example of dog; what is absent cannot be learned or judged"),
    ("image_empty_of_objects", _set("annotations", 1, image_id=1), "images-empty",
     "{root} (train): 1 of 2 images hold no object: images/b.png; fine where they are meant to be background; label them otherwise"),
    ("same_image", _two_splits, "image-in-splits",
     "{root}/images/c.png: the same image as {root}/images/b.png, which is in split 'train'; this one is in 'val'; leave it in one of them, or what is learned by heart is taken for skill", "data.splits={train: train, val: val, test: null}"),
]
# fmt: on
