"""COCO's panoptic annotations: a PNG of segment ids for each image, and JSON that says what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.data.decode import decode
from visionkit.data.fingerprint import LabelFiles
from visionkit.data.flat import Strings
from visionkit.data.readers.coco_files import find_annotations, find_images
from visionkit.data.readers.coco_ids import harmless_ids
from visionkit.data.readers.coco_json import ImageRows, Images, check_members, read_categories
from visionkit.data.readers.coco_stream import stream
from visionkit.data.readers.mask_files import read_colours
from visionkit.data.readers.panoptic_json import SegmentRows, Segments, read_things
from visionkit.data.readers.source import choose_classes, left_out, open_root
from visionkit.data.validate import Problem, check_images, check_on_error, refusal, settle
from visionkit.errors import ConfigError, DataError, listed
from visionkit.structures import IGNORE_INDEX, Decoding, ImageId, Labels, Sample


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
        channels, bit_depth: of the decoded images, see `visionkit.data.decode.Decoding`.

    Attributes:
        semantic_category_ids: the file's own id of each of `semantic_classes`.
        problems: what was left out, and why.
        harmless: as `Coco` has them.
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
        channels: int = 3,
        bit_depth: int | str = 8,
    ) -> None:
        check_on_error(on_error)
        self.decoding = Decoding(channels, bit_depth)
        self.root, self.split = open_root(root), split
        self.annotations = find_annotations(self.root, split, annotations, "panoptic")
        self.problems: list[Problem] = []
        images, entries = ImageRows(self.annotations), SegmentRows(self.annotations)
        document, _ = stream(self.annotations, {"images": images.take, "annotations": entries.take})
        check_members(document, self.annotations)
        if "annotations" not in document:
            mend = "a panoptic file has one entry for each image"
            raise refusal(Problem(str(self.annotations), "", "no list 'annotations'", mend, rule="file-format"))
        categories = read_categories(document["categories"], self.annotations)
        things = read_things(document["categories"], self.annotations)
        ids = {name: number for number, name in categories.items()}
        stuff = [name for name in ids if name not in things]
        self.classes = choose_classes(things, classes, self.annotations)
        self.semantic_classes = choose_classes((*stuff, *things), semantic_classes, self.annotations)
        if len(self.semantic_classes) > IGNORE_INDEX:
            count = len(self.semantic_classes)
            raise ConfigError(
                f"semantic_classes: {count} classes; a semantic map holds at most {IGNORE_INDEX}", code="value-unfit"
            )
        self.category_ids: Sequence[int | str] = tuple(ids[name] for name in self.classes)
        self.semantic_category_ids: Sequence[int | str] = tuple(ids[name] for name in self.semantic_classes)
        self._mask_folder = _mask_folder(self.annotations, self.root)
        self._names = tuple(categories.values())
        usable = images.finish()
        self._segments, found, problems = entries.finish(usable, list(categories))
        self.problems += [*usable.problems, *problems]
        self._keep_images(usable, found)
        self.harmless = harmless_ids(self.annotations, usable, self._rows, {"categories": [*categories]})
        self.notes = left_out("objects", self._unlisted(things))
        settle(self.problems, on_error)

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """Boxes, masks and semantic map, from the PNG.

        Raises:
            DataError: it cannot be read, or its segments are not those of the annotation file.
        """
        told = self._segments.segments(int(self._entries[index]))
        ids = self._ids(index, told)
        names = [self._names[number] for number in told.categories]
        rows = [row for row, name in enumerate(names) if name in self.classes]
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
            labels=np.array([self.classes.index(names[row]) for row in rows], np.int64),
            crowd=np.array([told.crowd[row] for row in rows], np.bool_),
            areas=areas,
            masks=tuple(masks),
            semantic=self._semantic(ids, told.ids, names),
        )

    def path(self, index: int) -> Path:
        """The image file."""
        return self.root / self.file_names[index]

    def image_file(self, index: int) -> tuple[Path, Decoding]:
        """The image file, and how it is decoded."""
        height, width = self._sizes[index].tolist()
        return self.path(index), replace(self.decoding, recorded=(height, width))

    def read(self, index: int) -> Sample:
        """Image and labels. Raises DataError when a file cannot be decoded."""
        pixels = decode(*self.image_file(index))
        return Sample(pixels, self.labels(index), self.image_ids[index], self.file_names[index])

    def class_counts(self) -> np.ndarray:
        """(C,) int64: objects per class, crowds too."""
        counts = self._counts()
        return np.array([counts[name] for name in self.classes], np.int64)

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        names = [self._segments.file_names[entry] for entry in self._entries.tolist()]
        return [self._sizes, self._entries, self._segments, LabelFiles(self._mask_folder, names)]

    # ------------------------------------------------------------------------------------------------ construction
    def _keep_images(self, images: Images, entry_of: Mapping[ImageId, int | None]) -> None:
        """Keep the images that are there and have an entry with a PNG of their size."""
        found = find_images(self.root, self.split, images, self.annotations)
        self.problems += found.problems
        ids = images.ids.take(found.rows)
        usable: list[tuple[int, int]] = []  # a row of `found`, and its entry
        for row, image_id in enumerate(ids):
            entry = entry_of.get(image_id)
            if entry is not None:
                usable.append((row, entry))
            elif image_id not in entry_of:
                where, fault = f"images[{images.places[found.rows[row]]}]", "no entry of annotations is of this image"
                mend = "add it, or remove the image"
                self.problems.append(Problem(str(self.annotations), where, fault, mend, rule="mask-missing"))
        paths = [self._path_of(entry) for _, entry in usable]
        mask_sizes = check_images(paths, [None] * len(paths), lambda i: (str(paths[i]), ""))
        kept: list[tuple[int, int]] = []
        for (row, entry), path, mask_size in zip(usable, paths, mask_sizes, strict=True):
            if isinstance(mask_size, Problem):
                rule = mask_size.rule.replace("image-", "mask-")
                self.problems.append(replace(mask_size, rule=rule))
            elif tuple(found.sizes[row]) != tuple(mask_size):
                (height, width), (own_height, own_width) = found.sizes[row].tolist(), mask_size
                name = found.names[row]
                fault = f"the segments are of {own_width} x {own_height}, their image {name} is {width} x {height}"
                self.problems.append(
                    Problem(str(path), "", fault, "restore the one that was changed", rule="mask-size")
                )
            else:
                kept.append((row, entry))
        rows, self._entries = np.array(kept, np.int64).reshape(-1, 2).T
        self._sizes = found.sizes[rows]
        self.image_ids: Sequence[ImageId] = ids.take(rows)
        self._rows = found.rows[rows]
        self.file_names: Sequence[str] = Strings.of(found.names[row] for row in rows.tolist())

    def _counts(self) -> Counter[str]:
        table = self._segments
        used = [table.categories[table.offsets[e] : table.offsets[e + 1]] for e in self._entries.tolist()]
        counts = np.bincount(np.concatenate([*used, np.zeros(0, np.int64)]), minlength=len(self._names))
        return Counter({name: count for name, count in zip(self._names, counts.tolist(), strict=True) if count})

    def _unlisted(self, things: Sequence[str]) -> Counter[str]:
        others = set(things) - set(self.classes)
        return Counter({name: count for name, count in self._counts().items() if name in others})

    def _path_of(self, entry: int) -> Path:
        return self._mask_folder / self._segments.file_names[entry]

    # ------------------------------------------------------------------------------------------------------ one image
    def _ids(self, index: int, told: Segments) -> np.ndarray:
        """(H, W) int64."""
        path = self._path_of(int(self._entries[index]))
        codes = read_colours(path)  # 65536 R + 256 G + B
        ids: np.ndarray = codes >> 16 | codes & 0xFF00 | (codes & 0xFF) << 16
        there = set(np.unique(ids).tolist()) - {0}
        for lacking, fault in (
            (there - set(told.ids), "pixels of segments that the annotation file does not tell of"),
            (set(told.ids) - there, "no pixel of segments that the annotation file tells of"),
        ):
            if lacking:
                mend = f"correct the image's segments_info in {self.annotations.name}, or write the PNG again"
                said = f"{fault}: {listed(sorted(lacking))}"
                raise refusal(Problem(str(path), "", said, mend, rule="mask-segments"))
        return ids

    def _semantic(self, ids: np.ndarray, own: Sequence[int], names: Sequence[str]) -> np.ndarray:
        values = [self.semantic_classes.index(n) if n in self.semantic_classes else IGNORE_INDEX for n in names]
        keys = np.array([0, *own])
        order = np.argsort(keys)
        table = np.array([IGNORE_INDEX, *values], np.uint8)[order]
        found: np.ndarray = table[np.searchsorted(keys[order], ids)]
        return found


def _mask_folder(annotations: Path, root: Path) -> Path:
    for folder in (annotations.with_suffix(""), root / annotations.stem):
        if folder.is_dir():
            return folder
    raise DataError(
        f"{annotations.with_suffix('')}: no such folder; unpack the PNGs of segments there", code="mask-missing"
    )
