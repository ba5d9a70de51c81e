"""Bad YOLO folders: two photographs of 60 x 40 with a cat each, and one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ARGUMENTS = ("data=yolo", "data.splits={train: train, val: null, test: null}")


def _sound(root: Path) -> None:
    for folder in ("images/train", "labels/train"):
        (root / folder).mkdir(parents=True)
    for name, shade in (("a", 40), ("b", 200)):
        Image.fromarray(np.full((40, 60, 3), shade, np.uint8)).save(root / f"images/train/{name}.png")
        (root / f"labels/train/{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [cat]\n")


def _written(file: str, text: str | bytes | None) -> Callable[[Path], None]:
    """A sound set in which one file holds something else, or is gone."""

    def build(root: Path) -> None:
        _sound(root)
        if text is None:
            (root / file).unlink()
        else:
            (root / file).write_bytes(text.encode() if isinstance(text, str) else text)

    return build


def _line(text: str) -> Callable[[Path], None]:
    return _written("labels/train/a.txt", f"0 0.3 0.3 0.1 0.1\n{text}\n")


# fmt: off
CASES: list[tuple[Any, ...]] = [
    ("words", _line("cat 0.5 0.5 0.2 0.2"), "file-format",
     "{root}/labels/train/a.txt: line 2: 'cat 0.5 0.5 0.2 0.2' are no numbers; correct the line, or remove it"),
    ("four_numbers", _line("0 0.5 0.5 0.2"), "box-format",
     "{root}/labels/train/a.txt: line 2: 4 numbers; class x y width height, or class and at least three points, are wanted; correct the line, or remove it"),
    ("unknown_class", _line("1 0.5 0.5 0.2 0.2"), "category-unknown",
     "{root}/labels/train/a.txt: line 2: class 1 is not among the names; correct the line, or remove it"),
    ("negative_class", _line("-1 0.5 0.5 0.2 0.2"), "category-unknown",
     "{root}/labels/train/a.txt: line 2: class -1 is not among the names; correct the line, or remove it"),
    ("half_a_class", _line("0.5 0.5 0.5 0.2 0.2"), "category-unknown",
     "{root}/labels/train/a.txt: line 2: class 0.5 is not among the names; correct the line, or remove it"),
    ("nan", _line("0 nan 0.5 0.2 0.2"), "box-not-finite",
     "{root}/labels/train/a.txt: line 2: a number is not finite; correct the line, or remove it"),
    ("infinite", _line("0 0.5 0.5 inf 0.2"), "box-not-finite",
     "{root}/labels/train/a.txt: line 2: a number is not finite; correct the line, or remove it"),
    ("pixels", _line("0 30 20 12 8"), "box-range",
     "{root}/labels/train/a.txt: line 2: 30 is not a share of the image's side from 0 to 1; correct the line, or remove it"),
    ("negative", _line("0 0.5 0.5 -0.2 0.2"), "box-range",
     "{root}/labels/train/a.txt: line 2: -0.2 is not a share of the image's side from 0 to 1; correct the line, or remove it"),
    ("zero_area", _line("0 0.5 0.5 0 0.2"), "box-zero-area",
     "{root}/labels/train/a.txt: line 2: the box has no area: 0 0.5 0.5 0 0.2; correct the line, or remove it"),
    ("two_points", _line("0 0.1 0.1 0.9 0.9 0.5"), "polygon-odd",
     "{root}/labels/train/a.txt: line 2: 6 numbers; class x y width height, or class and at least three points, are wanted; correct the line, or remove it"),
    ("odd_numbers", _line("0 0.1 0.1 0.9 0.9 0.5 0.5 0.5"), "polygon-odd",
     "{root}/labels/train/a.txt: line 2: 8 numbers; class x y width height, or class and at least three points, are wanted; correct the line, or remove it"),
    ("flat_polygon", _line("0 0.1 0.1 0.5 0.1 0.9 0.1"), "box-zero-area",
     "{root}/labels/train/a.txt: line 2: the box has no area: 0 0.1 0.1 0.5 0.1 0.9 0.1; correct the line, or remove it"),
    ("bow_tie", _line("0 0.1 0.1 0.5 0.5 0.5 0.1 0.1 0.5"), "polygon-crossing",
     "{root}/labels/train/a.txt: line 2: the polygon crosses itself: the edge from (6, 4) to (30, 20) crosses the edge from (30, 4) to (6, 20); draw it anew, or let fix=OUT.json write the pixels that COCO's tools fill"),
    ("bytes", _written("labels/train/a.txt", b"\xff\xfe\x00\x81"), "file-unreadable",
     "{root}/labels/train/a.txt: cannot be read ({*}); write the file again"),
    ("image_cut", _written("images/train/a.png", b"\x89PNG\r\n\x1a\n"), "image-unreadable",
     "{root}/images/train/a.png: the file ends too early (a broken copy or download); save it again as JPEG or PNG, or take it out of the data set"),
    ("yaml_broken", _written("data.yaml", "names: [cat\ntrain: {"), "file-unreadable",
     "{root}/data.yaml: cannot be read ({*}); correct the YAML"),
    ("yaml_list", _written("data.yaml", "- cat\n- dog\n"), "file-format",
     "{root}/data.yaml: no mapping; write one such as names: [cat, dog]"),
    ("yaml_elsewhere", _written("data.yaml", "train: /elsewhere/images\nnames: [cat]\n"), "set-unusable",
     "{root}/data.yaml: train: '/elsewhere/images' is not there, seen from {root}; correct it"),
    ("name_twice", _written("data.yaml", "train: images/train\nnames: [cat, cat]\n"), "category-duplicate",
     "{root}/data.yaml: 'cat' or its number 1 stands there twice; list each class once"),
    ("html", _written("data.yaml", "train: images/train\nnames: ['<b>']\n"), "name-unsafe",
     "{root} (train): class 0: the name '<b>' holds '<b'; rename it in the source"),
    ("no_object", _written("labels/train/a.txt", ""), "images-empty",
     "{root} (train): 1 of 2 images hold no object: images/train/a.png; fine where they are meant to be background; label them otherwise"),
]
# fmt: on
