"""SegmentationClass and SegmentationObject of Pascal VOC: which class, and which object, each pixel belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.data.readers.mask_files import Instances, ValueMap, instances, read_colours, read_values
from visionkit.data.readers.mask_objects import ImageObjects
from visionkit.data.readers.names import Names, class_numbers, read_names
from visionkit.data.readers.source import fit_box
from visionkit.data.readers.voc_xml import VocObject
from visionkit.data.validate import Problem, refusal
from visionkit.structures import IGNORE_INDEX

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The classes of the challenge, in the order of the masks' values."""
_VOID = 255
_VOID_COLOUR = (224, 224, 192)
_SAME = 0.5
"""The overlap from which on a mask and a box of one class are taken for the same object."""


def voc_numbers(root: Path, names: Names | None) -> dict[str, Any]:
    """Return the value, or the colour, of each class in the masks.

    That is `names`, or labelmap.txt ("name:red,green,blue:…" a line, as CVAT writes it) or class_names.txt (a name a
    line, as labelme's converter writes it) of the folder, or `VOC_CLASSES`.

    Raises:
        DataError: a file cannot be read.
        ConfigError: a name or a value stands there twice.
    """
    if names is not None:
        return class_numbers(names, root)
    if (root / "labelmap.txt").is_file():
        return class_numbers(_labelmap(root / "labelmap.txt"), root)
    if (root / "class_names.txt").is_file():
        lines = read_names(root / "class_names.txt") or ()
        return class_numbers([str(name) for name in lines if name != "__ignore__"], root)
    return class_numbers(VOC_CLASSES, root)


def _labelmap(file: Path) -> dict[str, list[int]]:
    colours: dict[str, list[int]] = {}
    for number, line in enumerate(read_names(file) or (), 1):
        if str(line).startswith("#"):
            continue
        name, _, rest = str(line).partition(":")
        parts = rest.partition(":")[0].split(",")
        if not name or len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
            fault = f"'{line}' is not name:red,green,blue"
            raise refusal(Problem(str(file), f"line {number}", fault, "correct the line, or remove it", "file-format"))
        colours[name] = [int(part) for part in parts]
    return colours


class VocMasks:
    """The masks of a folder.

    Args:
        root: the folder.
        numbers: the value or colour of each class; 0, or black, is the background.
        classes: of these, those of the semantic map, in their order.
        things: those of objects.

    Raises:
        ConfigError: what stands for a class is neither a value nor a colour.
    """

    def __init__(self, root: Path, numbers: Mapping[str, Any], classes: Sequence[str], things: Sequence[str]) -> None:
        self.root, self.things, self._every = root, tuple(things), tuple(numbers)
        self._no_things = [label for label, name in enumerate(numbers) if name not in things_of(numbers)]
        self._by_colour = any(not isinstance(value, int) for value in numbers.values())
        void: list[Any] = [_VOID] if not self._by_colour else [list(_VOID_COLOUR)]
        ignored = [value for value in void if value not in numbers.values()]
        self.values = ValueMap(classes, numbers, ignored)
        self._all_values = ValueMap(self._every, numbers, ignored)

    def semantic(self, name: str) -> np.ndarray:
        """Return the semantic map of an image as (H, W) uint8. Raises DataError when its file cannot be used."""
        return self.values.read(self.root / class_mask(name))

    def objects(self, name: str, size: tuple[int, int], known: Sequence[VocObject]) -> tuple[ImageObjects, int]:
        """Return the objects of an image, and how many of `known` are no object of the mask.

        An object's class is that of most of its pixels. Its box is that of the object of the same class in `known`
        that overlaps it most, by at least half, and then it is ignored if that one is difficult; or else encloses its
        pixels. Objects of classes that are not among `things` are left out.

        Raises:
            DataError: a file cannot be used, the masks have not the image's size, or an object has no class.
        """
        path = self.root / object_mask(name)
        ids, classes = self._ids(path), self._all_values.read(self.root / class_mask(name))
        for mask, file in ((ids, path), (classes, self.root / class_mask(name))):
            if mask.shape != tuple(size):
                raise refusal(mask_size_fault(file, size, mask.shape, "its image"))
        found = instances(ids)
        names = [self._every[label] for label in _majorities(ids, classes, found, path, self._no_things)]
        place = {name: label for label, name in enumerate(self.things)}
        boxes, difficult, matched = _matched(found, names, size, known)
        wanted = np.flatnonzero([name in place for name in names])
        labels = np.array([place.get(name, -1) for name in names], np.int64)
        every = ImageObjects(found, boxes, labels, np.zeros(len(names), np.bool_), difficult)
        return every.select(wanted), sum(one.name in place for one in known) - sum(
            known[row].name in place for row in matched
        )

    def _ids(self, path: Path) -> np.ndarray:
        if self._by_colour:
            codes = read_colours(path)
            red, green, blue = _VOID_COLOUR
            return np.where(codes == (red << 16 | green << 8 | blue), 0, codes)
        values = read_values(path)
        return np.where(values == _VOID, 0, values)


def class_mask(name: str) -> str:
    """Return where the class of each pixel stands, relative to the folder."""
    return f"SegmentationClass/{name}.png"


def object_mask(name: str) -> str:
    """Return where the object of each pixel stands, relative to the folder."""
    return f"SegmentationObject/{name}.png"


def things_of(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes that objects can have: all but the background, whose value is 0 or black."""
    return tuple(name for name, value in numbers.items() if value != 0 and value != [0, 0, 0])


def _majorities(
    ids: np.ndarray, classes: np.ndarray, found: Instances, path: Path, no_things: Sequence[int]
) -> list[int]:
    """The class of most pixels of each object; void and background do not count."""
    inside, several = ids != 0, IGNORE_INDEX + 1
    both = np.searchsorted(found.ids, ids[inside]) * several + classes[inside]
    counts = np.bincount(both, minlength=len(found.ids) * several).reshape(-1, several)
    counts[:, [IGNORE_INDEX, *no_things]] = 0
    for number, row in zip(found.ids.tolist(), counts, strict=True):
        if not row.any():
            fault, mend = f"object {number} has no pixel with a class in SegmentationClass", "draw both masks alike"
            raise refusal(Problem(str(path), "", fault, mend, "mask-class"))
    return [int(label) for label in counts.argmax(axis=1)]


def _matched(
    found: Instances, names: Sequence[str], size: tuple[int, int], known: Sequence[VocObject]
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Boxes (N, 4) and `difficult` (N,) of the masks' objects, and the rows of `known` that they are."""
    boxes, difficult = found.boxes.copy(), np.zeros(len(names), np.bool_)
    pairs = []
    for row, thing in enumerate(known):
        fitted = fit_box(thing.box, size)
        if isinstance(fitted, str):
            continue
        overlaps = _overlaps(np.array(fitted[0]), found.boxes)
        for place in np.flatnonzero(overlaps >= _SAME).tolist():
            if names[place] == thing.name:
                pairs.append((-float(overlaps[place]), row, place, fitted[0]))
    rows: list[int] = []
    places: set[int] = set()
    for _, row, place, box in sorted(pairs):
        if row in rows or place in places:
            continue
        rows.append(row)
        places.add(place)
        boxes[place], difficult[place] = box, known[row].difficult
    return boxes, difficult, rows


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of one box with (N, 4)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    overlaps: np.ndarray = shared / (areas - shared)
    return overlaps


def mask_size_fault(path: Path, size: tuple[int, int], found: tuple[int, int], image: str) -> Problem:
    """Return the fault of a mask of the size `found`, whose image has another one."""
    fault = f"the mask is {found[1]} x {found[0]} but {image} is {size[1]} x {size[0]}"
    return Problem(str(path), "", fault, "give the mask the size of its image", "mask-size")
