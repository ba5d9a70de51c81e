"""Rows of text: an image with a box and its class, or with a class alone."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.data.decode import decode
from visionkit.data.readers.csv_rows import Columns, Row, find_files, read_rows
from visionkit.data.readers.objects import Box, make_table
from visionkit.data.readers.source import (
    box_rule,
    choose_classes,
    clipped_boxes,
    fit_box,
    left_out,
    open_root,
    whole_images,
)
from visionkit.data.readers.splits import Division, Lists, Positions, unknown_split, unused_splits
from visionkit.data.validate import Problem, check_on_error, settle
from visionkit.errors import ConfigError, DataError, listed
from visionkit.structures import Decoding, Labels, Sample

_IMAGES = (
    "{file}", "images/{file}", "{split}/{file}", "images/{split}/{file}", "{label}/{file}", "images/{label}/{file}",
)  # fmt: skip
_NO_BOX: Box = (0.0, 0.0, 0.0, 0.0)


class Csv:
    """One split of a folder with CSV files (RFC 4180; also with semicolons or tabs), one object a row.

    A row is file, x1, y1, x2, y2, label; boxes are in pixels and clipped as `fit_box` says. A row with neither box nor
    label says that its image holds no object. Where there are no columns for a box, a row is file, label, and
    whole images are labelled (`class_scores`), with several ones where an image has several rows. A first row that
    names the columns decides what is in which (filename, xmin, class … are known too); other columns are passed over.

    Which images: those that `lists`, `positions` or `fractions` give to the split; else those of the split's own files,
    if `annotations` is given, `files` has {split}, or the files are called train.csv and so on; or those with its name
    in a column "split"; else 0.8 train and 0.2 val. Image ids number a split's images from 1, category ids the classes
    from 1.

    Args:
        root: the folder.
        split: the name of the split.
        classes: the wanted classes in their order; objects (or images) of others are left out. None means all labels
            of all splits, sorted.
        files: the CSV files, a pattern in the folder such as "annotations/*.csv" or "{split}.csv". None means those in
            the folder, or else in annotations/.
        annotations: this split's file, in place of `files`; absolute, or seen from the folder or the working directory.
        columns: the columns' names in order, for files that do not name them; or {file: photo, label: kind} for files
            that name them otherwise.
        images: where an image lies, such as "images/{label}/{file}". None means the first of {file}, images/{file},
            {split}/{file}, images/{split}/{file}, {label}/{file}, images/{label}/{file} that is there.
        lists, positions: see `visionkit.data.readers.splits.Lists` and `Positions`.
        fractions: the share of each split; images fall by name and seed.
        on_error: "stop" raises for all faults at once; "skip" leaves out faulty rows, and images that cannot be used
            or have faulty rows alone, and keeps the faults in `problems`.
        seed: draws another division by fractions.
        channels, bit_depth: of the decoded images, see `visionkit.data.decode.Decoding`.

    Attributes:
        problems: what was left out, and why.
        notes: what was done that somebody may not expect, one line each.

    Raises:
        DataError: the folder, split or a class is not there, or there are faults and `on_error` is "stop".
        ConfigError: an argument is wrong.
    """

    semantic_classes: Sequence[str] = ()

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        files: str | None = None,
        annotations: str | Path | None = None,
        columns: Columns | None = None,
        images: str | None = None,
        lists: Lists | None = None,
        positions: Positions | None = None,
        fractions: Mapping[str, float] | None = None,
        on_error: str = "stop",
        channels: int = 3,
        bit_depth: int | str = 8,
        seed: int = 0,
    ) -> None:
        check_on_error(on_error)
        self.decoding = Decoding(channels, bit_depth)
        division = Division(split, lists, positions, fractions, seed)
        _check_images(images)
        self.root, self.split = open_root(root), split
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        files_of = find_files(self.root, None if division.is_given else split, files, annotations)
        read = [read_rows(file, columns, own) for file, own in files_of.own]
        if len({has_boxes for _, has_boxes in read}) > 1:
            names = listed([file.name for file, _ in files_of.own])
            mend = "name those to read with data.reader.files"
            raise DataError(f"{self.root}: some of {names} have boxes, others none; {mend}", code="set-unusable")
        self.fields = frozenset({"boxes" if read[0][1] else "class_scores"})
        rows = [row for some, _ in read for row in some]
        everywhere = [*rows, *(row for file, own in files_of.others for row in read_rows(file, columns, own)[0])]
        self.classes = choose_classes(sorted({row.label for row in everywhere if row.label}), classes, self.root)
        self.category_ids: Sequence[int | str] = range(1, len(self.classes) + 1)
        self._label_of = {name: label for label, name in enumerate(self.classes)}
        self._images = images
        for row in rows:
            if not row.image:
                self._fault(row, row.fault, row.rule)
        owned = _by_image([row for row in rows if row.image], self.root, split, images)
        self._keep(self._of_split(owned, division, files_of.splits))
        settle(self.problems, on_error)

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """Boxes, or class scores."""
        size = (int(self._sizes[index][0]), int(self._sizes[index][1]))
        rows, table = self._objects.rows(index), self._objects
        if "boxes" in self.fields:
            return Labels(size=size, boxes=table.boxes[rows].copy(), labels=table.labels[rows].copy())
        scores = np.zeros(len(self.classes), np.float32)
        scores[table.labels[rows]] = 1
        return Labels(size=size, class_scores=scores)

    def path(self, index: int) -> Path:
        """The image file."""
        return self.root / self.file_names[index]

    def image_file(self, index: int) -> tuple[Path, Decoding]:
        """The image file, and how it is decoded."""
        return self.path(index), self.decoding

    def read(self, index: int) -> Sample:
        """Image and labels. Raises DataError when the file cannot be decoded."""
        pixels = decode(self.path(index), self.decoding)
        return Sample(pixels, self.labels(index), self.image_ids[index], self.file_names[index])

    def class_counts(self) -> np.ndarray:
        """(C,) int64: objects, or labelled images, per class."""
        return self._objects.class_counts(len(self.classes))

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        return [self._sizes, self._objects]

    # ------------------------------------------------------------------------------------------------ construction
    def _of_split(
        self, owned: Mapping[str, list[Row]], division: Division, by_file: Sequence[str]
    ) -> dict[str, list[Row]]:
        """The rows of the split's images; `by_file`: the splits that have files of their own."""
        splits = sorted({row.split for rows in owned.values() for row in rows if row.split})
        if not splits or division.is_given:
            chosen = division.choose({name: name for name in owned}, self.root)
            self.notes += [*chosen.notes, *unused_splits(splits)]
            self.problems += chosen.problems
            return {name: owned[name] for name in chosen.names}
        if self.split in by_file:
            return dict(owned)
        if self.split not in splits:
            raise unknown_split(self.split, splits, self.root)
        return {name: rows for name, rows in owned.items() if self._is_of_split(rows)}

    def _is_of_split(self, rows: Sequence[Row]) -> bool:
        if all(row.split == self.split for row in rows):
            return True
        other = next(row for row in rows if row.split != self.split)
        if any(row.split == self.split for row in rows):
            fault = f"the image is in split '{other.split}' here and in '{self.split}' elsewhere"
            self._fault(other, fault, "image-in-splits")
        return False

    def _keep(self, owned: Mapping[str, list[Row]]) -> None:
        there = [(number, name) for number, name in enumerate(owned, 1) if (self.root / name).is_file()]
        for name in owned.keys() - {name for _, name in there}:
            row = owned[name][0]
            self._fault(row, f"'{row.image}' is not there; looked for {self._looked(row)}", "image-missing")
        kept, sizes, faults = whole_images([self.root / name for _, name in there])
        self.problems += faults
        self.image_ids: list[int] = []
        self.file_names: list[str] = []
        kept_sizes: list[list[int]] = []
        owners, boxes, labels = [], [], []
        unlisted, clipped = Counter[str](), 0
        for place, size in zip(kept, sizes.tolist(), strict=True):
            number, name = there[place]
            objects = self._objects_of(owned[name], (size[0], size[1]), unlisted)
            if objects is None:
                continue
            for box, label, was_clipped in objects:
                owners.append(len(kept_sizes))
                boxes.append(box)
                labels.append(label)
                clipped += was_clipped
            kept_sizes.append(size)
            self.image_ids.append(number)
            self.file_names.append(name)
        self._sizes = np.array(kept_sizes, np.int64).reshape(-1, 2)
        self.notes += left_out("objects" if "boxes" in self.fields else "labels", unlisted) + clipped_boxes(clipped)
        self._objects = make_table(len(self), owners=owners, boxes=boxes, labels=labels, ignore=[False] * len(owners))

    def _objects_of(
        self, rows: Sequence[Row], size: tuple[int, int], unlisted: Counter[str]
    ) -> list[tuple[Box, int, bool]] | None:
        """Return an image's boxes (without meaning for whole images), labels, and what was clipped; None: no use."""
        objects: list[tuple[Box, int, bool]] = []
        is_known = False
        for row in rows:
            fitted = fit_box(row.box, size) if row.box is not None else (_NO_BOX, False)
            if row.fault:
                self._fault(row, row.fault, row.rule)
            elif isinstance(fitted, str):
                assert row.box is not None
                self._fault(row, f"{fitted}: {row.box}", box_rule(row.box))
            elif not row.label:
                is_known = True
            elif row.label not in self._label_of:
                unlisted[row.label] += 1
                is_known |= row.box is not None
            else:
                objects.append((fitted[0], self._label_of[row.label], fitted[1]))
        return objects if objects or is_known else None

    def _fault(self, row: Row, fault: str, rule: str) -> None:
        self.problems.append(Problem(str(row.file), f"line {row.line}", fault, "correct the row, or remove it", rule))

    def _looked(self, row: Row) -> str:
        return listed(_candidates(row, self.split, self._images))


def _candidates(row: Row, split: str, images: str | None) -> list[str]:
    templates = _IMAGES if images is None else (images,)
    filled = {"file": row.image, "label": row.label, "split": row.split or split}
    return [re.sub(r"\{(\w+)\}", lambda match: filled[match[1]], template) for template in templates]


def _check_images(images: str | None) -> None:
    """Refuse a template without {file}, or with other placeholders than `Csv` tells."""
    placeholders = [] if images is None else re.findall(r"\{(.*?)\}", images)
    if images is not None and ("file" not in placeholders or not set(placeholders) <= {"file", "label", "split"}):
        wanted = "a path with {file}, such as images/{label}/{file}, is wanted"
        raise ConfigError(f"data.reader.images={images}: {wanted}", code="value-unfit")


def _by_image(rows: Sequence[Row], root: Path, split: str, images: str | None) -> dict[str, list[Row]]:
    """Return the rows of each image by its file name, relative to `root`; of an image that is not there, by a guess."""
    owned: dict[str, list[Row]] = {}
    found: dict[tuple[str, str, str], str] = {}
    for row in rows:
        key = (row.image, row.label, row.split)
        if key not in found:
            names = _candidates(row, split, images)
            found[key] = next((name for name in names if os.path.isfile(root / name)), names[0])  # noqa: PTH113 - half the time of Path.is_file
        owned.setdefault(found[key], []).append(row)
    return owned
