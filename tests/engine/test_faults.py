"""Faults on demand do what they say; what the run does then, and how it goes on."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from visionkit.engine import faults
from visionkit.engine.checkpoint import open_checkpoint
from visionkit.engine.faults import NO_FAULT, Fault, parse_fault
from visionkit.errors import ConfigError

TYPED = ("task=classify", "engine.train_slice=0", "head.classification.dropout=0.5", "data.workers=2")
"""7 steps an epoch, 14 in all; evaluated and saved after 7 and 14."""
LOSSES = {"classification/loss": torch.tensor(1.0), "total": torch.tensor(2.0)}


# ------------------------------------------------------------------------------------------------------ each by itself
@pytest.mark.parametrize(
    "text",
    ["kill@step37", "kill@checkpoint", "kill@evaluation", "term@step2", "hang@rank1", "enospc", "nan@step5",
     "oom@step9", "worker@step3"],
)  # fmt: skip
def test_every_form_is_read(text):
    fault = parse_fault(text)
    assert text == f"{fault.kind}{fault.number or ''}"


@pytest.mark.parametrize("text", ["kill@step", "enospc3", "kil@step3", "3", "", "nan@step-1"])
def test_what_is_no_fault_is_refused(text):
    with pytest.raises(ConfigError, match=f"^debug.fault={text}: no such fault.*; known are kill@step<N>, "):
        parse_fault(text)


def test_nothing_goes_wrong_where_nothing_is_asked_for(monkeypatch):
    monkeypatch.setattr(os, "kill", None)
    for fault in (parse_fault(None), parse_fault("none"), NO_FAULT):
        fault.before_step(0, 0)
        assert fault.on_losses(0, LOSSES) == LOSSES
        fault.on_checkpoint(1)
        fault.on_evaluation()


@pytest.fixture
def signals(monkeypatch):
    sent = []
    monkeypatch.setattr(faults.os, "kill", lambda process, one: sent.append((process == os.getpid(), one)))
    return sent


@pytest.mark.parametrize(
    ("kind", "one"), [("kill@step", signal.SIGKILL), ("term@step", signal.SIGTERM)]
)  # fmt: skip
def test_signals_come_before_the_step_that_is_named(signals, kind, one):
    for step in range(1, 6):
        assert len(signals) == (step > 3)
        Fault(kind, 3).before_step(step, 0)
    assert signals == [(True, one)]


def test_the_first_checkpoint_is_spared(signals):
    killed, full = Fault("kill@checkpoint"), Fault("enospc")
    killed.on_checkpoint(0)
    full.on_checkpoint(0)
    assert signals == []
    killed.on_checkpoint(1)
    assert signals == [(True, signal.SIGKILL)]
    with pytest.raises(OSError, match="No space left") as caught:
        full.on_checkpoint(1)
    assert caught.value.errno == errno.ENOSPC


def test_an_evaluation_is_killed(signals):
    Fault("kill@evaluation").on_evaluation()
    assert signals == [(True, signal.SIGKILL)]


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs Linux")
def test_a_worker_that_was_killed_is_left_for_torch_to_find(monkeypatch):
    """Whose end was noted already is not found by torch's handler, and a run waits for its batch until the time-out."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [child])
    Fault("worker@step", 3).before_step(3, 0)
    ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    assert ended is not None
    assert ended.si_status == signal.SIGKILL
    child.join()


def test_one_process_stops_before_its_second_step(monkeypatch):
    slept = []
    monkeypatch.setattr(faults.time, "sleep", slept.append)
    for rank in (0, 1):
        for step in (1, 2, 3):
            Fault("hang@rank", 1).before_step(step, rank)
            assert len(slept) == (rank == 1 and step > 1)


def test_losses_of_one_step_alone_are_spoilt():
    for step in (1, 2, 3):
        total = Fault("nan@step", 2).on_losses(step, LOSSES)["total"]
        assert bool(total.isnan()) == (step == 2)
    assert Fault("oom@step", 2).on_losses(1, LOSSES) == LOSSES
    with pytest.raises(torch.OutOfMemoryError):
        Fault("oom@step", 2).on_losses(2, LOSSES)


# ------------------------------------------------------------------------------------------------------- in whole runs
@pytest.fixture
def whole(train, in_child, tmp_path_factory):
    """The folder of the run in which nothing went wrong, made once."""
    folder = tmp_path_factory.getbasetemp() / "without-faults"
    if not folder.exists():
        assert in_child(lambda: train(*TYPED, f"run_dir={folder}"), Path("log")) == 0, Path("log").read_text()
    return folder


ON_FROM_7 = "; step-7 is saved, resume=a goes on from it"


@pytest.mark.parametrize(
    ("fault", "code", "status", "said"),
    [
        ("worker@step9", 1, "failed", "a process that loads data died"),
        ("oom@step9", 1, "failed", "out of memory on cpu with batches of 3 x 64 x 64 pixels; lower data.batch_size"),
        ("nan@step9", 1, "failed", "step 9: the loss or its gradient is not finite; the step was not taken"),
        ("enospc", 1, "failed", "step-14: not written (No space left on device); free space or give another run_dir"),
        ("term@step9", 0, "preempted", "ended by SIGTERM after step 9; resume=a goes on from there"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_named_and_the_run_goes_on_as_if_it_had_not(
    train, in_child, whole, assert_equal_runs, fault, code, status, said
):
    def work() -> int:
        multiprocessing.process._children.clear()  # forked from here, they would be taken for the run's own
        return train(*TYPED, "run_dir=a", f"debug.fault={fault}")

    ended = in_child(work, Path("log"))
    lines = Path("log").read_text().splitlines()
    assert os.waitstatus_to_exitcode(ended) == code, lines
    assert said in "\n".join(lines[-2:])
    assert json.loads(Path("a/status.json").read_text())["status"] == status
    if fault in ("worker@step9", "oom@step9"):
        assert ON_FROM_7 in lines[-2]
    assert open_checkpoint("a", "last").step == (9 if code == 0 else 7)
    again = in_child(lambda: train(*TYPED, "run_dir=a", "resume=auto"), Path("log"))
    assert again == 0, Path("log").read_text()
    assert_equal_runs(whole, "a")


def test_a_loss_that_is_not_finite_is_passed_over_where_that_is_allowed(train):
    typed = (*TYPED[:-1], "engine.epochs=1", "debug.fault=nan@step3", "engine.max_bad_steps=1")
    assert train(*typed, "run_dir=a") == 0
    checkpoint = open_checkpoint("a", "last")
    state = checkpoint.training_state()
    assert (checkpoint.step, state["bad_steps"], state["ema_updates"]) == (7, 1, 6)
    assert all(value.isfinite().all() for which in ("model", "ema") for value in checkpoint.weights(which).values())


def test_the_images_of_a_loss_that_is_not_finite_are_named_and_nothing_of_it_is_saved(train, capsys):
    assert train(*TYPED[:-1], "debug.fault=nan@step3", "run_dir=a", "engine.save_steps=2") == 1
    line = capsys.readouterr().err
    ids = line.split("Images of the batch: ")[1].split(" (debug")[0].split(", ")
    assert len(ids) == 3
    assert set(ids) <= {str(number) for number in range(1, 21)}
    assert open_checkpoint("a", "last").step == 2
