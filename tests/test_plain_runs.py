"""The plain CNN, losses and metrics by name, in whole runs by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import visionkit
from visionkit import cli
from visionkit.errors import UserError

LAYERS = (
    "model.backbone.layers=[{conv: {filters: 8, kernel: 4, padding: same}}, {batchnorm: {activation: relu}}, "
    "{pool: {kind: max, size: 4}}, {dropout: 0.1}, flatten, {dense: {units: 16, activation: relu}}, batchnorm, dense, "
    "softmax]"
)
PLAIN = ("task=classify", "backbone=plain", LAYERS, "preprocess=letterbox")


def numbers(folder: str) -> dict:
    return json.loads((Path(folder) / "metrics.json").read_text())


def test_a_plain_network_trains_is_judged_and_rebuilt_from_its_checkpoint(train, runs, with_report):
    assert train(*PLAIN, "run_dir=a", "metrics=[f1,top1]") == 0
    found = numbers("a")
    assert [name for name in found if "/" in name] == ["classification/f1", "classification/top1"]
    table = found["per_class"]["classification"]
    assert sum(row["images"] for row in table.values()) == 5
    absent = [row for row in table.values() if row["images"] == 0]
    assert all(row["f1"] is None and row["reason"] == "no image that has the class" for row in absent)
    report = Path("a/report.html").read_text()
    assert "recall" in report and "no image that has the class" in report

    predictor = visionkit.load("a", device="cpu")
    layers = predictor.model.backbone.stages
    assert [name for stage in layers.values() for name, _ in stage.named_children()] == [
        "conv1", "batchnorm2", "pool3", "dropout4",
    ]  # fmt: skip
    (prediction,) = predictor.predict([np.full((40, 50, 3), 90, np.uint8)])
    assert prediction["classification"].scores.sum() == pytest.approx(1, abs=1e-5)
    half = visionkit.load("a", device="cpu", precision="bf16")
    assert half.model.dtype.itemsize == 2
    (near,) = half.predict([np.full((40, 50, 3), 90, np.uint8)])
    assert near["classification"].scores == pytest.approx(prediction["classification"].scores, abs=0.02)
    Path("model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="has the precision that it was exported with"):
        visionkit.load("model.onnx", precision="fp16")

    assert cli.main(["evaluate", "checkpoint=a", "run_dir=b", "device=cpu"]) == 0
    assert numbers("b")["classification/f1"] == pytest.approx(found["classification/f1"], abs=1e-6)
    assert cli.main(["evaluate", "checkpoint=a", "run_dir=c", "device=cpu", "metrics=[top5]"]) == 0
    assert [name for name in numbers("c") if name.startswith("classification/")] == ["classification/top5"]


def test_a_plain_network_learns_eight_scenes_by_heart(train, runs):
    typed = (
        "data.splits={train: train, val: train, test: null}",
        "data.reader.count={train: 8}",
        "augment.transforms=[]",
    )
    typed += ("data.batch_size=4", "optim.lr=0.003", "engine.epochs=30", "engine.evaluate_every=30")
    assert train(*PLAIN, *typed, "engine.ema={decay: 0.8, warmup: 10}", "run_dir=a") == 0
    assert numbers("a")["classification/top1"] == 1.0


@pytest.mark.parametrize(("network", "loss"), [(PLAIN, "binary_cross_entropy"), (("task=classify",), "focal")])
def test_a_loss_by_name(train, runs, network, loss):
    assert train(*network, f"loss={loss}", "engine.max_steps=3", "run_dir=a") == 0
    lines = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    assert all(line[f"classification/{loss}"] > 0 for line in lines if "total" in line)


def test_the_best_checkpoint_is_chosen_by_the_first_number_where_top1_is_not_asked_for(train, runs, capsys):
    assert train(*PLAIN, "metrics=[mean_class_accuracy,f1]", "engine.max_steps=2", "run_dir=a") == 0
    assert "classification/mean_class_accuracy" in (Path("a") / "train.log").read_text()
    assert train(*PLAIN, "metrics=[top2]", "run_dir=b") == 2
    assert "metrics=[top2]: there is no 'top2'" in capsys.readouterr().err
    assert not Path("b").exists()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            ("model.backbone.layers=[{conv: 4}, flatten, {dense: 7}, softmax]",),
            "layer 3 (dense), input 16384 values: its 7 units cannot be the scores of 10 classes",
        ),
        (
            ("model.backbone.layers=[{conv: 4}, flatten, {dense: {activation: sigmoid}}]",),
            "layer 3 (dense), input 16384 values: a sigmoid under a softmax cross-entropy (loss=cross_entropy)",
        ),
        (
            ("head.classification.multi_label=true",),
            "layer 9 (softmax), input 10 values: it gives an image one class, and multi_label=true gives it several",
        ),
    ],
)
def test_what_data_or_loss_make_impossible_is_said_before_anything_is_written(train, runs, capsys, typed, said):
    assert train(*PLAIN, *typed, "run_dir=a") == 2
    assert said in capsys.readouterr().err
    assert not Path("a").exists()


def test_other_heads_read_its_maps(train, runs):
    stage = "{conv: {filters: 8, kernel: 3, activation: relu}}, {pool: {kind: max, size: 2, stride: 2}}"
    ends = "flatten, {dense: {activation: none}}, softmax"
    layers = (
        f"model.backbone.layers=[{{conv: {{filters: 8, kernel: 3, stride: 4}}}}, {stage}, {stage}, {stage}, {ends}]"
    )
    assert train("task=detect", "backbone=plain", layers, "engine.max_steps=1", "run_dir=a") == 0
    assert json.loads(Path("a/metrics.jsonl").read_text().splitlines()[0])["total"] > 0
