"""Processes that load data hand their batches over in shared memory, of which containers often have little."""

from __future__ import annotations

import logging
import math
import os
import shutil
from pathlib import Path

from visionkit.preprocess import Preprocess

LOGGER = logging.getLogger("visionkit")
SHARED_MEMORY = Path("/dev/shm")
PREFETCH = 2
"""Batches that each process has ready or at hand: torch's own default."""
_MASKS = 16
"""Objects with a mask that an image is taken to have; it is one bit a pixel."""


def workers_with_room(workers: int, batch_size: int, preprocess: Preprocess, fields: frozenset[str]) -> int:
    """So many processes as shared memory has room for the batches of, at most `workers`; said where it is fewer.

    0, for which the main process loads, needs none. What is free now counts; several processes of a machine
    (`torchrun`) share it.

    Args:
        workers: that are wanted.
        batch_size: images of a batch.
        preprocess: gives the images' canvas, channels and depth.
        fields: of the labels that a batch holds, boxes and the like count for nothing beside its pixels.
    """
    if workers == 0 or not SHARED_MEMORY.is_dir():
        return workers
    one = batch_bytes(batch_size, preprocess, fields)
    free = shutil.disk_usage(SHARED_MEMORY).free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fitting = min(workers, max(0, math.floor((free / one - 1) / PREFETCH)))  # one more is being trained on
    if fitting < workers:
        height, width = preprocess.canvas
        LOGGER.warning(
            f"data.workers: {fitting} instead of {workers}, since {SHARED_MEMORY} has {free / 2**20:.0f} MiB free and "
            f"each takes {PREFETCH} batches of {batch_size} x {height} x {width} pixels ({one / 2**20:.0f} MiB each); "
            "give the container more (docker run --shm-size=8g)"
        )
    return fitting


def batch_bytes(batch_size: int, preprocess: Preprocess, fields: frozenset[str]) -> int:
    """About as many bytes as a batch takes: its images, the maps of classes, and bits of masks."""
    (height, width), decoding = preprocess.canvas, preprocess.decoding
    bits = 8 * decoding.channels * decoding.dtype.itemsize
    bits += 8 * ("semantic" in fields) + _MASKS * ("masks" in fields)
    return batch_size * height * width * bits // 8
