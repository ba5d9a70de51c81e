"""Semantic maps in a COCO file: the pixels of each class that an image shows, as one annotation of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.data.readers.coco_index import CocoObjects
from visionkit.data.readers.coco_objects import use_objects
from visionkit.data.readers.objects import ObjectTable
from visionkit.data.readers.segmentation import POLYGONS, SegmentationTable
from visionkit.data.readers.source import choose_classes, left_out
from visionkit.data.validate import Problem
from visionkit.errors import ConfigError
from visionkit.structures import IGNORE_INDEX, ImageId


@dataclass(frozen=True, eq=False)
class SemanticMaps:
    """The maps of a reader's images.

    Attributes:
        classes: of the maps.
        category_ids: the file's own id of each.
        problems: annotations that cannot be used; their pixels are `IGNORE_INDEX`.
        notes: one line each.
    """

    classes: tuple[str, ...]
    category_ids: tuple[ImageId, ...]
    problems: list[Problem]
    notes: list[str]
    _table: ObjectTable
    _segmentations: SegmentationTable

    def map(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """(H, W) uint8 of image `index`; `IGNORE_INDEX` where no class is told, or more than one."""
        result = np.full(size, IGNORE_INDEX, np.uint8)
        told = np.zeros(size, np.bool_)
        rows = self._table.rows(index)
        for label, row in zip(self._table.labels[rows].tolist(), self._table.order[rows].tolist(), strict=True):
            if self._segmentations.kinds[row] >= POLYGONS:
                mask = coco_mask.decode(self._segmentations.rle(row, size)) > 0
                result[mask] = np.where(told[mask], IGNORE_INDEX, label)
                told |= mask
        return result

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        return [self._table, vars(self._segmentations)]


def semantic_maps(
    pixels: CocoObjects,
    categories: Mapping[ImageId, str],
    wanted: Sequence[str] | None,
    file: Path,
    *,
    images: np.ndarray,
    sizes: np.ndarray,
) -> SemanticMaps:
    """Return the maps of `images`, (N,) int64 places among the usable ones, of `sizes` (N, 2).

    Raises:
        DataError: a class of `wanted` is not in the file.
        ConfigError: there are more classes than a semantic map can hold.
    """
    ids = {name: number for number, name in categories.items()}
    classes = choose_classes(tuple(ids), wanted, file)
    if len(classes) > IGNORE_INDEX:
        fault = f"{len(classes)} classes; a semantic map holds at most {IGNORE_INDEX}"
        raise ConfigError(f"{file}: {fault}: name those to be used with data.classes=[…]", code="class-unknown")
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.array([label_of.get(name, -1) for name in ids], np.int64)
    used = use_objects(pixels, file, images=images, sizes=sizes, names=list(ids), labels=labels)
    bare = used.table.order[pixels.segmentations.kinds[used.table.order] < POLYGONS]
    places = [f"{pixels.key}[{place}].segmentation" for place in sorted(bare.tolist())]
    mend = "add it, or remove the annotation"
    problems = [Problem(str(file), place, "there is no mask", mend, "segmentation-format") for place in places]
    notes = left_out("semantic annotations", used.unlisted)
    return SemanticMaps(
        classes, tuple(ids[name] for name in classes), used.problems + problems, notes, used.table, pixels.segmentations
    )
