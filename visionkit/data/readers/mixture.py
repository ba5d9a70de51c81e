"""Several data sets as one, which may know different fields and have different classes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.data.cache import image_file, prepare
from visionkit.data.fingerprint import parts_of
from visionkit.data.readers.source import semantic_category_ids
from visionkit.data.validate import class_counts
from visionkit.errors import ConfigError, did_you_mean
from visionkit.interfaces import Reader
from visionkit.structures import IGNORE_INDEX, Decoding, Labels, Sample

_FIELDS_OF_LIST: Mapping[str, tuple[str, ...]] = {
    "class_scores": ("class_scores", "box"),
    "boxes": ("boxes", "masks"),
    "semantic": ("semantic",),
}


class Mixture:
    """The images of all readers, one reader after the other; image ids and file names get the set's name in front.

    `classes` and `semantic_classes` are the unions by name, in order of first appearance. A category id is that of the
    sets, if all sets that have the class agree and no other class has it; otherwise all are numbered from 1.

    Args:
        readers: by the name of each set.
        proportions: how often each set is drawn in training, relative to the others; None means by its images.

    Attributes:
        field_classes: for "class_scores", "boxes" and "semantic", the union over the sets that know the field alone:
            the class list of a head that learns from it.
        segments: (first image, number of images, share of the draws, from 0 to 1) of each set.

    Raises:
        ConfigError: there is no set, or the proportions do not fit the sets.
    """

    def __init__(self, readers: Mapping[str, Reader], proportions: Mapping[str, float] | None = None) -> None:
        if not readers:
            raise ConfigError("data: a mixture of no sets; name at least one", code="value-missing")
        strange = [name for name in readers if not name or "/" in name]
        if strange:
            raise ConfigError(f"data: '{strange[0]}' is no name for a set; leave the slashes out", code="name-unfit")
        self.names, self.readers = tuple(readers), tuple(readers.values())
        self.classes = _union(reader.classes for reader in self.readers)
        self.semantic_classes = _union(reader.semantic_classes for reader in self.readers)
        if len(self.semantic_classes) > IGNORE_INDEX:
            count = len(self.semantic_classes)
            raise ConfigError(
                f"data: {count} classes of pixels together; a semantic map holds at most {IGNORE_INDEX}",
                code="value-unfit",
            )
        self.category_ids = _agreed(self.classes, [(one.classes, one.category_ids) for one in self.readers])
        own = [(one.semantic_classes, semantic_category_ids(one)) for one in self.readers]
        self.semantic_category_ids = _agreed(self.semantic_classes, own)
        self.fields: frozenset[str] = frozenset().union(*(reader.fields for reader in self.readers))
        self.field_classes = {field: self._classes_of(field) for field in _FIELDS_OF_LIST}
        self.image_ids = [f"{name}/{one}" for name, reader in readers.items() for one in reader.image_ids]
        self.file_names = [f"{name}/{one}" for name, reader in readers.items() for one in reader.file_names]
        self._starts = np.cumsum([0, *(len(reader) for reader in self.readers)]).tolist()
        shares = _shares(readers, proportions)
        self.segments = tuple(
            (start, len(reader), share)
            for start, reader, share in zip(self._starts, self.readers, shares, strict=False)
        )
        self.problems = [problem for reader in self.readers for problem in getattr(reader, "problems", ())]
        self.notes = [f"{name}: {note}" for name, one in readers.items() for note in getattr(one, "notes", ())]
        self._maps = [_ClassMap(reader, self.classes, self.semantic_classes) for reader in self.readers]

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """The labels of image `index`, over the unions of the classes; `known_classes` are those of its set."""
        which, place = self._place(index)
        return self._maps[which](self.readers[which].labels(place))

    def image_file(self, index: int) -> tuple[Path, Decoding] | None:
        """The image file and how it is decoded, where the set's reader has such."""
        which, place = self._place(index)
        return image_file(self.readers[which], place)

    def prepare(self, count: int | None = None) -> None:
        """Let each reader make its images of the first `count` (None: all), where it makes them."""
        left = len(self) if count is None else count
        for start, reader in zip(self._starts, self.readers, strict=False):
            prepare(reader, max(0, min(len(reader), left - start)))

    def read(self, index: int) -> Sample:
        """Image and labels in original pixels."""
        which, place = self._place(index)
        sample = self.readers[which].read(place)
        return replace(
            sample,
            labels=self._maps[which](sample.labels),
            image_id=self.image_ids[index],
            file_name=self.file_names[index],
        )

    def class_counts(self) -> np.ndarray | None:
        """(C,) int64: objects (or whole images) per class, where every reader can tell."""
        total = np.zeros(len(self.classes), np.int64)
        for reader, own in zip(self.readers, self._maps, strict=True):
            counts = class_counts(reader)
            if counts is None:
                return None
            total[own.rows] += counts if len(own.rows) else 0
        return total

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        return [parts_of(reader) for reader in self.readers]

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        which = bisect_right(self._starts, index) - 1
        return which, index - self._starts[which]

    def _classes_of(self, field: str) -> tuple[str, ...]:
        knowing = [reader for reader in self.readers if reader.fields & set(_FIELDS_OF_LIST[field])]
        return _union(one.semantic_classes if field == "semantic" else one.classes for one in knowing)


class _ClassMap:
    """Labels from one set's class lists to the unions."""

    def __init__(self, reader: Reader, classes: Sequence[str], semantic_classes: Sequence[str]) -> None:
        self.rows = np.array([classes.index(name) for name in reader.classes], np.int64)
        self._count = len(classes)
        self._pixels = np.full(IGNORE_INDEX + 1, IGNORE_INDEX, np.uint8)
        for label, name in enumerate(reader.semantic_classes):
            self._pixels[label] = semantic_classes.index(name)
        self._known = np.zeros(len(classes), np.bool_)
        self._known[self.rows] = True

    def __call__(self, labels: Labels) -> Labels:
        changed: dict[str, Any] = {"known_classes": None if self._known.all() else self._known.copy()}
        if labels.labels is not None:
            changed["labels"] = self.rows[labels.labels]
        if labels.class_scores is not None:
            changed["class_scores"] = np.zeros(self._count, np.float32)
            changed["class_scores"][self.rows] = labels.class_scores
        if labels.semantic is not None:
            changed["semantic"] = self._pixels[labels.semantic]
        return replace(labels, **changed)


def _union(lists: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in lists for name in names))


def _agreed(
    classes: Sequence[str], lists: Sequence[tuple[Sequence[str], Sequence[int | str]]]
) -> tuple[int | str, ...]:
    """The ids on which all lists (classes and their ids) agree, else numbers from 1."""
    ids: dict[str, set[int | str]] = {name: set() for name in classes}
    for own, numbers in lists:
        for name, number in zip(own, numbers, strict=True):
            ids[name].add(number)
    agreed = [next(iter(own)) for own in ids.values() if len(own) == 1]
    if len(agreed) == len(classes) == len(set(agreed)):
        return tuple(agreed)
    return tuple(range(1, len(classes) + 1))


def _shares(readers: Mapping[str, Reader], proportions: Mapping[str, float] | None) -> list[float]:
    if proportions is None:
        proportions = {name: len(reader) for name, reader in readers.items()}
    else:
        for name in proportions:
            if name not in readers:
                raise ConfigError(
                    f"data.proportions.{name}: no set of that name{did_you_mean(name, readers)}", code="choice-unknown"
                )
        for name in readers:
            if not proportions.get(name, 0) > 0 or proportions[name] == float("inf"):
                raise ConfigError(
                    f"data.proportions.{name}: a number above 0 is wanted; or leave the set out of data",
                    code="value-unfit",
                )
    total = sum(proportions.values())
    return [proportions[name] / total if total else 0.0 for name in readers]
