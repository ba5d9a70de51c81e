"""Checkpoints of each schema that there was can be loaded, evaluated and gone on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import visionkit
from visionkit import cli
from visionkit.engine.checkpoint import open_checkpoint
from visionkit.engine.checkpoint_versions import KNOWN, SCHEMA, migrated_state, migrated_training

FIXTURES = Path(__file__).parents[1] / "fixtures" / "checkpoints"
TYPED = (
    "task=classify", "image_size=32", "model.width=0.1", "device=cpu", "data.workers=0", "data.batch_size=4",
    "data.reader.count={train: 8, val: 4, test: 4}", "engine.precision=fp32", "engine.epochs=4", "engine.save_steps=1",
    "augment.transforms=[]", "optim=adamw", "optim.lr=0.004", "optim.weight_decay=0.05", "schedule.warmup=0.15",
    "schedule.final=0.001", "engine.ema={decay: 0.98, warmup: 100}",
)  # fmt: skip


@pytest.fixture(params=KNOWN)
def version(request, runs):
    """A run folder that holds a checkpoint of a schema, and the number of the schema."""
    root = runs / "old" / "checkpoints"
    root.mkdir(parents=True)
    shutil.copytree(FIXTURES / f"v{request.param}", root / "step-3")
    for link in ("last", "best"):
        (root / link).symlink_to("step-3")
    return request.param


def test_there_is_one_of_each():
    assert [folder.name for folder in sorted(FIXTURES.glob("v*"))] == [f"v{schema}" for schema in KNOWN]
    assert KNOWN[-1] == SCHEMA
    for schema in KNOWN:
        assert json.loads((FIXTURES / f"v{schema}" / "manifest.json").read_text())["schema"] == schema


def test_it_is_opened_and_told_as_the_present_one_would_be(version):
    found = open_checkpoint("old")
    assert (found.schema, found.step) == (version, 3)
    assert set(found.state) >= {
        "schema", "step", "epoch", "best", "best_step", "evaluation_due", "processes", "data",
    }  # fmt: skip
    assert found.state["evaluation_due"] is False
    assert found.state["processes"] == 1
    training = found.training_state()
    assert [set(random) for random in training["random"]] == [{"cpu"}]
    assert training["ema_updates"] == 3
    assert found.config()["optim"]["lr"] == 0.004


def test_it_is_loaded_and_evaluated(version, capsys):
    image = np.random.default_rng(0).integers(0, 255, (40, 32, 3), np.uint8)
    (predictions,) = visionkit.load("old", device="cpu").predict(image)
    scores = predictions["classification"].scores
    assert scores.shape == (10,)
    assert 0.99 < float(scores.sum()) < 1.01
    (folder,) = (visionkit.load("old/checkpoints/step-3", device="cpu"),)
    torch.testing.assert_close(
        torch.as_tensor(folder.predict(image)[0]["classification"].scores), torch.as_tensor(scores)
    )
    assert cli.main(["evaluate", "checkpoint=old", "device=cpu", "run_dir=judged", "data.workers=0"]) == 0
    numbers = json.loads(Path("judged/metrics.json").read_text())
    assert numbers["classification/top1"] in (0, 0.25, 0.5, 0.75, 1)


def test_it_is_gone_on_from(version, capsys):
    assert cli.main(["train", *TYPED, "resume=old", "engine.max_steps=5"]) == 2
    assert "engine.max_steps: 3 -> 5" in capsys.readouterr().err
    assert cli.main(["train", *TYPED, "resume=old", "engine.max_steps=5", "resume_allow=[engine.max_steps]"]) == 0
    said = capsys.readouterr().out
    if version == 1:
        assert "keys that the run's configuration did not have yet have today's defaults: engine." in said
        assert "the version that wrote the checkpoint did not write down its data, so they are not compared" in said
    assert "steps 3 to 5" in said
    found = open_checkpoint("old", "last")
    assert (found.step, found.schema) == (5, SCHEMA)
    assert found.training_state()["ema_updates"] == 5
    assert {int(state["step"]) for state in found.training_state()["optimizer"]["state"].values()} == {5}


def test_migrations_by_hand():
    old = {"schema": 1, "step": 4, "epoch": 1, "best": 0.5, "best_step": 2}
    new = {"evaluation_due": False, "processes": 1, "data": None}
    assert migrated_state(old, 1) == {**old, "schema": 2, **new}
    assert migrated_state({**old, **new}, 2) == {**old, **new}
    assert migrated_training({"random": {"cpu": 7}, "ema_updates": 1}, 1) == {"random": [{"cpu": 7}], "ema_updates": 1}
    assert migrated_training({"random": [{"cpu": 7}, {"cpu": 8}]}, 2) == {"random": [{"cpu": 7}, {"cpu": 8}]}
