"""Which device the work runs on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

import torch

from visionkit.errors import ConfigError, did_you_mean

KINDS = ("cpu", "cuda", "mps")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""


def resolve_device(name: str | torch.device) -> torch.device:
    """Turn "auto", "cpu", "cuda", "cuda:1" or "mps" into a device that is there; auto takes CUDA, then MPS, then CPU.

    Raises:
        ConfigError: no such device in this machine, or not a device's name.
    """
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    kind, _, number = str(name).partition(":")
    if kind not in KINDS or (number and not number.isdecimal()) or (":" in str(name) and not number):
        hint = did_you_mean(str(name), ("auto", *KINDS))
        raise ConfigError(
            f"device={name}: auto, cpu, cuda, cuda:<number> or mps is wanted{hint}", code="choice-unknown"
        )
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if int(number or 0) >= counts[kind]:
        there = f"this machine has {counts[kind]} {kind} devices"
        raise ConfigError(f"device={name}: {there}; device=auto takes what there is", code="device-missing")
    return torch.device(str(name))


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of mixed precision: bf16, fp16 or fp32 (none), or by device for auto.

    auto is bfloat16 on GPUs that compute in it and on CPUs with AMX, where it trained our detector 1.3 to 2 times
    faster; float16 on older GPUs; float32 elsewhere.
    """
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if precision != "auto":
        return named[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


def memory_format(channels_last: bool | str, device: torch.device) -> torch.memory_format:
    """The layout of weights and images, as told (true, false) or, for auto, the faster one as measured.

    auto is channels_last on GPUs and CPUs: on one core with AMX (torch 2.15, 2026-11-21) it trained CSP, ResNet-18 and
    MobileNetV2 at 1.0 to 1.4 times the rate of the contiguous layout, in float32 and bfloat16.
    """
    last = device.type in ("cuda", "cpu") if channels_last == "auto" else channels_last
    return torch.channels_last if last else torch.contiguous_format


def loader_workers(wanted: int | str, device: torch.device) -> int:
    """auto: on a GPU a process a core but one, at most 16; on a CPU a quarter of the cores, at least two of several."""
    if wanted != "auto":
        return int(wanted)
    if device.type == "cuda":
        return min(16, max(1, cores() - 1))
    return max(2, cores() // 4) if cores() > 1 else 0


def share_cores(workers: int, device: torch.device) -> None:
    """Leave a core to each two workers: a compute thread that waits for a core makes all the others wait."""
    if workers > 0 and device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() - workers // 2))


def keep_freed_memory(device: torch.device) -> None:
    """Have the C library keep what a CPU run frees: a training step asks for the same large pieces again and again.

    By default they go back to the system each time, and come again page by page; kept, and on huge pages, a step of a
    small network took 129 ms instead of 149 on two busy cores (task=semantic, batch 16, mean of five runs of 15 steps,
    2026-11-22). Does nothing where the C library is not glibc.
    """
    if device.type == "cpu" and sys.platform == "linux":
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: tensors of 2 MiB and more on huge pages
        with contextlib.suppress(AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(_MMAP_THRESHOLD, 1 << 30)
            library.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def memory_taken(device: torch.device) -> int:
    """Bytes: of a GPU the most that was reserved so far, otherwise what this process holds of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # not there on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def cores() -> int:
    """Of this process, where torchrun has started several on this machine its share of them."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
