from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from visionkit.cli import run_tool
from visionkit.data import EpochSampler, TrainingSet, training_loader
from visionkit.data.batch_mixes import BatchMix
from visionkit.data.readers import Shapes
from visionkit.engine.reporting import first_batches
from visionkit.preprocess import Preprocess

TINY = ("debug=tiny", "data.workers=0", "image_size=64")


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingSet:
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache"))
    reader = Shapes("train", count=24, size=(48, 64), objects=1)
    fields = frozenset({"class_scores"})
    return TrainingSet(reader, Preprocess(64), classes=reader.classes, fields=fields, epochs=1, seed=3)


def test_the_batches_shown_are_those_that_the_loader_gives(training: TrainingSet) -> None:
    sampler = EpochSampler(len(training), 8, seed=3)
    loaded = iter(training_loader(training, sampler, workers=0, device=torch.device("cpu")))
    for shown in first_batches(training, sampler):
        batch = next(loaded)
        assert shown.file_names == batch.file_names[:6]
        assert torch.equal(shown.images, batch.images[:6])


def test_of_batches_that_are_mixed_those_images_are_shown_whose_partner_is_there(training: TrainingSet) -> None:
    sampler, mix = EpochSampler(len(training), 8, seed=3), BatchMix(mixup=0.8, cutmix=1.0, p=1.0, seed=3)
    loaded = iter(training_loader(training, sampler, workers=0, device=torch.device("cpu")))
    for number, shown in enumerate(first_batches(training, sampler, mix)):
        batch = mix(next(loaded), number)
        assert shown.file_names == batch.file_names[1:6]
        assert torch.equal(shown.images, batch.images[1:6])
        assert torch.equal(shown.targets.class_scores, batch.targets.class_scores[1:6])


def test_a_run_and_its_evaluation_have_a_whole_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_report: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache"))
    assert run_tool("train", ["task=classify", *TINY, "run_dir=run", "engine.train_slice=4"]) == 0
    assert run_tool("evaluate", ["checkpoint=run", "run_dir=judged", "data.split=val", "debug.images=8"]) == 0
    plots = {folder: {file.stem for file in Path(folder, "plots").iterdir()} for folder in ("run", "judged")}
    assert {"training-batches", "labels-train", "labels-test", "loss", "metrics", "train-val"} <= plots["run"]
    assert "labels-val" in plots["judged"]
    assert "training-batches" not in plots["judged"]
    for folder, split in (("run", "test"), ("judged", "val")):
        assert {"classification-images", "classification-worst", "classification-f1"} <= plots[folder]
        page = html.unescape(Path(folder, "report.html").read_text())
        rows = json.loads(Path(folder, "predictions.json").read_text())
        assert all(row["file_name"].startswith(f"{split}/") and row["file_name"] in page for row in rows)
        assert page.count(" taken for ") >= 1
        assert np.isfinite(json.loads(Path(folder, "metrics.json").read_text())["classification/top1"])
    assert "could not be" not in Path("run/train.log").read_text()
