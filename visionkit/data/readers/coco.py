"""COCO's JSON annotations: boxes, polygons, both kinds of run lengths, crowds, stuff (Lin et al., ECCV 2014)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.data.decode import decode
from visionkit.data.readers.coco_files import divided_images, find_annotations, find_images
from visionkit.data.readers.coco_ids import harmless_ids
from visionkit.data.readers.coco_index import CocoObjects, open_index
from visionkit.data.readers.coco_objects import use_objects
from visionkit.data.readers.coco_semantic import SemanticMaps, semantic_maps
from visionkit.data.readers.objects import ObjectTable
from visionkit.data.readers.segmentation import POLYGONS, SegmentationTable
from visionkit.data.readers.source import choose_classes, clipped_boxes, left_out, open_root
from visionkit.data.readers.splits import Division, Lists, Positions
from visionkit.data.validate import Problem, check_on_error, settle
from visionkit.structures import RLE, Decoding, ImageId, Labels, Sample


class Coco:
    """One split of a folder with COCO annotations.

    The annotations are annotations/instances_<split>*.json, or instances_<split>.json or <split>.json in the folder.
    Each image is looked for by its `file_name` under images/, <split>*/, images/<split>*/ and the folder itself, in
    this order. Ids of images and categories are the file's own. Boxes are clipped as `fit_box` says. `ignore: 1` makes
    an object ignored, whatever its `iscrowd` says. A file without a list `annotations` is read as unlabelled images.

    The masks of an image are known if each of its objects has one, and if any object of the file has one.

    Where all categories are stuff (isthing: 0), annotations are no objects but the pixels of a class in an image, and
    the field `semantic` is known alone. A file of objects may tell semantic maps beside them in the same way, in lists
    `semantic_categories` and `semantic_annotations`, as `visionkit.data.export_coco` writes them. Pixels that no
    annotation covers, or those of two classes, are `IGNORE_INDEX`.

    Args:
        root: the folder.
        split: the name of the split.
        classes: the wanted classes in their order; objects of others are left out, pixels of others ignored. None means
            the file's categories, in its order. Of a file with both they are those of the objects.
        annotations: the annotation file, absolute or seen from the folder or from the working directory, where it
            stands elsewhere.
        lists, positions: see `visionkit.data.readers.splits.Lists` and `Positions`.
        fractions: the share of each split; images fall by name and seed. Where one of the three is given, it divides
            the images of `annotations`, or of the one annotation file that there is.
        seed: draws another division by fractions.
        on_error: "stop" raises for all faults at once; "skip" leaves out the faulty object (or the image that cannot
            be used) and keeps the faults in `problems`.
        channels, bit_depth: of the decoded images, see `visionkit.data.decode.Decoding`.

    Attributes:
        semantic_category_ids: the file's own id of each of `semantic_classes`.
        problems: what was left out, and why.
        harmless: faults of the file of which the full check alone tells, since nothing here suffers from them.
        notes: what was done that somebody may not expect, one line each.

    Raises:
        DataError: the folder, split or a class is not there, the file is not a COCO file, or there are faults and
            `on_error` is "stop".
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        annotations: str | Path | None = None,
        lists: Lists | None = None,
        positions: Positions | None = None,
        fractions: Mapping[str, float] | None = None,
        on_error: str = "stop",
        seed: int = 0,
        channels: int = 3,
        bit_depth: int | str = 8,
    ) -> None:
        check_on_error(on_error)
        division = Division(split, lists, positions, fractions, seed)
        self.decoding = Decoding(channels, bit_depth)
        self.root, self.split = open_root(root), split
        self.annotations = find_annotations(self.root, None if division.is_given else split, annotations, "instances")
        index = open_index(self.annotations)
        ids = {name: number for number, name in index.categories.items()}
        is_stuff = not ids and bool(index.semantic_categories)
        self.classes = choose_classes(tuple(ids), None if is_stuff else classes, self.annotations)
        self.category_ids: Sequence[int | str] = tuple(ids[name] for name in self.classes)
        found = find_images(self.root, split, index.images, self.annotations)
        found, notes = divided_images(found, division, self.root) if division.is_given else (found, [])
        self.problems: list[Problem] = [*index.images.problems, *found.problems]
        self.notes: list[str] = notes
        self.image_ids: Sequence[ImageId] = index.images.ids.take(found.rows)
        self.file_names: Sequence[str] = found.names
        self._sizes = found.sizes
        self._objects: ObjectTable | None = None
        self._segmentations: SegmentationTable | None = None
        if index.objects is not None:
            self._keep_objects(index.objects, list(ids), found.rows)
        self.semantic_classes: Sequence[str] = ()
        self.semantic_category_ids: Sequence[int | str] = ()
        self._semantic: SemanticMaps | None = None
        if index.semantic is not None:
            self._keep_semantic(index.semantic, index.semantic_categories, classes if is_stuff else None, found.rows)
        parts = {"boxes": self._objects, "masks": self._segmentations, "semantic": self._semantic}
        self.fields = frozenset(name for name, part in parts.items() if part is not None)
        of_maps = [*index.semantic_categories]
        categories = {"categories": [*ids.values()] or of_maps, "semantic_categories": of_maps}
        # What `fix` wrote has the ids of predictions.json, be they 0, as YOLO's first class.
        self.harmless = [] if index.is_export else harmless_ids(self.annotations, index.images, found.rows, categories)
        settle(self.problems, on_error)

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """All that the file tells. `areas` are the file's own, else the mask's, else the box's."""
        height, width = self._sizes[index].tolist()
        semantic = None if self._semantic is None else self._semantic.map(index, (height, width))
        if self._objects is None:
            return Labels(size=(height, width), semantic=semantic)
        table, rows = self._objects, self._objects.rows(index)
        boxes, areas = table.boxes[rows].copy(), table.areas[rows].copy()
        masks = self._masks(index, (height, width))
        missing = np.isnan(areas)
        if missing.any():
            of_boxes = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            own = of_boxes if masks is None else np.asarray(coco_mask.area(list(masks)), np.float64)
            areas[missing] = own[missing]
        return Labels(
            size=(height, width),
            boxes=boxes,
            labels=table.labels[rows].copy(),
            crowd=table.crowd[rows].copy(),
            ignore=table.ignore[rows].copy(),
            areas=areas,
            masks=masks,
            semantic=semantic,
        )

    def narrowed(self, fields: frozenset[str]) -> Coco:
        """Return the same images with labels of `fields` alone; boxes are always known."""
        reader = copy(self)
        if "masks" not in fields:
            reader._segmentations = None
        if "semantic" not in fields:
            reader._semantic = None
        reader.fields = self.fields & (fields | {"boxes"})
        return reader

    def path(self, index: int) -> Path:
        """The image file."""
        return self.root / self.file_names[index]

    def image_file(self, index: int) -> tuple[Path, Decoding]:
        """The image file, and how it is decoded."""
        height, width = self._sizes[index].tolist()
        return self.path(index), replace(self.decoding, recorded=(height, width))

    def read(self, index: int) -> Sample:
        """Image and labels. Raises DataError when the file cannot be decoded."""
        pixels = decode(*self.image_file(index))
        return Sample(pixels, self.labels(index), self.image_ids[index], self.file_names[index])

    def polygons(self, index: int) -> list[tuple[Path, str, list[float]]]:
        """Every polygon of image `index`: its file, its place there, and x and y in turn, in pixels."""
        if self._segmentations is None or self._objects is None:
            return []
        table, rows = self._segmentations, self._objects.order[self._objects.rows(index)]
        return [
            (self.annotations, f"annotations[{row}].segmentation[{number}]", one)
            for row in rows[table.kinds[rows] == POLYGONS].tolist()
            for number, one in enumerate(table.polygons(row))
        ]

    def class_counts(self) -> np.ndarray:
        """(C,) int64: objects per class, crowds too."""
        if self._objects is None:
            return np.zeros(len(self.classes), np.int64)
        return self._objects.class_counts(len(self.classes))

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        masks = None if self._segmentations is None else vars(self._segmentations)
        return [self._sizes, self._objects, masks, None if self._semantic is None else self._semantic.label_parts()]

    # ------------------------------------------------------------------------------------------------ construction
    def _keep_objects(self, objects: CocoObjects, names: Sequence[str], images: np.ndarray) -> None:
        label_of = {name: label for label, name in enumerate(self.classes)}
        labels = np.array([label_of.get(name, -1) for name in names], np.int64)
        used = use_objects(objects, self.annotations, images=images, sizes=self._sizes, names=names, labels=labels)
        self.problems += used.problems
        self.notes += left_out("objects", used.unlisted) + clipped_boxes(used.clipped)
        self._objects = used.table
        if used.unmasked < len(used.table.labels):
            self._segmentations = objects.segmentations
            if used.unmasked:
                said = f"objects without a segmentation: {used.unmasked}; the masks of their images are unknown"
                self.notes.append(said)

    def _keep_semantic(
        self,
        pixels: CocoObjects,
        categories: Mapping[ImageId, str],
        classes: Sequence[str] | None,
        images: np.ndarray,
    ) -> None:
        maps = semantic_maps(pixels, categories, classes, self.annotations, images=images, sizes=self._sizes)
        self.semantic_classes, self.semantic_category_ids = maps.classes, maps.category_ids
        self.problems += maps.problems
        self.notes += maps.notes
        self._semantic = maps

    def _masks(self, index: int, size: tuple[int, int]) -> tuple[RLE, ...] | None:
        if self._segmentations is None or self._objects is None:
            return None
        rows = self._objects.order[self._objects.rows(index)]
        if (self._segmentations.kinds[rows] < POLYGONS).any():
            return None
        return tuple(self._segmentations.rle(row, size) for row in rows.tolist())
