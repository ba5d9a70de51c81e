"""Killed with SIGKILL wherever it hurts, and resumed: the run ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import TINY
from visionkit.config import compose
from visionkit.engine import checkpoint_saving, run, training_run
from visionkit.engine.trainer import Trainer

PLAIN = ("task=classify", "optim=adamw", "engine.save_steps=3", "head.classification.dropout=0.5")
"""7 steps an epoch, 14 in all; saved after 3, 6, 7, 9, 12, 14, logged after every second."""
BATCH_MIX = (
    "task=classify", "optim=momentum", "optim.lr=0.01", "engine.accumulate=2", "engine.epochs=4", "data.workers=2",
    "engine.evaluate_every=2", "engine.save_steps=2", "head.classification.dropout=0.5", "engine.log_steps=3",
    "augment.batch_mix={p: 0.8, mixup: 0.2, cutmix: 1.0}", "engine.max_bad_steps=1",
)  # fmt: skip
"""4 steps an epoch, 16 in all; saved after every second, evaluated after 8 and 16."""
MANY = (
    "task=multitask", "heads=[classification,detection,semantic]", "data.objects=2", "optim=muon", "optim.lr=0.002",
    "augment.mosaic={p: 0.5, until: 0.6}", "engine.save_steps=3", "engine.select=semantic/mIoU",
    "data.reader.count={train: 12, val: 3, test: 3}", "engine.epochs=3",
)  # fmt: skip
"""4 steps an epoch, 12 in all; saved after 3, 4, 6, 8, 9, 12."""
HALF = (
    "task=instance", "engine.precision=fp16", "engine.save_steps=3", "augment.copy_paste={p: 0.5, until: 0.6}",
    "augment.mixup={p: 0.5, until: 1}", "data.repeat_factor=0.9", "data.workers=1", "engine.epochs=2",
)  # fmt: skip
"""The scaler of float16 has a state; 14 steps, saved after 3, 6, 7, 9, 12, 14."""


def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)


def nth(module, name: str, number: int):
    """Die instead of the call number `number`, from 1, of a function."""

    def plan():
        original, calls = getattr(module, name), iter(range(1, 10**6))
        setattr(module, name, lambda *args, **more: die() if next(calls) == number else original(*args, **more))

    return plan


def after(module, name: str, number: int):
    """Die right after the call number `number` of a function."""

    def plan():
        original, calls = getattr(module, name), iter(range(1, 10**6))

        def call(*args, **more):
            result = original(*args, **more)
            if next(calls) == number:
                die()
            return result

        setattr(module, name, call)

    return plan


def fault(text: str):
    return lambda: [f"debug.fault={text}"]


DEATHS = {
    "plain": (PLAIN, {
        "before anything is written": nth(run, "write_beginning", 1),
        "before status.json": nth(run, "write_data_account", 1),
        "before the first step": fault("kill@step1"),
        "before the first checkpoint": fault("kill@step3"),
        "in the first checkpoint": nth(checkpoint_saving, "flush", 4),
        "in mid-epoch, between two checkpoints": fault("kill@step6"),
        "in the second checkpoint": fault("kill@checkpoint"),
        "in the first evaluation": fault("kill@evaluation"),
        "between an epoch's line and its checkpoint": nth(training_run, "save_checkpoint", 2),
        "before the manifest": nth(checkpoint_saving, "write_manifest", 2),
        "before the links, the folder being there": nth(checkpoint_saving, "_link", 1),
        "before the last link": nth(checkpoint_saving, "_link", 2),
        "before the last step": fault("kill@step14"),
        "while an old checkpoint is removed": nth(checkpoint_saving.shutil, "rmtree", 1),
        "before the best is scored": after(Trainer, "train", 1),
        "in the last evaluation": fault("kill@evaluation"),
        "while the last numbers are written": nth(training_run, "write_evaluation", 1),
        "after all but the status": nth(training_run, "write_result_report", 1),
    }),
    "batch mixes, accumulated, two workers": (BATCH_MIX, {
        "after a checkpoint": fault("kill@step3"),
        "at the end of an epoch that is not evaluated": fault("kill@step5"),
        "in an evaluation": fault("kill@evaluation"),
        "before the last step": fault("kill@step16"),
    }),
    "many heads, mosaic, muon": (MANY, {
        "in mid-epoch": fault("kill@step6"),
        "in the second evaluation": fault("kill@evaluation"),
        "before the last step": fault("kill@step12"),
    }),
    "two stages, scaled float16": (HALF, {
        "in mid-epoch": fault("kill@step5"),
        "in a checkpoint": fault("kill@checkpoint"),
        "after an epoch": fault("kill@step8"),
        "before the last step": fault("kill@step14"),
    }),
}  # fmt: skip
SLOW = ("batch mixes, accumulated, two workers", "two stages, scaled float16")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in DEATHS]
)
def test_a_run_that_was_killed_again_and_again_equals_an_uninterrupted_one(
    train, runs, in_child, killed_by, assert_equal_runs, name
):
    typed, deaths = DEATHS[name]
    compose("train", [*TINY, *typed])  # the files are read once, not in every child
    assert in_child(lambda: train(*typed, "run_dir=whole"), Path("log")) == 0, Path("log").read_text()
    steps = [0]
    for where, plan in [*deaths.items(), ("", tuple)]:
        status = in_child(
            lambda plan=plan: train(*typed, "run_dir=broken", "resume=auto", *(plan() or ())), Path("log")
        )
        log = Path("log").read_text()
        assert killed_by(status) == ("SIGKILL" if where else None), f"{where}: {log}"
        steps += [int(line.rpartition("-")[2]) for line in log.splitlines() if line.startswith("resumed ")]
    assert status == 0
    assert_equal_runs("whole", "broken")
    assert steps == sorted(steps), "each went on from where the one before had come to"
    assert steps[-1] > 8, "and the last one did not begin anew"
