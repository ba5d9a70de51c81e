from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import distributed, nn

from visionkit.cli import run_tool
from visionkit.engine import batch_finder, rate_finder
from visionkit.engine import run as engine_run
from visionkit.engine.rate_finder import LOWEST, suggested

TINY = ("debug=tiny", "debug.images=null", "data.reader.count={train: 320, val: 4, test: 4}", "device=cpu")
TASKS = ("classify", "localize", "detect", "semantic", "instance", "panoptic", "multitask")


# --------------------------------------------------------------------------------------------------------- batch size
@pytest.fixture
def memory(monkeypatch):
    """memory(bytes an image, bytes free): a device whose steps take so much."""
    tried = []

    def stands(image: float, free: float, own: float = 100.0):
        def peak(self, batch):
            if own + image * len(batch.images) > 1.2 * free:
                raise torch.OutOfMemoryError("no more")
            tried.append(len(batch.images))
            return own + image * len(batch.images)

        monkeypatch.setattr(batch_finder._Trial, "peak", peak)
        monkeypatch.setattr(batch_finder, "_free_bytes", lambda device: free)
        return tried

    return stands


@pytest.mark.parametrize(("image", "free", "size"), [(1000.0, 20_000.0, 16), (1000.0, 3000.0, 2), (1.0, 1e9, 32)])
def test_the_largest_power_of_two_that_fits_is_taken(runs, memory, image, free, size):
    """With 320 images at most 32: ten steps make an epoch. The run's own configuration has the number."""
    tried = memory(image, free)
    assert run_tool("train", ["task=classify", *TINY, "run_dir=a", "data.batch_size=auto"]) == 0
    assert OmegaConf.load("a/config.yaml").data.batch_size == size
    assert tried == [2**power for power in range(1, len(tried) + 1)]
    assert f"data.batch_size=auto: {size} images" in Path("a/train.log").read_text()


def test_what_does_not_fit_at_all_is_refused(runs, memory, capsys):
    memory(1000.0, 1000.0)
    assert run_tool("train", ["task=classify", *TINY, "run_dir=a", "data.batch_size=auto"]) == 2
    assert "data.batch_size=auto: not even two images of 64 x 64 pixels fit" in capsys.readouterr().err
    assert not Path("a").exists()


@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_tried(runs, task, monkeypatch):
    """Real steps for the batch, and a range of rates."""
    monkeypatch.setattr(batch_finder, "MOST_ON_CPU", 4)
    monkeypatch.setattr(rate_finder, "STEPS", 4)
    assert run_tool("train", [f"task={task}", *TINY, "run_dir=a", "data.batch_size=auto", "engine.find_lr=true"]) == 0
    assert OmegaConf.load("a/config.yaml").data.batch_size == 4
    told = json.loads(Path("a/learning_rate.json").read_text())
    assert len(told["rates"]) == 4
    assert told["rates"][0] == pytest.approx(LOWEST)
    assert Path("a/plots/learning_rate.png").stat().st_size > 5000
    assert not Path("a/checkpoints").exists()
    assert json.loads(Path("a/status.json").read_text())["status"] == "finished"


def test_the_trial_leaves_the_run_as_it_is(runs, monkeypatch):
    """Equal weights and random numbers: the run equals one whose batch size was typed."""
    monkeypatch.setattr(batch_finder, "MOST_ON_CPU", 4)
    assert run_tool("train", ["task=detect", *TINY, "run_dir=auto", "data.batch_size=auto", "optim=muon"]) == 0
    assert run_tool("train", ["task=detect", *TINY, "run_dir=typed", "data.batch_size=4", "optim=muon"]) == 0
    assert Path("auto/metrics.jsonl").read_text() == Path("typed/metrics.jsonl").read_text()


def test_no_process_waits_for_another_one_s_trial(runs, monkeypatch):
    """Norms that are synchronised would, and trials end sooner on a GPU with less memory; here they would raise."""
    monkeypatch.setattr(batch_finder, "MOST_ON_CPU", 2)
    find = engine_run.find_batch_size
    monkeypatch.setattr(
        engine_run,
        "find_batch_size",
        lambda model, *given, **more: find(
            nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)), *given, **more
        ),
    )
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        assert run_tool("train", ["task=classify", *TINY, "run_dir=a", "data.batch_size=auto"]) == 0
    finally:
        distributed.destroy_process_group()


def test_a_run_that_goes_on_keeps_its_batch(runs, memory):
    memory(1000.0, 20_000.0)
    typed = ["task=classify", *TINY, "run_dir=a", "data.batch_size=auto", "engine.max_steps=4"]
    assert run_tool("train", [*typed, "engine.save_steps=2", "debug.fault=nan@step3"]) == 1
    memory(1000.0, 3000.0)
    assert run_tool("train", [*typed, "engine.save_steps=2", "resume=auto"]) == 0
    assert OmegaConf.load("a/config.yaml").data.batch_size == 16


def test_the_latest_run_that_goes_on_by_itself_keeps_its_batch(runs, memory):
    """resume=auto without a folder; a run of another configuration begins anew, with a batch of its own."""
    memory(1000.0, 20_000.0)
    typed = ["task=classify", *TINY, "resume=auto", "data.batch_size=auto", "engine.save_steps=2"]
    assert run_tool("train", [*typed, "engine.max_steps=4", "debug.fault=nan@step3"]) == 1
    memory(1000.0, 3000.0)
    assert run_tool("train", [*typed, "engine.max_steps=5"]) == 0
    assert OmegaConf.load("runs/classify/classify-002/config.yaml").data.batch_size == 2
    Path("runs/classify/latest").unlink()
    Path("runs/classify/latest").symlink_to("classify-001")
    assert run_tool("train", [*typed, "engine.max_steps=4"]) == 0
    assert OmegaConf.load("runs/classify/classify-001/config.yaml").data.batch_size == 16
    assert json.loads(Path("runs/classify/classify-001/status.json").read_text())["status"] == "finished"
    assert not Path("runs/classify/classify-003").exists()


# ---------------------------------------------------------------------------------------------------------------- rate
def test_the_suggestion_by_hand():
    """A loss that falls from 1e-4 to 1e-2 and rises from there: a third of where the smoothed curve is lowest."""
    rates = [10 ** (-6 + 0.06 * step) for step in range(100)]
    losses = [1.0 if rate < 1e-4 else 0.2 if rate < 1e-2 else 100.0 for rate in rates]
    rate, smoothed = suggested(rates, losses)
    assert rate == pytest.approx(max(one for one in rates if one < 1e-2) / 3)
    assert len(smoothed) < len(rates)
    assert suggested(rates, [1.0] * 100)[0] is None
    assert suggested(rates, [1.0 + step for step in range(100)])[0] is None
    assert suggested(rates, [1.0 + 0.1 * (step % 2) for step in range(100)])[0] is None
    assert suggested([], []) == (None, [])


@pytest.mark.slow
def test_a_suggestion_of_a_real_run_is_near_what_works(runs):
    """The recipe's rate was chosen by its results; the range test comes to its decade."""
    typed = ["task=detect", "image_size=64", "data.batch_size=4", "data.workers=0", "device=cpu", "model.width=0.25"]
    count = "data.reader.count={train: 100, val: 4, test: 4}"
    assert run_tool("train", [*typed, count, "run_dir=a", "engine.find_lr=true"]) == 0
    told = json.loads(Path("a/learning_rate.json").read_text())
    assert told["optim.lr"] / 10 < told["suggested"] < told["optim.lr"] * 10


@pytest.mark.parametrize("resume", ["auto", "a"])
def test_rates_are_tried_on_a_new_model_alone(runs, capsys, resume):
    assert run_tool("train", ["task=classify", *TINY, f"resume={resume}", "engine.find_lr=true"]) == 2
    said = f"engine.find_lr=true: tries rates on a new model; leave resume={resume} out"
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()


def test_memory_that_is_used_up_while_rates_are_tried_is_told_in_words(runs, capsys):
    typed = ["task=classify", *TINY, "run_dir=a", "engine.find_lr=true", "debug.fault=oom@step2"]
    assert run_tool("train", typed) == 1
    assert "out of memory on cpu with batches of 2 x 64 x 64" in capsys.readouterr().err
    assert "out of memory on cpu" in json.loads(Path("a/status.json").read_text())["error"]
