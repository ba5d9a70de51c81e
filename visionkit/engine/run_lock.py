"""One run at a time in a folder: a lock that says who holds it, and that does not outlive its holder.

The system's own file lock tells whether the holder lives, also on another machine where the file system passes locks on
(NFS does). Where it knows none, what the file says has to do: host, boot, process and the time at which that began.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visionkit.errors import UserError, printable

LOCK = "run.lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a file system without locks answers."""
_MOST_BYTES = 4096
_held: set[int] = set()


def _let_go() -> None:
    """A forked process shares its parent's locks: one that loads data would hold them beyond the parent's death."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def run_lock(folder: Path) -> Iterator[str | None]:
    """Hold a run's folder; gives what is to be said of a lock that somebody left, if there was one.

    Raises:
        UserError: a run goes on in it, told with its process and host; or the folder cannot be written.
    """
    file = folder / LOCK
    descriptor, left = _taken(file)
    _held.add(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, (json.dumps(_myself()) + "\n").encode())
        yield None if left is None else _told_of(left, file)
    finally:
        if descriptor in _held:  # and not in a forked process
            with contextlib.suppress(OSError):
                file.unlink()
            _held.remove(descriptor)
            os.close(descriptor)


def refuse_if_running(folder: Path) -> None:
    """Raise UserError if a run goes on in `folder`, told with its process and host; nothing is written."""
    if (folder / LOCK).is_file():
        descriptor, _ = _taken(folder / LOCK)
        os.close(descriptor)


def _taken(file: Path) -> tuple[int, dict[str, Any] | None]:
    """Open and lock a file; return its descriptor, and what one who left it behind had written there."""
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(
                f"{file}: cannot be written ({error.strerror}); give another run_dir", code="not-writable"
            ) from error
        try:
            locks = _lock(descriptor)
            left = _told(descriptor)
            if not locks and left is not None:
                _refuse_if_alive(left, file)
            if file.exists() and os.path.samestat(file.stat(), os.fstat(descriptor)):
                return descriptor, left
            os.close(descriptor)  # whoever held it has removed it meanwhile
        except BlockingIOError:
            holder = _awaited(descriptor)
            os.close(descriptor)
            raise _refusal(holder, file) from None
        except UserError:
            os.close(descriptor)
            raise


def _lock(descriptor: int) -> bool:
    """Lock a file, or return False where the system knows no locks. Raises BlockingIOError: another process has it."""
    try:
        fcntl = importlib.import_module("fcntl")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return False
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _told(descriptor: int) -> dict[str, Any] | None:
    """What a lock file says; None where it says nothing."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with contextlib.suppress(ValueError, RecursionError):
        told = json.loads(os.read(descriptor, _MOST_BYTES))
        if isinstance(told, dict) and isinstance(told.get("process"), int) and isinstance(told.get("host"), str):
            return told
    return None


def _awaited(descriptor: int) -> dict[str, Any] | None:
    """What a locked file says, which is written right after it was locked."""
    for _ in range(20):
        told = _told(descriptor)
        if told is not None:
            return told
        time.sleep(0.05)
    return None


def _refuse_if_alive(holder: dict[str, Any], file: Path) -> None:
    """Where there are no locks: a process of another machine counts as alive."""
    here = holder["host"] == socket.gethostname()
    if not here or _fate(holder) is None:
        raise _refusal(holder, file, "" if here else f"; if it is gone, remove {file}")


def _refusal(holder: dict[str, Any] | None, file: Path, more: str = "") -> UserError:
    who = "another process" if holder is None else f"process {holder['process']} on {holder['host']}"
    since = f" since {holder['since']}" if holder is not None and "since" in holder else ""
    mend = f"wait for it, end it, or give another run_dir{more}"
    return UserError(printable(f"{file.parent}: {who} is training here{since}; {mend}"), code="run-locked")


def _told_of(left: dict[str, Any], file: Path) -> str:
    fate = "holds it no more" if left["host"] != socket.gethostname() else _fate(left) or "holds it no more"
    return printable(f"{file}: left behind by process {left['process']} on {left['host']}, which {fate}; taken over")


def _fate(holder: dict[str, Any]) -> str | None:
    """What has become of a process of this machine; None: it lives."""
    if holder.get("boot") != _boot():
        return "ran before this machine was started anew"
    began = _began(holder["process"])
    if began is None:
        return "is gone"
    return None if holder.get("began") in (None, began) else "is gone, and its number another process's"


def _myself() -> dict[str, Any]:
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "boot": _boot(),
        "began": _began(os.getpid()),
    }


def _began(number: int) -> str | None:
    """When a process of this machine began, in ticks since its start, "" if unknown; None: there is no such process."""
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # it is there, and somebody else's
    with contextlib.suppress(OSError, IndexError):
        # The name, in parentheses, may hold spaces; of the fields after it the 20th is the time.
        return Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    return ""


def _boot() -> str | None:
    """What names the present start of this machine."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None
