"""Runs of seconds for the tests of whole runs: tiny networks on 64-pixel scenes, by the command line's own door."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import cv2
import pytest
import torch

from visionkit import cli
from visionkit.engine import judging, training_run
from visionkit.engine.checkpoint import open_checkpoint
from visionkit.engine.trainer import Trainer

TINY = (
    "image_size=64", "model.width=0.25", "device=cpu", "data.workers=0", "data.batch_size=3",
    "data.reader.count={train: 20, val: 6, test: 5}", "engine.precision=fp32", "engine.epochs=2",
    "engine.evaluate_every=1", "engine.log_steps=2", "engine.ema={decay: 0.9, warmup: 5}", "optim.lr=0.002",
    "augment.mosaic.p=0.0", "augment.transforms=[{HorizontalFlip: {p: 0.5}}]",
)  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def first_gradient():
    """Where a model is exported before the first gradient, that one starts threads, which `in_child` cannot fork."""
    torch.ones(1, requires_grad=True).backward()


@pytest.fixture(scope="session")
def one_thread():
    """On a CPU the last bits of a sum depend on the number of threads, which runs take from here if it is set."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def scene_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture
def with_report():
    """For tests of the page."""


@pytest.fixture
def no_report(request, monkeypatch):
    """Runs draw no page of pictures, which takes longer than all the rest of a tiny run, unless with_report asks."""
    if "with_report" not in request.fixturenames:
        for module in (judging, training_run):
            monkeypatch.setattr(module, "write_result_report", lambda *given: None)


@pytest.fixture
def runs(tmp_path, monkeypatch, scene_cache, one_thread, no_report):
    """An empty folder to run in, with one thread and a cache of drawn scenes; returns the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONKIT_CACHE", str(scene_cache))
    return tmp_path


@pytest.fixture
def train(runs):
    """Train a tiny model: train("task=classify", "run_dir=a") returns the exit code."""
    return lambda *typed: cli.main(["train", *TINY, *typed])


@pytest.fixture(scope="session")
def finished(tmp_path_factory, scene_cache, one_thread):
    """The folder of one finished tiny detection run; to be read, not to be written to."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONKIT_CACHE", str(scene_cache))
        assert cli.main(["train", *TINY, f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture
def before_step(monkeypatch):
    """before_step(5, action): in the next run, have action(trainer) called just before step 5 (from 1) is trained."""

    def plan(step, action):
        original = Trainer.train

        def planned(trainer):
            monkeypatch.setattr(Trainer, "train", original)
            batches = trainer.batches

            def watched():
                for batch in batches:
                    if trainer.step == step - 1:
                        action(trainer)
                    yield batch

            trainer.batches = watched()
            original(trainer)

        monkeypatch.setattr(Trainer, "train", planned)

    return plan


@pytest.fixture
def interrupt(before_step):
    """interrupt(5): the next run ends as by Ctrl-C just before step 5."""

    def stop(trainer):
        raise KeyboardInterrupt

    return lambda step: before_step(step, stop)


# ------------------------------------------------------------------------------ runs that die, runs that must be equal
def _assert_equal(one, other, where: str) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            _assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            _assert_equal(mine, theirs, f"{where}[{number}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def _of_checkpoint(run: Path, link: str) -> dict:
    found = open_checkpoint(run / "checkpoints" / link)
    parts = {"ema": found.weights("ema"), "model": found.weights("model"), "training": found.training_state()}
    return {"step": found.step, "state": found.state, "description": found.description, **parts}


@pytest.fixture(scope="session")
def assert_equal_runs():
    """assert_equal_runs(one, other): to the bit, what was learned and what is told of it."""

    def compare(one: Path, other: Path) -> None:
        for link in ("last", "best"):
            _assert_equal(_of_checkpoint(Path(one), link), _of_checkpoint(Path(other), link), link)
        for name in ("metrics.jsonl", "metrics.json", "predictions.json"):
            assert (Path(one) / name).read_text() == (Path(other) / name).read_text(), name

    return compare


@pytest.fixture(scope="session")
def in_child():
    """in_child(action): run it in a forked process, which has all imports already; return how that ended (waitpid).

    What it prints goes nowhere, unless it fails.
    """

    def fork(action, log: Path = Path(os.devnull)) -> int:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                cv2.setNumThreads(0)
                output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(output, 1)
                os.dup2(output, 2)
                sys.stdout = sys.stderr = os.fdopen(output, "w", buffering=1)
                code = action()
            finally:
                sys.stdout.flush()
                os._exit(code)
        return os.waitpid(child, 0)[1]

    return fork


@pytest.fixture(scope="session")
def killed_by():
    """killed_by(status): the signal that ended a process, or None."""
    return lambda status: signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None
