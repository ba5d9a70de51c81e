"""What was read of large label files, kept in the cache folder as flat arrays that are mapped into memory.

An entry is one file: a line of magic, a checksum, then a JSON header and the arrays, each at a multiple of 64 bytes. It
is written beside and renamed, so that no half of one is ever seen; whatever does not fit its checksum counts as absent.
As one is written, those make room that nobody has used for long (`cache_room`).
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import tempfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.cache_place import cache_folder
from visionkit.data.cache_room import note_use, prune

_MAGIC = b"visionkit flat arrays 1\n"
_ALIGNED = 64
_HEAD = len(_MAGIC) + 12  # checksum of what follows (4 bytes), length of the header (8 bytes)
_RECENT = 2_000_000_000
"""Nanoseconds: a file changed this short before it was read may change again without a new time."""
_ABANDONED = 3600.0
"""Seconds after which the unfinished file of a killed writer is removed."""
MOST_BYTES = 8 << 30
"""The most that all entries take; one of COCO's train2017 takes about 0.2 GB."""


def entry_of(kind: str, *names: object) -> Path:
    """Return the entry that belongs to `names` (of files or folders, made absolute)."""
    text = "\0".join(str(Path(str(name)).resolve()) for name in names)
    return cache_folder() / "index" / f"{kind}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:24]}.flat"


@dataclass(frozen=True)
class Entry:
    """A header of plain JSON values, and arrays by name."""

    header: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def save(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write an entry, whole or not at all. A folder that cannot be written is no fault: then there is no cache."""
    placed, position = {}, 0
    for name, array in arrays.items():
        placed[name] = [array.dtype.str, list(array.shape), position]
        position += -(-array.nbytes // _ALIGNED) * _ALIGNED
    text = json.dumps({"header": dict(header), "arrays": placed}).encode()
    text += b" " * (-(_HEAD + len(text)) % _ALIGNED)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".part")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(b"\0" * _HEAD)
            file.write(text)
            length = len(text).to_bytes(8, "little")
            check = zlib.crc32(length + text)
            for array in arrays.values():
                content = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                gap = b"\0" * (-len(content) % _ALIGNED)
                check = zlib.crc32(gap, zlib.crc32(content, check))
                file.write(content)
                file.write(gap)
            file.seek(0)
            file.write(_MAGIC + check.to_bytes(4, "little") + length)
        Path(name).replace(path)
        pattern = f"{path.parent.name}/*.flat"
        prune(path.parent.parent, pattern, above=MOST_BYTES, down_to=MOST_BYTES, keep=lambda: {path})
    except OSError:
        Path(name).unlink(missing_ok=True)


def load(path: Path) -> Entry | None:
    """Return an entry, its arrays read-only and mapped from the file; None where it is absent or damaged."""
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None
    view = memoryview(content)
    start = len(_MAGIC)
    is_ours = bytes(view[:start]) == _MAGIC
    if not is_ours or zlib.crc32(view[start + 4 :]) != int.from_bytes(view[start : start + 4], "little"):
        return None
    try:
        first = _HEAD + int.from_bytes(view[start + 4 : _HEAD], "little")
        told = json.loads(bytes(view[_HEAD:first]))
        arrays = {
            name: np.frombuffer(view, dtype, math.prod(shape), first + place).reshape(shape)
            for name, (dtype, shape, place) in told["arrays"].items()
        }
        entry = Entry(told["header"], arrays)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # somebody else's, not ours
        return None
    note_use(path.parent.parent, path)
    return entry


def stamp(file: Path) -> list[int]:
    """Return what changes when `file` does: its size, and its times of change in nanoseconds."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def content_hash(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class Stamped:
    """The cache entry of one file, valid as long as the file's content is what it was.

    Size and times are compared first; where only the times differ, or were too young to be trusted when the entry was
    made, the content's hash decides, and the times are noted anew beside the entry.
    """

    def __init__(self, kind: str, file: Path, version: int) -> None:
        self.file = file
        self.path = entry_of(kind, file)
        self._times = self.path.with_suffix(".times")
        self._version = version

    def load(self) -> Entry | None:
        """Return the entry, None where it is absent, damaged, of another version, or of another content."""
        entry = load(self.path)
        if entry is None or entry.header.get("version") != self._version:
            return None
        now = stamp(self.file)
        if now[0] != entry.header["size"]:
            return None
        if self._noted() == [entry.header["hash"], *now]:
            return entry
        if content_hash(self.file) != entry.header["hash"]:
            return None
        self._note(entry.header["hash"], now)
        return entry

    def save(self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray], before: list[int], digest: str) -> None:
        """Write the entry. before, digest: the file's `stamp` when reading began, and the hash of what was read."""
        save(self.path, {**header, "version": self._version, "size": before[0], "hash": digest}, arrays)
        self._note(digest, before)

    def _noted(self) -> Any:
        try:
            return json.loads(self._times.read_bytes())
        except (OSError, ValueError):
            return None

    def _note(self, digest: str, times: list[int]) -> None:
        if time.time_ns() - max(times[1:]) < _RECENT:
            return
        part = self._times.with_suffix(f".times.{os.getpid()}.part")
        try:
            part.write_text(json.dumps([digest, *times]), encoding="ascii")
            part.replace(self._times)
        except OSError:
            part.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    for part in path.parent.glob(f"{path.name}.*.part"):
        if time.time() - part.stat().st_mtime > _ABANDONED:
            part.unlink(missing_ok=True)
