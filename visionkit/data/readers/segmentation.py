"""COCO's three kinds of segmentation (polygons, plain and compressed run lengths): judged, kept flat, and made one."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.data.flat import offsets_of
from visionkit.structures import RLE

NONE, EMPTY, POLYGONS, RUNS = range(4)
"""Kinds: none given; an empty list or object; polygons; run lengths."""

Faulty = tuple[str, str]
"""The code of the rule, and what is wrong."""


class FlatSegmentations:
    """The segmentations of many objects, gathered into flat buffers; one that has a fault is stored as none."""

    def __init__(self) -> None:
        self.kinds = array("B")
        self.ring_counts, self.ring_lengths = array("i"), array("i")
        self.coordinates = array("d")
        self.runs = bytearray()
        self.run_lengths, self.run_sizes = array("i"), array("i")

    def extend(self, segmentations: Sequence[Any]) -> dict[int, Faulty]:
        """Add one a row as the file has them, and return the faults by row; the image's size is judged later."""
        faults: dict[int, Faulty] = {}
        polygons = [one if type(one) is list else [] for one in segmentations]
        flat = _flattened(polygons)
        if flat is None:
            for row, one in enumerate(polygons):
                fault = polygons_fault(one)
                if fault is not None:
                    faults[row], polygons[row] = fault, []
            flat = _flattened(polygons)
        assert flat is not None
        lengths, numbers = flat
        counts = array("i", map(len, polygons))
        self.ring_counts.extend(counts)
        self.ring_lengths.extend(lengths)
        self.coordinates.extend(numbers)
        kinds = bytearray(POLYGONS if count else NONE for count in counts)
        for row, one in enumerate(segmentations):
            if type(one) is not list and one is not None:
                packed, size = self._runs(one, row, faults)
                kinds[row] = RUNS if packed else NONE
                self.runs += packed
                self.run_lengths.append(len(packed))
                self.run_sizes.extend(size)
            else:
                self.run_lengths.append(0)
                self.run_sizes.extend((0, 0))
            if not kinds[row] and row not in faults and one is not None:
                kinds[row] = EMPTY
        self.kinds.frombytes(bytes(kinds))
        return faults

    def _runs(self, segmentation: Any, row: int, faults: dict[int, Faulty]) -> tuple[bytes, tuple[int, int]]:
        if segmentation == {}:
            return b"", (0, 0)
        found = packed_runs(segmentation)
        if isinstance(found[1], str):
            faults[row] = (str(found[0]), found[1])
            return b"", (0, 0)
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays, as `SegmentationTable` takes them."""
        rings = offsets_of(_array(self.ring_counts))
        ends = offsets_of(_array(self.ring_lengths))
        coordinates = _array(self.coordinates)
        return {
            "kinds": _array(self.kinds),
            "rings": rings,
            "ends": ends,
            "coordinates": coordinates,
            "bounds": _bounds(coordinates, rings, ends),
            "runs": np.frombuffer(bytes(self.runs), np.uint8),
            "run_ends": offsets_of(_array(self.run_lengths)),
            "run_sizes": _array(self.run_sizes).reshape(-1, 2),
        }


class SegmentationTable:
    """A segmentations in flat arrays, made compressed run lengths when asked for.

    Args:
        kinds: (A,) uint8.
        rings: (A + 1,) int64; object i has the polygons rings[i] to rings[i + 1].
        ends: (R + 1,) int64; polygon r has the numbers ends[r] to ends[r + 1] of `coordinates`, x and y in turn.
        coordinates: (N,) float64 pixels.
        bounds: (A, 4) float64, the extent x1, y1, x2, y2 of all polygons of an object; nan without any.
        runs: compressed run lengths, (bytes,) uint8; run_ends: (A + 1,) int64 offsets into them.
        run_sizes: (A, 2) int32 (height, width) that the run lengths are of.
    """

    def __init__(
        self,
        *,
        kinds: np.ndarray,
        rings: np.ndarray,
        ends: np.ndarray,
        coordinates: np.ndarray,
        bounds: np.ndarray,
        runs: np.ndarray,
        run_ends: np.ndarray,
        run_sizes: np.ndarray,
    ) -> None:
        self.kinds, self.rings, self.ends, self.coordinates = kinds, rings, ends, coordinates
        self.bounds, self.runs, self.run_ends, self.run_sizes = bounds, runs, run_ends, run_sizes

    def polygons(self, row: int) -> list[list[float]]:
        """Return the polygons of an object, each as x and y in turn."""
        first, last = self.rings[row : row + 2]
        ends = self.ends[first : last + 1]
        return [self.coordinates[a:b].tolist() for a, b in pairwise(ends)]

    def rle(self, row: int, size: tuple[int, int]) -> RLE:
        """Return the mask of an object with one, in an image of `size` (height, width)."""
        if self.kinds[row] == POLYGONS:
            return to_rle(self.polygons(row), size)
        first, last = self.run_ends[row : row + 2]
        return {"size": [*size], "counts": self.runs[first:last].tobytes()}

    def faults(self, rows: np.ndarray, sizes: np.ndarray) -> dict[int, Faulty]:
        """Return what does not fit its image, by position in `rows`, (M,) int64.

        sizes: (M, 2) int64 (height, width) of each object's image.
        """
        kinds = self.kinds[rows]
        found: dict[int, Faulty] = {}
        with np.errstate(invalid="ignore"):
            bounds, limits = self.bounds[rows], sizes[:, ::-1]
            far = ((bounds[:, :2] < -limits) | (bounds[:, 2:] > 2 * limits)).any(axis=1)
        for i in np.flatnonzero((kinds == POLYGONS) & far).tolist():
            size = (int(sizes[i, 0]), int(sizes[i, 1]))
            number = next(n for n, one in enumerate(self.polygons(int(rows[i]))) if _is_far(one, size))
            found[i] = ("polygon-outside", f"polygon {number} reaches far out of the image of {size[1]} x {size[0]}")
        wrong = (self.run_sizes[rows] != sizes).any(axis=1)
        for i in np.flatnonzero((kinds == RUNS) & wrong).tolist():
            own, real = self.run_sizes[rows[i]].tolist(), sizes[i].tolist()
            found[i] = ("rle-size", f"the run lengths are of size {own} but the image is {real} (height, width)")
        return found


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


def segmentation_fault(segmentation: Any, size: tuple[int, int]) -> str | None:
    """Return what is wrong with a segmentation of an image of `size` (height, width), or None.

    pycocotools itself checks little: it takes a polygon of two points for a box, and runs or coordinates beyond the
    image can end the process.
    """
    flat = FlatSegmentations()
    faults = flat.extend([segmentation])
    if not faults:
        table = SegmentationTable(**flat.arrays())
        faults = table.faults(np.zeros(1, np.int64), np.array([size], np.int64))
    return faults[0][1] if faults else None


def polygons_fault(polygons: Sequence[Any]) -> Faulty | None:
    """Return what is wrong with a list of polygons in itself, or None."""
    for number, polygon in enumerate(polygons):
        if not isinstance(polygon, list):
            return "segmentation-format", f"polygon {number} is not a list of numbers"
        if len(polygon) % 2 or len(polygon) < 6:
            rule = "polygon-empty" if not polygon else "polygon-odd" if len(polygon) % 2 else "polygon-short"
            wanted = "x and y of at least three points are wanted"
            return rule, f"polygon {number} has {len(polygon)} numbers; {wanted}"
        try:
            finite = all(map(math.isfinite, polygon))
        except (TypeError, OverflowError):
            finite = False
        if not finite:
            return "polygon-not-finite", f"polygon {number} holds something that is not a finite number"
    return None


def packed_runs(segmentation: Any) -> tuple[bytes, tuple[int, int]] | Faulty:
    """Return COCO's compressed run lengths and their (height, width), or the fault of what cannot be read as such."""
    if not isinstance(segmentation, dict):
        return "segmentation-format", "neither a list of polygons nor run lengths"
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(type(side) is int and 0 < side < 1 << 31 for side in size)
    ):
        return "rle-size", f"the run lengths are of size {size}, but [height, width] of the image is wanted"
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        return "rle-invalid", "the run lengths cannot be read"
    if sum(runs) != size[0] * size[1]:
        said = f"the run lengths sum to {sum(runs)}, but the image has {size[0] * size[1]} pixels"
        return "rle-invalid", said
    if isinstance(counts, str):
        return counts.encode("ascii"), (size[0], size[1])
    return coco_mask.frPyObjects({"size": size, "counts": runs}, *size)["counts"], (size[0], size[1])


def _flattened(polygons: Sequence[list[Any]]) -> tuple[array[int], array[float]] | None:
    """The length of each polygon and the numbers of all, None where one of them has a fault."""
    rings = list(chain.from_iterable(polygons))
    if not set(map(type, rings)) <= {list}:
        return None
    lengths = array("i", map(len, rings))
    if any(length < 6 or length % 2 for length in set(lengths)):
        return None
    try:
        numbers = array("d", list(chain.from_iterable(rings)))
    except (TypeError, OverflowError):
        return None
    return (lengths, numbers) if np.isfinite(_array(numbers)).all() else None


def _bounds(coordinates: np.ndarray, rings: np.ndarray, ends: np.ndarray) -> np.ndarray:
    bounds = np.full((len(rings) - 1, 4), np.nan)
    rows = np.flatnonzero(np.diff(rings))
    if len(rows):
        points = coordinates.reshape(-1, 2)
        starts = ends[rings[rows]] // 2
        bounds[rows, :2] = np.minimum.reduceat(points, starts)
        bounds[rows, 2:] = np.maximum.reduceat(points, starts)
    return bounds


def _is_far(polygon: Sequence[float], size: tuple[int, int]) -> bool:
    height, width = size
    across, down = polygon[::2], polygon[1::2]
    return min(across) < -width or max(across) > 2 * width or min(down) < -height or max(down) > 2 * height


def _array(values: array[Any]) -> np.ndarray:
    return np.frombuffer(values, values.typecode) if len(values) else np.zeros(0, values.typecode)


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
