"""COCO's panoptic annotations: a PNG of segment ids for each image, and JSON that says what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.data.decode import decode
from visionkit.data.readers.coco_files import find_annotations, image_folders, locate
from visionkit.data.readers.coco_json import ImageRow, load_document, read_categories, read_images
from visionkit.data.readers.mask_files import read_colours
from visionkit.data.readers.panoptic_json import Segments, read_segments, read_things
from visionkit.data.readers.source import choose_classes, left_out, open_root
from visionkit.data.validate import Problem, check_images, check_on_error, settle
from visionkit.errors import ConfigError, DataError, listed
from visionkit.structures import IGNORE_INDEX, ImageId, Labels, Sample


class CocoPanoptic:
    """One split of a folder with COCO panoptic annotations (Kirillov et al., CVPR 2019).

    The annotations are annotations/panoptic_<split>*.json, or panoptic_<split>.json or <split>.json in the folder; the
    PNGs of segment ids (R + 256 G + 65536 B, 0 is void) lie in the folder of the file's name, beside it or in the
    data's. Images are found as `Coco` finds them. Ids of images and categories are the file's own.

    Things give boxes (the extents of their masks) and masks; the semantic map tells things and stuff. Void, and the
    segments of classes that are not listed, are `IGNORE_INDEX` there. PNGs are read when labels are asked for.

    Args:
        root: the folder.
        split: the name of the split.
        classes: the wanted things in their order; None means all, in the file's order.
        semantic_classes: the classes of the semantic map in their order; None means all stuff, then all things.
        annotations: the annotation file, absolute or seen from the folder or from the working directory, where it
            stands elsewhere.
        on_error: "stop" raises for all faults at once; "skip" leaves out the image that cannot be used and keeps the
            faults in `problems`.

    Attributes:
        semantic_category_ids: the file's own id of each of `semantic_classes`.
        problems: what was left out, and why.
        notes: what was done that somebody may not expect, one line each.

    Raises:
        DataError: the folder, split or a class is not there, the file is not a panoptic file, or there are faults and
            `on_error` is "stop"; later, a PNG whose segments are not those of the file.
        ConfigError: there are more classes than a semantic map can hold.
    """

    fields = frozenset({"boxes", "masks", "semantic"})

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        semantic_classes: Sequence[str] | None = None,
        annotations: str | Path | None = None,
        on_error: str = "stop",
    ) -> None:
        check_on_error(on_error)
        self.root, self.split = open_root(root), split
        self.annotations = find_annotations(self.root, split, annotations, "panoptic")
        self.problems: list[Problem] = []
        document = load_document(self.annotations)
        if "annotations" not in document:
            raise DataError(f"{self.annotations}: no list 'annotations'; a panoptic file has one entry for each image")
        categories = read_categories(document["categories"], self.annotations)
        things = read_things(document["categories"], self.annotations)
        ids = {name: number for number, name in categories.items()}
        stuff = [name for name in ids if name not in things]
        self.classes = choose_classes(things, classes, self.annotations)
        self.semantic_classes = choose_classes((*stuff, *things), semantic_classes, self.annotations)
        if len(self.semantic_classes) > IGNORE_INDEX:
            count = len(self.semantic_classes)
            raise ConfigError(f"semantic_classes: {count} classes; a semantic map holds at most {IGNORE_INDEX}")
        self.category_ids: Sequence[int | str] = tuple(ids[name] for name in self.classes)
        self.semantic_category_ids: Sequence[int | str] = tuple(ids[name] for name in self.semantic_classes)
        self._mask_folder = _mask_folder(self.annotations, self.root)
        segments, problems = read_segments(document["annotations"], self.annotations, document["images"], categories)
        self.problems += problems
        self._keep_images(document["images"], segments)
        self.notes = left_out("objects", self._unlisted(things))
        settle(self.problems, on_error)

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """Boxes, masks and semantic map, from the PNG.

        Raises:
            DataError: it cannot be read, or its segments are not those of the annotation file.
        """
        told = self._segments[index]
        ids = self._ids(index, told)
        rows = [row for row, name in enumerate(told.names) if name in self.classes]
        boxes = np.zeros((len(rows), 4))
        areas = np.zeros(len(rows))
        masks = []
        for place, row in enumerate(rows):
            mask = ids == told.ids[row]
            columns, lines = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
            boxes[place] = columns[0], lines[0], columns[-1] + 1, lines[-1] + 1
            areas[place] = np.count_nonzero(mask)
            masks.append(coco_mask.encode(np.asfortranarray(mask.view(np.uint8))))
        return Labels(
            size=(ids.shape[0], ids.shape[1]),
            boxes=boxes,
            labels=np.array([self.classes.index(told.names[row]) for row in rows], np.int64),
            crowd=np.array([told.crowd[row] for row in rows], np.bool_),
            areas=areas,
            masks=tuple(masks),
            semantic=self._semantic(ids, told),
        )

    def path(self, index: int) -> Path:
        """The image file."""
        return self.root / self.file_names[index]

    def read(self, index: int) -> Sample:
        """Image and labels. Raises DataError when a file cannot be decoded."""
        return Sample(decode(self.path(index)), self.labels(index), self.image_ids[index], self.file_names[index])

    def class_counts(self) -> np.ndarray:
        """(C,) int64: objects per class, crowds too."""
        counts = Counter(name for told in self._segments for name in told.names)
        return np.array([counts[name] for name in self.classes], np.int64)

    # ------------------------------------------------------------------------------------------------ construction
    def _keep_images(self, rows: Sequence[Any], segments: Mapping[ImageId, Segments | None]) -> None:
        images, problems = read_images(rows, self.annotations)
        self.problems += problems
        folders = image_folders(self.root, self.split)
        usable: list[tuple[ImageRow, str, Segments]] = []
        for image in images:
            name = locate(self.root, folders, image.file_name)
            told = segments.get(image.image_id)
            if name is None:
                places = listed([f"{folder}/" if folder else "data.root itself" for folder in folders])
                fault = f"'{image.file_name}' is not there; looked in {places}"
                self._refuse(image, ".file_name", fault, "restore the image, or remove the entry")
            elif told is not None:
                usable.append((image, name, told))
            elif image.image_id not in segments:
                self._refuse(image, "", "no entry of annotations is of this image", "add it, or remove the image")
        sizes = check_images(
            [self.root / name for _, name, _ in usable],
            [image.size for image, _, _ in usable],
            lambda i: (str(self.annotations), f"images[{usable[i][0].place}]"),
        )
        paths = [self._mask_folder / told.file_name for _, _, told in usable]
        mask_sizes = check_images(paths, [None] * len(paths), lambda i: (str(paths[i]), ""))
        self.image_ids: list[ImageId] = []
        self.file_names: list[str] = []
        self._segments: list[Segments] = []
        self._masks: list[Path] = []
        for (image, name, told), path, size, mask_size in zip(usable, paths, sizes, mask_sizes, strict=True):
            if isinstance(size, Problem) or isinstance(mask_size, Problem):
                self.problems += [found for found in (size, mask_size) if isinstance(found, Problem)]
                continue
            if size != mask_size:
                (height, width), (own_height, own_width) = size, mask_size
                fault = f"the segments are of {own_width} x {own_height}, their image {name} is {width} x {height}"
                self.problems.append(Problem(str(path), "", fault, "restore the one that was changed"))
                continue
            self.image_ids.append(image.image_id)
            self.file_names.append(name)
            self._segments.append(told)
            self._masks.append(path)

    def _refuse(self, image: ImageRow, key: str, fault: str, mend: str) -> None:
        self.problems.append(Problem(str(self.annotations), f"images[{image.place}]{key}", fault, mend))

    def _unlisted(self, things: Sequence[str]) -> Counter[str]:
        others = set(things) - set(self.classes)
        return Counter(name for told in self._segments for name in told.names if name in others)

    # ------------------------------------------------------------------------------------------------------ one image
    def _ids(self, index: int, told: Segments) -> np.ndarray:
        """(H, W) int64."""
        path = self._masks[index]
        codes = read_colours(path)  # 65536 R + 256 G + B
        ids: np.ndarray = codes >> 16 | codes & 0xFF00 | (codes & 0xFF) << 16
        there = set(np.unique(ids).tolist()) - {0}
        for lacking, fault in (
            (there - set(told.ids), "pixels of segments that the annotation file does not tell of"),
            (set(told.ids) - there, "no pixel of segments that the annotation file tells of"),
        ):
            if lacking:
                mend = f"correct the image's segments_info in {self.annotations.name}, or write the PNG again"
                raise DataError(f"{path}: {fault}: {listed(sorted(lacking))}; {mend}")
        return ids

    def _semantic(self, ids: np.ndarray, told: Segments) -> np.ndarray:
        values = [self.semantic_classes.index(n) if n in self.semantic_classes else IGNORE_INDEX for n in told.names]
        keys = np.array([0, *told.ids])
        order = np.argsort(keys)
        table = np.array([IGNORE_INDEX, *values], np.uint8)[order]
        found: np.ndarray = table[np.searchsorted(keys[order], ids)]
        return found


def _mask_folder(annotations: Path, root: Path) -> Path:
    for folder in (annotations.with_suffix(""), root / annotations.stem):
        if folder.is_dir():
            return folder
    raise DataError(f"{annotations.with_suffix('')}: no such folder; unpack the PNGs of segments there")
