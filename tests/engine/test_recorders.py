from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import pytest

from visionkit.engine import recorders
from visionkit.engine.recorders import Recorders, check_recorders
from visionkit.engine.tracking import Tracker
from visionkit.errors import ConfigError


class Kept:
    """Remembers what it is handed; fails when it is told to."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step, self.lines, self.fails, self.closed = folder, step, [], False, False
        MADE.append(self)

    def record(self, step, numbers):
        if self.fails:
            raise ConnectionError("the server is gone\nand more")
        self.lines.append((step, dict(numbers)))

    def close(self):
        self.closed = True


MADE: list[Kept] = []


@pytest.fixture
def kept(monkeypatch):
    MADE.clear()
    monkeypatch.setattr(recorders, "_KINDS", {"one": (Kept, "json"), "two": (Kept, "json")})
    return MADE


def test_a_recorder_is_handed_what_is_written(tmp_path, kept):
    tracker = Tracker(tmp_path, total_steps=4, headline="detection/AP", track=["one"])
    tracker.begin(2)
    tracker.log_step(3, {"detection/box": 0.5, "total": 1.5}, lr=0.01)
    tracker.training_pauses()
    tracker.log_epoch(4, 1, 1, {"detection/AP": 0.25, "detection/AP_large": float("nan")})
    tracker.end()
    (recorder,) = kept
    assert (recorder.folder, recorder.step, recorder.closed) == (tmp_path, 2, True)
    assert recorder.lines[0] == (3, {"loss/detection/box": 0.5, "loss/total": 1.5, "lr": 0.01})
    step, numbers = recorder.lines[1]
    assert step == 4
    assert set(numbers) == {"detection/AP", "timing/images_per_second", "timing/waiting"}


def test_a_recorder_that_fails_is_said_once_and_training_goes_on(tmp_path, kept, caplog):
    tracker = Tracker(tmp_path, total_steps=4, headline="x", track=["one", "two"])
    tracker.begin(0)
    kept[0].fails = True
    with caplog.at_level(logging.WARNING, "visionkit"):
        for step in (1, 2, 3):
            tracker.log_step(step, {"total": 1.0}, lr=0.1)
        tracker.end()
    said = [record.getMessage() for record in caplog.records]
    assert said == ["track=one: left out from here on, it failed (the server is gone); metrics.jsonl has every number"]
    assert [step for step, _ in kept[1].lines] == [1, 2, 3]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert (kept[0].closed, kept[1].closed) == (False, True)


def test_one_that_cannot_be_opened_is_left_out(tmp_path, monkeypatch, caplog):
    def broken(folder, step):
        raise OSError("no space")

    monkeypatch.setattr(recorders, "_KINDS", {"one": (broken, "json")})
    with caplog.at_level(logging.WARNING, "visionkit"):
        made = Recorders(["one"], tmp_path, 0)
        made.record(1, {"a": 1.0})
        made.close()
    assert len(caplog.records) == 1


def test_names_are_checked_before_the_run(monkeypatch):
    with pytest.raises(ConfigError, match=r"track=\[tensorbord\]: no such tracker \(did you mean 'tensorboard'\?\)"):
        check_recorders(["tensorbord"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"track=\[wandb\]: the package wandb is not installed; pip install wandb"):
        check_recorders(["wandb"])


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is an extra")
def test_tensorboards_curves_go_on_where_the_checkpoint_lies(tmp_path):
    """Of a run killed after step 3 and resumed from step 2, step 3 is there once, with its second value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, values in ((0, {1: 1.0, 2: 2.0, 3: 3.0}), (2, {3: 30.0, 4: 40.0})):
        made = Recorders(["tensorboard"], tmp_path, start)
        for step, value in values.items():
            made.record(step, {"loss/total": value})
        made.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/total")] == [(1, 1), (2, 2), (3, 30), (4, 40)]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_other_services_record_on_this_machine_alone(tmp_path, name, monkeypatch):
    """Without an account, an address or a network; the files lie in the run's folder."""
    pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    made = Recorders([name], tmp_path / "run", 0)
    made.record(1, {"detection/AP": 0.5, "classification/recall@5": 0.25})
    assert made._open, "it failed"
    made.close()
    assert any(path.is_file() for path in (tmp_path / "run").rglob("*"))
