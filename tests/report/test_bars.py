from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit.report.bars import plot_bars
from visionkit.report.figure import BLUE

BAR = np.round(np.array(BLUE) * 255).astype(int)


def bars(path: Path) -> list[int]:
    """The lengths of the bars of the first column in pixels, from the top."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    blue = (np.abs(pixels - BAR).max(axis=2) <= 2)[:, : pixels.shape[1]]
    lengths = blue.sum(axis=1)
    starts = np.flatnonzero((lengths > 0) & (np.roll(lengths, 1) == 0))
    return [int(lengths[start + 3]) for start in starts]


def test_the_best_class_stands_on_top_and_lengths_are_values(tmp_path: Path) -> None:
    lengths = bars(plot_bars({"a": 0.25, "b": 1.0, "c": 0.5}, "AP", tmp_path / "x.png"))
    assert len(lengths) == 3
    assert lengths[1] / lengths[0] == pytest.approx(0.5, abs=0.02)
    assert lengths[2] / lengths[0] == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("count", [1, 70, 1000])
def test_any_number_of_classes_finds_room(count: int, tmp_path: Path) -> None:
    path = plot_bars({f"class {k}": k / count for k in range(count)}, "AP", tmp_path / "x.png")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape[0] < 1200
    assert all((edge == 255).all() for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]))


def test_classes_without_a_number_and_odd_names_are_drawn(tmp_path: Path) -> None:
    values = {"a $x_$ $\\frac$": math.nan, "two\nlines": 0.3, "": 0.0, "猫": 1.7, "x" * 200: -1.0}
    assert len(bars(plot_bars(values, "AP", tmp_path / "x.png"))) == 2
    assert plot_bars({"a": math.nan}, "AP", tmp_path / "y.png").is_file()
