"""Masks as run lengths."""

from __future__ import annotations

import numpy as np

from visionkit.structures import RLE


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


def mask_window(mask: RLE) -> tuple[np.ndarray, int, int]:
    """Return the part of a mask that holds all its pixels, (h, w) bool, and where it lies: left, top.

    Nothing else of the mask is made. (0, 0) pixels of an empty mask.
    """
    height = int(mask["size"][0])
    edges = np.cumsum(_counts(mask["counts"]))
    starts, ends = edges[: len(edges) // 2 * 2 : 2], edges[1::2]
    seen = ends > starts
    starts, ends = starts[seen], ends[seen]
    if len(starts) == 0:
        return np.zeros((0, 0), np.bool_), 0, 0
    (first, top_rows), (last, bottom_rows) = np.divmod(starts, height), np.divmod(ends - 1, height)
    left, width = int(first[0]), int(last[-1] - first[0]) + 1
    # A run that goes on in the next column is seen in the lowest row and in the highest.
    top, bottom = (0, height) if (last > first).any() else (int(top_rows.min()), int(bottom_rows.max()) + 1)
    steps = np.zeros(width * (bottom - top) + 1, np.int8)
    steps[(first - left) * (bottom - top) + top_rows - top] = 1
    steps[(last - left) * (bottom - top) + bottom_rows - top + 1] -= 1  # nothing changes where two runs touch
    window = np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_).reshape(width, bottom - top)
    return window.T, left, top


def _counts(text: bytes | str) -> np.ndarray:
    """The lengths of runs, (N,) int64, from COCO's compressed form.

    Six bits a character from 48 on: five of a number, the lowest first, and whether more follow; the highest of a
    number's bits is its sign. From the fourth length on, what is written is the difference to the last but one.
    """
    codes = np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    lasts = np.flatnonzero((codes & 32) == 0)
    if len(lasts) == 0:
        return np.zeros(0, np.int64)
    firsts = np.concatenate([[0], lasts[:-1] + 1])
    lengths = lasts - firsts + 1
    places = np.arange(len(codes)) - np.repeat(firsts, lengths)
    lengths_of_runs: np.ndarray = np.add.reduceat((codes & 31) << (5 * places), firsts)
    lengths_of_runs -= np.where(codes[lasts] & 16, 1 << (5 * lengths), 0)
    lengths_of_runs[1::2] = np.cumsum(lengths_of_runs[1::2])
    lengths_of_runs[2::2] = np.cumsum(lengths_of_runs[2::2])
    return lengths_of_runs
