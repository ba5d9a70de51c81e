"""Checkpoints whose configuration an older version wrote, before some keys were there. Resuming: test_resume.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from visionkit import cli
from visionkit.engine.checkpoint_manifest import write_manifest

FIRST_KEYS = {
    "name", "task", "heads", "image_size", "seed", "model", "head", "preprocess", "augment", "optim", "schedule",
    "data.root", "data.classes", "data.ignore_index", "data.seed", "data.objects", "data.on_error", "data.annotations",
    "data.splits", "data.split", "data.batch_size", "data.workers", "data.cache", "data.reader", "engine.epochs",
    "engine.max_steps", "engine.save_steps", "engine.accumulate", "engine.clip_norm", "engine.precision",
    "engine.channels_last", "engine.ema", "engine.evaluate_every", "engine.log_steps",
}  # fmt: skip
"""Of the first version that trained."""


@pytest.fixture
def rewritten(finished, tmp_path):
    """rewritten(keep): the best checkpoint of the finished run, its configuration with the keys that `keep` says."""

    def make(keep):
        folder = Path(shutil.copytree((finished / "checkpoints/best").resolve(), tmp_path / "older"))
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        kept = {key: value for key, value in config.items() if key not in ("data", "engine") and keep(key)}
        for part in ("data", "engine"):
            kept[part] = {key: value for key, value in config[part].items() if keep(f"{part}.{key}")}
        assert kept != config
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(kept)))
        (folder / "manifest.json").unlink()
        write_manifest(folder)
        return folder

    return make


def test_a_checkpoint_of_the_first_keys_is_scored_as_ever(rewritten, finished, runs):
    folder = rewritten(lambda key: key in FIRST_KEYS)
    assert cli.main(["evaluate", f"checkpoint={folder}", "device=cpu", "run_dir=out"]) == 0
    wanted = json.loads((finished / "metrics.json").read_text())
    found = json.loads(Path("out/metrics.json").read_text())
    assert found["detection/AP"] == wanted["detection/AP"] and found.keys() == wanted.keys() - {"verdict"}


@pytest.mark.parametrize("lost", ["name", "data.reader"])
def test_what_cannot_be_guessed_is_named(rewritten, runs, capsys, lost):
    folder = rewritten(lambda key: key != lost)
    assert cli.main(["evaluate", f"checkpoint={folder}", "device=cpu", "run_dir=out"]) == 2
    assert f"config.yaml: {lost}: a value is missing; use the version that wrote it" in capsys.readouterr().err


def test_a_checkpoint_of_the_first_keys_predicts(rewritten, runs):
    Image.new("RGB", (64, 64)).save("a.png")
    folder = rewritten(lambda key: key in FIRST_KEYS)
    assert cli.main(["predict", f"checkpoint={folder}", "source=a.png", "out=out", "device=cpu"]) == 0
