"""The images that were decoded last, and readers that make no labels which nobody learns from."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from visionkit.data.shared_memory import DTYPES, set_aside, table
from visionkit.interfaces import Reader
from visionkit.structures import Sample

if TYPE_CHECKING:
    from visionkit.data.cache import Source

_BYTES_A_CORE, _MOST_CORES = 128 << 20, 16


def narrowed(reader: Reader, fields: frozenset[str]) -> Reader:
    """Return a reader whose labels know at most `fields` of what this one knows, where it can be told so.

    What is not asked for is not read or made: no masks for a detector, no semantic map.
    """
    make: Callable[[frozenset[str]], Reader] | None = getattr(reader, "narrowed", None)
    return reader if make is None or reader.fields <= fields else make(fields)


def recent_bytes() -> int:
    """The most that is kept of recent images: 128 MiB a core, at most 2 GiB; a core makes a batch at a time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _BYTES_A_CORE * min(cores, _MOST_CORES)


class RecentImages:
    """A source that keeps the decoded images it gave last, for all processes that are forked from this one.

    Mixes take several images a sample, near each other in the order (`Neighbours`): whichever worker decodes one, the
    others find it here. The memory is a ring: what is written overwrites what was written longest ago. So a place in it
    is numbered on and on, and an image is there as long as less than the ring's length was written after it.

    Args:
        source: gives the samples.
        reader: gives the labels of an image that is kept.
        most_bytes: of pixels.
    """

    def __init__(self, source: Source, reader: Reader, most_bytes: int) -> None:
        self._source, self._reader, self._most_bytes = source, reader, most_bytes
        self._ring = set_aside(max(1, most_bytes))
        # Per image: its place, 0 for none, height, width, channels, number of the dtype, reduction. The last row: the
        # place up to which is written, from one length of the ring on.
        self._table = table(len(reader) + 1, 6)
        self._table[-1, 0] = len(self._ring)
        self._lock = multiprocessing.Lock()

    def __reduce__(self) -> tuple[type[RecentImages], tuple[Source, Reader, int]]:
        return RecentImages, (self._source, self._reader, self._most_bytes)

    def read(self, index: int) -> Sample:
        """Return what the source's `read` does; the pixels are the caller's own."""
        found = self._kept(index)
        if found is None:
            sample = self._source.read(index)
            self._keep(index, sample)
            return sample
        file_name = self._reader.file_names[index]
        return Sample(found[0], self._reader.labels(index), self._reader.image_ids[index], file_name, found[1])

    def _kept(self, index: int) -> tuple[np.ndarray, int] | None:
        with self._lock:
            if not self._is_there(index):
                return None
            place, height, width, channels, kind, reduction = self._table[index].tolist()
        first, dtype = place % len(self._ring), DTYPES[kind]
        copy = self._ring[first : first + height * width * channels * dtype.itemsize].copy()
        with self._lock:
            if not self._is_there(index):  # another process has written over it meanwhile
                return None
        return copy.view(dtype).reshape(height, width, channels), reduction

    def _is_there(self, index: int) -> bool:
        place = int(self._table[index, 0])
        return 0 < place >= int(self._table[-1, 0]) - len(self._ring)

    def _keep(self, index: int, sample: Sample) -> None:
        length = sample.image.nbytes
        if sample.image.dtype not in DTYPES or length > len(self._ring):
            return
        pixels = np.ascontiguousarray(sample.image).reshape(-1).view(np.uint8)
        with self._lock:  # copying, too: one that is kept waiting must not write over what others wrote
            if self._is_there(index):
                return  # another process was quicker
            place = int(self._table[-1, 0])
            first = place % len(self._ring)
            if first + length > len(self._ring):  # no image is cut in two
                place, first = place + len(self._ring) - first, 0
            self._table[-1, 0] = place + -(-length // 8) * 8
            self._ring[first : first + length] = pixels
            self._table[index] = (place, *sample.image.shape, DTYPES.index(sample.image.dtype), sample.reduction)
