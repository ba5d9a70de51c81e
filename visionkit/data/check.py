"""A full account of a split: what it holds, image by image, and all that is wrong with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from visionkit.data.cache import image_file
from visionkit.data.decode import image_size
from visionkit.data.export_coco import OF_OBJECTS, sources
from visionkit.data.polygons import crossing_edges
from visionkit.data.validate import Problem, absent_classes, fast_check, found_in
from visionkit.errors import DataError, listed
from visionkit.interfaces import Reader
from visionkit.structures import IGNORE_INDEX, Labels, Sample

_THREADS = 4
_WINDOW = 16


@dataclass(frozen=True, eq=False)
class Account:
    """What was found in a split.

    Attributes:
        split: its name.
        reader: without what is faulty, or None where the set could not be opened.
        findings: errors and warnings.
        notes: what the reader did that somebody may not expect.
        faulty: the indices of the reader's images that cannot be read, and so are of no use either.
        sizes: every (height, width) that occurs, and of how many images.
        classes: class name -> (objects, or labelled images; images that show it).
        pixels: semantic class name -> (labelled pixels, images that show it).
        objects: how many in all, crowds and ignored ones too; of those, how many are crowds, and how many ignored.
        empty: the indices of the images without any object.
        unlike: the indices of the images of whose objects nothing is known, where it is of others.
    """

    split: str
    reader: Reader | None
    findings: list[Problem]
    notes: list[str] = field(default_factory=list)
    faulty: frozenset[int] = frozenset()
    sizes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    classes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    pixels: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    objects: tuple[int, int, int] = (0, 0, 0)
    empty: tuple[int, ...] = ()
    unlike: frozenset[int] = frozenset()

    @property
    def usable(self) -> bool:
        """Whether something of the split is left to train on."""
        return self.reader is not None and not fast_check(self.reader) and len(self.faulty) < len(self.reader)


def check_split(open_reader: Callable[[], Reader], split: str) -> Account:
    """Open a split and look at everything in it: every label, every pixel.

    Args:
        open_reader: builds the reader, with `on_error="skip"`, or the first fault has ended things already.
        split: its name.
    """
    try:
        reader = open_reader()
    except DataError as error:
        return Account(split, None, found_in(error))
    findings = [*getattr(reader, "problems", ()), *fast_check(reader)]
    findings += [fault for source in sources(reader) for fault in getattr(source, "harmless", ())]
    counts = _Counts(len(reader.classes), len(reader.semantic_classes))
    faulty: list[int] = []
    for index, found in enumerate(_samples(reader)):
        if isinstance(found, Sample):
            counts.add(index, found.labels)
            findings += _turned(reader, index, found.labels)
        else:
            faulty.append(index)
            findings += found
    where = f"{getattr(reader, 'root', type(reader).__name__)} ({split})"
    findings += _warnings(reader, counts, where) + _crossing(reader)
    return Account(
        split,
        reader,
        list(dict.fromkeys(findings)),
        list(getattr(reader, "notes", ())),
        frozenset(faulty),
        counts.sizes,
        dict(zip(reader.classes, _pairs(counts.objects, counts.images), strict=True)),
        dict(zip(reader.semantic_classes, _pairs(counts.pixels, counts.maps), strict=True)),
        (counts.total, counts.crowds, counts.ignored),
        tuple(counts.empty),
        frozenset(counts.unlike if reader.fields & OF_OBJECTS else ()),
    )


def check_across(accounts: Sequence[Account]) -> list[Problem]:
    """Return a warning for each image that is in two splits, by its bytes: what is trained on cannot be judged on."""
    by_length: dict[int, list[tuple[str, Path]]] = {}
    for account in accounts:
        for path in _paths(account.reader):
            by_length.setdefault(path.stat().st_size, []).append((account.split, path))
    problems = []
    for group in by_length.values():
        if len({split for split, _ in group}) < 2:
            continue  # only files of one length are read
        first: dict[bytes, tuple[str, Path]] = {}
        for split, path in group:
            own = first.setdefault(_digest(path), (split, path))
            if own[0] != split:
                fault = f"the same image as {own[1]}, which is in split '{own[0]}'; this one is in '{split}'"
                mend = "leave it in one of them, or what is learned by heart is taken for skill"
                problems.append(Problem(str(path), "", fault, mend, "image-in-splits", warning=True))
    return problems


# ----------------------------------------------------------------------------------------------------------- counting
class _Counts:
    def __init__(self, classes: int, semantic_classes: int) -> None:
        self.objects, self.images = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        self.pixels, self.maps = np.zeros(semantic_classes, np.int64), np.zeros(semantic_classes, np.int64)
        self.sizes: dict[tuple[int, int], int] = {}
        self.total = self.crowds = self.ignored = 0
        self.empty: list[int] = []
        self.unlike: list[int] = []

    def add(self, index: int, labels: Labels) -> None:
        self.sizes[labels.size] = self.sizes.get(labels.size, 0) + 1
        counts = None
        if labels.labels is not None:
            assert labels.crowd is not None and labels.ignore is not None
            counts = np.bincount(labels.labels, minlength=len(self.objects))
            self.total += len(labels.labels)
            self.crowds += int(labels.crowd.sum())
            self.ignored += int(labels.ignore.sum())
        elif labels.class_scores is not None:
            counts = (labels.class_scores > 0).astype(np.int64)
        if counts is not None:
            self.objects += counts
            self.images += counts > 0
        held = 0 if counts is None else int(counts.sum())
        if labels.semantic is not None:
            pixels = np.bincount(labels.semantic.ravel(), minlength=IGNORE_INDEX + 1)[: len(self.pixels)]
            self.pixels += pixels
            self.maps += pixels > 0
            held += int(pixels.sum())
        if labels.known and not held:
            self.empty.append(index)
        if not labels.known & OF_OBJECTS:
            self.unlike.append(index)


def _pairs(first: np.ndarray, second: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(first.tolist(), second.tolist(), strict=True))


def _warnings(reader: Reader, counts: _Counts, where: str) -> list[Problem]:
    absent = [name for name, count in zip(reader.classes, counts.objects, strict=True) if not count]
    absent += [name for name, count in zip(reader.semantic_classes, counts.pixels, strict=True) if not count]
    warnings = [absent_classes(where, absent)] if absent else []
    if counts.empty:
        names = listed([reader.file_names[index] for index in counts.empty], most=3)
        fault = f"{len(counts.empty)} of {len(reader)} images hold no object: {names}"
        mend = "fine where they are meant to be background; label them otherwise"
        warnings.append(Problem(where, "", fault, mend, "images-empty", warning=True))
    return warnings


# ------------------------------------------------------------------------------------------------------------ reading
def _samples(reader: Reader) -> Iterator[Sample | list[Problem]]:
    """Yield every sample in order, or what keeps it from being read; a few are held at a time."""

    def one(index: int) -> Sample | list[Problem]:
        try:
            return reader.read(index)
        except DataError as error:
            return [_of_image(problem, reader.file_names[index]) for problem in found_in(error)]

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        for start in range(0, len(reader), _WINDOW):
            yield from threads.map(one, range(start, min(start + _WINDOW, len(reader))))


def _of_image(problem: Problem, file_name: str) -> Problem:
    """What cannot be decoded is an image for the decoder, though it be the mask of `file_name`."""
    if problem.rule != "image-unreadable" or Path(problem.file).as_posix().endswith(file_name):
        return problem
    return replace(problem, rule="mask-unreadable")


def _turned(reader: Reader, index: int, labels: Labels) -> list[Problem]:
    """A warning where EXIF orientation turns the image, but not its recorded size, by which it is read."""
    file = image_file(reader, index)
    if file is None or image_size(file[0]) == labels.size:
        return []
    height, width = labels.size
    fault = f"the recorded size is {width} x {height}, but EXIF orientation makes the image {height} x {width}"
    mend = "it is read as it is stored; save it without EXIF orientation, for other tools turn it"
    return [Problem(str(file[0]), "", fault, mend, "size-exif", warning=True)]


def _crossing(reader: Reader) -> list[Problem]:
    """The polygons that cross themselves; what COCO's tools fill of them is trained on, and is what `fix` writes."""
    problems = []
    for source in sources(reader):
        for index in range(len(source) if hasattr(source, "polygons") else 0):
            for file, where, numbers in source.polygons(index):
                points = np.reshape(numbers, (-1, 2))
                edges = crossing_edges(points)
                if edges is not None:
                    one, other = (_edge(points, number) for number in edges)
                    mend = "draw it anew, or let fix=OUT.json write the pixels that COCO's tools fill"
                    fault = f"the polygon crosses itself: {one} crosses {other}"
                    problems.append(Problem(str(file), where, fault, mend, "polygon-crossing"))
    return problems


def _edge(points: np.ndarray, number: int) -> str:
    (x1, y1), (x2, y2) = points[number], points[(number + 1) % len(points)]
    return f"the edge from ({x1:.6g}, {y1:.6g}) to ({x2:.6g}, {y2:.6g})"


def _paths(reader: Reader | None) -> Iterator[Path]:
    """The image files of a reader that has some."""
    for index in range(0 if reader is None else len(reader)):
        file = image_file(reader, index) if reader is not None else None
        if file is not None and file[0].is_file():
            yield file[0]


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
