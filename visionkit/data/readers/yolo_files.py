"""Where YOLO's images, label files and class names lie, and what a label file says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from visionkit.data.readers.lists import listed_images
from visionkit.data.readers.names import Names, read_names, read_yaml
from visionkit.data.readers.objects import Box
from visionkit.data.readers.source import box_rule, fit_box
from visionkit.data.readers.splits import USUAL_SPLITS, unknown_split, unused_splits
from visionkit.data.readers.templates import (
    check_template,
    choose_layout,
    files_of,
    folder_of,
    folder_stars,
    path_of,
    splits_of,
)
from visionkit.data.validate import Problem
from visionkit.errors import ConfigError, DataError

LAYOUTS = (("images/{split}/{name}",), ("{split}/images/{name}",), ("images/{name}",))
_NEAR = 0.01
"""By how much a number may leave 0 to 1: the rounding of the tool that wrote it, and boxes that reach over the edge."""


@dataclass(frozen=True)
class Thing:
    """A line (from 1): a class name, the box in pixels, and the polygon (2P,) float32 in pixels, if it is one."""

    line: int
    name: str
    box: Box
    polygon: np.ndarray | None
    was_clipped: bool


@dataclass(frozen=True)
class Pairs:
    """The label file, which need not be there, of each image (relative to the root), sorted by image.

    is_divided: these are the images of all splits.
    """

    pairs: dict[str, Path]
    is_divided: bool = False
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------------------- names
def find_names(root: Path, classes: Sequence[str] | None) -> Names:
    """Return the file that has the class names, data.yaml or classes.txt; without one, `classes`.

    Raises:
        ConfigError: nothing says the names.
    """
    document = _description(root)
    if document is not None and read_names(document) is not None:
        return str(document)
    for file in (root / "classes.txt", root / "labels" / "classes.txt"):
        if file.is_file():
            return str(file)
    if classes is None:
        mend = "give data.reader.names=[cat, dog] in the order of the numbers, or a data.yaml with names"
        raise ConfigError(f"{root}: nothing says what the class numbers mean; {mend}", code="value-missing")
    return classes


def _description(root: Path) -> Path | None:
    """The YAML file that describes the set: data.yaml, or the only one in the folder."""
    files = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    usual = [file for file in files if file.stem in ("data", "dataset")]
    return usual[0] if usual else files[0] if len(files) == 1 else None


# ------------------------------------------------------------------------------------------------------------- files
def find_pairs(root: Path, split: str | None, images: str | None, labels: str | None) -> Pairs:
    """Return the images of a split, or of all splits where it is None, each with its label file.

    Raises:
        DataError: the split is not there.
        ConfigError: a template is wrong.
    """
    if labels is not None:
        check_template(labels, "data.reader.labels")
    if images is None:
        document = _description(root)
        said = read_yaml(document) if document is not None else {}
        if not USUAL_SPLITS.isdisjoint(said):
            if labels is not None:
                raise ConfigError("data.reader.labels: give data.reader.images too", code="value-missing")
            assert document is not None
            return _described(root, document, said, split)
        images = choose_layout(root, LAYOUTS, split)[0]
    else:
        check_template(images, "data.reader.images")
        if "{split}" in images and split is not None and split not in splits_of(root, [images]):
            raise unknown_split(split, splits_of(root, [images]), root)
    own_splits = splits_of(root, [images]) if "{split}" in images else []
    found: dict[str, tuple[str, str]] = {}
    for one in (own_splits if split is None else [split]) or [""]:
        found |= {file: (one, name) for name, files in files_of(root, images, one).items() for file in files}
    is_divided = split is None or not own_splits
    notes = unused_splits(own_splits) if split is None else []
    if labels is None:
        return _paired(root, list(found), is_divided, notes)
    pattern = labels if labels.endswith(".txt") else f"{labels}.txt"
    if folder_stars(pattern) != folder_stars(images):
        wanted = f"as many folders * as in data.reader.images={images} are wanted"
        raise ConfigError(f"data.reader.labels={labels}: {wanted}", code="value-unfit")
    pairs = {file: root / path_of(pattern, one, name) for file, (one, name) in found.items()}
    folders = {root / folder_of(pattern, one) for one, _ in found.values()}
    return _with_notes(pairs, folders, is_divided, notes)


def _described(root: Path, document: Path, said: Mapping[str, Any], split: str | None) -> Pairs:
    """The images of a split as the YAML file tells, relative to `root`, sorted; of all splits where it is None."""
    own = [key for key in said if key in USUAL_SPLITS and said[key]]
    entry = said.get(split or "") or (said.get("valid") if split == "val" else None)
    if split is not None and not entry:
        raise unknown_split(split, own, document)
    found: list[str] = []
    problems: list[Problem] = []
    for key in own if split is None else [split]:
        entries = said[key] if split is None else entry
        for one in entries if isinstance(entries, list) else [entries]:
            images, faults = _entry(root, document, str(said.get("path") or "."), f"{key}: '{one}'", str(one))
            found += images
            problems += faults
    pairs = _paired(root, sorted(set(found)), split is None, unused_splits(own) if split is None else [])
    return replace(pairs, problems=problems)


def _entry(root: Path, document: Path, base: str, shown: str, entry: str) -> tuple[list[str], list[Problem]]:
    """The images in a folder, or those that a text file lists."""
    place = _inside(root, base, entry)
    if place is None:
        raise DataError(f"{document}: {shown} is not there, seen from {root}; correct it", code="set-unusable")
    if place.is_dir():
        folder = place.relative_to(root).as_posix()
        names = files_of(root, "{name}" if folder == "." else f"{folder}/{{name}}", "")
        return [file for files in names.values() for file in files], []
    everything = {file: file for files in files_of(root, "{name}", "").values() for file in files}
    return listed_images(place, everything)


def _inside(root: Path, base: str, entry: str) -> Path | None:
    """The place inside `root` that an entry means; some exporters write "../train/images" for train/images."""
    parts = [part for part in PurePosixPath(entry).parts if part not in ("..", ".")]
    for place in (root / base / entry, root / entry, root.joinpath(*parts)):
        if place.exists() and place.resolve().is_relative_to(root.resolve()) and ".." not in place.parts:
            return place
    return None


def _paired(root: Path, images: Sequence[str], is_divided: bool, notes: list[str]) -> Pairs:
    pairs = {image: root / _label_name(image) for image in images}
    return _with_notes(pairs, {file.parent for file in pairs.values()}, is_divided, notes)


def _label_name(image: str) -> str:
    parts = list(PurePosixPath(image).with_suffix(".txt").parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return "/".join(parts)


def _with_notes(pairs: dict[str, Path], folders: set[Path], is_divided: bool, notes: list[str]) -> Pairs:
    there = {file for folder in folders for file in folder.glob("*.txt") if file.stem != "classes"}
    alone = len(there - set(pairs.values()))
    notes = [*notes, f"label files without an image: {alone}"] if alone else notes
    return Pairs(dict(sorted(pairs.items())), is_divided, notes)


# -------------------------------------------------------------------------------------------------------------- lines
def read_label_file(file: Path, size: tuple[int, int], name_of: Mapping[int, str]) -> tuple[list[Thing], list[Problem]]:
    """Return the objects of an image of `size` (height, width), and the faults of the other lines."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [], [Problem(str(file), "", f"cannot be read ({error})", "write the file again", "file-unreadable")]
    things: list[Thing] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        thing = _thing(number, line.split(), size, name_of)
        if isinstance(thing, Thing):
            things.append(thing)
        else:
            rule, fault = thing
            problems.append(Problem(str(file), f"line {number}", fault, "correct the line, or remove it", rule))
    return things, problems


def _thing(
    line: int, words: Sequence[str], size: tuple[int, int], name_of: Mapping[int, str]
) -> Thing | tuple[str, str]:
    """The object, or the code of the rule that the line breaks and what is wrong."""
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        return "file-format", f"'{' '.join(words)[:60]}' are no numbers"
    if not np.isfinite(values).all():
        return "box-not-finite", "a number is not finite"
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        wanted = "class x y width height, or class and at least three points, are wanted"
        return _count_rule(len(values)), f"{len(values)} numbers; {wanted}"
    if values[0] != math.floor(values[0]) or int(values[0]) not in name_of:
        return "category-unknown", f"class {words[0]} is not among the names"
    rest = values[1:]
    if rest.min() < -_NEAR or rest.max() > 1 + _NEAR:
        strange = rest.min() if rest.min() < -_NEAR else rest.max()
        return "box-range", f"{strange:g} is not a share of the image's side from 0 to 1"
    height, width = size
    polygon = None
    if len(values) == 5:
        x, y, across, down = rest * [width, height, width, height]
        corners = (x - across / 2, y - down / 2, x + across / 2, y + down / 2)
    else:
        points = rest.reshape(-1, 2).clip(0, 1) * [width, height]
        corners = (*points.min(axis=0), *points.max(axis=0))
        polygon = points.ravel().astype(np.float32)
    own = [float(corner) for corner in corners]
    fitted = fit_box(own, size)
    if isinstance(fitted, str):
        return box_rule(own), f"{fitted}: {' '.join(words)[:60]}"
    return Thing(line, name_of[int(values[0])], fitted[0], polygon, fitted[1])


def _count_rule(count: int) -> str:
    """The rule that a line of so many numbers breaks."""
    if count < 5:
        return "box-format"
    return "polygon-odd" if count % 2 == 0 else "polygon-short"
