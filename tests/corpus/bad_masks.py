"""Bad mask images: two photographs of 60 x 40 with sky above a road, and one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ARGUMENTS = (
    "data=masks", "task=semantic", "data.classes=[sky, road]", "data.splits={train: train, val: null, test: null}",
)  # fmt: skip


def _sound(root: Path) -> None:
    for folder in ("images/train", "masks/train"):
        (root / folder).mkdir(parents=True)
    for name, shade in (("a", 40), ("b", 200)):
        Image.fromarray(np.full((40, 60, 3), shade, np.uint8)).save(root / f"images/train/{name}.png")
        Image.fromarray(_ground()).save(root / f"masks/train/{name}.png")


def _ground(height: int = 40) -> np.ndarray:
    mask = np.zeros((height, 60), np.uint8)
    mask[20:] = 1
    return mask


def _mask(values: np.ndarray, ending: str = "png", **arguments: Any) -> Callable[[Path], None]:
    """A sound set in which one image has another mask."""

    def build(root: Path) -> None:
        _sound(root)
        (root / "masks/train/a.png").unlink()
        Image.fromarray(values).save(root / f"masks/train/a.{ending}", **arguments)

    return build


def _changed(action: Callable[[Path], Any]) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        _sound(root)
        action(root)

    return build


# fmt: off
CASES: list[tuple[Any, ...]] = [
    ("no_mask", _changed(lambda root: (root / "masks/train/a.png").unlink()), "mask-missing",
     "{root}/masks/train/a: there is no such mask; restore it, or take the name out of the split"),
    ("two_masks", _changed(lambda root: (root / "masks/train/a.bmp").write_bytes(b"x")), "mask-ambiguous",
     "{root}/masks/train/a: several masks of that name: masks/train/a.bmp, masks/train/a.png; keep one of them"),
    ("other_size", _mask(_ground(39)), "mask-size",
     "{root}/masks/train/a.png: the mask is 60 x 39 but images/train/a.png is 60 x 40; give the mask the size of its image"),
    ("value", _mask(_ground() * 7), "mask-value",
     "{root}/masks/train/a.png: value 7 is outside the class list; name it in data.reader.names, or ignore it with data.ignore_index or data.reader.ignore_values"),
    ("jpeg", _mask(_ground() * 255, "jpg"), "mask-jpeg",
     "{root}/masks/train/a.jpg: a mask as JPEG, which blurs its values; make it again as PNG"),
    ("cut", _changed(lambda root: (root / "masks/train/a.png").write_bytes(b"\x89PNG\r\n\x1a\n")), "mask-unreadable",
     "{root}/masks/train/a.png: the file ends too early (a broken copy or download); save it again as JPEG or PNG, or take it out of the data set"),
    ("image_empty", _changed(lambda root: (root / "images/train/a.png").write_bytes(b"")), "image-unreadable",
     "{root}/images/train/a.png: the file is empty; save it again as JPEG or PNG, or take it out of the data set"),
]
# fmt: on
