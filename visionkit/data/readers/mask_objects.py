"""Objects with masks, of all images of a split, from instance masks; flat, and so light to hand to loader workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from visionkit.data.flat import offsets_of
from visionkit.data.readers.mask_files import Instances
from visionkit.data.readers.objects import ObjectTable, make_table
from visionkit.structures import Labels


@dataclass(frozen=True, eq=False)
class ImageObjects:
    """The objects of one image's instance mask.

    Attributes:
        found: ids, run lengths, areas.
        boxes: (N, 4) float64 xyxy; those of `found`, or better ones.
        labels: (N,) int64, into the class list.
        crowd, ignore: (N,) bool.
    """

    found: Instances
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    ignore: np.ndarray

    def select(self, rows: np.ndarray) -> ImageObjects:
        """Return the objects `rows`, (M,) int64."""
        found = self.found
        counts = tuple(found.counts[row] for row in rows.tolist())
        kept = Instances(found.ids[rows], counts, found.boxes[rows], found.areas[rows])
        return ImageObjects(kept, self.boxes[rows], self.labels[rows], self.crowd[rows], self.ignore[rows])


def plain_objects(found: Instances) -> ImageObjects:
    """Return the objects of a mask as those of class 0, none of them a crowd or ignored."""
    count = len(found.ids)
    none = np.zeros(count, np.bool_)
    return ImageObjects(found, found.boxes, np.zeros(count, np.int64), none, none.copy())


@dataclass(frozen=True, eq=False)
class MaskTable:
    """The objects of all images, row by row with the bytes of their run lengths.

    Attributes:
        objects: boxes, labels, flags and areas.
        runs: uint8, the compressed counts of all objects, one after the other.
        offsets: (A + 1,) int64; the counts of object a are runs[offsets[a]:offsets[a + 1]].
    """

    objects: ObjectTable
    runs: np.ndarray
    offsets: np.ndarray

    def labels(self, index: int, size: tuple[int, int]) -> Labels:
        """Boxes and masks of image `index`, of `size` (height, width)."""
        table, rows = self.objects, self.objects.rows(index)
        ends = self.offsets[rows.start : rows.stop + 1].tolist()
        counts = [self.runs[start:end].tobytes() for start, end in pairwise(ends)]
        return Labels(
            size=size,
            boxes=table.boxes[rows].copy(),
            labels=table.labels[rows].copy(),
            crowd=table.crowd[rows].copy(),
            ignore=table.ignore[rows].copy(),
            areas=table.areas[rows].copy(),
            masks=tuple({"size": [*size], "counts": one} for one in counts),
        )


def make_mask_table(images: Sequence[ImageObjects]) -> MaskTable:
    """Return the table of all images, in their order."""
    counts = [one for image in images for one in image.found.counts]
    boxes = np.concatenate([np.zeros((0, 4)), *(image.boxes for image in images)])
    owners = np.repeat(np.arange(len(images)), [len(image.labels) for image in images])
    table = make_table(
        len(images),
        owners=owners.tolist(),
        boxes=boxes.tolist(),
        labels=_joined([image.labels for image in images], np.int64).tolist(),
        crowd=_joined([image.crowd for image in images], np.bool_),
        ignore=_joined([image.ignore for image in images], np.bool_).tolist(),
        areas=_joined([image.found.areas for image in images], np.float64),
    )
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    return MaskTable(table, np.frombuffer(b"".join(counts), np.uint8), offsets_of(lengths))


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts])
