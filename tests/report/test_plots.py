from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit.errors import DataError
from visionkit.predictions import Classification, Detections
from visionkit.report import contact_sheet, plot_curves
from visionkit.report.draw import OKABE_ITO
from visionkit.structures import Labels

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


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", LINES)
    path.write_text(path.read_text() + '{"step": 3')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 5 is not JSON"):
        plot_curves(path, tmp_path)


def test_a_contact_sheet_has_truth_left_and_prediction_right() -> None:
    image = np.full((100, 200, 3), 128, np.uint8)
    truth = Labels(size=(100, 200), boxes=np.array([[20.0, 20, 180, 80]]), labels=np.array([1]))
    prediction = Detections(np.array([[30, 20, 180, 80]], np.float32), np.ones(1, np.float32), np.array([0]))
    sheet = contact_sheet([(image, prediction, truth)] * 3, ["cell", "nucleus"], cell=200)
    assert sheet.shape[1] == 4 * 205
    in_colour = [(sheet == np.array(colour)).all(axis=2).any(axis=0) for colour in OKABE_ITO[:2]]
    predicted, true = (np.flatnonzero(columns) for columns in in_colour)
    assert set(true // 205) == {0, 2}
    assert set(predicted // 205) == {1, 3}
    assert true.min() == pytest.approx(22, abs=1)  # scaled by 200 / 200, centred in a column of 205 pixels


def test_small_images_are_enlarged_before_they_are_drawn_on() -> None:
    image = np.full((20, 20, 3), 128, np.uint8)
    truth = Labels(size=(20, 20), class_scores=np.array([0, 1], np.float32))
    sheet = contact_sheet([(image, Classification(np.array([0.4, 0.6], np.float32)), truth)], ["a", "b"], cell=300)
    assert sheet.shape[1] == 2 * 307
    assert (sheet == 128).all(axis=2).sum() > 2 * 280 * 250


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([], ["a"])
