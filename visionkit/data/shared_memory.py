"""Memory in which forked processes keep decoded images for each other."""

from __future__ import annotations

import mmap

import numpy as np

DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
"""Of the pixels that are kept; their place here stands for them in tables."""


def set_aside(most_bytes: int) -> np.ndarray:
    """Return shared memory, (N,) uint8: as many bytes as that, or its half, or its quarter, …, as the machine has.

    Pages are taken as they are written to.
    """
    while True:
        try:
            return np.frombuffer(mmap.mmap(-1, most_bytes), np.uint8)
        except (OSError, ValueError, OverflowError):
            if most_bytes < mmap.PAGESIZE:
                raise
            most_bytes //= 2


def table(rows: int, columns: int) -> np.ndarray:
    """Return a shared table of zeros, (rows, columns) int64."""
    return np.frombuffer(mmap.mmap(-1, 8 * rows * columns), np.int64).reshape(rows, columns)
