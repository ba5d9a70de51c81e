from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from visionkit.report.box_errors import box_errors, plot_box_errors


def row(box: list[float], truth: list[float]) -> dict[str, np.ndarray]:
    return {"box": np.array(box, np.float32), "truth_box": np.array(truth, np.float64)}


def test_offsets_and_ratios_by_hand(tmp_path: Path) -> None:
    state = {
        1: row([10, 0, 30, 40], [0, 0, 20, 40]),  # half a width to the right
        2: row([0, 10, 20, 30], [0, 0, 20, 40]),  # in the middle, half as high
        3: row([5, 5, 5, 9], [0, 0, 20, 40]),  # without area
    }
    offsets, ratios = box_errors(state)
    assert offsets.tolist() == [pytest.approx([0.5, 0]), pytest.approx([0, 0])]
    assert ratios.tolist() == [pytest.approx([1, 1]), pytest.approx([1, 0.5])]
    assert plot_box_errors(state, tmp_path / "box.png") == tmp_path / "box.png"
    assert plot_box_errors({}, tmp_path / "none.png") is None
