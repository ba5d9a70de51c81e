"""Room in the cache folder: what nobody has used for long is removed, what a running process uses is not.

An entry is a file whose time of change says when it was last used. Each process that uses the cache holds a lock on a
file of its own, whose time of change says when the process began: what was used since then may be in use.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

UNUSED = 90 * 86400.0
"""Seconds after which an entry that nobody used is removed."""
_FOLDER, _SUFFIX = "running", ".process"


def note_use(root: Path, entry: Path) -> None:
    """Note that this process uses an entry of the cache folder `root`, unless that cannot be written to."""
    try:
        if entry.stat().st_mtime < _own(root).began:
            os.utime(entry)
    except OSError:
        return


def prune(
    root: Path,
    pattern: str,
    *,
    above: float,
    down_to: float,
    keep: Callable[[], Collection[Path | None]] = tuple,
    own: bool = True,
) -> int:
    """Remove entries that nobody used for `UNUSED`; where more bytes than `above` are left, those used longest ago.

    Args:
        root: the cache folder.
        pattern: of the entries of one kind, below it. A file <entry>.times goes with its entry.
        above: bytes from which on room is made.
        down_to: bytes until which it is made.
        keep: gives entries that stay, whoever used them; asked only where some must go.
        own: what this process used stays, too, as what other running ones used does.

    Returns:
        The bytes of the entries that are left.
    """
    found: list[tuple[float, int, Path]] = []
    for path in root.glob(pattern):
        try:
            state = path.stat()
        except OSError:
            continue  # another process has removed it
        found.append((state.st_mtime, state.st_size, path))
    used, oldest = sum(length for _, length, _ in found), time.time() - UNUSED
    if used <= above and all(last >= oldest for last, _, _ in found):
        return used
    since, kept, crowded = _in_use_since(root, own), set(keep()), used > above
    for last, length, path in sorted(found):
        if last >= since or (last >= oldest and not (crowded and used > down_to)):
            break  # and so for all later ones
        if path not in kept:
            path.unlink(missing_ok=True)
            path.with_suffix(".times").unlink(missing_ok=True)
            used -= length
    return used


# ------------------------------------------------------------------------------------------------- running processes
@dataclass(frozen=True)
class _Process:
    """This process: its file, None where there cannot be one, kept open for the lock on it; and when it began."""

    path: Path | None
    file: IO[bytes] | None
    began: float


@functools.cache
def _own(root: Path) -> _Process:
    """This process; a forked one shares its parent's file. The lock ends with the last of them, however it ends."""
    folder = root / _FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=f"{os.getpid()}-")
        file = os.fdopen(handle, "wb")
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path = Path(name).rename(f"{name}{_SUFFIX}")  # seen by others only now that it is locked
    except OSError:
        return _Process(None, None, time.time())
    return _Process(path, file, os.fstat(handle).st_mtime)


def _in_use_since(root: Path, own: bool) -> float:
    """When the first of the running processes began that use the cache; infinite where there is none."""
    mine = _own(root)
    times = [mine.began] if own else []
    for path in (root / _FOLDER).glob(f"*{_SUFFIX}"):
        if path != mine.path:
            began = _began(path)
            times += [] if began is None else [began]
    return min(times, default=float("inf"))


def _began(path: Path) -> float | None:
    """When the process of a file began; None if it has ended, and then the file is removed."""
    try:
        with path.open("rb") as file:
            began = os.fstat(file.fileno()).st_mtime
            if sys.platform == "win32":
                return began
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except BlockingIOError:
        return began
    except OSError:
        return None
    return None
