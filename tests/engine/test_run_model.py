"""Whole runs that begin from another's weights, freeze and thaw stages, and go on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from visionkit import cli
from visionkit.config import groups
from visionkit.engine.checkpoint import open_checkpoint

CLASSIFY = ("task=classify",)
STAGED = ("model.freeze=backbone", "model.unfreeze={c4: 1, c3: 1.5}", "optim.layer_decay=0.5", "optim.l1=0.01")


TINY = (
    "image_size=64", "model.width=0.25", "device=cpu", "data.workers=0", "data.batch_size=2",
    "data.reader.count={train: 8, val: 3, test: 3}", "engine.precision=fp32", "engine.epochs=3", "engine.log_steps=1",
    "optim.lr=0.002", "augment.transforms=[]",
)  # fmt: skip


def train_in_child(*typed: str) -> int:
    return cli.main(["train", *TINY, *typed])


def changed_levels(folder, finished):
    """The stages of the backbone of which anything differs from the weights that were taken over."""
    before, after = open_checkpoint(finished).weights("ema"), open_checkpoint(folder, "last").weights("model")
    names = [name for name in after if name.startswith("backbone.") and not torch.equal(before[name], after[name])]
    return sorted({name.split(".")[2] if ".stages." in name else "stem" for name in names})


def test_a_frozen_backbone_is_that_of_the_weights_to_the_bit(train, finished):
    typed = (f"weights={finished}", "optim.weight_decay=0.5", "engine.max_steps=4")
    assert train(*CLASSIFY, *typed, "model.freeze=backbone", "run_dir=a") == 0
    assert changed_levels("a", finished) == []
    assert train(*CLASSIFY, *typed, "model.freeze=c3", "run_dir=b") == 0
    assert changed_levels("b", finished) == ["c4"]
    lines = Path("a/weights.txt").read_text().splitlines()
    assert len(lines) > 50
    counts = [sum(line.startswith(fate) for line in lines) for fate in ("kept", "replaced", "left")]
    assert lines[0].startswith("kept     backbone.stem.0.weight")
    assert counts[1] == 2, "the classifier's weight and bias"
    said = (
        "weights {}: {} tensors kept, {} replaced, {} left (weights.txt); not as they were: heads.classification.linear"
    )
    assert said.format(finished, *counts) in Path("a/train.log").read_text()


def test_stages_thaw_in_mid_run_and_a_resumed_run_is_the_same(train, finished, interrupt, assert_equal_runs):
    """Seven steps an epoch; c4 thaws with step 8 and c3 with step 12, a step after the run has died."""
    typed = (*CLASSIFY, f"weights={finished}", *STAGED, "optim=adam", "engine.save_steps=2")
    assert train(*typed, "run_dir=whole") == 0
    assert changed_levels("whole", finished) == ["c3", "c4"]
    interrupt(11)
    assert train(*typed, "run_dir=halved") == 130
    assert train(*typed, "run_dir=halved", "resume=auto") == 0
    assert_equal_runs("whole", "halved")


def test_mistakes_are_told_before_a_run_folder_is_made(train, runs, finished, capsys):
    for typed, said in (
        (["model.freeze=c9", f"weights={finished}"], "model.freeze=c9: one of none, backbone, c2, c3, c4 is wanted"),
        ([f"weights={finished}", "model.unfreeze={c4: 1}"], "model.unfreeze.c4: this is not frozen; nothing is"),
        (["model.freeze=backbone"], "model.freeze=backbone: the weights are random"),
        ([f"weights={finished}", "model.width=0.5"], "its backbone is CSP("),
    ):
        assert train(*CLASSIFY, *typed, "run_dir=a") == 2
        assert said in capsys.readouterr().err
    assert not Path("a").exists()


def test_two_processes_thaw_together_and_learn_what_one_does(ranks, runs, finished):
    """Gradients are exchanged of the parameters that have one at the time; with frozen norms the sums are the same."""
    typed = (*CLASSIFY, f"weights={finished}", "model.norm=frozen", "model.freeze=backbone",
             "model.unfreeze={c4: 1, all: 2}", "optim=momentum")  # fmt: skip
    both = ranks(2, train_in_child, *typed, "run_dir=both")
    assert train_in_child(*typed, "engine.accumulate=2", "run_dir=alone") == 0
    assert both.wait() == [0, 0], both.said()
    (one, other) = (open_checkpoint(name, "last").weights("model") for name in ("alone", "both"))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert changed_levels("both", finished) == ["c2", "c3", "c4", "stem"]
    totals = [
        [
            line["total"]
            for line in map(json.loads, Path(name, "metrics.jsonl").read_text().splitlines())
            if "total" in line
        ]
        for name in ("alone", "both")
    ]
    assert len(totals[0]) == 6
    assert totals[0] == pytest.approx(totals[1], rel=1e-4)


@pytest.mark.parametrize("name", groups()["experiment"])
def test_every_recipe_takes_a_step(name, runs, finished):
    given = [] if name == "from_scratch" else [f"weights={finished}"]
    typed = (*CLASSIFY, f"experiment={name}", "debug=tiny", "device=cpu", "head.classification.levels=[c5]", *given)
    assert cli.main(["train", *typed, "run_dir=a", "debug.images=4", "data.batch_size=4"]) == 0
