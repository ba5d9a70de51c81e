"""YOLO's text labels: a line per object, its class number and a box or polygon in shares of the image's sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.data.decode import decode
from visionkit.data.flat import Strings
from visionkit.data.readers.names import Names, class_numbers
from visionkit.data.readers.objects import make_table
from visionkit.data.readers.segmentation import to_rle
from visionkit.data.readers.source import choose_classes, clipped_boxes, left_out, open_root, whole_images
from visionkit.data.readers.splits import Division, Lists, Positions
from visionkit.data.readers.yolo_files import Thing, find_names, find_pairs, read_label_file
from visionkit.data.validate import Problem, check_on_error, settle
from visionkit.errors import ConfigError, did_you_mean
from visionkit.structures import RLE, Decoding, Labels, Sample

UNLABELLED = ("empty", "skip")


class Yolo:
    """One split of a folder with YOLO text labels.

    A line is `class x y width height` (the box's centre and sides) or `class x1 y1 x2 y2 x3 y3 …` (a polygon), all
    from 0 to 1; a file may hold both. A polygon's box encloses its points. The masks of an image are known if each of
    its objects has a polygon, and if any object of the split has one. Category ids are the class numbers of the files.

    Which images: those that `lists`, `positions` or `fractions` give to the split; else data.yaml (or the one other
    YAML file in the folder) says it under the split's name, as a folder, a text file or a list of such, seen from its
    `path`; else images/<split>/, <split>/images/, or images/ divided into 0.8 train and 0.2 val. An image's label file
    has its name with the ending .txt, and lies where the last folder "images" of its path is called "labels", or beside
    it. Image ids number a split's images from 1 in the order of their names.

    Args:
        root: the folder.
        split: the name of the split.
        classes: the wanted classes in their order; objects of others are left out. None means all of `names`. Where
            nothing says the names, these count the files' numbers from 0.
        names: [cat, dog] counts from 0; {cat: 3, dog: 7} says the numbers; or a YAML file with `names`. None means
            those of data.yaml, or of classes.txt.
        images, labels: templates (`visionkit.data.readers.templates`) such as "images/{split}/{name}" and
            "labels/{split}/{name}.txt", where they lie elsewhere.
        unlabelled: what an image without label file is: "empty", as is usual, known to hold no object; or "skip",
            not labelled and left out.
        lists, positions: see `visionkit.data.readers.splits.Lists` and `Positions`.
        fractions: the share of each split; images fall by name and seed.
        on_error: "stop" raises for all faults at once; "skip" leaves out the faulty object (or the image that cannot
            be used) and keeps the faults in `problems`.
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
        names: Names | None = None,
        images: str | None = None,
        labels: str | None = None,
        unlabelled: str = "empty",
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
        if unlabelled not in UNLABELLED:
            hint = did_you_mean(unlabelled, UNLABELLED)
            raise ConfigError(
                f"data.reader.unlabelled={unlabelled}: empty or skip is wanted{hint}", code="choice-unknown"
            )
        self.root, self.split = open_root(root), split
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        given = names if names is not None else find_names(self.root, classes)
        numbers = class_numbers(given, self.root)
        strange = [number for number in numbers.values() if type(number) is not int or number < 0]
        if strange:
            raise ConfigError(
                f"data.reader.names: '{strange[0]}' is no class number; give whole numbers from 0", code="value-unfit"
            )
        self.classes = choose_classes(tuple(numbers), classes, self.root)
        self.category_ids: Sequence[int | str] = tuple(numbers[name] for name in self.classes)
        found = find_pairs(self.root, None if division.is_given else split, images, labels)
        self.notes += found.notes
        self.problems += found.problems
        pairs = found.pairs
        if found.is_divided:
            chosen = division.choose({image: image for image in pairs}, self.root)
            pairs = {image: pairs[image] for image in chosen.names}
            self.notes += chosen.notes
            self.problems += chosen.problems
        self._keep(pairs, {number: name for name, number in numbers.items()}, unlabelled)
        settle(self.problems, on_error)

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """Boxes, and masks where they are known; `areas` are then the masks'."""
        size = (int(self._sizes[index][0]), int(self._sizes[index][1]))
        rows, table = self._objects.rows(index), self._objects
        masks = self._masks(rows, size)
        areas = None if not masks else np.asarray(coco_mask.area(list(masks)), np.float64)
        boxes, labels = table.boxes[rows].copy(), table.labels[rows].copy()
        return Labels(size=size, boxes=boxes, labels=labels, areas=areas, masks=masks)

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

    def polygons(self, index: int) -> list[tuple[Path, str, list[float]]]:
        """Every polygon of image `index`: its file, its place there, and x and y in turn, in pixels."""
        rows = self._objects.rows(index)
        own = zip(self._polygons[rows], self._lines[rows].tolist(), strict=True)
        return [
            (Path(self._label_files[index]), f"line {line}", polygon.tolist())
            for polygon, line in own
            if polygon is not None
        ]

    def class_counts(self) -> np.ndarray:
        """(C,) int64: objects per class."""
        return self._objects.class_counts(len(self.classes))

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        return [self._sizes, self._objects, self._polygons]

    # ------------------------------------------------------------------------------------------------ construction
    def _keep(self, pairs: Mapping[str, Path], name_of: Mapping[int, str], unlabelled: str) -> None:
        images = list(pairs)
        kept, sizes, faults = whole_images([self.root / image for image in images])
        self.problems += faults
        label_of = {name: label for label, name in enumerate(self.classes)}
        things: list[Thing] = []
        owners: list[int] = []
        taken: list[int] = []
        unlisted, bare = Counter[str](), 0
        for row, (place, size) in enumerate(zip(kept, sizes.tolist(), strict=True)):
            file = pairs[images[place]]
            is_labelled = file.is_file()
            bare += not is_labelled
            if not is_labelled and unlabelled == "skip":
                continue
            found, problems = read_label_file(file, (size[0], size[1]), name_of) if is_labelled else ([], [])
            self.problems += problems
            for thing in found:
                if thing.name not in label_of:
                    unlisted[thing.name] += 1
                    continue
                things.append(thing)
                owners.append(len(taken))
            taken.append(row)
        if bare:
            what = "left out" if unlabelled == "skip" else "taken to hold no object"
            self.notes.append(f"images without a label file: {bare}, {what} (data.reader.unlabelled)")
        self.notes += left_out("objects", unlisted) + clipped_boxes(sum(thing.was_clipped for thing in things))
        self.image_ids = [kept[row] + 1 for row in taken]
        self.file_names = [images[kept[row]] for row in taken]
        self._label_files = Strings.of(str(pairs[name]) for name in self.file_names)
        self._sizes = sizes[taken]
        self._objects = make_table(
            len(self),
            owners=owners,
            boxes=[thing.box for thing in things],
            labels=[label_of[thing.name] for thing in things],
            ignore=[False] * len(things),
        )
        self._polygons = [things[place].polygon for place in self._objects.order.tolist()]
        self._lines = np.array([things[place].line for place in self._objects.order.tolist()], np.int64)
        with_polygon = sum(polygon is not None for polygon in self._polygons)
        self.fields = frozenset({"boxes", "masks"} if with_polygon else {"boxes"})
        if 0 < with_polygon < len(things):
            missing = len(things) - with_polygon
            self.notes.append(f"objects with a box alone: {missing}; the masks of their images are unknown")

    def _masks(self, rows: slice, size: tuple[int, int]) -> tuple[RLE, ...] | None:
        polygons = self._polygons[rows]
        if "masks" not in self.fields or any(polygon is None for polygon in polygons):
            return None
        return tuple(to_rle([polygon.astype(np.float64).tolist()], size) for polygon in polygons if polygon is not None)
