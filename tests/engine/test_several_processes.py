"""Whole runs of several processes, as torchrun would start them; how they end when one of them does."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from visionkit import cli
from visionkit.engine.checkpoint import open_checkpoint
from visionkit.errors import DataError
from visionkit.model import VisionModel

TINY = (
    "image_size=64", "model.width=0.25", "device=cpu", "data.workers=0", "data.batch_size=2",
    "data.reader.count={train: 8, val: 3, test: 3}", "engine.precision=fp32", "engine.epochs=2", "engine.log_steps=1",
    "engine.ema={decay: 0.9, warmup: 5}", "optim.lr=0.002", "augment.mosaic.p=0.0",
    "augment.transforms=[{HorizontalFlip: {p: 0.5}}]", "engine.timeout=60",
)  # fmt: skip


def train(*typed: str) -> int:
    return cli.main(["train", *TINY, *typed])


def lines(folder: str | Path) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def status(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "status.json").read_text())


def wait_for(condition, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_two_processes_make_one_run_and_one_of_them_speaks(ranks, runs, with_report):
    both = ranks(2, train, "task=classify", "run_dir=a")
    assert both.wait() == [0, 0], both.said()
    first, second = both.said()
    assert second == ""
    assert "batch 4 (2 images x 1 accumulated x 2 processes), highest rate 0.002" in first
    assert "Warning" not in first
    assert [line["step"] for line in lines("a")] == [1, 2, 2, 3, 4, 4]
    assert status("a")["status"] == "finished"
    assert "batch norms take their statistics from each process's own 2 images; torch synchronises them on" in first
    assert Path("a/report.html").is_file()
    assert sorted(path.name for path in runs.iterdir()) == ["a", "ranks-0"]


# ----------------------------------------------------------------------------------------------- one of them goes wrong
def unreadable(self, index):
    raise DataError("x.jpg: cannot be read; leave it out")


def only_in_process_1(where: str, *typed: str) -> int:
    """Train with something that goes wrong in process 1 alone."""
    if os.environ["RANK"] == "1":
        patch = pytest.MonkeyPatch()
        if where == "set-up":
            patch.setattr("visionkit.engine.run.open_readers", lambda cfg: unreadable(None, 0))
        elif where == "training":
            patch.setattr("visionkit.data.TrainingSet.__getitem__", unreadable)
        elif where == "evaluation":
            patch.setattr("visionkit.data.EvaluationSet.__getitem__", unreadable)
        elif where == "step":
            patch.setattr("visionkit.engine.faults.Fault.on_losses", lambda *_: [][1])
        elif where == "loss":
            loss = VisionModel.forward
            patch.setattr(
                "visionkit.model.VisionModel.forward",
                lambda *given: {name: value * float("nan") for name, value in loss(*given).items()},
            )
    return train(*typed)


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        ("set-up", 2, "process 1: x.jpg: cannot be read; leave it out"),
        ("training", 2, "process 1: x.jpg: cannot be read; leave it out"),
        pytest.param("evaluation", 1, "process 1: x.jpg: cannot be read; leave it out", marks=pytest.mark.slow),
        pytest.param("step", 1, "process 1: IndexError: list index out of range", marks=pytest.mark.slow),
        ("loss", 1, "step 1: the loss or its gradient is not finite; the step was not taken. Lower optim.lr, or set "
                    "engine.precision=fp32. Images of the batch of process 1: "),
    ],
)  # fmt: skip
def test_what_goes_wrong_in_one_process_ends_all_at_once_and_is_told_once(ranks, runs, where, code, said):
    began = time.monotonic()
    both = ranks(2, only_in_process_1, where, "task=classify", "run_dir=a", "engine.save_steps=1")
    assert both.wait() == [code, code], both.said()
    assert time.monotonic() - began < 30
    first, second = both.said()
    assert second == ""
    assert said in first.splitlines()[-2]
    assert first.count(said) == 1
    if where == "set-up":
        assert not Path("a").exists()
    else:
        assert status("a")["status"] == "failed"
        assert said in status("a")["error"]


def test_a_process_that_hangs_is_named_within_the_time_out(ranks, runs):
    hanging = ("engine.save_steps=1", "debug.fault=hang@rank1", "engine.timeout=4")
    both = ranks(2, train, "task=classify", "run_dir=a", *hanging)
    assert both.wait() == [1, 1], both.said()
    first, second = both.said()
    assert second == ""
    told = (
        "process 1 did not answer for 4 s (engine.timeout): it hangs; raise engine.timeout if it only has more to do "
        "than the others; step-1 is saved, resume=a goes on from it"
    )
    assert told in first.splitlines()[-2]
    assert status("a") == {"status": "failed", "error": told}
    assert open_checkpoint("a", "last").step == 1


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_dies_is_named_at_once(ranks, runs, victim):
    both = ranks(2, train, "task=classify", "run_dir=a", "engine.epochs=1000", "engine.save_steps=1")
    wait_for(lambda: Path("a/checkpoints/last").exists())
    both.processes[victim].kill()
    began = time.monotonic()
    codes = both.wait()
    assert (codes[victim], codes[1 - victim]) == (-9, 1), both.said()
    assert time.monotonic() - began < 20
    assert f"process {victim} died: it was killed, by hand or" in both.said()[1 - victim].splitlines()[-2]
    assert both.said()[1 - victim].splitlines()[-2].count("resume=a goes on from it") == 1
    open_checkpoint("a", "last")
    if victim == 1:
        assert "process 1 died" in status("a")["error"]


@pytest.mark.parametrize("told", [[1], *(pytest.param(told, marks=pytest.mark.slow) for told in ([0], [0, 1]))])
def test_a_signal_to_any_of_them_ends_all_after_the_same_step(ranks, runs, told):
    both = ranks(2, train, "task=classify", "run_dir=a", "engine.epochs=1000")
    wait_for(lambda: Path("a/metrics.jsonl").exists())
    for rank in told:
        os.kill(both.processes[rank].pid, signal.SIGTERM)
    assert both.wait() == [0, 0], both.said()
    assert status("a")["status"] == "preempted"
    assert open_checkpoint("a", "last").step == status("a")["step"] == lines("a")[-1]["step"]
    assert both.said()[1] == ""
