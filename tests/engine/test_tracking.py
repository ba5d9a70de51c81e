from __future__ import annotations

import json
import logging
import re

import pytest

from visionkit.engine import tracking
from visionkit.engine.tracking import Tracker


@pytest.fixture
def clock(monkeypatch):
    """A clock that only goes on when it is told to: clock(2.0)."""
    now = [100.0]
    monkeypatch.setattr(tracking.time, "perf_counter", lambda: now[0])

    def go_on(seconds):
        now[0] += seconds

    return go_on


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_and_clocks(tmp_path, clock, caplog):
    tracker = Tracker(tmp_path, total_steps=40, headline="detection/AP")
    clock(1000)  # before the run
    tracker.begin(0)
    with caplog.at_level(logging.INFO, "visionkit"):
        for step in range(1, 11):
            clock(0.5)
            tracker.waited(0.1)
            tracker.trained(16)
            if step == 5:
                tracker.training_pauses()
                clock(10)  # a checkpoint in mid-epoch is not training
                tracker.training_resumes()
        tracker.log_step(10, {"detection/box": 0.12345678, "total": 1.5}, lr=0.01)
        tracker.training_pauses()
        clock(5)
        tracker.log_epoch(10, 1, 4, {"detection/AP": 0.25, "detection/AP_large": float("nan")})
        clock(100)
        tracker.training_resumes()
        clock(2)
        tracker.training_pauses()
        tracker.log_step(20, {"total": float("nan")}, lr=0.01)
        tracker.log_epoch(20, 2, 4, {})
    assert tracker.training_seconds == pytest.approx(7.0)
    assert read(tmp_path / "metrics.jsonl") == [
        {"step": 10, "detection/box": 0.123457, "total": 1.5, "lr": 0.01},
        {"step": 10, "epoch": 1, "detection/AP": 0.25, "detection/AP_large": None},
        {"step": 20, "total": None, "lr": 0.01},
        {"step": 20, "epoch": 2},
    ]
    first, second = read(tmp_path / "timing.jsonl")
    assert first == {
        "step": 10, "epoch": 1, "seconds": 5.0, "images_per_second": 32.0, "waiting": 0.2, "elapsed": 20.0
    }  # fmt: skip
    assert (second["seconds"], second["images_per_second"], second["waiting"]) == (2.0, 0.0, 0.0)
    told, later = [record.getMessage() for record in caplog.records]
    # 20 s for 10 steps, pauses included: 60 s for the 30 that are left.
    assert told == "epoch 1/4  loss 1.500  detection/AP 0.2500  32 images/s  1:00 left  20% waiting for data"
    assert re.match(r"epoch 2/4  loss nan  not evaluated  ", later)


def test_a_resumed_run_cuts_off_what_came_after_its_checkpoint(tmp_path):
    file = tmp_path / "metrics.jsonl"
    kept = '{"step": 2, "total": 1.0}\n{"step": 3, "epoch": 1}\n'
    file.write_text(kept + '{"step": 4, "total": 1.0}\n{"step": 5, "to')
    Tracker(tmp_path, total_steps=9, headline="x").begin(3)
    assert file.read_text() == kept
    Tracker(tmp_path, total_steps=9, headline="x").begin(0)
    assert file.read_text() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_resumed_run_reckons_with_its_own_steps(tmp_path, clock, caplog):
    tracker = Tracker(tmp_path, total_steps=40, headline="x")
    tracker.begin(30)
    clock(10)
    tracker.training_pauses()
    tracker.log_step(35, {"total": 1.0}, lr=0.1)
    with caplog.at_level(logging.INFO, "visionkit"):
        tracker.log_epoch(35, 1, 1, {})
    assert "  0:10 left  " in caplog.text
    assert read(tmp_path / "timing.jsonl")[0]["elapsed"] == 10
