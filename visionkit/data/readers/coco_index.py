"""All that a COCO annotation file says, as flat arrays: made once, then mapped from the cache folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.data.flat import Ids, Strings, offsets_of
from visionkit.data.index_cache import Entry, Stamped, stamp
from visionkit.data.readers.coco_columns import LARGEST, AnnotationColumns, is_id
from visionkit.data.readers.coco_faults import Fault, shown
from visionkit.data.readers.coco_json import ImageRows, Images, are_stuff, check_members, read_categories
from visionkit.data.readers.coco_stream import stream
from visionkit.data.readers.segmentation import EMPTY, SegmentationTable
from visionkit.data.validate import Problem
from visionkit.errors import DataError
from visionkit.structures import ImageId

_VERSION = 2
LEAST_BYTES = 1 << 20
"""Smaller files are read again each time, which takes no longer than looking into a cache."""
_OBJECTS = ("places", "category", "bbox", "crowd", "ignore", "areas", "offsets")
_PARTS = ("objects", "semantic")
MARK = "written by visionkit"
"""The `info.description` of what `visionkit.data.export_coco` writes."""


@dataclass(frozen=True)
class ObjectFault:
    """The fault of the annotation at `place`; image, category: places, -1 for none; kept: it is used all the same."""

    place: int
    image: int
    category: int
    fault: Fault
    kept: bool


@dataclass(frozen=True, eq=False)
class CocoObjects:
    """The A usable annotations of a list, sorted by image, within an image in the file's order.

    Attributes:
        key: of the list, annotations or semantic_annotations.
        places: (A,) int64, their places in the list, which are also their rows in `segmentations`.
        category: (A,) int32, the number of the category in the file's order.
        bbox: (A, 4) float64 [x, y, width, height], finite, sides above 0; not yet clipped to the image.
        crowd, ignore: (A,) bool.
        areas: (A,) float64; nan where the file has none.
        offsets: (M + 1,) int64; the rows of image i are offsets[i] to offsets[i + 1].
        segmentations: a row for each annotation of the file.
        faults: of annotations of usable images or of none.
        lacking: how many annotations lack `area` and `iscrowd`, and how many there are.
    """

    key: str
    places: np.ndarray
    category: np.ndarray
    bbox: np.ndarray
    crowd: np.ndarray
    ignore: np.ndarray
    areas: np.ndarray
    offsets: np.ndarray
    segmentations: SegmentationTable
    faults: Sequence[ObjectFault]
    lacking: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class CocoIndex:
    """What the file holds. Whether it fits the image files is not known here.

    Attributes:
        categories: the class name of each category id, in the file's order.
        images: the usable ones.
        objects: None where the file has no list `annotations`, or all its categories are stuff.
        semantic_categories: those of the semantic maps.
        semantic: the pixels of a class in an image, one annotation each: the list `annotations` where all categories
            are stuff (isthing: 0), as in COCO's stuff files; else `semantic_annotations`, where there is such a list.
        is_export: `visionkit.data.export_coco` has written the file.
    """

    categories: Mapping[ImageId, str]
    images: Images
    objects: CocoObjects | None
    semantic_categories: Mapping[ImageId, str]
    semantic: CocoObjects | None
    is_export: bool


def open_index(file: Path) -> CocoIndex:
    """Return the index of a COCO annotation file, from the cache where the file is what it was.

    Only files from `LEAST_BYTES` on are cached. Image files are not looked at.

    Raises:
        DataError: the file cannot be read, or is no COCO annotation file.
    """
    try:
        before = stamp(file)
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror}); check the path and its permissions", code="file-unreadable"
        ) from None
    if before[0] < LEAST_BYTES:
        return build_index(file)[0]
    cache = Stamped("coco", file, _VERSION)
    entry = cache.load()
    if entry is not None:
        return _unpacked(entry, file)
    index, digest = build_index(file)
    cache.save(*_packed(index), before, digest)
    return index


def build_index(file: Path) -> tuple[CocoIndex, str]:
    """Read the file and return its index, and the SHA-256 of its bytes.

    Raises:
        DataError: it cannot be read, or is no COCO annotation file.
    """
    images = ImageRows(file)
    lists = {"annotations": AnnotationColumns(), "semantic_annotations": AnnotationColumns()}
    takers = {"images": images.take} | {key: columns.take for key, columns in lists.items()}
    members, digest = stream(file, takers)
    check_members(members, file)
    usable = images.finish()

    def read(key: str, categories: Mapping[ImageId, str]) -> CocoObjects | None:
        return _objects(key, lists[key], usable, list(categories)) if key in members else None

    info = members.get("info")
    is_export = isinstance(info, dict) and info.get("description") == MARK
    categories = read_categories(members["categories"], file)
    if are_stuff(members["categories"]):
        return CocoIndex({}, usable, None, categories, read("annotations", categories), is_export), digest
    semantic = read_categories(members.get("semantic_categories", []), file, "semantic_categories")
    objects = read("annotations", categories)
    return CocoIndex(categories, usable, objects, semantic, read("semantic_annotations", semantic), is_export), digest


# ----------------------------------------------------------------------------------------------------------- judging
def _objects(key: str, columns: AnnotationColumns, images: Images, categories: Sequence[ImageId]) -> CocoObjects:
    told = columns.arrays()
    segmentations = SegmentationTable(**columns.segmentations.arrays())
    owners, known = _places_of(told["image_ids"], 1, columns.odd, list(images.ids), images.known)
    category, has_category = _places_of(told["category_ids"], 2, columns.odd, categories, frozenset(categories))
    mine = (owners >= 0) | ~known  # annotations of images that cannot be used are passed over in silence
    faults = dict(columns.faults)
    for place in np.flatnonzero(mine & ~(known & has_category)).tolist():
        if place not in faults or faults[place].key:  # what is not an object has no ids either
            faults[place] = _reference_fault(key, columns, told, place, bool(known[place]))
    usable = mine & known & has_category
    kept = _judge_ids(key, columns.odd, told["ids"], usable, faults)
    for judge in (_judge_boxes, _judge_areas):
        judge(told, usable, faults)
    if (segmentations.kinds > EMPTY).any():
        for place in np.flatnonzero(usable & (segmentations.kinds == EMPTY)).tolist():
            faults.setdefault(place, Fault("segmentation", "polygon-empty", "there is no polygon in it"))
    found = [
        ObjectFault(place, int(owners[place]), int(category[place]), fault, is_kept)
        for told_of, is_kept in ((faults, False), (kept, True))
        for place, fault in told_of.items()
        if mine[place] and not (is_kept and place in faults)
    ]
    usable[list(faults)] = False
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(owners[rows], kind="stable")]
    return CocoObjects(
        key=key,
        places=rows,
        category=category[rows].astype(np.int32),
        bbox=told["bbox"][rows],
        crowd=(told["crowd"][rows] > 0) & (told["ignore"][rows] == 0),
        ignore=told["ignore"][rows] > 0,
        areas=told["areas"][rows],
        offsets=offsets_of(np.bincount(owners[rows], minlength=len(images.ids))),
        segmentations=segmentations,
        faults=found,
        lacking={"area": columns.without_area, "iscrowd": columns.without_crowd, "of": len(columns)},
    )


def _places_of(
    column: np.ndarray,
    which: int,
    odd: Mapping[int, Sequence[Any]],
    ids: Sequence[ImageId],
    known: frozenset[ImageId],
) -> tuple[np.ndarray, np.ndarray]:
    """The place in `ids` of what each annotation refers to, -1 for none, and whether it is `known`.

    which: 1 for image ids, 2 for category ids, as they stand in `odd`.
    """
    places = {one: place for place, one in enumerate(ids)}
    numbers = np.array(sorted(one for one in known if isinstance(one, int) and abs(one) < LARGEST), np.int64)
    owners = np.array([places.get(one, -1) for one in numbers.tolist()] + [-1], np.int64)
    at = np.searchsorted(numbers, column)
    is_known = np.append(numbers, 0)[at] == column
    is_known &= at < len(numbers)
    result = np.where(is_known, owners[at], -1)
    for place, row in odd.items():
        one = row[which]
        is_known[place] = is_id(one) and one in known
        result[place] = places.get(one, -1) if is_known[place] else -1
    return result, is_known


def _reference_fault(
    of: str, columns: AnnotationColumns, told: Mapping[str, np.ndarray], place: int, has_image: bool
) -> Fault:
    key, which, what = ("category_id", 2, "category") if has_image else ("image_id", 1, "image")
    number = columns.odd[place][which] if place in columns.odd else int(told[f"{key}s"][place])
    listed_in = of.replace("annotations", "categories") if has_image else "images"
    return Fault(key, f"{what}-unknown", f"{shown(number)} is not in {listed_in}")


def _judge_ids(
    key: str, odd: Mapping[int, Sequence[Any]], ids: np.ndarray, usable: np.ndarray, faults: dict[int, Fault]
) -> dict[int, Fault]:
    """Note the annotations whose id another one has; return the faults of ids that do no harm to what they number."""
    kept: dict[int, Fault] = {}
    rows = np.flatnonzero(usable)
    own = rows[~np.isin(rows, [place for place, row in odd.items() if type(row[0]) is not int])] if odd else rows
    order = own[np.argsort(ids[own], kind="stable")]
    values = ids[order]
    firsts = np.maximum.accumulate(np.where(np.diff(values, prepend=values[:1] - 1) != 0, np.arange(len(values)), 0))
    for at in np.flatnonzero(firsts != np.arange(len(values))).tolist():
        faults.setdefault(int(order[at]), _same_id(key, int(values[at]), int(order[firsts[at]])))
    for place in order[values == 0][:1].tolist():
        kept[place] = Fault("id", "id-zero", "0 is no match to COCO's tools, which then count the object as missed",
                            "number annotations from 1")  # fmt: skip
    seen: dict[str, int] = {}
    texts = [place for place, row in sorted(odd.items()) if isinstance(row[0], str) and usable[place]]
    for place in texts:
        if seen.setdefault(odd[place][0], place) != place:
            faults.setdefault(place, _same_id(key, odd[place][0], seen[odd[place][0]]))
    if texts:
        also = f" (and so are those of {len(texts) - 1} more)" if len(texts) > 1 else ""
        what = f"{shown(odd[texts[0]][0])} is a string{also}"
        kept[texts[0]] = Fault("id", "id-string", what, "number annotations from 1, as COCO's tools need it")
    for place, row in odd.items():
        if usable[place] and row[0] is not None and not is_id(row[0]):
            kept[place] = Fault("id", "id-invalid", f"a whole number is wanted, not {shown(row[0])}", "correct it")
    return kept


def _same_id(key: str, number: ImageId, first: int) -> Fault:
    return Fault("id", "id-duplicate", f"{shown(number)} is that of {key}[{first}] already", "renumber it")


def _judge_boxes(told: Mapping[str, np.ndarray], usable: np.ndarray, faults: dict[int, Fault]) -> None:
    boxes = told["bbox"]
    with np.errstate(invalid="ignore"):
        finite = (np.abs(boxes) < LARGEST).all(axis=1)  # false for nan
        negative = (boxes[:, 2:] < 0).any(axis=1)
        flat = (boxes[:, :2] + boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    wanted = "four finite numbers [x, y, width, height] are wanted, not"
    for is_bad, rule, said in (
        (~finite, "box-not-finite", f"{wanted} {{}}"),
        (negative, "box-negative", "width and height must be positive: {}"),
        (flat, "box-zero-area", "the box has no area: {}"),
    ):
        for place in np.flatnonzero(usable & is_bad).tolist():
            if place not in faults:
                faults[place] = Fault("bbox", rule, said.format(shown_box(boxes[place])))


def _judge_areas(told: Mapping[str, np.ndarray], usable: np.ndarray, faults: dict[int, Fault]) -> None:
    areas = told["areas"]
    for place in np.flatnonzero(usable & ((areas < 0) | (areas >= LARGEST))).tolist():
        said = f"a number of pixels is wanted, not {shown(neat(float(areas[place])))}"
        faults.setdefault(place, Fault("area", "area-invalid", said))


def shown_box(box: np.ndarray) -> str:
    """Return four numbers as they stand in the file."""
    return shown([neat(value) for value in box.tolist()])


def neat(value: float) -> float | int:
    """Return a whole float as an int, as it mostly stands in the file."""
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


# ----------------------------------------------------------------------------------------------------------- storing
def _packed(index: CocoIndex) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    images = index.images
    header: dict[str, Any] = {
        "categories": list(index.categories.items()),
        "semantic_categories": list(index.semantic_categories.items()),
        "is_export": index.is_export,
        "problems": [{**asdict(problem), "file": ""} for problem in images.problems],
    }
    arrays = {
        "image.places": images.places,
        "image.sizes": images.sizes,
        "image.numbers": images.ids.numbers,
        "image.is_text": images.ids.is_text,
        "image.texts": images.ids.texts.data,
        "image.text_ends": images.ids.texts.offsets,
        "image.names": images.names.data,
        "image.name_ends": images.names.offsets,
    }
    for part in _PARTS:
        objects: CocoObjects | None = getattr(index, part)
        if objects is not None:
            faults = [asdict(one) for one in objects.faults]
            header[part] = {"key": objects.key, "faults": faults, "lacking": dict(objects.lacking)}
            arrays |= {f"{part}.{name}": getattr(objects, name) for name in _OBJECTS}
            arrays |= {f"{part} mask.{name}": array for name, array in vars(objects.segmentations).items()}
    return header, arrays


def _unpacked(entry: Entry, file: Path) -> CocoIndex:
    header, arrays = entry.header, entry.arrays

    def part(prefix: str) -> dict[str, np.ndarray]:
        start = f"{prefix}."
        return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}

    image = part("image")
    images = Images(
        places=image["places"],
        ids=Ids(image["numbers"], image["is_text"], Strings(image["texts"], image["text_ends"])),
        names=Strings(image["names"], image["name_ends"]),
        sizes=image["sizes"],
        known=frozenset(),
        problems=[Problem(**{**problem, "file": str(file)}) for problem in header["problems"]],
    )

    def objects(name: str) -> CocoObjects | None:
        if name not in header:
            return None
        return CocoObjects(
            **part(name),
            segmentations=SegmentationTable(**part(f"{name} mask")),
            key=header[name]["key"],
            faults=[ObjectFault(**{**one, "fault": Fault(**one["fault"])}) for one in header[name]["faults"]],
            lacking=header[name]["lacking"],
        )

    semantic = dict(header["semantic_categories"])
    parts = {name: objects(name) for name in _PARTS}
    return CocoIndex(
        dict(header["categories"]),
        images,
        semantic_categories=semantic,
        is_export=header["is_export"],
        **parts,
    )
