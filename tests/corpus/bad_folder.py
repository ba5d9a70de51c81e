"""Bad folders of images by class."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ARGUMENTS = ("data=folder", "task=classify", "data.splits={train: train, val: null, test: null}")


def _files(**more: bytes) -> Callable[[Path], None]:
    """A cat and a dog, and files beside them."""

    def build(root: Path) -> None:
        for name, shade in (("cat", 40), ("dog", 200)):
            (root / "train" / name).mkdir(parents=True)
            Image.fromarray(np.full((40, 60, 3), shade, np.uint8)).save(root / f"train/{name}/1.png")
        for name, data in more.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)

    return build


PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC")
# fmt: off
CASES: list[tuple[Any, ...]] = [
    ("no_classes", lambda root: root.mkdir(), "set-unusable",
     "{root}: no class folders; put the images of each class into one, as in cats/1.jpg"),
    ("a_file", lambda root: root.write_text("x"), "root-missing",
     "{root}: a file, not a folder; give the data set's folder as data.root"),
    ("no_split", _files(), "split-unknown",
     "{root}: no split 'val'; it has train; choose one with data.splits", "data.splits={train: val, val: null, test: null}"),
    ("no_image", _files(**{"train/cat/2.jpg": b"no image"}), "image-unreadable",
     "{root}/train/cat/2.jpg: not an image; save it again as JPEG or PNG, or take it out of the data set"),
    ("empty", _files(**{"train/cat/2.jpg": b""}), "image-unreadable",
     "{root}/train/cat/2.jpg: the file is empty; save it again as JPEG or PNG, or take it out of the data set"),
    ("class_html", _files(**{"train/<b>/2.png": PIXEL}), "name-unsafe",
     "{root} (train): class 0: the name '<b>' holds '<b'; rename it in the source"),
    ("file_escape_code", _files(**{"train/cat/\x1b[31m.png": b"no image"}), "name-unsafe",
     "{root}/train/cat/\\x1b[31m.png: the name '\\x1b[31m.png' holds '\\x1b'; rename the file"),
    ("class_absent", _files(**{"train/empty/readme.txt": b"none yet"}), "class-absent",
     "{root} (train): no example of empty; what is absent cannot be learned or judged"),
]
# fmt: on
