from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionkit.ops.run_lengths import mask_window

rng = np.random.default_rng(0)


def drawn(height: int, width: int) -> np.ndarray:
    """A mask of any kind: specks, a block, one that leaves every edge, nothing, everything."""
    mask = rng.random((height, width)) < rng.choice([0.0, 0.01, 0.3, 0.9, 1.0])
    top, left = rng.integers(height), rng.integers(width)
    window = np.zeros((height, width), bool)
    window[top : top + rng.integers(1, height + 1), left : left + rng.integers(1, width + 1)] = True
    return mask & window


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (7, 9), (40, 50), (300, 200)])
def test_a_window_and_nothing_around_it_is_what_pycocotools_decodes(size):
    for _ in range(150):
        mask = drawn(*size)
        encoded = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
        window, left, top = mask_window(encoded)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows) == 0:
            assert (window.shape, left, top) == ((0, 0), 0, 0)
            continue
        assert (top, left) == (rows[0], columns[0])
        assert window.dtype == np.bool_
        assert np.array_equal(window, mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def test_counts_may_be_text_and_runs_may_be_empty():
    """4 rows: pixels 2, 3 of column 0 and 0, 1 of column 1, told as 2 · 2 · 0 · 2 · rest, as some tools write it."""
    (encoded,) = coco_mask.frPyObjects([{"size": [4, 3], "counts": [2, 2, 0, 2, 3, 0, 3]}], 4, 3)
    wanted = [[0, 1], [0, 1], [1, 0], [1, 0]]
    for counts in (encoded["counts"], encoded["counts"].decode("ascii")):
        window, left, top = mask_window({"size": [4, 3], "counts": counts})
        assert (window.astype(int).tolist(), left, top) == (wanted, 0, 0)


def test_runs_of_millions_of_pixels():
    mask = np.zeros((3000, 2500), np.uint8, order="F")
    mask[5:2995, 1200:2400] = 1
    window, left, top = mask_window(coco_mask.encode(mask))
    assert (window.shape, left, top, window.all()) == ((2990, 1200), 1200, 5, True)
