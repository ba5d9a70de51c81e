"""Pascal VOC: an XML file per image, masks, and lists of image names per split (Everingham et al., IJCV 2010)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.data.decode import decode
from visionkit.data.fingerprint import LabelFiles
from visionkit.data.readers.mask_files import mask_faults
from visionkit.data.readers.mask_objects import ImageObjects, MaskTable, make_mask_table
from visionkit.data.readers.names import Names
from visionkit.data.readers.objects import Box, ObjectTable, make_table
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
from visionkit.data.readers.voc_files import find_folder, images_by_stem, listed_names, stems
from visionkit.data.readers.voc_masks import (
    VocMasks,
    class_mask,
    mask_size_fault,
    object_mask,
    things_of,
    voc_numbers,
)
from visionkit.data.readers.voc_xml import SIDES, VocRecord, class_names, other_records, parse_voc
from visionkit.data.validate import Problem, check_images, check_on_error, found_in, refusal, settle
from visionkit.errors import ConfigError, DataError, did_you_mean, listed
from visionkit.structures import Decoding, Labels, Sample

KINDS: Mapping[str, frozenset[str]] = {
    "boxes": frozenset({"boxes"}),
    "semantic": frozenset({"semantic"}),
    "instances": frozenset({"boxes", "masks"}),
    "all": frozenset({"boxes", "masks", "semantic"}),
}
"""What is read, and the fields of `LABEL_FIELDS` that are then known."""
_THREADS = 8


class Voc:
    """One split of a Pascal VOC folder: JPEGImages/*, and of the following what `kind` reads.

    "boxes": Annotations/*.xml of the images in ImageSets/Main/<split>.txt. The numbers of a bndbox are taken as they
    stand, as pixel edges: no shift by one; they are clipped as `fit_box` says. `difficult` objects become `ignore`.

    "semantic": SegmentationClass/*.png of the images in ImageSets/Segmentation/<split>.txt, whose palette indices (or
    colours) are the classes; 255 (or cream, 224, 224, 192) is void and has no label.

    "instances": SegmentationObject/*.png, whose values tell objects apart; an object's class is what SegmentationClass
    says of its pixels. Its box, and whether it is `difficult`, come from the XML if there is one that has the object,
    else the box encloses its pixels. "all" is both of the latter.

    Images are numbered from 1 in the order of the list.

    Args:
        root: the folder.
        split: the name of a list in ImageSets, or one that `lists`, `positions` or `fractions` give.
        classes: the wanted classes in their order; objects of others are left out, their pixels without label. None
            means all: the names that occur in any annotation file of any split, sorted; of masks, those of `names`.
            With "all" they are the classes of objects.
        kind: one of `KINDS`.
        names: what the masks' values (or colours) mean, see `visionkit.data.readers.names.Names`. None means
            labelmap.txt or class_names.txt of the folder, or else the challenge's classes.
        on_error: "stop" raises for all faults at once; of semantic masks, 64 are looked into beforehand, the others
            when they are read. "skip" leaves out the faulty object (or the image that cannot be used) and keeps the
            faults in `problems`.
        lists, positions: see `visionkit.data.readers.splits.Lists` and `Positions`.
        fractions: the share of each split; images fall by name and seed. Where none of the three is given, ImageSets
            counts, or, without it, 0.8 train and 0.2 val.
        seed: draws another division by fractions.
        channels, bit_depth: of the decoded images, see `visionkit.data.decode.Decoding`.

    Attributes:
        category_ids: numbers from 1 for "boxes"; the masks' own values otherwise, of colours numbers from 1.
        semantic_category_ids: the masks' own values, of colours numbers from 1.
        problems: what was left out, and why.
        notes: what was done that somebody may not expect, one line each.

    Raises:
        DataError: the folder, split or a class is not there, or there are faults and `on_error` is "stop".
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        kind: str = "boxes",
        names: Names | None = None,
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
        if kind not in KINDS:
            raise ConfigError(
                f"data.reader.kind={kind}: {listed([*KINDS])} is wanted{did_you_mean(kind, KINDS)}",
                code="choice-unknown",
            )
        if names is not None and kind == "boxes":
            raise ConfigError(
                "data.reader.names: boxes have the names of their XML; choose with data.classes", code="key-not-taken"
            )
        self.root, self.split, self.kind = open_root(root), split, kind
        self.fields = KINDS[kind]
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.classes: Sequence[str] = ()
        self.category_ids: Sequence[int | str] = ()
        self.semantic_classes: Sequence[str] = ()
        self.semantic_category_ids: Sequence[int | str] = ()
        self._boxes: ObjectTable | None = None
        self._masks: VocMasks | None = None
        self._objects: MaskTable | None = None
        annotations = self._annotations()
        wanted = self._names(annotations, division)
        records = self._records(annotations, wanted)
        if kind == "boxes":
            assert annotations is not None
            self._choose_boxes(annotations, records, classes)
        else:
            self._choose_masks(classes, names)
        self._keep_images(wanted, records)
        if kind == "boxes":
            self._keep_boxes([records[name] for name in self._names_kept])
        if "masks" in self.fields:
            self._keep_objects(records)
        elif "semantic" in self.fields:
            self._look_into_masks(on_error)
        settle(self.problems, on_error)

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """Boxes with `ignore` where the source says `difficult`, masks, and the semantic map, read from its file."""
        size = self._sizes[index]
        labels = Labels(size=size)
        if self._boxes is not None:
            rows, table = self._boxes.rows(index), self._boxes
            boxes, own, ignore = (part[rows].copy() for part in (table.boxes, table.labels, table.ignore))
            labels = Labels(size=size, boxes=boxes, labels=own, ignore=ignore)
        if self._objects is not None:
            labels = self._objects.labels(index, size)
        if "semantic" in self.fields:
            assert self._masks is not None
            labels = replace(labels, semantic=self._masks.semantic(self._names_kept[index]))
        return labels

    def path(self, index: int) -> Path:
        """The image file."""
        return self.root / self.file_names[index]

    def image_file(self, index: int) -> tuple[Path, Decoding]:
        """The image file, and how it is decoded."""
        return self.path(index), replace(self.decoding, recorded=self._sizes[index])

    def read(self, index: int) -> Sample:
        """Image and labels. Raises DataError when a file cannot be decoded."""
        pixels = decode(*self.image_file(index))
        return Sample(pixels, self.labels(index), self.image_ids[index], self.file_names[index])

    def class_counts(self) -> np.ndarray:
        """(C,) int64: objects per class, difficult ones too; (0,) for semantic maps alone."""
        table = self._objects.objects if self._objects is not None else self._boxes
        return np.zeros(0, np.int64) if table is None else table.class_counts(len(self.classes))

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        masks = [class_mask(name) for name in self._names_kept] if "semantic" in self.fields else []
        return [self._sizes, self._boxes, self._objects, LabelFiles(self.root, masks)]

    # --------------------------------------------------------------------------------------------- names and classes
    def _annotations(self) -> Path | None:
        """The folder of the XML files, which masks can do without."""
        if self.kind == "boxes":
            return find_folder(self.root, "Annotations", "annotations")
        for name in ("SegmentationClass", "SegmentationObject")[: 2 if "masks" in self.fields else 1]:
            if not (self.root / name).is_dir():
                raise DataError(
                    f"{self.root}: no folder {name}, which data.reader.kind={self.kind} reads", code="set-unusable"
                )
        found = next((self.root / name for name in ("Annotations", "annotations") if (self.root / name).is_dir()), None)
        return found if "boxes" in self.fields else None

    def _names(self, annotations: Path | None, division: Division) -> list[str]:
        kind = "Main" if self.kind == "boxes" else "Segmentation"
        lists = self.root / "ImageSets" / kind
        if lists.is_dir() and not division.is_given:
            file = lists / f"{self.split}.txt"
            if not file.is_file():
                raise unknown_split(self.split, (entry.stem for entry in lists.glob("*.txt")), lists)
            names, faults = listed_names(file)
            self.problems += faults
            return names
        if self.kind == "boxes":
            assert annotations is not None
            names = stems(annotations, "*.xml")
        else:
            names = stems(self.root / "SegmentationClass", "*.png")
        folder = find_folder(self.root, "JPEGImages", "images").name
        chosen = division.choose({name: f"{folder}/{name}" for name in names}, self.root)
        own = sorted(entry.stem for entry in lists.glob("*.txt")) if lists.is_dir() else []
        self.notes += [*chosen.notes, *unused_splits(own)]
        self.problems += chosen.problems
        return chosen.names

    def _records(self, annotations: Path | None, names: Sequence[str]) -> dict[str, VocRecord]:
        """The annotation file of each image; for masks, which can do without, one that is not there says nothing."""
        if annotations is None:
            return {name: VocRecord(self.root / class_mask(name)) for name in names}
        records = {}
        for name in names:
            file = annotations / f"{name}.xml"
            has_file = self.kind == "boxes" or file.is_file()
            records[name] = parse_voc(file) if has_file else VocRecord(file)
        return records

    def _choose_boxes(self, annotations: Path, records: Mapping[str, VocRecord], classes: Sequence[str] | None) -> None:
        found = class_names(records)
        if classes is None or not found.issuperset(classes):
            found |= class_names(other_records(annotations, records))
        self.classes = choose_classes(sorted(found), classes, annotations)
        self.category_ids = range(1, len(self.classes) + 1)

    def _choose_masks(self, classes: Sequence[str] | None, names: Names | None) -> None:
        numbers = voc_numbers(self.root, names)
        numbers = {name: value for name, value in numbers.items() if value != 255}
        own = {
            name: numbers[name] if isinstance(numbers[name], int) else place for place, name in enumerate(numbers, 1)
        }
        where = self.root / "SegmentationClass"
        if "semantic" in self.fields:
            self.semantic_classes = choose_classes(tuple(numbers), None if "masks" in self.fields else classes, where)
            self.semantic_category_ids = tuple(own[name] for name in self.semantic_classes)
        if "masks" in self.fields:
            self.classes = choose_classes(things_of(numbers), classes, where)
            self.category_ids = tuple(own[name] for name in self.classes)
        self._masks = VocMasks(self.root, numbers, self.semantic_classes or tuple(numbers), self.classes)

    # -------------------------------------------------------------------------------------------- images and objects
    def _keep_images(self, names: list[str], records: Mapping[str, VocRecord]) -> None:
        folder = find_folder(self.root, "JPEGImages", "images")
        files = images_by_stem(folder)
        numbers, paths, recorded = [], [], []
        for number, name in enumerate(names, 1):
            fault = records[name].problem or self._image_fault(records[name], files.get(name, []), folder, name)
            if fault is not None:
                self.problems.append(fault)
                continue
            numbers.append(number)
            paths.append(folder / files[name][0])
            recorded.append(records[name].size)
        checked = check_images(paths, recorded, lambda i: (str(records[names[numbers[i] - 1]].file), "size"))
        self.image_ids: list[int] = []
        self.file_names: list[str] = []
        self._sizes: list[tuple[int, int]] = []
        self._names_kept: list[str] = []
        for number, path, result in zip(numbers, paths, checked, strict=True):
            if isinstance(result, Problem):
                self.problems.append(result)
                continue
            self.image_ids.append(number)
            self.file_names.append(path.relative_to(self.root).as_posix())
            self._sizes.append(result)
            self._names_kept.append(names[number - 1])

    def _image_fault(self, record: VocRecord, found: Sequence[str], folder: Path, name: str) -> Problem | None:
        if len(found) > 1:
            fault = f"{len(found)} images of that name in {folder}"
            return Problem(str(record.file), "", fault, "keep one of them", "image-ambiguous")
        mend = "restore the image, or take the name out of the split"
        if not found:
            return Problem(str(record.file), "", f"no image of that name in {folder}", mend, "image-missing")
        masks = (class_mask(name), object_mask(name))[: 2 if "masks" in self.fields else 1]
        missing = [mask for mask in masks if self.kind != "boxes" and not (self.root / mask).is_file()]
        if missing:
            mend = "restore it, or take the name out of the split"
            return Problem(str(self.root / missing[0]), "", "there is no such mask", mend, "mask-missing")
        return None

    def _keep_boxes(self, records: Sequence[VocRecord]) -> None:
        label_of = {name: label for label, name in enumerate(self.classes)}
        owners, boxes, labels, ignore = [], [], [], []
        unlisted, clipped = Counter[str](), 0
        for owner, record in enumerate(records):
            self.problems += record.object_problems
            for row in record.objects:
                if row.name not in label_of:
                    unlisted[row.name] += 1
                    continue
                fitted = fit_box(row.box, self._sizes[owner])
                if isinstance(fitted, str):
                    fault, where = f"{fitted} ({_numbers(row.box)})", f"object[{row.number}]/bndbox"
                    mend = "correct the numbers, or remove the object"
                    self.problems.append(Problem(str(record.file), where, fault, mend, box_rule(row.box)))
                    continue
                owners.append(owner)
                boxes.append(fitted[0])
                labels.append(label_of[row.name])
                ignore.append(row.difficult)
                clipped += fitted[1]
        self.notes += left_out("objects", unlisted) + clipped_boxes(clipped)
        self._boxes = make_table(len(records), owners=owners, boxes=boxes, labels=labels, ignore=ignore)

    def _keep_objects(self, records: Mapping[str, VocRecord]) -> None:
        masks = self._masks
        assert masks is not None

        def objects(index: int) -> tuple[ImageObjects, int] | DataError:
            name = self._names_kept[index]
            try:
                return masks.objects(name, self._sizes[index], records[name].objects)
            except DataError as fault:
                return fault

        with ThreadPoolExecutor(_THREADS) as threads:
            found = list(threads.map(objects, range(len(self))))
        for name in self._names_kept:
            self.problems += records[name].object_problems
        self._leave_out({index: one for index, one in enumerate(found) if isinstance(one, DataError)})
        usable = [one for one in found if not isinstance(one, DataError)]
        without = sum(count for _, count in usable)
        if without:
            self.notes.append(f"objects of the XML files that are none in SegmentationObject, left out: {without}")
        self._objects = make_mask_table([one for one, _ in usable])

    def _look_into_masks(self, on_error: str) -> None:
        assert self._masks is not None
        paths = [self.root / class_mask(name) for name in self._names_kept]
        kept, sizes, _ = whole_images(paths)
        own = {index: (height, width) for index, (height, width) in zip(kept, sizes.tolist(), strict=True)}
        faults = {
            index: refusal(mask_size_fault(paths[index], self._sizes[index], size, self.file_names[index]))
            for index, size in own.items()
            if size != tuple(self._sizes[index])
        }
        self._leave_out(faults | mask_faults(paths, self._masks.values, every=on_error == "skip"))

    def _leave_out(self, faults: Mapping[int, DataError]) -> None:
        for fault in faults.values():
            self.problems += found_in(fault)
        kept = [index for index in range(len(self)) if index not in faults]
        self.image_ids = [self.image_ids[index] for index in kept]
        self.file_names = [self.file_names[index] for index in kept]
        self._sizes = [self._sizes[index] for index in kept]
        self._names_kept = [self._names_kept[index] for index in kept]


def _numbers(box: Box) -> str:
    return ", ".join(f"{side} {value:g}" for side, value in zip(SIDES, box, strict=True))
