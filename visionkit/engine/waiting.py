"""What to change when training waits for its data."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

BEARABLE = 1 / 3
"""Of the training time; above it a run says what to change."""
_BUSY = 0.5
"""Processes that load and compute for less of the time than this wait for a disk or a network."""


@dataclass(frozen=True)
class Loading:
    """How a run gets its batches.

    Attributes:
        workers: processes that load; 0: the one that trains loads, too.
        cores: of this process.
        cache: `data.cache`.
        reduced_decoding: whether large JPEGs are decoded at a part of their size.
    """

    workers: int
    cores: int
    cache: str = "none"
    reduced_decoding: bool = True


def advice(waiting: float, busy: float | None, loading: Loading, *, first_epoch: bool = False) -> str | None:
    """What to change, as a line; None: there is nothing to say.

    Args:
        waiting: share of the training time that went to waiting for batches, from 0 to 1.
        busy: share of their time in which the processes that load computed; None: it is not known.
        loading: how the run loads.
        first_epoch: of this process; a cache is being filled then.
    """
    if waiting <= BEARABLE or (first_epoch and loading.cache != "none"):
        return None
    return f"{waiting:.0%} of the training time went to waiting for data: {_mend(busy, loading)}"


def _mend(busy: float | None, loading: Loading) -> str:
    workers, cores = loading.workers, loading.cores
    if workers == 0 and cores > 1:
        return f"data.workers=auto loads in other processes while this one trains ({cores} cores are there)"
    cache = "data.cache=ram keeps decoded images for the next epoch (data.cache=disk where they are many)"
    if workers and busy is not None and busy < _BUSY:
        cause = f"the {workers} processes that load compute {busy:.0%} of the time, and wait for a disk or network"
        side_by_side = f"data.workers={2 * workers} lets more of them wait side by side"
        return f"{cause}; {cache if loading.cache == 'none' else 'put the images on a local disk'}, or {side_by_side}"
    levers = []
    if 0 < workers < cores:
        levers.append(f"data.workers={min(2 * workers, cores)} ({cores} cores are there)")
    if loading.cache == "none":
        levers.append(cache)
    if not loading.reduced_decoding:
        levers.append("data.reduced_decoding=auto decodes large JPEGs at a part of their size")
    if not levers:
        levers.append("a lighter augment (`augment=<task>_light`) or a smaller image_size makes a sample cheaper")
    cause = "" if busy is None else f"the {workers} processes that load compute {busy:.0%} of the time; "
    return cause + ", or ".join(levers)


def seconds_of_children() -> float | None:
    """Seconds of computing that the living processes started by this one have taken; None: the system does not tell."""
    if not Path("/proc/self/stat").is_file():
        return None
    ticks = 0
    for child in multiprocessing.active_children():
        try:
            told = Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has just ended
            continue
        user, system = told.rpartition(")")[2].split()[11:13]  # proc(5): utime and stime; the name may hold spaces
        ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")
