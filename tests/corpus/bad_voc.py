"""Bad Pascal VOC folders: two photographs of 60 x 40 with a cat each, and one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ARGUMENTS = ("data=voc", "data.splits={train: train, val: null, test: null}")


def _sound(root: Path) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name, shade in (("a", 40), ("b", 200)):
        Image.fromarray(np.full((40, 60, 3), shade, np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        (root / f"Annotations/{name}.xml").write_text(_xml())
    (root / "ImageSets/Main/train.txt").write_text("a\nb\n")


def _xml(box: str = "10 10 30 30", *, name: str = "cat", difficult: str = "0", size: str = "60 40") -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    sides = "".join(f"<{key}>{value}</{key}>" for key, value in zip(names, box.split(), strict=False))
    width, height = size.split()
    return (
        f"<annotation><size><width>{width}</width><height>{height}</height></size><object><name>{name}</name>"
        f"<difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object></annotation>"
    )


def _written(file: str, text: str | bytes | None) -> Callable[[Path], None]:
    """A sound set in which one file holds something else, or is gone."""

    def build(root: Path) -> None:
        _sound(root)
        if text is None:
            (root / file).unlink()
        else:
            (root / file).write_bytes(text.encode() if isinstance(text, str) else text)

    return build


def _object(box: str = "10 10 30 30", **parts: str) -> Callable[[Path], None]:
    return _written("Annotations/a.xml", _xml(box, **parts))


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbb">]><annotation><object><name>&b;</name></object></annotation>'
# fmt: off
CASES: list[tuple[Any, ...]] = [
    ("cut", _written("Annotations/a.xml", _xml()[:60]), "file-unreadable",
     "{root}/Annotations/a.xml: not well-formed XML ({*}); write the file again"),
    ("entities", _written("Annotations/a.xml", BOMB), "file-format",
     "{root}/Annotations/a.xml: a DOCTYPE declaration is not allowed; remove the declaration"),
    ("encoding", _written("Annotations/a.xml", '<?xml version="1.0" encoding="klingon"?><a/>'), "file-unreadable",
     "{root}/Annotations/a.xml: not well-formed XML ({*}); write the file again"),
    ("no_xml", _written("Annotations/a.xml", None), "file-missing",
     "{root}/Annotations/a.xml: no such annotation file; restore it, or take the name out of the split"),
    ("no_image", _written("JPEGImages/a.jpg", None), "image-missing",
     "{root}/Annotations/a.xml: no image of that name in {root}/JPEGImages; restore the image, or take the name out of the split"),
    ("no_picture", _written("JPEGImages/a.jpg", "404"), "image-unreadable",
     "{root}/JPEGImages/a.jpg: not an image; save it again as JPEG or PNG, or take it out of the data set"),
    ("two_images", _written("JPEGImages/a.png", "x"), "image-ambiguous",
     "{root}/Annotations/a.xml: 2 images of that name in {root}/JPEGImages; keep one of them"),
    ("size_differs", _object(size="61 40"), "size-differs",
     "{root}/Annotations/a.xml: size: the recorded size is 61 x 40 but a.jpg is 60 x 40; correct the size, or restore the image that was labelled"),
    ("inverted", _object("30 10 10 30"), "box-inverted",
     "{root}/Annotations/a.xml: object[1]/bndbox: the box has no area (xmin 30, ymin 10, xmax 10, ymax 30); correct the numbers, or remove the object"),
    ("zero_area", _object("10 10 10 30"), "box-zero-area",
     "{root}/Annotations/a.xml: object[1]/bndbox: the box has no area (xmin 10, ymin 10, xmax 10, ymax 30); correct the numbers, or remove the object"),
    ("outside", _object("70 10 90 30"), "box-outside",
     "{root}/Annotations/a.xml: object[1]/bndbox: the box is outside the image of 60 x 40 (xmin 70, ymin 10, xmax 90, ymax 30); correct the numbers, or remove the object"),
    ("nan", _object("nan 10 30 30"), "box-not-finite",
     "{root}/Annotations/a.xml: object[1]/bndbox/xmin: 'nan' is not a number; correct it, or remove the object"),
    ("infinite", _object("10 10 inf 30"), "box-not-finite",
     "{root}/Annotations/a.xml: object[1]/bndbox/xmax: 'inf' is not a number; correct it, or remove the object"),
    ("words", _object("ten 10 30 30"), "box-format",
     "{root}/Annotations/a.xml: object[1]/bndbox/xmin: 'ten' is not a number; correct it, or remove the object"),
    ("three_sides", _object("10 10 30"), "box-format",
     "{root}/Annotations/a.xml: object[1]/bndbox/ymax: the number is missing; correct it, or remove the object"),
    ("no_name", _object(name=""), "label-missing",
     "{root}/Annotations/a.xml: object[1]/name: the object has no name; correct it, or remove the object"),
    ("difficult", _object(difficult="maybe"), "flag-invalid",
     "{root}/Annotations/a.xml: object[1]/difficult: must be 0 or 1, not 'maybe'; correct it, or remove the object"),
    ("html", _object(name="&lt;b&gt;cat&lt;/b&gt;"), "name-unsafe",
     "{root} (train): class 0: the name '<b>cat</b>' holds '<b'; rename it in the source"),
    ("listed_twice", _written("ImageSets/Main/train.txt", "a\nb\na\n"), "list-entry",
     "{root}/ImageSets/Main/train.txt: line 3: 'a' stands in line 1 already; remove the line"),
    ("listed_outside", _written("ImageSets/Main/train.txt", "a\n../b\n"), "path-outside",
     "{root}/ImageSets/Main/train.txt: line 2: '../b' leaves the folder; give a name inside Annotations"),
    ("list_empty", _written("ImageSets/Main/train.txt", "\n"), "split-empty",
     "{root}/ImageSets/Main/train.txt: the list is empty; write one image name per line, without its ending"),
    ("list_of_bytes", _written("ImageSets/Main/train.txt", b"\xff\xfe\x00a"), "file-unreadable",
     "{root}/ImageSets/Main/train.txt: cannot be read ({*}); it must be text with one image name per line"),
    ("no_list", _written("ImageSets/Main/train.txt", None), "split-unknown",
     "{root}/ImageSets/Main: no split 'train'; it has none; choose one with data.splits"),
]
# fmt: on
