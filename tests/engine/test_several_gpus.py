"""What only several GPUs can show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visionkit import cli

TINY = (
    "task=detect", "image_size=64", "model.width=0.25", "device=cuda", "data.workers=0", "engine.precision=fp32",
    "data.reader.count={train: 16, val: 4, test: 4}", "engine.epochs=1", "engine.log_steps=1", "optim=sgd",
    "optim.lr=0.001", "augment.mosaic.p=0.0", "engine.ema={decay: 0.5, warmup: 1}",
)  # fmt: skip
pytestmark = [
    pytest.mark.multi_gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]


def train(*typed: str) -> int:
    return cli.main(["train", *TINY, *typed])


def losses(folder: str) -> list[dict]:
    told = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in told if "epoch" not in line]


def test_synchronised_norms_see_the_batches_of_all(ranks, runs):
    """Two GPUs with four images each learn what one does from eight, batch norms included."""
    alone = ranks(1, train, "data.batch_size=8", "run_dir=one")
    assert alone.wait(200) == [0], alone.said()
    both = ranks(2, train, "data.batch_size=4", "run_dir=two")
    assert both.wait(200) == [0, 0], both.said()
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


def test_a_gpu_that_waits_for_a_process_that_hangs_is_freed(ranks, runs):
    """NCCL's kernels wait for ever, and no error reaches the process that waits for them."""
    hanging = ("engine.timeout=10", "debug.fault=hang@rank1", "engine.save_steps=1", "data.batch_size=4")
    both = ranks(2, train, *hanging, "run_dir=a")
    assert both.wait(120) == [1, 1], both.said()
    assert "process 1 did not answer for 10 s (engine.timeout)" in both.said()[0]
    assert json.loads(Path("a/status.json").read_text())["status"] == "failed"
