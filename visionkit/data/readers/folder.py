"""Image folders: the name of the folder that an image lies in is its class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.data.decode import IMAGE_SUFFIXES, decode
from visionkit.data.readers.source import choose_classes, left_out, open_root
from visionkit.data.readers.splits import USUAL_SPLITS, Division, Lists, Positions, unknown_split, unused_splits
from visionkit.data.validate import Problem, check_images, check_on_error, settle
from visionkit.errors import DataError
from visionkit.structures import Decoding, Labels, Sample


class Folder:
    """One split of root/<split>/<class>/**, or of root/<class>/**, divided.

    Images are the files with an ending of `IMAGE_SUFFIXES`, at any depth below their class; other files and hidden ones
    are passed over. Image ids are numbers from 1 in the order of their sorted names, category ids from 1.

    Args:
        root: the folder.
        split: a folder in it, or a name that `lists`, `positions` or `fractions` give.
        classes: the wanted classes in their order; images of others are left out. None means all, sorted, over all
            split folders.
        on_error: "stop" raises for all faults at once; "skip" leaves out files that are no whole images and keeps the
            faults in `problems`.
        lists, positions: see `visionkit.data.readers.splits.Lists` and `Positions`.
        fractions: the share of each split; images fall by name and seed. Where none of the three is given, the split
            folders count, or, without them, 0.8 train and 0.2 val.
        seed: draws another division by fractions.
        channels, bit_depth: of the decoded images, see `visionkit.data.decode.Decoding`.

    Attributes:
        problems: what was left out, and why.
        notes: what was done that somebody may not expect, one line each.

    Raises:
        DataError: the folder, split or a class is not there, or there are faults and `on_error` is "stop".
    """

    semantic_classes: Sequence[str] = ()
    fields = frozenset({"class_scores"})

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        on_error: str = "stop",
        channels: int = 3,
        bit_depth: int | str = 8,
        lists: Lists | None = None,
        positions: Positions | None = None,
        fractions: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        check_on_error(on_error)
        self.decoding = Decoding(channels, bit_depth)
        division = Division(split, lists, positions, fractions, seed)
        self.root, self.split = open_root(root), split
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        splits = _split_folders(self.root)
        if splits and split not in splits and not division.is_given:
            raise unknown_split(split, splits, self.root)
        class_folders = sorted({name for folder in splits or [""] for name in _folders(self.root / folder)})
        if not class_folders:
            example = f"{split}/cats/1.jpg" if splits else "cats/1.jpg"
            raise DataError(
                f"{self.root}: no class folders; put the images of each class into one, as in {example}",
                code="set-unusable",
            )
        self.classes = choose_classes(class_folders, classes, self.root)
        self.category_ids: Sequence[int | str] = range(1, len(self.classes) + 1)
        wanted = [""] if not splits else splits if division.is_given else [split]
        names = [name for one in wanted for folder in class_folders for name in _images(self.root, Path(one, folder))]
        if division.is_given or not splits:
            chosen = division.choose({name: name for name in names}, self.root)
            names = chosen.names
            self.problems += chosen.problems
            self.notes += [*chosen.notes, *unused_splits(splits)]
        self._keep(names, depth=1 if splits else 0)
        settle(self.problems, on_error)

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """One-hot class scores."""
        scores = np.zeros(len(self.classes), np.float32)
        scores[self._labels[index]] = 1
        height, width = self._sizes[index].tolist()
        return Labels(size=(height, width), class_scores=scores)

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
        """(C,) int64: images per class."""
        return np.bincount(self._labels, minlength=len(self.classes))

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        return [self._sizes, self._labels]

    def _keep(self, names: list[str], depth: int) -> None:
        label_of = {name: label for label, name in enumerate(self.classes)}
        unlisted = Counter[str]()
        numbers, labels = [], []
        for number, name in enumerate(names, 1):
            folder = name.split("/")[depth]
            if folder in label_of:
                numbers.append(number)
                labels.append(label_of[folder])
            else:
                unlisted[folder] += 1
        self.notes += left_out("images", unlisted)
        paths = [self.root / names[number - 1] for number in numbers]
        checked = list(check_images(paths, [None] * len(paths), lambda i: (str(paths[i]), "")))
        self.problems += [found for found in checked if isinstance(found, Problem)]
        kept = [i for i, found in enumerate(checked) if not isinstance(found, Problem)]
        self.image_ids = [numbers[i] for i in kept]
        self.file_names = [names[numbers[i] - 1] for i in kept]
        self._labels = np.array([labels[i] for i in kept], np.int64)
        self._sizes = np.array([checked[i] for i in kept], np.int64).reshape(-1, 2)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _split_folders(root: Path) -> list[str]:
    """The folders of `root` that hold a split: usual names with class folders inside."""
    return [name for name in _folders(root) if name.lower() in USUAL_SPLITS and _folders(root / name)]


def _images(root: Path, folder: Path) -> list[str]:
    """Sorted names of the images under root/folder, relative to `root`, with forward slashes."""
    names = []
    for place, folders, files in os.walk(root / folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [
            (Path(place) / file).relative_to(root).as_posix()
            for file in files
            if Path(file).suffix.lower() in IMAGE_SUFFIXES and not file.startswith(".")
        ]
    return sorted(names)
