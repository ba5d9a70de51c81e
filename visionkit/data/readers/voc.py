"""Pascal VOC: an XML file per image, and lists of image names per split (Everingham et al., IJCV 2010)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from visionkit.data.decode import IMAGE_SUFFIXES, decode
from visionkit.data.readers.objects import Box, make_table
from visionkit.data.readers.source import choose_classes, clipped_boxes, fit_box, left_out, open_root
from visionkit.data.readers.splits import DEFAULT_FRACTIONS, check_fractions, members, unknown_split
from visionkit.data.validate import Problem, check_images, check_on_error, settle
from visionkit.errors import DataError
from visionkit.structures import Labels, Sample

_SIDES = ("xmin", "ymin", "xmax", "ymax")


class Voc:
    """One split of a Pascal VOC folder: Annotations/*.xml, JPEGImages/*, ImageSets/Main/<split>.txt.

    The numbers of a bndbox are taken as they stand, as pixel edges: no shift by one. `difficult` objects become
    `ignore`. Images are numbered from 1 in the order of the list, categories from 1. Boxes are clipped as `fit_box`
    says.

    Args:
        root: the folder.
        split: the name of a list in ImageSets/Main, or of one of `fractions`.
        classes: the wanted classes in their order; objects of others are left out. None means all names that occur in
            any annotation file of any split, sorted.
        on_error: "stop" raises for all faults at once; "skip" leaves out the faulty object (or the image that cannot
            be used) and keeps the faults in `problems`.
        fractions: the share of each split; images then fall by name and seed, whatever lists there are. None means
            the lists, or, without ImageSets, 0.8 train and 0.2 val.
        seed: draws another division by fractions.

    Attributes:
        problems: what was left out, and why.
        notes: what was done that somebody may not expect, one line each.

    Raises:
        DataError: the folder, split or a class is not there, or there are faults and `on_error` is "stop".
    """

    semantic_classes: Sequence[str] = ()
    fields = frozenset({"boxes"})

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        on_error: str = "stop",
        fractions: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        check_on_error(on_error)
        self.root, self.split = open_root(root), split
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        annotations = _folder(self.root, "Annotations", "annotations")
        names = self._names(annotations, fractions, seed)
        records = {name: _parse(annotations / f"{name}.xml") for name in names}
        found = _class_names(records)
        if classes is None or not found.issuperset(classes):
            found |= _class_names(_others(annotations, records))
        self.classes = choose_classes(sorted(found), classes, annotations)
        self.category_ids: Sequence[int | str] = range(1, len(self.classes) + 1)
        self._keep_images(names, records)
        self._keep_objects([records[name] for name in self._names_kept])
        settle(self.problems, on_error)

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """Boxes with `ignore` where the source says `difficult`."""
        rows, table = self._objects.rows(index), self._objects
        return Labels(
            size=self._sizes[index],
            boxes=table.boxes[rows].copy(),
            labels=table.labels[rows].copy(),
            ignore=table.ignore[rows].copy(),
        )

    def path(self, index: int) -> Path:
        """The image file."""
        return self.root / self.file_names[index]

    def read(self, index: int) -> Sample:
        """Image and labels. Raises DataError when the file cannot be decoded."""
        return Sample(decode(self.path(index)), self.labels(index), self.image_ids[index], self.file_names[index])

    def class_counts(self) -> np.ndarray:
        """(C,) int64: objects per class, difficult ones too."""
        return self._objects.class_counts(len(self.classes))

    # ------------------------------------------------------------------------------------------------ construction
    def _names(self, annotations: Path, fractions: Mapping[str, float] | None, seed: int) -> list[str]:
        lists = self.root / "ImageSets" / "Main"
        if fractions is None and lists.is_dir():
            file = lists / f"{self.split}.txt"
            if not file.is_file():
                raise unknown_split(self.split, (entry.stem for entry in lists.glob("*.txt")), lists)
            return self._listed(file)
        if fractions is None:
            fractions = DEFAULT_FRACTIONS
            self.notes.append(f"{self.root}: no ImageSets/Main; divided by name into {dict(fractions)}")
        check_fractions(fractions, self.split)
        stems = sorted(entry.stem for entry in annotations.glob("*.xml") if not entry.name.startswith("."))
        return members(stems, self.split, fractions, seed, annotations)

    def _listed(self, file: Path) -> list[str]:
        names: dict[str, int] = {}
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
            name = line.strip()
            if not name:
                continue
            if name in names:
                fault = f"'{name}' stands in line {names[name]} already"
                self.problems.append(Problem(str(file), f"line {number}", fault, "remove the line"))
            elif Path(name).is_absolute() or ".." in Path(name).parts:
                fault = f"'{name}' leaves the folder"
                self.problems.append(Problem(str(file), f"line {number}", fault, "give a name inside Annotations"))
            else:
                names[name] = number
        if not names:
            raise DataError(f"{file}: the list is empty; write one image name per line, without its ending")
        return list(names)

    def _keep_images(self, names: list[str], records: Mapping[str, _Record]) -> None:
        folder = _folder(self.root, "JPEGImages", "images")
        files = _images_by_stem(folder)
        numbers, paths, recorded = [], [], []
        for number, name in enumerate(names, 1):
            record, found = records[name], files.get(name, [])
            if record.problem is not None:
                self.problems.append(record.problem)
            elif len(found) != 1:
                fault = (
                    f"{len(found)} images of that name in {folder}" if found else f"no image of that name in {folder}"
                )
                mend = "keep one of them" if found else "restore the image, or take the name out of the split"
                self.problems.append(Problem(str(record.file), "", fault, mend))
            else:
                numbers.append(number)
                paths.append(folder / found[0])
                recorded.append(record.size)
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

    def _keep_objects(self, records: Sequence[_Record]) -> None:
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
                    fault = f"{fitted} ({_numbers(row.box)})"
                    mend = "correct the numbers, or remove the object"
                    self.problems.append(Problem(str(record.file), f"object[{row.number}]/bndbox", fault, mend))
                    continue
                owners.append(owner)
                boxes.append(fitted[0])
                labels.append(label_of[row.name])
                ignore.append(row.difficult)
                clipped += fitted[1]
        self.notes += left_out("objects", unlisted) + clipped_boxes(clipped)
        self._objects = make_table(len(records), owners=owners, boxes=boxes, labels=labels, ignore=ignore)


# ------------------------------------------------------------------------------------------------------ one XML file
@dataclass(frozen=True)
class _Object:
    number: int
    name: str
    box: Box
    difficult: bool


@dataclass(frozen=True)
class _Record:
    """One annotation file; `problem` is set where nothing of it can be used."""

    file: Path
    size: tuple[int, int] | None = None
    objects: tuple[_Object, ...] = ()
    object_problems: tuple[Problem, ...] = ()
    problem: Problem | None = field(default=None)


def _parse(file: Path) -> _Record:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        fault, mend = "no such annotation file", "restore it, or take the name out of the split"
        return _Record(file, problem=Problem(str(file), "", fault, mend))
    # A document type may define entities that expand without end, and VOC files have none. The NULs are UTF-16's.
    if b"<!DOCTYPE" in data.replace(b"\0", b""):
        fault = "a DOCTYPE declaration is not allowed"
        return _Record(file, problem=Problem(str(file), "", fault, "remove the declaration"))
    try:
        tree = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as fault:  # the latter two: a false encoding declaration
        return _Record(file, problem=Problem(str(file), "", f"not well-formed XML ({fault})", "write the file again"))
    objects, problems = [], []
    for number, element in enumerate(tree.findall("object"), 1):
        try:
            objects.append(_object(element, number))
        except _FaultyElement as fault:
            mend = "correct it, or remove the object"
            problems.append(Problem(str(file), f"object[{number}]/{fault.where}", fault.what, mend))
    return _Record(file, _recorded_size(tree), tuple(objects), tuple(problems))


class _FaultyElement(Exception):
    def __init__(self, where: str, what: str) -> None:
        super().__init__(where, what)
        self.where, self.what = where, what


def _object(element: ElementTree.Element, number: int) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise _FaultyElement("name", "the object has no name")
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise _FaultyElement("difficult", f"must be 0 or 1, not '{difficult}'")
    x1, y1, x2, y2 = (_side(element, side) for side in _SIDES)
    return _Object(number, name, (x1, y1, x2, y2), difficult == "1")


def _side(element: ElementTree.Element, side: str) -> float:
    text = (element.findtext(f"bndbox/{side}") or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _FaultyElement(f"bndbox/{side}", f"'{text}' is not a number" if text else "the number is missing")
    return value


def _recorded_size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width) as recorded, None where it is missing or 0: some tools never fill it in, and nothing needs it."""
    try:
        height, width = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


# ---------------------------------------------------------------------------------------------------------- the files
def _folder(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root}: no folder {names[0]}; for Pascal VOC data.root holds Annotations and JPEGImages")


def _images_by_stem(folder: Path) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for entry in folder.iterdir():
        if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith("."):
            files.setdefault(entry.stem, []).append(entry.name)
    return files


def _others(annotations: Path, known: Mapping[str, _Record]) -> dict[str, _Record]:
    """The annotation files of the other splits: each split shall have the same class list."""
    return {file.stem: _parse(file) for file in annotations.glob("*.xml") if file.stem not in known}


def _class_names(records: Mapping[str, _Record]) -> set[str]:
    return {row.name for record in records.values() for row in record.objects}


def _numbers(box: Box) -> str:
    return ", ".join(f"{side} {value:g}" for side, value in zip(_SIDES, box, strict=True))
