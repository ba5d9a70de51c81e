"""Real signals to real runs: each ends saved, and the resumed run ends as if nothing had happened."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from pathlib import Path

import pytest

from visionkit.engine import evaluate, run, training_run
from visionkit.engine.checkpoint import open_checkpoint
from visionkit.engine.faults import Fault

TYPED = ("task=classify", "engine.train_slice=0", "head.classification.dropout=0.5")
"""7 steps an epoch, 14 in all; evaluated and saved after 7 and 14."""


def to_all(one: signal.Signals) -> None:
    """Signal every process of the run, from outside of it, as a terminal and Slurm do."""
    sender = os.fork()
    if sender == 0:
        signal.signal(one, signal.SIG_IGN)
        os.killpg(0, one)
        os._exit(0)
    os.waitpid(sender, 0)


def to_one(one: signal.Signals) -> None:
    os.kill(os.getpid(), one)


def before(module, name: str, action, number: int = 1) -> None:
    """Have `action` called before the call number `number` of a function."""
    original, calls = getattr(module, name), iter(range(1, 10**6))

    def call(*given, **more):
        if next(calls) == number:
            action()
        return original(*given, **more)

    setattr(module, name, call)


PLACES = {
    "set-up": lambda action: before(run, "open_readers", action),
    "the fifth step": lambda action: before(Fault, "on_losses", action, 5),
    "the end of an epoch": lambda action: before(Fault, "on_losses", action, 7),
    "an evaluation": lambda action: before(evaluate._Share, "add", action, 3),
    "the last step": lambda action: before(Fault, "on_losses", action, 14),
    "the last evaluation": lambda action: before(
        training_run.TrainingRun, "finish", lambda: before(evaluate._Share, "add", action, 2)
    ),
}
LAST_STEP = {
    "set-up": 1, "the fifth step": 5, "the end of an epoch": 7, "an evaluation": 7, "the last step": 14,
    "the last evaluation": 14,
}  # fmt: skip


@pytest.fixture
def small_evaluations(monkeypatch):
    """Batches of two, so that an evaluation has several."""
    monkeypatch.setattr(training_run, "judging_loader", functools.partial(training_run.judging_loader, batch_size=2))


@pytest.fixture
def signalled(train, in_child, small_evaluations):
    """signalled(place, action, *typed): the exit status of a run in a group of its own, and the seconds it took on."""

    def start(place: str, action, *typed: str) -> tuple[int, float]:
        def work() -> int:
            os.setsid()

            def marked():
                Path("signalled").touch()
                action()

            PLACES[place](marked)
            return train(*TYPED, "run_dir=a", "resume=auto", *typed)

        status = in_child(work, Path("log"))
        return status, time.time() - Path("signalled").stat().st_mtime

    return start


def status() -> dict:
    return json.loads(Path("a/status.json").read_text())


@pytest.fixture
def whole(train, tmp_path_factory, small_evaluations):
    """The folder of the run that nobody disturbed, made once."""
    folder = tmp_path_factory.getbasetemp() / "without-signals"
    if not folder.exists():
        assert train(*TYPED, f"run_dir={folder}") == 0
    return folder


@pytest.mark.parametrize(
    ("place", "one", "workers"),
    [
        ("set-up", signal.SIGTERM, 0),
        ("the fifth step", signal.SIGTERM, 2),
        pytest.param("the fifth step", signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param("the fifth step", signal.SIGUSR1, 2, marks=pytest.mark.slow),
        pytest.param("the end of an epoch", signal.SIGUSR1, 0, marks=pytest.mark.slow),
        ("an evaluation", signal.SIGUSR1, 2),
        pytest.param("the last step", signal.SIGTERM, 0, marks=pytest.mark.slow),
        ("the last evaluation", signal.SIGINT, 0),
    ],
)  # fmt: skip
def test_a_signalled_run_ends_saved_and_goes_on_as_if_nothing_had_happened(
    signalled, train, in_child, whole, assert_equal_runs, place, one, workers
):
    ended, seconds = signalled(place, functools.partial(to_all, one), f"data.workers={workers}")
    log = Path("log").read_text()
    assert (ended, status()) == (0, {"status": "preempted", "step": LAST_STEP[place], "reason": one.name}), log
    assert seconds < 30
    assert f"ended by {one.name} after step {LAST_STEP[place]}; resume=a goes on from there" in log
    assert open_checkpoint("a", "last").step == LAST_STEP[place]
    assert in_child(lambda: train(*TYPED, "run_dir=a", "resume=auto"), Path("log")) == 0, Path("log").read_text()
    assert status() == {"status": "finished", "step": 14}
    assert_equal_runs(whole, "a")


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_no_process_of_the_run_is_left(runs, train, in_child):
    def work() -> int:
        os.setsid()
        Path("group").write_text(str(os.getpgid(0)))
        before(Fault, "on_losses", functools.partial(to_all, signal.SIGTERM), 5)
        return train(*TYPED, "run_dir=a", "data.workers=2")

    assert in_child(work, Path("log")) == 0, Path("log").read_text()
    group, until = int(Path("group").read_text()), time.monotonic() + 20
    while _lives(group) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _lives(group)


def test_the_second_ctrl_c_quits_at_once(signalled):
    def twice():
        to_one(signal.SIGINT)
        time.sleep(1.1)
        to_one(signal.SIGINT)

    ended, _ = signalled("the fifth step", twice)
    assert os.waitstatus_to_exitcode(ended) == 130, Path("log").read_text()
    assert status()["status"] == "interrupted"
    assert not Path("a/checkpoints").exists()
    lines = Path("log").read_text().splitlines()
    assert "ends after this step, and is saved; Ctrl-C again quits at once" in lines
    assert lines[-1] == "interrupted"


def test_a_run_of_limited_time_comes_further_each_time(runs, train, in_child):
    for step in (1, 2):
        typed = ("run_dir=a", "resume=auto", "engine.max_hours=1e-9", *(["engine.max_hours=2e-9"] if step > 1 else []))
        assert in_child(lambda typed=typed: train(*TYPED, *typed), Path("log")) == 0, Path("log").read_text()
        reason = f"engine.max_hours={step}e-09"
        assert status() == {"status": "preempted", "step": step, "reason": reason}


def test_what_follows_in_the_same_process_hears_of_its_signals_itself(runs, train, before_step):
    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    before_step(2, lambda trainer: to_one(signal.SIGTERM))
    assert train(*TYPED, "run_dir=a") == 0
    assert status()["status"] == "preempted"
    assert {one: signal.getsignal(one) for one in handlers} == handlers
