"""What only several GPUs can show."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.test_judging import EVERYTHING, numbers
from visionkit import cli

TINY = (
    "task=detect", "image_size=64", "model.width=0.25", "device=cuda", "data.workers=0", "engine.precision=fp32",
    "data.reader.count={train: 16, val: 4, test: 4}", "engine.epochs=1", "engine.log_steps=1", "optim=sgd",
    "optim.lr=0.001", "augment.mosaic.p=0.0", "engine.ema={decay: 0.5, warmup: 1}",
)  # fmt: skip
STARTS = 140.0
"""Seconds that a run of a few steps may take: CUDA, cuDNN and NCCL take 10 to 30 s to start in each process."""
pytestmark = [
    pytest.mark.multi_gpu,
    pytest.mark.timeout(500),
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]


def train(*typed: str) -> int:
    return cli.main(["train", *TINY, *typed])


def train_exactly(*typed: str) -> int:
    """In whole float32: rounded to TF32, sums of other batches differ by more than what is looked for."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    return train(*typed)


def evaluate(folder: str, *typed: str) -> int:
    return cli.main(["evaluate", f"checkpoint={folder}", "device=cuda", *typed])


def losses(folder: str) -> list[dict]:
    told = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in told if "epoch" not in line]


@pytest.mark.parametrize(
    ("images", "typed"), [(4, ()), (16, ("model.norm=sync", "data.reader.count={train: 64, val: 4, test: 4}"))]
)
def test_synchronised_norms_see_the_batches_of_all(ranks, runs, images, typed):
    """Two GPUs learn what one does from all images, batch norms included; by itself only where each has few."""
    alone = ranks(1, train_exactly, f"data.batch_size={2 * images}", *typed, "run_dir=one")
    both = ranks(2, train_exactly, f"data.batch_size={images}", *typed, "run_dir=two")
    assert alone.wait(STARTS) == [0], alone.said()
    assert both.wait(STARTS) == [0, 0], both.said()
    assert "batch norms take their statistics from the batches of all 2 processes" in both.said()[0]
    assert len(losses("one")) == 2
    for one, two in zip(losses("one"), losses("two"), strict=True):
        assert two == pytest.approx(one, rel=2e-3, abs=1e-4)
    one, two = (load_file(f"{run}/checkpoints/last/model.safetensors") for run in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            two[name].float(), value.float(), rtol=5e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("norm", ["sync", "live"])
def test_two_interrupted_gpus_end_as_if_nothing_had_been(ranks, runs, assert_equal_runs, norm):
    """Also between two lines of metrics.jsonl; dropout draws from random numbers of each GPU's own."""
    exact = (
        "task=multitask", "heads=[classification,detection]", "head.classification.dropout=0.5", "data.objects=1",
        "engine.deterministic=true", "engine.precision=bf16", "engine.log_steps=3", f"model.norm={norm}",
        "data.batch_size=4", "engine.epochs=4",
    )  # fmt: skip
    whole = ranks(2, train, *exact, "run_dir=whole")
    broken = ranks(2, train, *exact, "run_dir=broken", "debug.fault=term@step3")
    assert whole.wait(STARTS) == [0, 0], whole.said()
    assert broken.wait(STARTS) == [0, 0], broken.said()
    assert json.loads(Path("broken/status.json").read_text())["status"] == "preempted"
    resumed = ranks(2, train, *exact, "resume=broken")
    assert resumed.wait(STARTS) == [0, 0], resumed.said()
    assert_equal_runs("whole", "broken")


def test_a_checkpoint_has_one_number(ranks, runs):
    """Of one GPU and of two; every head and panoptic."""
    assert ranks(1, train, *EVERYTHING, "run_dir=run", "data.batch_size=3").wait(STARTS) == [0]
    judges = [
        ranks(world, evaluate, "run", f"run_dir=by-{world}", "debug.images=7", "batch_size=1") for world in (1, 2)
    ]
    for world, each in enumerate(judges, 1):
        assert each.wait(STARTS) == [0] * world, each.said()
    one, two = numbers("by-1"), numbers("by-2")
    assert len(one) > 40
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == (None if value is None else pytest.approx(value, abs=1e-5)), name


def test_a_gpu_that_waits_for_a_process_that_hangs_is_freed(ranks, runs):
    """NCCL's kernels wait for ever, and no error reaches the process that waits for them."""
    hanging = ("engine.timeout=30", "debug.fault=hang@rank1", "engine.save_steps=1", "data.batch_size=4")
    both = ranks(2, train, *hanging, "run_dir=a")
    assert both.wait(30 + STARTS) == [1, 1], both.said()
    assert "process 1 did not answer for 30 s (engine.timeout)" in both.said()[0]
    assert "step-1 is saved, resume=a goes on from it" in both.said()[0]
    assert json.loads(Path("a/status.json").read_text())["status"] == "failed"


def test_an_error_of_one_process_frees_a_gpu_that_waits_and_is_told_once(ranks, runs):
    both = ranks(2, train_with_an_error_in_process_1, "data.batch_size=4", "run_dir=a")
    assert both.wait(STARTS) == [1, 1], both.said()
    first, second = both.said()
    assert first.count("process 1: IndexError: list index out of range") == 1
    assert "IndexError" not in second


def train_with_an_error_in_process_1(*typed: str) -> int:
    """In its second step, when NCCL's kernels are at work."""
    if os.environ["RANK"] == "1":
        pytest.MonkeyPatch().setattr(
            "visionkit.engine.faults.Fault.on_losses", lambda _, step, found: found if step == 1 else [][1]
        )
    return train(*typed)
