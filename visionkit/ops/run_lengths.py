"""Masks as run lengths."""

from __future__ import annotations

import numpy as np


def run_lengths(window: np.ndarray, left: int, top: int, height: int, width: int) -> list[int]:
    """Return the lengths of the runs of 0, 1, 0, … down the columns of a (height, width) mask.

    window: (h, w) bool, the part of the mask whose top left corner is at (left, top); the rest is 0.
    """
    # Before the mask and below each column: no mask.
    lines = np.zeros(1 + window.shape[1] * (window.shape[0] + 1), bool)
    lines[1:].reshape(window.shape[1], window.shape[0] + 1)[:, :-1] = window.T
    column, row = np.divmod(np.flatnonzero(lines[1:] != lines[:-1]), window.shape[0] + 1)
    places = (left + column) * height + top + row
    # A run that reaches the bottom goes on at the top of the next column: where an end meets a start, both go.
    meets = np.flatnonzero(places[1:-1:2] == places[2::2]) * 2 + 1
    places = np.delete(places, np.concatenate([meets, meets + 1])) if len(meets) else places
    counts: list[int] = np.diff(np.concatenate([[0], places, [height * width]])).tolist()
    return counts if counts[-1] else counts[:-1]
