from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit.errors import DataError
from visionkit.report import plot_curves
from visionkit.report.plots import _curves, _panels

LINES = [
    {"step": 10, "detection/box": 2.0, "total": 3.0, "lr": 0.01},
    {"step": 10, "epoch": 1, "detection/AP": 0.1, "detection/AP_small": None},
    {"step": 20, "detection/box": 1.0, "total": 0.0, "lr": 0.005},
    {"step": 20, "epoch": 2, "detection/AP": 0.3, "detection/AP_small": None},
]


def write(path: Path, lines: list[dict[str, float | None]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_curves_of_a_run(tmp_path: Path) -> None:
    files = plot_curves(write(tmp_path / "metrics.jsonl", LINES), tmp_path / "plots")
    assert [file.name for file in files] == ["loss.png", "rate.png", "metrics.png"]
    for file in files:
        pixels = np.asarray(Image.open(file).convert("RGB"))
        assert (pixels != 255).any(axis=2).mean() > 0.005


def test_only_what_there_is_is_drawn(tmp_path: Path) -> None:
    assert plot_curves(write(tmp_path / "metrics.jsonl", []), tmp_path) == []
    files = plot_curves(write(tmp_path / "metrics.jsonl", LINES[:1]), tmp_path)
    assert [file.name for file in files] == ["loss.png", "rate.png"]
    nothing = [{"step": 10, "epoch": 1, "detection/AP": None}, {"step": 10, "total": None}]
    assert plot_curves(write(tmp_path / "metrics.jsonl", nothing), tmp_path) == []


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", LINES)
    path.write_text(path.read_text() + '{"step": 3')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 5 is not JSON"):
        plot_curves(path, tmp_path)


def test_each_head_has_a_panel_of_its_main_numbers_and_classes_have_none() -> None:
    numbers = {f"detection/{k}": 0.5 for k in range(9)} | {
        "detection/AP/person": 0.1,
        "semantic/mIoU": 0.2,
        "x/y": None,
    }
    panels = _panels(_curves([{"step": 5, "epoch": 1, **numbers}]))
    assert [list(panel) for panel in panels] == [[f"detection/{k}" for k in range(6)], ["semantic/mIoU"]]


def test_many_losses_find_room_in_the_legend(tmp_path: Path) -> None:
    lines = [{"step": k, "lr": 0.1, **{f"a_head_with_a_name/loss {n}": 1.0 / k for n in range(30)}} for k in (1, 2)]
    loss, _ = plot_curves(write(tmp_path / "metrics.jsonl", lines), tmp_path)
    pixels = np.asarray(Image.open(loss).convert("RGB"))
    assert (pixels[:3] == 255).all()  # nothing is cut off at the edges
    assert (pixels[:, -3:] == 255).all()
