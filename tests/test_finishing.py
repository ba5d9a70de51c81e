"""What waits for the device says the same however the rows come."""

from __future__ import annotations

import numpy as np
import torch

from visionkit.finishing import start_detections
from visionkit.structures import Geometry

GEOMETRIES = [Geometry((40, 60), (20, 30), (0.5, 0.5)), Geometry((10, 10), (30, 30), (3.0, 3.0), (0.0, -3.0))]
DECODED = {
    "boxes": torch.tensor(
        [[[1.0, 2, 11, 12], [5, 5, 40, 40], [0, 0, 1, 1]], [[3.0, 0, 6, 3], [0, 0, 0, 0], [6, 3, 9, 9]]]
    ),
    "scores": torch.tensor([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]]),
    "labels": torch.tensor([[0, 1, 2], [3, 4, 5]]),
}


def found(valid):
    return start_detections({**DECODED, "valid": torch.tensor(valid)}, GEOMETRIES)()


def test_valid_rows_come_to_original_pixels_wherever_they_stand():
    first, second = found([[True, True, False], [False, False, False]])
    assert first.boxes.tolist() == [[2, 4, 22, 24], [10, 10, 60, 40]]
    assert (first.scores.tolist(), first.labels.tolist()) == ([np.float32(0.9), np.float32(0.8)], [0, 1])
    assert (second.boxes.shape, second.scores.shape, second.labels.shape) == ((0, 4), (0,), (0,))
    first, second = found([[False, True, False], [True, False, True]])
    assert first.boxes.tolist() == [[10, 10, 60, 40]]
    assert second.boxes.tolist() == [[2, 0, 3, 1], [3, 1, 4, 3]]
    assert second.labels.tolist() == [3, 5]


def test_predictions_do_not_hold_the_whole_batch():
    for one in found([[True, True, False], [True, False, False]]):
        for array in (one.scores, one.labels, one.boxes):
            assert array.base is None or array.base.size <= array.size
            assert array.dtype in (np.float32, np.int64)
