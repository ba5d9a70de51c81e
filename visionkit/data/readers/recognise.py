"""Which format a folder of labelled images is in, told from the names of its folders and files.

Directories are listed, and of single files the first line or a small YAML is read. Links that lead out of the folder
are not followed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionkit.data.decode import IMAGE_SUFFIXES
from visionkit.data.readers.csv_rows import has_boxes
from visionkit.data.readers.names import read_yaml
from visionkit.data.readers.splits import USUAL_SPLITS
from visionkit.errors import DataError, listed

FORMATS = ("coco", "coco_panoptic", "voc", "yolo", "masks", "csv", "folder")
_BOXES, _MASKS = frozenset({"boxes"}), frozenset({"boxes", "masks"})
_PIXELS, _WHOLE = frozenset({"semantic"}), frozenset({"class_scores"})
_NO_CLASS = frozenset(
    {"annotations", "images", "imagesets", "jpegimages", "labels", "masks", "segmentationclass", "segmentationobject"}
)
"""Folders that are no class, in lower case."""
_DEEP = 4
CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
"""The 19 classes that Cityscapes evaluates, by their number in *_labelIds.png (Cordts et al., CVPR 2016)."""
_CITYSCAPES_IGNORED = [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255]
_FIRST_THING = 24


@dataclass(frozen=True)
class Evidence:
    """A format that fits.

    Attributes:
        format: one of `FORMATS`.
        seen: the files or folders that tell it.
        fields: the fields of `LABEL_FIELDS` that it may know.
        arguments: what the reader is given beside the usual; "{split}" in `annotations` is the split's name.
    """

    format: str
    seen: str
    fields: frozenset[str]
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Listing:
    """The names below a folder, each directory read once.

    Attributes:
        outside: links that lead out of the folder, relative to it; what they hold is not seen.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outside: list[str] = []
        self._inside = root.resolve()
        self._known: dict[str, tuple[list[str], list[str]]] = {}

    def folders(self, folder: str = "") -> list[str]:
        """The names of the folders in `folder` (relative, "" for the root), sorted; none where it is not there."""
        return self._entries(folder)[0]

    def files(self, folder: str = "", endings: Collection[str] = ()) -> list[str]:
        """The names of the files in `folder`, sorted, with one of the endings (lower case, with dot), or all."""
        names = self._entries(folder)[1]
        return [name for name in names if os.path.splitext(name)[1].lower() in endings] if endings else names  # noqa: PTH122 - as in templates

    def has(self, folder: str) -> bool:
        """Whether there is such a folder."""
        parent, _, name = folder.rpartition("/")
        return name in self.folders(parent) and (not parent or self.has(parent))

    def some(self, folder: str, endings: Collection[str], depth: int = _DEEP) -> str | None:
        """The first file with one of the endings in `folder` or, at most `depth` folders down, below it."""
        if not self.has(folder):
            return None
        here = self.files(folder, endings)
        if here:
            return f"{folder}/{here[0]}"
        below = (self.some(f"{folder}/{name}", endings, depth - 1) for name in self.folders(folder) if depth)
        return next((found for found in below if found), None)

    def _entries(self, folder: str) -> tuple[list[str], list[str]]:
        if folder not in self._known:
            folders: list[str] = []
            files: list[str] = []
            for entry in self._scan(folder):
                (folders if entry.is_dir() else files).append(entry.name)
            self._known[folder] = (folders, files)
        return self._known[folder]

    def _scan(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
        except OSError:
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(self._inside):
                self.outside.append(f"{folder}/{entry.name}".lstrip("/"))
            else:
                yield entry


def evidence(listing: Listing, task: str | None) -> list[Evidence]:
    """Return the formats that fit a folder, in the order of `FORMATS`; the task decides what is read of it."""
    found = (
        _coco(listing),
        _coco_panoptic(listing),
        _voc(listing, task),
        _yolo(listing),
        _masks(listing, task),
        _csv(listing),
        _folder(listing),
    )
    return [one for one in found if one is not None]


def _coco(listing: Listing) -> Evidence | None:
    kinds = {"annotations": ["instances_*"], "": ["instances_*", *USUAL_SPLITS]}
    for folder, names in kinds.items():
        own = [name for name in listing.files(folder, {".json"}) if _fits(name.removesuffix(".json"), names)]
        if own:
            return Evidence("coco", listed([f"{folder}/{name}".lstrip("/") for name in own], 3), _MASKS)
    for template in ("annotations/{split}.json", "{split}/_annotations.coco.json"):
        there = [template.replace("{split}", split) for split in sorted(USUAL_SPLITS)]
        own = [name for name in there if name.rpartition("/")[2] in listing.files(name.rpartition("/")[0])]
        if own:
            return Evidence("coco", listed(own, 3), _MASKS, {"annotations": template})
    return None


def _coco_panoptic(listing: Listing) -> Evidence | None:
    for folder in ("annotations", ""):
        own = [name for name in listing.files(folder, {".json"}) if _fits(name, ["panoptic_*"])]
        if own:
            return Evidence("coco_panoptic", f"{folder}/{own[0]}".lstrip("/"), _MASKS | _PIXELS)
    return None


def _voc(listing: Listing, task: str | None) -> Evidence | None:
    if not any(listing.has(folder) for folder in ("JPEGImages", "images")):
        return None
    xml = next((found for one in ("Annotations", "annotations") if (found := listing.some(one, {".xml"}, 0))), None)
    classes = listing.some("SegmentationClass", {".png"}, 0)
    objects = listing.some("SegmentationObject", {".png"}, 0) if classes else None
    if xml is None and classes is None:
        return None
    known = ((_BOXES, xml), (_PIXELS, classes), (_MASKS, objects))
    fields = frozenset[str]().union(*(fields for fields, there in known if there))
    kind = {"semantic": "semantic", "instance": "instances", "panoptic": "all"}.get(task or "", "boxes")
    needs = {"semantic": classes, "instances": objects, "all": objects, "boxes": xml}
    kind = kind if needs[kind] else "boxes" if xml else "semantic"
    return Evidence("voc", listed([one for one in (xml, classes, objects) if one]), fields, {"kind": kind})


def _yolo(listing: Listing) -> Evidence | None:
    for name in listing.files("", {".yaml", ".yml"}):
        try:
            said = read_yaml(listing.root / name)
        except DataError:
            continue
        if said.get("names") and not USUAL_SPLITS.isdisjoint(said):
            return Evidence("yolo", f"{name} with names and splits", _MASKS)
    for images, labels in _beside(listing, "images", "labels"):
        text = listing.some(labels, {".txt"})
        if text and listing.some(images, IMAGE_SUFFIXES):
            return Evidence("yolo", f"{images}/ with {text}", _MASKS)
    return None


def _masks(listing: Listing, task: str | None) -> Evidence | None:
    is_instance = task == "instance"
    fields = _MASKS if is_instance else _PIXELS
    kind = {"kind": "instances"} if is_instance else {}
    if listing.has("leftImg8bit") and listing.has("gtFine"):
        return Evidence("masks", "leftImg8bit/ with gtFine/", fields, kind | _cityscapes(is_instance))
    for folder in ("masks", "labels"):
        for images, masks in _beside(listing, "images", folder):
            if listing.some(masks, {".png"}) and listing.some(images, IMAGE_SUFFIXES):
                own = {} if folder == "masks" else _templates(images, masks, listing)
                return Evidence("masks", f"{images}/ with {masks}/", fields, kind | own | _names(listing, is_instance))
    for split in listing.folders():
        if split in USUAL_SPLITS and listing.some(f"{split}annot", {".png"}):
            return Evidence("masks", f"{split}/ with {split}annot/", fields, kind | _names(listing, is_instance))
    return None


def _cityscapes(is_instance: bool) -> dict[str, Any]:
    masks = "gtFine/{split}/*/{name}_gtFine_" + ("instanceIds.png" if is_instance else "labelIds.png")
    where = {"images": "leftImg8bit/{split}/*/{name}_leftImg8bit.png", "masks": masks}
    if is_instance:
        things = {name: number for name, number in CITYSCAPES.items() if number >= _FIRST_THING}
        return {**where, "names": things, "divisor": 1000}
    return {**where, "names": CITYSCAPES, "ignore_values": _CITYSCAPES_IGNORED}


def _templates(images: str, masks: str, listing: Listing) -> dict[str, Any]:
    """The templates of masks that lie in folders called labels."""
    splits = [name for name in listing.folders(images) if name in USUAL_SPLITS]
    first = images.partition("/")[0]
    if splits:
        return {"images": f"{images}/{{split}}/{{name}}", "masks": f"{masks}/{{split}}/{{name}}"}
    if first in USUAL_SPLITS:
        return {"images": "{split}/images/{name}", "masks": "{split}/labels/{name}"}
    return {"images": f"{images}/{{name}}", "masks": f"{masks}/{{name}}"}


def _names(listing: Listing, is_instance: bool) -> dict[str, Any]:
    """A file beside the masks that names their values."""
    known = [name for name in ("classes.txt", "classes.yaml", "names.yaml") if name in listing.files()]
    return {"names": known[0]} if known and not is_instance else {}


def _csv(listing: Listing) -> Evidence | None:
    for folder in ("", "annotations"):
        for name in listing.files(folder, {".csv"}):
            path = f"{folder}/{name}".lstrip("/")
            boxes = has_boxes(listing.root / path)
            if boxes is not None:
                return Evidence("csv", path, _BOXES if boxes else _WHOLE)
    return None


def _folder(listing: Listing) -> Evidence | None:
    splits = [name for name in listing.folders() if name.lower() in USUAL_SPLITS]
    for above, least in [*((split, 1) for split in splits), ("", 2)]:
        named = [name for name in listing.folders(above) if name.lower() not in _NO_CLASS]
        every = [f"{above}/{name}".lstrip("/") for name in named if not name.endswith("annot")]
        classes = [name for name in every if name not in splits and listing.some(name, IMAGE_SUFFIXES)]
        if len(classes) >= least:
            return Evidence("folder", listed([f"{name}/" for name in classes], 3), _WHOLE)
    return None


def _beside(listing: Listing, images: str, labels: str) -> list[tuple[str, str]]:
    """The pairs of folders of these names, at the root or in a split's folder."""
    above = ["", *(f"{name}/" for name in listing.folders() if name in USUAL_SPLITS)]
    pairs = [(f"{one}{images}", f"{one}{labels}") for one in above]
    return [pair for pair in pairs if listing.has(pair[0]) and listing.has(pair[1])]


def _fits(name: str, patterns: Collection[str]) -> bool:
    """Whether a name is one of the patterns, perhaps with a year after a split's name; * stands for anything."""
    return any(re.fullmatch(re.escape(one).replace(r"\*", ".*") + r"\d*", name) for one in patterns)
