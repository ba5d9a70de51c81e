"""What several processes learn together: as one process would with the batches of all."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from visionkit import cli
from visionkit.engine import trainer, training_run
from visionkit.engine.distributed import Processes
from visionkit.engine.trainer import Trainer
from visionkit.model import VisionModel

TINY = (
    "image_size=64", "model.width=0.25", "device=cpu", "data.workers=0", "engine.precision=fp32", "engine.epochs=1",
    "data.reader.count={train: 9, val: 3, test: 3}", "engine.log_steps=1", "engine.ema={decay: 0.9, warmup: 1}",
    "augment.transforms=[{HorizontalFlip: {p: 0.5}}]",
)  # fmt: skip
ALL = (
    "task=multitask", "heads=[classification,localization,detection,semantic,instance]", "merges=[panoptic]",
    "data.objects=2", "optim=sgd", "optim.lr=0.001", "engine.clip_norm=null", "model.learn_loss_weights=true",
    "head.classification.dropout=0.0", "head.localization.dropout=0.0", "head.semantic.dropout=0.0",
    "head.semantic.every=1", "augment.mosaic.p=0.5", "data.splits={train: train, val: null, test: null}",
)  # fmt: skip


def train(*typed: str) -> int:
    return cli.main(["train", *TINY, *typed])


def train_without_statistics(*typed: str) -> int:
    """Images must not see each other, as they do through the statistics of a BatchNorm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.BatchNorm2d, "train", lambda norm, mode=True: nn.Module.train(norm, False))
        return train(*typed)


def train_as_with_graphs(*typed: str) -> int:
    """Without the graphs, which need a GPU: channels last, gradients exchanged when all of them are there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "can_record", lambda *given: True)
        patch.setattr(trainer, "TrainingGraphs", lambda model: functools.partial(VisionModel.network, model))
        patch.setattr(Processes, "exchanging", None)
        return train_without_statistics(*typed, "engine.channels_last=true")


def lines(folder: str) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def assert_alike(one: str, other: str) -> None:
    """Of two runs of three steps that sum up in another order, what they wrote down and what they learned."""
    assert len(lines(one)) == 4
    for ours, theirs in zip(lines(one), lines(other), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-5)
    ours, theirs = (load_file(f"{run}/checkpoints/last/model.safetensors") for run in (one, other))
    for name, value in ours.items():
        torch.testing.assert_close(
            theirs[name], value, rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("train_both", [train_without_statistics, train_as_with_graphs])
def test_two_processes_learn_what_one_does_from_batches_twice_as_large(ranks, runs, train_both):
    """Every head, rows that know some of the labels, mosaics, learned weights of the losses, mixed accumulation."""
    both = ranks(2, train_both, *ALL, "run_dir=two", "data.batch_size=1", "engine.accumulate=2")
    assert train_without_statistics(*ALL, "run_dir=one", "data.batch_size=4") == 0
    assert both.wait() == [0, 0], both.said()
    assert_alike("one", "two")


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_the_same_images(ranks, runs):
    """Where processes times batch times accumulated batches stay what they were, so do the steps."""
    ending = ("run_dir=a", "data.batch_size=1", "engine.accumulate=2", "debug.fault=term@step2")
    both = ranks(2, train_without_statistics, *ALL, *ending)
    assert both.wait() == [0, 0], both.said()
    assert len(lines("a")) == 2
    allowed = "resume_allow=[processes,data.batch_size,engine.accumulate]"
    assert train_without_statistics(*ALL, "resume=a", "data.batch_size=4", "engine.accumulate=1", allowed) == 0
    assert train_without_statistics(*ALL, "run_dir=one", "data.batch_size=4") == 0
    assert_alike("one", "a")


def train_and_tell(file: str, *typed: str) -> int:
    """Also write how often gradients were exchanged, and the sum of all weights at the end, by rank."""
    exchanges, exchanging, training = [], Processes.exchanging, Trainer.train

    def counted(processes, model):
        network = exchanging(processes, model)
        network.register_comm_hook(None, lambda state, bucket: (exchanges.append(1), allreduce_hook(None, bucket))[1])
        return network

    def trained(loop):
        training(loop)
        weights = [float(value.detach().double().sum()) for value in loop.model.parameters()]
        told = {"exchanges": len(exchanges), "steps": loop.step, "weights": weights}
        Path(f"{file}-{os.environ['RANK']}").write_text(json.dumps(told))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "exchanging", counted)
        patch.setattr(Trainer, "train", trained)
        return train(*typed)


@pytest.mark.parametrize(
    "typed",
    [
        ("optim=muon", "engine.accumulate=3", "engine.precision=bf16"),
        pytest.param(
            ("engine.precision=fp16", "weights=begun", "model.freeze=backbone", "model.unfreeze={c4: 1, all: 2}"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["muon", "thawed"],
)
def test_gradients_are_exchanged_once_a_step_and_weights_stay_equal(ranks, runs, typed):
    """Dropout and BatchNorm's statistics are each process's own; a thawed stage's gradients are exchanged, too."""
    classify = ("task=classify", "data.batch_size=2", "head.classification.dropout=0.5")
    if "weights=begun" in typed:
        assert train("task=classify", "run_dir=begun", "engine.max_steps=1") == 0
    both = ranks(2, train_and_tell, "told", *classify, "engine.epochs=3", *typed, "run_dir=a")
    assert both.wait() == [0, 0], both.said()
    first, second = (json.loads(Path(f"told-{rank}").read_text()) for rank in range(2))
    assert first["weights"] == second["weights"]
    assert first["exchanges"] == first["steps"] == second["exchanges"] > 1
