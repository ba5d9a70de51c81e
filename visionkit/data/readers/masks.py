"""Mask images beside photographs: class numbers, palettes or colours by pixel, or instance ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.data.decode import decode
from visionkit.data.fingerprint import LabelFiles
from visionkit.data.readers.mask_files import ValueMap, instances, mask_faults, read_values
from visionkit.data.readers.mask_objects import ImageObjects, MaskTable, make_mask_table, plain_objects
from visionkit.data.readers.mask_pairs import find_mask_pairs
from visionkit.data.readers.names import Names, class_numbers
from visionkit.data.readers.source import choose_classes, left_out, open_root
from visionkit.data.readers.splits import Division, Lists, Positions
from visionkit.data.validate import ON_ERROR, Problem, check_on_error, found_in, refusal, settle
from visionkit.errors import ConfigError, DataError, did_you_mean, listed
from visionkit.structures import Decoding, Labels, Sample

KINDS = ("semantic", "instances")
_THREADS = 8


class Masks:
    """One split of a folder with images and, for each, a mask image of the same size.

    kind "semantic": a mask's values (a palette's indices, or colours where `names` gives colours) are class numbers,
    and the field `semantic` is known. kind "instances": the values are instance ids, 0 the background, gaps allowed,
    all of one class unless `divisor` is given; `boxes` and `masks` are known. A box encloses its instance's pixels; an
    area counts them. Masks stored as JPEG are refused.

    Which images: those that `lists`, `positions` or `fractions` give to the split; else those of the split's own
    folder, where the templates have {split}; else 0.8 train and 0.2 val. Image ids number a split's images from 1.

    Args:
        root: the folder.
        split: the name of the split.
        classes: semantic: the wanted classes in their order; pixels of others become ignored. Without `names` they
            count the files' values from 0. instances: the one class; None means "object". With `divisor`: the
            wanted ones of `names`.
        names: what stands for each class in the files: [sky, road] counts from 0; {sky: 3, road: 7};
            {sky: [128, 128, 128], road: [128, 64, 128]} for colours; or a YAML file with `names` or `classes`.
        ignore_index: the value of pixels without a label.
        ignore_values: further such values, or colours.
        kind: "semantic" or "instances".
        divisor: instances: an id is its class's number times this, and a number of its own: 26003 is the fourth of
            class 26 where the divisor is 1000, as in Cityscapes. Ids below it are groups of a class of `names`, which
            become crowds, or else no objects.
        images, masks: templates of both (`visionkit.data.readers.templates`), such as "JPEGImages/{name}.jpg" and
            "PedMasks/{name}_mask.png". None means the first of `visionkit.data.readers.mask_pairs.LAYOUTS` that is
            there.
        lists: see `visionkit.data.readers.splits.Lists`.
        positions: see `visionkit.data.readers.splits.Positions`.
        fractions: the share of each split; images fall by name and seed.
        unlabelled: what an image without mask is: "stop" counts it as a fault, "skip" leaves it out with a note.
        on_error: "stop" raises for all faults at once; of semantic masks, 64 are looked into beforehand, the others
            when they are read. "skip" looks into all masks, leaves out the images of faulty ones and keeps the faults
            in `problems`.
        seed: draws another division by fractions.
        channels, bit_depth: of the decoded images, see `visionkit.data.decode.Decoding`.

    Attributes:
        problems: what was left out, and why.
        notes: what was done that somebody may not expect, one line each.
        category_ids: with `divisor`, the files' own number of each of `classes`, else 1.
        semantic_category_ids: the files' own number of each of `semantic_classes`; of colours, numbers from 1.

    Raises:
        DataError: the folder or split is not there, or there are faults and `on_error` is "stop".
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        names: Names | None = None,
        ignore_index: int | None = None,
        ignore_values: Sequence[int | Sequence[int]] = (),
        kind: str = "semantic",
        divisor: int | None = None,
        images: str | None = None,
        masks: str | None = None,
        lists: Lists | None = None,
        positions: Positions | None = None,
        fractions: Mapping[str, float] | None = None,
        unlabelled: str = "stop",
        on_error: str = "stop",
        channels: int = 3,
        bit_depth: int | str = 8,
        seed: int = 0,
    ) -> None:
        check_on_error(on_error)
        self.decoding = Decoding(channels, bit_depth)
        division = Division(split, lists, positions, fractions, seed)
        if kind not in KINDS:
            raise ConfigError(
                f"data.reader.kind={kind}: {listed(KINDS)} is wanted{did_you_mean(kind, KINDS)}", code="choice-unknown"
            )
        if unlabelled not in ON_ERROR:
            raise ConfigError(
                f"data.reader.unlabelled={unlabelled}: {listed(ON_ERROR)} is wanted", code="choice-unknown"
            )
        if divisor is not None and (kind != "instances" or divisor < 2):
            wanted = "a number from 2, with data.reader.kind=instances, is wanted"
            raise ConfigError(f"data.reader.divisor={divisor}: {wanted}", code="value-unfit")
        self.root, self.split, self.kind = open_root(root), split, kind
        ignored = [*ignore_values, *(() if ignore_index is None else (ignore_index,))]
        pairs = find_mask_pairs(self.root, division, images, masks, skip_unlabelled=unlabelled == "skip")
        self.problems: list[Problem] = pairs.problems
        self.notes: list[str] = pairs.notes
        self.image_ids, self.file_names, self.mask_names = pairs.image_ids, pairs.images, pairs.masks
        self._sizes = pairs.sizes
        self.category_ids: Sequence[int | str] = ()
        self.classes: Sequence[str] = ()
        self.semantic_classes: Sequence[str] = ()
        self.semantic_category_ids: Sequence[int | str] = ()
        self._values: ValueMap | None = None
        self._objects: MaskTable | None = None
        if kind == "semantic":
            self._keep_classes(classes, names, ignored)
            self._look_into_masks(on_error)
            self.fields = frozenset({"semantic"})
        else:
            self._keep_instances(classes, names, divisor, ignored)
            self.fields = frozenset({"boxes", "masks"})
        settle(self.problems, on_error)

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """The semantic map, read from its file (DataError where it cannot be used); or boxes and masks, held ready."""
        size = (int(self._sizes[index][0]), int(self._sizes[index][1]))
        if self._values is not None:
            return Labels(size=size, semantic=self._values.read(self.root / self.mask_names[index]))
        assert self._objects is not None
        return self._objects.labels(index, size)

    def path(self, index: int) -> Path:
        """The image file."""
        return self.root / self.file_names[index]

    def image_file(self, index: int) -> tuple[Path, Decoding]:
        """The image file, and how it is decoded."""
        return self.path(index), self.decoding

    def read(self, index: int) -> Sample:
        """Image and labels. Raises DataError when a file cannot be decoded."""
        pixels = decode(self.path(index), self.decoding)
        return Sample(pixels, self.labels(index), self.image_ids[index], self.file_names[index])

    def class_counts(self) -> np.ndarray:
        """(C,) int64: instances per class; (0,) for semantic masks."""
        if self._objects is None:
            return np.zeros(0, np.int64)
        return self._objects.objects.class_counts(len(self.classes))

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        files = LabelFiles(self.root, self.mask_names) if self._objects is None else None
        return [self._sizes, self._objects, files]

    # ------------------------------------------------------------------------------------------------ construction
    def _leave_out(self, faults: Mapping[int, DataError]) -> None:
        for fault in faults.values():
            self.problems += found_in(fault)
        kept = [index for index in range(len(self)) if index not in faults]
        self.image_ids = [self.image_ids[index] for index in kept]
        self.file_names = [self.file_names[index] for index in kept]
        self.mask_names = [self.mask_names[index] for index in kept]
        self._sizes = self._sizes[kept]

    def _keep_classes(self, classes: Sequence[str] | None, names: Names | None, ignored: Sequence[object]) -> None:
        given = names if names is not None else classes
        if given is None:
            seen = np.unique(read_values(self.root / self.mask_names[0])).tolist() if self.mask_names else []
            example = f" ({self.mask_names[0]} holds the values {listed(seen)})" if seen else ""
            mend = "name the classes in the order of their values, as in data.classes=[sky, road]"
            raise ConfigError(
                f"data.classes: the masks of {self.root} hold numbers alone{example}; {mend}", code="value-missing"
            )
        numbers = class_numbers(given, self.root)
        numbers = {name: value for name, value in numbers.items() if value not in ignored}
        self.semantic_classes = choose_classes(tuple(numbers), classes if names is not None else None, self.root)
        others = [name for name in numbers if name not in self.semantic_classes]
        if others:
            self.notes.append(f"pixels of classes that data.classes does not list are ignored: {listed(others)}")
        own = [numbers[name] for name in self.semantic_classes]
        self.semantic_category_ids = tuple(
            number if isinstance(number, int) else place for place, number in enumerate(own, 1)
        )
        self._values = ValueMap(self.semantic_classes, numbers, ignored)

    def _look_into_masks(self, on_error: str) -> None:
        assert self._values is not None
        paths = [self.root / name for name in self.mask_names]
        self._leave_out(mask_faults(paths, self._values, every=on_error == "skip"))

    def _keep_instances(
        self, classes: Sequence[str] | None, names: Names | None, divisor: int | None, ignored: Sequence[object]
    ) -> None:
        if divisor is None:
            self.classes, self.category_ids, of_class = _one_class(classes, names), (1,), None
        else:
            of_class = _IdClasses(class_numbers(names if names is not None else [], self.root), divisor)
            self.classes = choose_classes(tuple(of_class.numbers), classes, self.root)
            self.category_ids = tuple(of_class.numbers[name] for name in self.classes)
        with ThreadPoolExecutor(_THREADS) as threads:
            paths = [self.root / name for name in self.mask_names]
            found = list(threads.map(lambda path: _instances(path, ignored, of_class), paths))
        self._leave_out({index: result for index, result in enumerate(found) if isinstance(result, DataError)})
        usable = [result for result in found if not isinstance(result, DataError)]
        if of_class is not None:
            usable = self._of_wanted_classes(usable, tuple(of_class.numbers))
        self._objects = make_mask_table(usable)

    def _of_wanted_classes(self, images: Sequence[ImageObjects], every: Sequence[str]) -> list[ImageObjects]:
        """The objects with labels that count `classes`, not `every`; those of others left out, with a note."""
        place = np.array([self.classes.index(name) if name in self.classes else -1 for name in every], np.int64)
        counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *(image.labels for image in images)]))
        unlisted = {every[i]: int(count) for i, count in enumerate(counts) if count and place[i] < 0}
        self.notes += left_out("objects", unlisted)
        kept = [image.select(np.flatnonzero(place[image.labels] >= 0)) for image in images]
        return [replace(image, labels=place[image.labels]) for image in kept]


class _IdClasses:
    """From ids to classes: id = number of the class * divisor + number of the object.

    numbers: of each class, in their order.
    """

    def __init__(self, numbers: Mapping[str, object], divisor: int) -> None:
        strange = [value for value in numbers.values() if type(value) is not int or value < 1]
        if strange:
            mend = "with data.reader.divisor give whole numbers from 1"
            raise ConfigError(f"data.reader.names: '{strange[0]}' is no class number; {mend}", code="value-unfit")
        self.numbers: dict[str, int] = {name: value for name, value in numbers.items() if isinstance(value, int)}
        self.divisor = divisor

    def objects(self, ids: np.ndarray, path: Path) -> ImageObjects:
        """Return the objects of an id mask, labels counting `numbers`.

        Raises:
            DataError: an object is of no class that has a number.
        """
        label_of = {number: label for label, number in enumerate(self.numbers.values())}
        values = np.unique(ids)
        groups = [value for value in values[values < self.divisor].tolist() if value not in label_of]
        found = instances(np.where(np.isin(ids, groups), 0, ids) if groups else ids)
        own = np.where(found.ids < self.divisor, found.ids, found.ids // self.divisor).tolist()
        strange = [value for value, number in zip(found.ids.tolist(), own, strict=True) if number not in label_of]
        if strange:
            fault = f"id {strange[0]} is of class {strange[0] // self.divisor}, which is outside the class list"
            raise refusal(Problem(str(path), "", fault, "name it in data.reader.names", "mask-value"))
        labels = np.array([label_of[number] for number in own], np.int64)
        return replace(plain_objects(found), labels=labels, crowd=found.ids < self.divisor)


def _one_class(classes: Sequence[str] | None, names: Names | None) -> tuple[str, ...]:
    if names is not None:
        mend = "give the one class with data.classes=[name], or data.reader.divisor"
        raise ConfigError(f"data.reader.names: instance ids have no names; {mend}", code="key-not-taken")
    if classes is not None and len(classes) != 1:
        raise ConfigError(
            f"data.classes={list(classes)}: an id mask tells instances of one class apart; name one class",
            code="value-unfit",
        )
    return tuple(classes) if classes is not None else ("object",)


def _instances(path: Path, ignored: Sequence[object], of_class: _IdClasses | None) -> ImageObjects | DataError:
    try:
        ids = read_values(path)
        if ignored:
            ids = np.where(np.isin(ids, np.array(ignored)), 0, ids)
        return plain_objects(instances(ids)) if of_class is None else of_class.objects(ids, path)
    except DataError as fault:
        return fault
