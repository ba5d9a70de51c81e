"""Runs of seconds for the tests of whole runs: tiny networks on 64-pixel scenes, by the command line's own door."""

from __future__ import annotations

import pytest
import torch

from visionkit import cli
from visionkit.engine.trainer import Trainer

TINY = (
    "image_size=64", "model.width=0.25", "device=cpu", "data.workers=0", "data.batch_size=3",
    "data.reader.count={train: 20, val: 6, test: 5}", "engine.precision=fp32", "engine.epochs=2",
    "engine.evaluate_every=1", "engine.log_steps=2", "engine.ema={decay: 0.9, warmup: 5}", "optim.lr=0.002",
    "augment.mosaic.p=0.0", "augment.transforms=[{HorizontalFlip: {p: 0.5}}]",
)  # fmt: skip


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
def runs(tmp_path, monkeypatch, scene_cache, one_thread):
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
