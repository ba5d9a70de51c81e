"""Where COCO's files lie below a data set's folder."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visionkit.data.flat import Strings
from visionkit.data.index_cache import entry_of, load, save
from visionkit.data.readers.coco_json import Images
from visionkit.data.readers.splits import Division, unknown_split
from visionkit.data.validate import Problem, check_images
from visionkit.errors import DataError, listed

LEAST_CACHED = 2000
"""A set of fewer images is looked at whole each time."""
_PART, _THREADS = 1024, 8


def find_annotations(root: Path, split: str | None, given: str | Path | None, kind: str) -> Path:
    """Return the annotation file of a split: `given`, or what the format calls <kind>_<split>*.json.

    split: None means the one file that holds all images, whatever it is called.

    Raises:
        DataError: there is none, or several.
    """
    if given is not None:
        for file in (root / Path(given).expanduser(), Path(given)):
            if file.is_file():
                return file
        raise DataError(
            f"{given}: no such file, seen from {root}; correct data.annotations.{split}", code="file-missing"
        )
    folder = root / "annotations"
    if split is None:
        return _only_file(root, folder, kind)
    for file in (folder / f"{kind}_{split}.json", root / f"{kind}_{split}.json", root / f"{split}.json"):
        if file.is_file():
            return file
    matches = sorted(file for file in folder.glob(f"{kind}_*.json") if is_of(split, file.stem.removeprefix(f"{kind}_")))
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = listed([file.name for file in matches])
        raise DataError(
            f"{folder}: several files for split '{split}': {names}; say data.annotations.{split}=FILE",
            code="set-unusable",
        )
    there = [*folder.glob(f"{kind}_*.json"), *root.glob("*.json")]
    splits = [file.stem.removeprefix(f"{kind}_") for file in there]
    if not splits:
        looked = f"annotations/{kind}_{split}*.json, {kind}_{split}.json and {split}.json"
        raise DataError(
            f"{root}: no COCO annotations; looked for {looked}; say data.annotations.{split}=FILE", code="set-unusable"
        )
    raise unknown_split(split, splits, root)


def _only_file(root: Path, folder: Path, kind: str) -> Path:
    places = (folder.glob(f"{kind}*.json"), root.glob(f"{kind}*.json"), folder.glob("*.json"), root.glob("*.json"))
    found = next((files for place in places if (files := sorted(place))), [])
    if len(found) == 1:
        return found[0]
    seen = f"several files ({listed([file.name for file in found])})" if found else "no COCO annotations"
    raise DataError(
        f"{root}: {seen}; to divide the images of one, say data.annotations.<split>=FILE for each split",
        code="set-unusable",
    )


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


@dataclass(frozen=True, eq=False)
class FoundImages:
    """The N images of a list that are there and whole.

    Attributes:
        rows: (N,) int64, their rows in the list, rising.
        names: relative to the data set's folder.
        sizes: (N, 2) int64 (height, width), as recorded and as the files have it.
        problems: those of the other images.
    """

    rows: np.ndarray
    names: Sequence[str]
    sizes: np.ndarray
    problems: list[Problem]


def find_images(root: Path, split: str, images: Images, file: Path) -> FoundImages:
    """Find the image files of the annotation file `file` and check them.

    What was found of a large set is kept in the cache folder. Then each file is asked for its size and time of change
    alone, and opened only where they are others than before: that it is there, and is the file that was checked, is
    seen anew each time; where it was found is not looked for again.
    """
    entry = entry_of("images", file, root, split)
    checked = _kept(entry, images) if len(images.names) >= LEAST_CACHED else None
    if checked is None:
        checked = _Checked([""] * len(images.names), np.full((len(images.names), 2), -1), images.sizes.copy())
    stats = _stats(root, checked.names)
    unsure = np.flatnonzero((stats != checked.stats).any(axis=1) | (stats[:, 0] < 0))
    if not len(unsure):
        return FoundImages(np.arange(len(checked.names)), checked.names, checked.sizes, [])
    names, sizes = list(checked.names), checked.sizes.copy()
    problems = _look(root, split, images, file, unsure, names, sizes)
    stats[unsure] = _stats(root, [names[row] for row in unsure.tolist()])
    bad = [row for row in unsure.tolist() if not names[row]]
    flat = Strings.of(names)
    if len(names) >= LEAST_CACHED:
        told = {"stats": stats, "sizes": sizes, "names": flat.data, "ends": flat.offsets}
        save(entry, {"images": _fingerprint(images)}, told)
    rows = np.setdiff1d(np.arange(len(names)), bad)
    return FoundImages(
        rows, flat if not bad else Strings.of(names[row] for row in rows.tolist()), sizes[rows], problems
    )


@dataclass(frozen=True, eq=False)
class _Checked:
    """Per image of a list: the name, empty where it is not usable; the file's size and time of change; its pixels."""

    names: Sequence[str]
    stats: np.ndarray
    sizes: np.ndarray


def _kept(entry: Path, images: Images) -> _Checked | None:
    found = load(entry)
    if found is None or found.header.get("images") != _fingerprint(images):
        return None
    arrays = found.arrays
    return _Checked(Strings(arrays["names"], arrays["ends"]), arrays["stats"], arrays["sizes"])


def _fingerprint(images: Images) -> list[int]:
    parts = (images.names.data, images.names.offsets, images.sizes)
    return [len(images.names), *(zlib.crc32(np.ascontiguousarray(part).tobytes()) for part in parts)]


def _stats(root: Path, names: Sequence[str]) -> np.ndarray:
    """(N, 2) int64 size in bytes and time of change in nanoseconds of each file; -1 where it is not there."""
    above = f"{root}{os.sep}"

    def part(first: int) -> list[tuple[int, int]]:
        found = []
        for name in names[first : first + _PART]:
            try:
                status = os.stat(above + name) if name else None  # noqa: PTH116 - half the time of Path.stat
            except (OSError, ValueError):
                status = None
            found.append((-1, -1) if status is None else (status.st_size, status.st_mtime_ns))
        return found

    with ThreadPoolExecutor(_THREADS) as threads:  # for disks and networks that answer slowly
        rows = [row for rows in threads.map(part, range(0, len(names), _PART)) for row in rows]
    return np.array(rows, np.int64).reshape(-1, 2)


def _look(
    root: Path, split: str, images: Images, file: Path, rows: np.ndarray, names: list[str], sizes: np.ndarray
) -> list[Problem]:
    """Look for the images at `rows` and check them; write their names (empty if unusable) and sizes."""
    folders = image_folders(root, split)
    problems: dict[int, Problem] = {}
    there: list[int] = []
    for row in rows.tolist():
        wanted = images.names[row]
        name = locate(root, folders, wanted)
        names[row] = name or ""
        if name is not None:
            there.append(row)
            continue
        places = listed([f"{folder}/" if folder else "data.root itself" for folder in folders])
        fault = f"'{wanted}' is not there; looked in {places}"
        where = f"images[{images.places[row]}].file_name"
        mend = "restore the image, or remove the entry"
        problems[row] = Problem(str(file), where, fault, mend, rule="image-missing")
    recorded = [(int(height), int(width)) if height else None for height, width in images.sizes[there].tolist()]
    checked = check_images(
        [root / names[row] for row in there], recorded, lambda i: (str(file), f"images[{images.places[there[i]]}]")
    )
    for row, result in zip(there, checked, strict=True):
        if isinstance(result, Problem):
            problems[row], names[row] = result, ""
        else:
            sizes[row] = result
    return [problems[row] for row in sorted(problems)]


def divided_images(found: FoundImages, division: Division, root: Path) -> tuple[FoundImages, list[str]]:
    """Return those of the found images that fall into the division's split, in their order, and notes."""
    chosen = division.choose({name: name for name in found.names}, root)
    wanted = set(chosen.names)
    kept = np.array([place for place, name in enumerate(found.names) if name in wanted], np.int64)
    names = Strings.of(found.names[place] for place in kept.tolist())
    return FoundImages(found.rows[kept], names, found.sizes[kept], [*found.problems, *chosen.problems]), chosen.notes
