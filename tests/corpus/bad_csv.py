"""Bad CSV files: two photographs of 60 x 40 with a cat and a dog, and one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ARGUMENTS = ("data=csv", "data.splits={train: train, val: null, test: null}")


def _rows(text: str | bytes) -> Callable[[Path], None]:
    """Two images, and a file with these rows."""

    def build(root: Path) -> None:
        (root / "images").mkdir(parents=True)
        for name, shade in (("a", 40), ("b", 200)):
            Image.fromarray(np.full((40, 60, 3), shade, np.uint8)).save(root / f"images/{name}.png")
        (root / "train.csv").write_bytes(text.encode() if isinstance(text, str) else text)

    return build


def _row(text: str) -> Callable[[Path], None]:
    return _rows(f"file,x1,y1,x2,y2,label\na.png,10,10,30,30,cat\n{text}\n")


# fmt: off
CASES: list[tuple[Any, ...]] = [
    ("no_rows", _rows("\n"), "file-format",
     "{root}/train.csv: there are no rows; write one per labelled object, or remove the file"),
    ("columns", _rows("a.png,1,2,3\n"), "file-format",
     "{root}/train.csv: line 1: 4 columns without names; file, x1, y1, x2, y2, label or file, label are known; say what they are with data.reader.columns=[file, …]"),
    ("no_label_column", _rows("file,x1,y1,x2,y2\na.png,1,2,3,4\n"), "file-format",
     "{root}/train.csv: line 1: no column for label; say which it is with data.reader.columns"),
    ("latin", _rows("file,label\nb\xe4r.png,cat\n".encode("latin-1")), "file-unreadable",
     "{root}/train.csv: cannot be read ({*}); save it as UTF-8 text"),
    ("no_image", _row(",10,10,30,30,dog"), "file-format",
     "{root}/train.csv: line 3: the row names no image; correct the row, or remove it"),
    ("image_missing", _row("c.png,10,10,30,30,dog"), "image-missing",
     "{root}/train.csv: line 3: 'c.png' is not there; looked for c.png, images/c.png, train/c.png, images/train/c.png, dog/c.png, images/dog/c.png; correct the row, or remove it"),
    ("parent_folder", _row("../b.png,10,10,30,30,dog"), "path-outside",
     "{root}/train.csv: line 3: '../b.png' leaves the folder; correct the row, or remove it"),
    ("words", _row("b.png,ten,10,30,30,dog"), "box-format",
     "{root}/train.csv: line 3: 'ten' is not a number; correct the row, or remove it"),
    ("nan", _row("b.png,nan,10,30,30,dog"), "box-not-finite",
     "{root}/train.csv: line 3: 'nan' is not a number; correct the row, or remove it"),
    ("missing_side", _row("b.png,,10,30,30,dog"), "box-format",
     "{root}/train.csv: line 3: a number of the box is missing; correct the row, or remove it"),
    ("no_label", _row("b.png,10,10,30,30,"), "label-missing",
     "{root}/train.csv: line 3: the box has no label; correct the row, or remove it"),
    ("label_alone", _row("b.png,,,,,dog"), "box-missing",
     "{root}/train.csv: line 3: 'dog' has no box; correct the row, or remove it"),
    ("inverted", _row("b.png,30,10,10,30,dog"), "box-inverted",
     "{root}/train.csv: line 3: the box has no area: (30.0, 10.0, 10.0, 30.0); correct the row, or remove it"),
    ("zero_area", _row("b.png,10,10,30,10,dog"), "box-zero-area",
     "{root}/train.csv: line 3: the box has no area: (10.0, 10.0, 30.0, 10.0); correct the row, or remove it"),
    ("outside", _row("b.png,70,10,90,30,dog"), "box-outside",
     "{root}/train.csv: line 3: the box is outside the image of 60 x 40: (70.0, 10.0, 90.0, 30.0); correct the row, or remove it"),
    ("html", _row("b.png,10,10,30,30,<i>dog"), "name-unsafe",
     "{root} (train): class 0: the name '<i>dog' holds '<i'; rename it in the source"),
]
# fmt: on
