"""Where training gets its images from: the reader's files, at full or at a part of their size, kept or read anew.

Each source has `read(index)`, as a reader has. What is kept is what was decoded: a sample is the same, whether it comes
from a cache or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import multiprocessing
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import PIL

from visionkit.cache_place import cache_folder
from visionkit.data.cache_room import note_use, prune
from visionkit.data.decode import decode
from visionkit.data.recent import RecentImages
from visionkit.data.shared_memory import DTYPES, set_aside, table
from visionkit.errors import ConfigError, did_you_mean
from visionkit.interfaces import Reader
from visionkit.structures import Decoding, Sample

LOGGER = logging.getLogger("visionkit")
CACHES = ("none", "ram", "disk")
DEFAULT_BYTES = {"none": 0, "ram": 4 << 30, "disk": 64 << 30}
"""The most that each kind of cache takes where nothing else is said."""

Size = tuple[int, int]
_EMPTY, _CLAIMED, _FILLED = 0, 1, 2
_HEAD = struct.Struct("<8sIBBHIII")
_MAGIC = b"vkpixel1"
_ABANDONED = 3600.0
"""Seconds after which the unfinished file of a killed writer is removed."""
_FULL, _ROOMY = 0.9, 0.5
"""Above this share of its bytes a disk cache makes room as a run starts, down to this share."""


class Source(Protocol):
    """Whatever gives samples by their index in a reader."""

    def read(self, index: int) -> Sample:
        """Image and labels; the labels in the file's own pixels."""
        ...


def image_file(reader: Reader, index: int) -> tuple[Path, Decoding] | None:
    """Return the file that holds image `index` and how the reader decodes it; None where images are made otherwise."""
    own = getattr(reader, "image_file", None)
    found: tuple[Path, Decoding] | None = None if own is None else own(index)
    return found


def prepare(reader: Reader, count: int | None = None) -> None:
    """Let a reader that makes its images make the first `count` (None: all) now, where it can (`Shapes.prepare`)."""
    own = getattr(reader, "prepare", None)
    if own is not None:
        own(count)


def image_source(
    reader: Reader,
    *,
    cache: str = "none",
    cache_bytes: int | None = None,
    least: Callable[[Size], Size] | None = None,
    recent: int = 0,
) -> Source:
    """Return the source of a reader's images.

    Args:
        reader: one split of one data set.
        cache: "none"; "ram": decoded images are kept in memory that the workers share; "disk": in the cache folder.
        cache_bytes: the most that the cache takes; None: `DEFAULT_BYTES`.
        least: gives, for the (height, width) of an image, the size that is still needed; JPEGs are then decoded at a
            part of theirs (`decode`). None: at full size.
        recent: bytes in which `RecentImages` keeps what the cache does not; 0: it is not kept.

    Raises:
        ConfigError: there is no such cache.
    """
    if cache not in CACHES:
        choices = ", ".join(CACHES)
        raise ConfigError(
            f"data.cache={cache}: one of {choices}{did_you_mean(cache, CACHES)} is wanted", code="choice-unknown"
        )
    source: Source = reader if least is None else ReducedImages(reader, least)
    beyond = RecentImages(source, reader, recent) if recent else source
    most = DEFAULT_BYTES[cache] if cache_bytes is None else cache_bytes
    if cache == "ram":
        return RamCache(reader, source, most, beyond)
    return beyond if cache == "none" else DiskCache(reader, source, most, least, beyond)


class ReducedImages:
    """Images that may be decoded at 1/2, 1/4 or 1/8 of their size, as `Sample.reduction` tells. For training alone."""

    def __init__(self, reader: Reader, least: Callable[[Size], Size]) -> None:
        self._reader, self.least = reader, least

    def read(self, index: int) -> Sample:
        """Image and labels."""
        file = image_file(self._reader, index)
        if file is None:
            return self._reader.read(index)
        labels = self._reader.labels(index)
        pixels = decode(*file, least=self.least(labels.size))
        reduction = _reduction(labels.size, pixels.shape)
        return Sample(pixels, labels, self._reader.image_ids[index], self._reader.file_names[index], reduction)


def _reduction(size: Size, shape: tuple[int, ...]) -> int:
    fits = (part for part in (2, 4, 8) if shape[:2] == (-(-size[0] // part), -(-size[1] // part)) != size)
    return next(fits, 1)


class RamCache:
    """Decoded images in memory that all workers share: each is decoded once, by whoever meets it first.

    Images are kept as they are met, until `most_bytes` are given away; the rest is read again each time, from then on
    from the source `beyond` (None: the same). The memory is
    shared with worker processes that are forked; a process started otherwise begins with an empty cache of its own.
    Memory is taken as it is filled; where the machine cannot set aside so much, it is less.
    """

    def __init__(self, reader: Reader, source: Source, most_bytes: int, beyond: Source | None = None) -> None:
        self._reader, self._source, self._most_bytes, self._beyond = reader, source, most_bytes, beyond or source
        self._pixels = set_aside(max(1, most_bytes))
        # Per image: state, offset, height, width, channels, number of the dtype, reduction. The last row: bytes taken,
        # and whether an image did not fit.
        self._table = table(len(reader) + 1, 7)
        self._lock = multiprocessing.Lock()

    def __reduce__(self) -> tuple[type[RamCache], tuple[Any, ...]]:
        return RamCache, (self._reader, self._source, self._most_bytes, self._beyond)

    @property
    def held(self) -> int:
        """How many images are kept."""
        return int((self._table[:-1, 0] == _FILLED).sum())

    def read(self, index: int) -> Sample:
        """Return what the source's `read` does; the pixels of a kept image are read-only."""
        with self._lock:  # also makes what another processor wrote visible
            row = self._table[index].tolist()
            is_full = self._table[-1, 1] > 0
        if row[0] != _FILLED:
            sample = (self._beyond if is_full else self._source).read(index)
            self._keep(index, sample)
            return sample
        shape = row[2:5]
        dtype = DTYPES[row[5]]
        length = shape[0] * shape[1] * shape[2] * dtype.itemsize
        image = self._pixels[row[1] : row[1] + length].view(dtype).reshape(shape)
        image.flags.writeable = False
        file_name = self._reader.file_names[index]
        return Sample(image, self._reader.labels(index), self._reader.image_ids[index], file_name, row[6])

    def _keep(self, index: int, sample: Sample) -> None:
        if sample.image.dtype not in DTYPES:
            return
        with self._lock:
            offset = int(self._table[-1, 0])
            end = offset + -(-sample.image.nbytes // 8) * 8
            if self._table[index, 0] != _EMPTY or end > len(self._pixels):
                self._table[-1, 1] |= end > len(self._pixels)
                return
            self._table[index, 0], self._table[-1, 0] = _CLAIMED, end
        self._pixels[offset : offset + sample.image.nbytes] = (
            np.ascontiguousarray(sample.image).reshape(-1).view(np.uint8)
        )
        kind = DTYPES.index(sample.image.dtype)
        with self._lock:
            self._table[index] = (_FILLED, offset, *sample.image.shape, kind, sample.reduction)


class DiskCache:
    """Decoded images as files of the cache folder ($VISIONKIT_CACHE, else ~/.cache/visionkit), never the user's.

    An entry belongs to a file by its path, size and time of change, and to how it was decoded, so that a changed image
    is read anew. Entries are written beside and renamed: what a killed writer leaves is never read. Images of readers
    that make them themselves are not kept.

    As a run starts, entries that nobody has used for long are removed, and where the folder holds more than `_FULL` of
    `most_bytes`, those of other data that were used longest ago (`cache_room`). When it reaches `most_bytes`, or cannot
    be written, that is said once, and the rest is read each time from the source `beyond` (None: the same).
    """

    def __init__(
        self,
        reader: Reader,
        source: Source,
        most_bytes: int,
        least: Callable[[Size], Size] | None = None,
        beyond: Source | None = None,
    ) -> None:
        self._reader, self._source, self._most_bytes, self._beyond = reader, source, most_bytes, beyond or source
        self._least = least
        self.folder = cache_folder() / "pixels"
        # Bytes in the folder, and whether writing has ended; shared with forked workers.
        self._shared = np.frombuffer(mmap.mmap(-1, 16), np.int64)
        self._lock = multiprocessing.Lock()
        self._shared[0] = self._tidied()

    def __reduce__(self) -> tuple[type[DiskCache], tuple[Any, ...]]:
        return DiskCache, (self._reader, self._source, self._most_bytes, self._least, self._beyond)

    def read(self, index: int) -> Sample:
        """Return what the source's `read` does; the pixels of a kept image are read-only."""
        entry = self._entry(index)
        if entry is None:
            return self._source.read(index)
        found = _loaded(entry)
        if found is not None:
            note_use(self.folder.parent, entry)
            pixels, reduction = found
            file_name = self._reader.file_names[index]
            return Sample(pixels, self._reader.labels(index), self._reader.image_ids[index], file_name, reduction)
        if self._shared[1]:
            return self._beyond.read(index)
        sample = self._source.read(index)
        if sample.image.dtype in DTYPES:
            self._keep(entry, sample)
        return sample

    def _entry(self, index: int) -> Path | None:
        """Where the image is kept; None where there is no file to know it by."""
        file = image_file(self._reader, index)
        if file is None:
            return None
        path, decoding = file
        try:
            found = path.stat()
        except OSError:
            return None  # the source says what is wrong
        least = None if self._least is None else self._least(self._reader.labels(index).size)
        what = (
            path.absolute(),
            found.st_size,
            found.st_mtime_ns,
            decoding,
            least,
            cv2.__version__,
            PIL.__version__,
        )
        name = hashlib.sha256(repr(what).encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return self.folder / name[:2] / f"{name[2:]}.pixels"

    def _keep(self, entry: Path, sample: Sample) -> None:
        content = np.ascontiguousarray(sample.image).data.cast("B")
        kind = DTYPES.index(sample.image.dtype)
        head = _HEAD.pack(_MAGIC, zlib.crc32(content), kind, sample.reduction, 0, *sample.image.shape)
        with self._lock:
            if self._shared[0] + len(head) + len(content) > self._most_bytes:
                self._end(f"{self._most_bytes / (1 << 30):.3g} GiB are full; raise data.cache_gib to keep more")
                return
            self._shared[0] += len(head) + len(content)
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=entry.parent, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(head)
                    file.write(content)
                Path(name).replace(entry)
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as fault:
            with self._lock:
                self._end(f"cannot be written ({fault.strerror}); make room, or set VISIONKIT_CACHE to another folder")

    def _end(self, why: str) -> None:
        """Write no more, and say so once for all workers."""
        if not self._shared[1]:
            self._shared[1] = 1
            LOGGER.warning("data.cache=disk: %s: %s; the other images are read each time", self.folder, why)

    def _tidied(self) -> int:
        """Remove what killed writers left, and old entries; return the bytes in use."""
        for path in self.folder.glob("??/*.part"):
            with contextlib.suppress(OSError):  # another run has removed it
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()
        full, roomy = _FULL * self._most_bytes, _ROOMY * self._most_bytes
        pattern = "pixels/??/*.pixels"
        return prune(self.folder.parent, pattern, above=full, down_to=roomy, keep=self._wanted, own=False)

    def _wanted(self) -> set[Path | None]:
        return {self._entry(index) for index in range(len(self._reader))}


def _loaded(entry: Path) -> tuple[np.ndarray, int] | None:
    """Return the pixels and the reduction of an entry; None where there is none, or a damaged one."""
    try:
        data = entry.read_bytes()
    except OSError:
        return None
    if len(data) < _HEAD.size:
        return None
    magic, check, kind, reduction, _, *shape = _HEAD.unpack_from(data)
    content = memoryview(data)[_HEAD.size :]
    if magic != _MAGIC or zlib.crc32(content) != check:
        return None
    try:
        return np.frombuffer(content, DTYPES[kind]).reshape(shape), reduction
    except (IndexError, ValueError):  # the checksum is of the pixels alone
        return None
