"""The memory of a GPU: the largest batch that fits, and what is said where one does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from visionkit.cli import run_tool
from visionkit.engine import batch_finder, run

FREE = 3 * 2**30
"""Bytes that another program leaves of the GPU: some 30 images of a step below."""
TYPED = (
    "task=detect", "image_size=320", "model.width=1.0", "device=cuda", "data.workers=0", "engine.precision=fp32",
    "data.reader.count={train: 640, val: 16, test: 4}", "engine.max_steps=2", "engine.train_slice=0",
    "augment.mosaic.p=0.0",
)  # fmt: skip
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.fixture
def crowded():
    """A GPU most of whose memory is taken, as by another program."""
    torch.cuda.init()
    torch.cuda.empty_cache()
    taken = torch.empty(torch.cuda.mem_get_info()[0] - FREE, dtype=torch.uint8, device="cuda")
    yield
    del taken
    torch.cuda.empty_cache()


@pytest.fixture
def held(monkeypatch):
    """Bytes that each search for a batch left on the GPU."""
    left, find = [], run.find_batch_size

    def watched(*given, **more):
        before = torch.cuda.memory_reserved()
        size = find(*given, **more)
        left.append(torch.cuda.memory_reserved() - before)
        return size

    monkeypatch.setattr(run, "find_batch_size", watched)
    return left


def test_the_trial_leaves_the_run_as_it_is(runs, monkeypatch):
    """Equal weights and random numbers, those of the GPU too: the run equals one whose batch size was typed."""
    monkeypatch.setattr(batch_finder, "MOST", 4)
    exact = ("image_size=64", "model.width=0.25", "engine.deterministic=true", "optim=muon", "engine.log_steps=1")
    typed = ["task=classify", *TYPED[1:], *exact, "head.classification.dropout=0.5"]
    assert run_tool("train", [*typed, "run_dir=auto", "data.batch_size=auto"]) == 0
    assert run_tool("train", [*typed, "run_dir=typed", "data.batch_size=4"]) == 0
    assert Path("auto/metrics.jsonl").read_text() == Path("typed/metrics.jsonl").read_text()


def test_the_batch_that_is_found_trains_and_a_larger_one_is_told_to_need_too_much(runs, crowded, held, capsys):
    assert run_tool("train", [*TYPED, "run_dir=a", "data.batch_size=auto"]) == 0, capsys.readouterr().err
    size = OmegaConf.load("a/config.yaml").data.batch_size
    assert 8 <= size < 64
    assert held[0] < 2**28  # what CUDA's libraries keep; a step of the trial takes eight times as much
    torch.cuda.empty_cache()
    assert run_tool("train", [*TYPED, "run_dir=b", f"data.batch_size={8 * size}"]) == 1
    told = capsys.readouterr().err
    assert "out of memory on cuda (peak " in told
    assert f" GiB) with batches of {8 * size} x 320 x 320 pixels; lower data.batch_size" in told
    assert "out of memory" in OmegaConf.load("b/status.json").error
