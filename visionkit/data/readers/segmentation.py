"""COCO's three kinds of segmentation (polygons, plain and compressed run lengths): judged, and made one."""

from __future__ import annotations

import math
from typing import Any

from pycocotools import mask as coco_mask

from visionkit.structures import RLE


def segmentation_fault(segmentation: Any, size: tuple[int, int]) -> str | None:
    """Return what is wrong with a segmentation of an image of `size` (height, width), or None.

    pycocotools itself checks little: it takes a polygon of two points for a box, and runs or coordinates beyond the
    image can end the process.
    """
    if isinstance(segmentation, list):
        for number, polygon in enumerate(segmentation):
            fault = _polygon_fault(polygon, size)
            if fault:
                return f"polygon {number} {fault}"
        return None
    if isinstance(segmentation, dict):
        return _runs_fault(segmentation, size)
    return "neither a list of polygons nor run lengths"


def to_rle(segmentation: Any, size: tuple[int, int]) -> RLE:
    """Return a segmentation without faults as a compressed run-length encoding of `size` (height, width)."""
    height, width = size
    if isinstance(segmentation, list):
        merged: RLE = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        return merged
    counts = segmentation["counts"]
    if isinstance(counts, list):
        compressed: RLE = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        return compressed
    return {"size": [height, width], "counts": counts.encode("ascii")}


def _polygon_fault(polygon: Any, size: tuple[int, int]) -> str | None:
    if not isinstance(polygon, list):
        return "is not a list of numbers"
    if len(polygon) % 2 or len(polygon) < 6:
        return f"has {len(polygon)} numbers; x and y of at least three points are wanted"
    try:
        finite = math.isfinite(sum(polygon))  # one nan or infinity shows in the sum
    except (TypeError, OverflowError):
        finite = False
    if not finite:
        return "holds something that is not a finite number"
    height, width = size
    across, down = polygon[::2], polygon[1::2]
    if min(across) < -width or max(across) > 2 * width or min(down) < -height or max(down) > 2 * height:
        return f"reaches far out of the image of {width} x {height}"
    return None


def _runs_fault(segmentation: dict[str, Any], size: tuple[int, int]) -> str | None:
    if segmentation.get("size") != [*size]:
        return f"the run lengths are of size {segmentation.get('size')} but the image is {[*size]} (height, width)"
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = _unpacked(counts)
    if not isinstance(counts, list) or not all(type(run) is int and run >= 0 for run in counts):
        return "the run lengths cannot be read"
    if sum(counts) != size[0] * size[1]:
        return f"the run lengths sum to {sum(counts)}, but the image has {size[0] * size[1]} pixels"
    return None


def _unpacked(counts: str) -> list[int] | None:
    """The runs of COCO's compressed string, None if it is not one.

    Each run is written in groups of five bits, lowest first, as characters from "0" on; a group's sixth bit says that
    another one follows, the last group's fifth bit is the sign. From the fourth on, runs are differences to the run two
    before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        group = ord(character) - 48
        if not 0 <= group < 64:
            return None
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs if shift == 0 else None
