from __future__ import annotations

import json
import logging
import re

import pytest

from visionkit.engine import tracking
from visionkit.engine.tracking import Tracker
from visionkit.engine.waiting import Loading


@pytest.fixture
def clock(monkeypatch):
    """A clock that only goes on when it is told to: clock(2.0)."""
    now = [100.0]
    monkeypatch.setattr(tracking.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(tracking, "memory_taken", lambda device: 3 << 29)

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
        "step": 10, "epoch": 1, "seconds": 5.0, "images_per_second": 32.0, "waiting": 0.2, "elapsed": 20.0,
        "memory": 3 << 29,
    }  # fmt: skip
    assert (second["seconds"], second["images_per_second"], second["waiting"]) == (2.0, 0.0, 0.0)
    told, later = [record.getMessage() for record in caplog.records]
    # 20 s for 10 steps, pauses included: 60 s for the 30 that are left.
    shown = "epoch 1/4  loss 1.500  detection/AP 0.2500  32 images/s  1:00 left  20% waiting for data  1.5 GiB memory"
    assert told == shown
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


def test_a_half_line_of_clocks_neither_stops_a_run_nor_stays(tmp_path, clock):
    """Nor does any other line that is none: nothing is computed from clocks."""
    file = tmp_path / "timing.jsonl"
    kept = '{"step": 2, "epoch": 1, "seconds": 1.0}\n'
    file.write_text(kept + '[]\nnone\n{"step": 4, "epoch": 2, "seconds": 1.0}\n{"step": 6, "epo')
    tracker = Tracker(tmp_path, total_steps=9, headline="x")
    tracker.begin(2)
    assert file.read_text() == kept
    clock(1)
    tracker.training_pauses()
    tracker.log_epoch(4, 2, 5, {})
    assert [line["step"] for line in read(file)] == [2, 4]


def test_an_epoch_that_was_trained_before_has_its_loss_and_no_clocks(tmp_path, clock, caplog):
    """An interrupted run comes back with an epoch that is only to be scored."""
    lines = ['{"step": 2, "total": 2.0}', '{"step": 4, "total": 0.5}', '{"step": 4, "epoch": 1}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    tracker = Tracker(tmp_path, total_steps=8, headline="x/y")
    tracker.begin(4, epoch_due=True)
    clock(3)  # the evaluation
    with caplog.at_level(logging.INFO, "visionkit"):
        tracker.log_epoch(4, 1, 2, {"x/y": 0.25})
    assert caplog.messages == ["epoch 1/2  loss 0.500  x/y 0.2500"]
    assert not (tmp_path / "timing.jsonl").exists()
    assert read(tmp_path / "metrics.jsonl")[-1] == {"step": 4, "epoch": 1, "x/y": 0.25}


def test_who_waits_is_told_once_what_to_change(tmp_path, clock, caplog, monkeypatch):
    """Of the training time alone, and not before ten seconds of it: two processes compute 3 of their 20 seconds."""
    computed = [7.0]
    monkeypatch.setattr(tracking, "seconds_of_children", lambda: computed[0])
    tracker = Tracker(tmp_path, total_steps=9, headline="x", loading=Loading(workers=2, cores=8))
    tracker.begin(0)

    def epoch(number: int, seconds: float) -> None:
        clock(seconds)
        computed[0] += 0.3 * seconds
        tracker.waited(0.4 * seconds)
        tracker.training_pauses()
        computed[0] += 50  # others load for the evaluation
        tracker.log_epoch(number, number, 9, {})
        tracker.training_resumes()

    with caplog.at_level(logging.INFO, "visionkit"):
        epoch(1, 5)
        epoch(2, 10)
        epoch(3, 10)
    (said,) = [line for line in caplog.messages if not line.startswith("epoch")]
    assert said.startswith(
        "40% of the training time went to waiting for data: the 2 processes that load compute 15% of"
    )
    assert caplog.messages.index(said) == 2


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
