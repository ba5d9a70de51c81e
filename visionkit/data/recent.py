"""The images that a loading process met last, and readers that make no labels which nobody learns from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from visionkit.data.cache import Source
from visionkit.interfaces import Reader
from visionkit.structures import Sample

RECENT_BYTES = 128 << 20
"""The most that each loading process keeps: about a hundred photographs of 640 x 480."""


def narrowed(reader: Reader, fields: frozenset[str]) -> Reader:
    """Return a reader whose labels know at most `fields` of what this one knows, where it can be told so.

    What is not asked for is not read or made: no masks for a detector, no semantic map.
    """
    make: Callable[[frozenset[str]], Reader] | None = getattr(reader, "narrowed", None)
    return reader if make is None or reader.fields <= fields else make(fields)


class RecentImages:
    """A source that keeps the decoded images it gave last, up to `most_bytes`, in each process for itself.

    Mixes take four images a sample, and in a small set the same ones come again soon.

    Args:
        source: gives the samples.
        reader: gives the labels of an image that is kept.
        most_bytes: of pixels.
    """

    def __init__(self, source: Source, reader: Reader, most_bytes: int = RECENT_BYTES) -> None:
        self._source, self._reader, self._most_bytes = source, reader, most_bytes
        self._kept: OrderedDict[int, tuple[np.ndarray, int]] = OrderedDict()
        self._bytes = 0

    def __reduce__(self) -> tuple[type[RecentImages], tuple[Source, Reader, int]]:
        return RecentImages, (self._source, self._reader, self._most_bytes)

    def read(self, index: int) -> Sample:
        """Return what the source's `read` does; the pixels are read-only."""
        kept = self._kept.get(index)
        if kept is not None:
            self._kept.move_to_end(index)
            image, reduction = kept
            file_name = self._reader.file_names[index]
            return Sample(image, self._reader.labels(index), self._reader.image_ids[index], file_name, reduction)
        sample = self._source.read(index)
        if sample.image.nbytes <= self._most_bytes:
            sample.image.flags.writeable = False
            self._kept[index] = sample.image, sample.reduction
            self._bytes += sample.image.nbytes
            while self._bytes > self._most_bytes:
                _, (image, _) = self._kept.popitem(last=False)
                self._bytes -= image.nbytes
        return sample
