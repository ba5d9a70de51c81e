"""What a run dies of, in words for the person who started it: the cause, and what to change."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from visionkit.errors import CodedLine, RunError

_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator: (?:not enough|can't allocate) memory|CUDA error: out of memory|"
    r"CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED"
)
"""Of a CPU; and of what CUDA's libraries take past torch's own count."""
_SHARED_MEMORY = re.compile(r"bus error|shared memory|/dev/shm|No space left on device: '/torch", re.IGNORECASE)
_LEVERS = "lower data.batch_size (engine.accumulate=2 keeps what a step sees) or image_size"
_DEAD_WORKER = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ?[\d, ]*\) (?:exited unexpectedly|is killed by signal: (.*?)\.)"
)


@dataclass(frozen=True)
class Circumstances:
    """What a failure is told with.

    Attributes:
        device: that the work runs on.
        batch_size: images of one process and micro-batch.
        canvas: (height, width) of an image.
        workers: processes that load data.
        levers: what to change so that less memory is needed.
        run_folder: of a training run, whose last checkpoint is named; None: there is none.
    """

    device: torch.device
    batch_size: int
    canvas: tuple[int, int]
    workers: int
    levers: str = _LEVERS
    run_folder: Path | None = None


@contextmanager
def told_in_words(where: Circumstances) -> Iterator[None]:
    """Raise what is known to go wrong on a machine again, as a line that says what it was and how to mend it.

    Raises:
        RunError: memory was used up; a process that loads data died or was silent; shared memory is too small; a batch
            of one image met a BatchNorm that cannot do with it.
    """
    try:
        yield
    except Exception as error:
        said = explanation(error, where)
        if said is None:
            raise
        raise RunError(said + kept(where.run_folder), code=said.code) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was used up, of the device or of the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(_NO_MEMORY.search(str(error)))


def explanation(error: BaseException, where: Circumstances) -> CodedLine | None:
    """The line for an error of torch, Python or the system; None for one that is not known."""
    text = str(error)
    if is_out_of_memory(error):
        said = f"out of memory on {where.device}{_peak(where.device)} with {_batch(where)}; {where.levers}"
        return CodedLine(said, "out-of-memory")
    dead = _DEAD_WORKER.search(text)
    if _SHARED_MEMORY.search(text) or (dead is not None and _little_shared_memory(where)):
        return CodedLine(
            f"shared memory (/dev/shm) is too small for {where.workers} processes that load {_batch(where)}; give the "
            "container more (docker run --shm-size=8g), or lower data.workers (0 needs none)",
            "shared-memory-small",
        )
    if dead is not None:
        return CodedLine(
            f"a process that loads data died{f' ({dead[1]})' if dead[1] else ''}; most often memory was used up: lower "
            "data.workers or data.cache_gib, or see with data.workers=0 what it says itself",
            "loader-died",
        )
    if "DataLoader timed out" in text:
        return CodedLine(
            "a process that loads data did not answer for engine.timeout seconds; see that the disk or network drive "
            "of the images answers, or raise engine.timeout",
            "loader-silent",
        )
    if "Expected more than 1 value per channel when training" in text:
        return CodedLine(
            f"{_batch(where)}: a BatchNorm sees a single value a channel and cannot take its variance; raise "
            "data.batch_size to 2 or more, or image_size",
            "batch-too-small",
        )
    return None


def _little_shared_memory(where: Circumstances) -> bool:
    """Whether all of /dev/shm is less than what the processes make ready: torch does not always say why one died."""
    try:
        there = os.statvfs("/dev/shm")
    except (AttributeError, OSError):
        return False
    height, width = where.canvas
    return there.f_blocks * there.f_frsize < 2 * where.workers * where.batch_size * height * width * 3


def _batch(where: Circumstances) -> str:
    height, width = where.canvas
    return f"batches of {where.batch_size} x {height} x {width} pixels"


def _peak(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    peak, total = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
    return f" (peak {peak / 2**30:.1f} of {total / 2**30:.1f} GiB)"


def kept(run_folder: Path | None) -> str:
    """The end of a message: which checkpoint of a run is there, and how to go on from it; empty where there is none."""
    last = None if run_folder is None else run_folder / "checkpoints" / "last"
    if last is None or not last.exists():
        return ""
    return f"; {last.resolve().name} is saved, resume={run_folder} goes on from it"
