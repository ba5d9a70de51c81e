"""Where COCO's files lie below a data set's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from visionkit.data.readers.splits import unknown_split
from visionkit.errors import DataError, listed


def find_annotations(root: Path, split: str, given: str | Path | None, kind: str) -> Path:
    """Return the annotation file of a split: `given`, or what the format calls <kind>_<split>*.json.

    Raises:
        DataError: there is none, or several.
    """
    if given is not None:
        for file in (root / Path(given).expanduser(), Path(given)):
            if file.is_file():
                return file
        raise DataError(f"{given}: no such file, seen from {root}; correct data.annotations.{split}")
    folder = root / "annotations"
    for file in (folder / f"{kind}_{split}.json", root / f"{kind}_{split}.json", root / f"{split}.json"):
        if file.is_file():
            return file
    matches = sorted(file for file in folder.glob(f"{kind}_*.json") if is_of(split, file.stem.removeprefix(f"{kind}_")))
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = listed([file.name for file in matches])
        raise DataError(f"{folder}: several files for split '{split}': {names}; say data.annotations.{split}=FILE")
    there = [*folder.glob(f"{kind}_*.json"), *root.glob("*.json")]
    splits = [file.stem.removeprefix(f"{kind}_") for file in there]
    if not splits:
        looked = f"annotations/{kind}_{split}*.json, {kind}_{split}.json and {split}.json"
        raise DataError(f"{root}: no COCO annotations; looked for {looked}; say data.annotations.{split}=FILE")
    raise unknown_split(split, splits, root)


def image_folders(root: Path, split: str) -> list[str]:
    """Return where images may lie, relative to `root`; the split's bare name comes before longer ones (train2017)."""

    def named(parent: Path) -> list[str]:
        entries = parent.iterdir() if parent.is_dir() else ()
        return sorted(entry.name for entry in entries if is_of(split, entry.name) and entry.is_dir())

    return ["images", *named(root), *(f"images/{name}" for name in named(root / "images")), ""]


def is_of(split: str, name: str) -> bool:
    """Whether `name` is the split's, perhaps with a year or the like: train2017 is of train, trainval is not."""
    return name.startswith(split) and not name[len(split) : len(split) + 1].isalpha()


def locate(root: Path, folders: Sequence[str], file_name: str) -> str | None:
    """Return the name below `root` of the first file of that name in `folders`."""
    for folder in folders:
        name = f"{folder}/{file_name}" if folder else file_name
        if os.path.isfile(root / name):  # noqa: PTH113 - half the time of Path.is_file, and sets have 100,000 images
            return name
    return None
