from __future__ import annotations

import html
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from visionkit.cli import run_tool
from visionkit.data.train_slice import slice_places
from visionkit.engine.closing import chance
from visionkit.engine.select import MEAN, Selector
from visionkit.engine.verdict import FITS, HELD_DOWN, NOTHING, OVERFITS, UNDERFITS, causes, verdict
from visionkit.metrics import CocoDetection, TopK


@pytest.mark.parametrize(
    ("train", "augmented", "val", "kind"),
    [
        (0.98, 0.90, 0.60, OVERFITS),
        (0.98, 0.40, 0.60, OVERFITS),  # both: what matters on new images is named
        (0.55, 0.53, 0.50, UNDERFITS),
        (0.90, 0.50, 0.88, HELD_DOWN),
        (0.60, 0.30, 0.58, HELD_DOWN),
        (0.93, 0.88, 0.90, FITS),
        (0.95, 0.93, 0.87, FITS),  # .08 of a number near 1 is no overfitting
        (0.14, 0.10, 0.12, NOTHING),
    ],
)
def test_the_three_numbers_say_what_holds_the_model_back(train, augmented, val, kind):
    said = verdict("classification/top1", train=train, augmented=augmented, val=val, chance=0.1)
    assert said.kind == kind
    assert all(f"{value:.3f}" in said.words for value in (train, augmented, val))


def test_what_is_good_depends_on_the_number():
    numbers = {"train": 0.6, "augmented": 0.58, "val": 0.56}
    assert verdict("detection/AP", **numbers).kind == FITS
    assert verdict("localization/acc50", **numbers).kind == UNDERFITS
    assert verdict("detection/AP", train=math.nan, augmented=0.5, val=0.5) is None


def test_a_guess_is_of_one_class_in_so_many():
    metrics = {"classification": TopK(["a", "b", "c", "d"]), "detection": CocoDetection(["a"])}
    selector = Selector("mean", metrics, {"classification/top1": 0.5})
    classes = {"classification": ("a", "b", "c", "d"), "detection": ("a",)}
    assert chance("classification/top1", selector, classes) == 0.25
    assert chance("detection/AP", selector, classes) == 0.0
    assert chance(MEAN, selector, classes) == pytest.approx((0.25 / 0.5 + 0) / 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"losses": [2.0, 2.0, 3.0, 9.0, 9.0]}, "the loss rose from 2 to 9: optim.lr is too high"),
        ({"losses": [2.0, 2.1, 2.0, 2.0, 2.0]}, "the loss did not fall (2 to 2)"),
        ({"losses": [2.0, 1.8, 1.6, 1.5, 1.4]}, "the loss was still falling (2 to 1.4): train longer"),
        ({"losses": [2.0, 1.0, 0.6, 0.5, 0.1], "train": 0.9}, "training images are known (0.900), others are not"),
        ({"losses": [2.0, 1.0], "predicted_classes": 1}, "all predictions name the same class"),
        ({"losses": [2.0, 1.0], "predicted_classes": 0}, "there are no predictions at all"),
        ({"losses": [2.0, 1.0], "bad_steps": 3}, "3 steps were not taken"),
        ({"losses": []}, "too few steps to tell"),
    ],
)
def test_why_nothing_was_learned_is_told_from_the_runs_own_numbers(given, said):
    why = causes(**{"train": math.nan, "chance": 0.1, "predicted_classes": 5, **given})
    assert any(said in line for line in why)


def test_the_slice_is_fixed_and_within_the_set():
    places = slice_places(100, 10, seed=3)
    assert places.tolist() == slice_places(100, 10, seed=3).tolist()
    assert len(set(places.tolist())) == 10
    assert places.tolist() == sorted(places.tolist())
    assert slice_places(5, 10, seed=0).tolist() == list(range(5))
    assert not np.array_equal(places, slice_places(100, 10, seed=4))


# ---------------------------------------------------------------------------------------------------------- staged runs
COMMON = (
    "run_dir=run", "data.batch_size=16", "data.workers=0", "device=cpu", "engine.evaluate_every=100",
    "engine.train_slice=60", "optim=muon", "augment=none",
)  # fmt: skip


@pytest.fixture
def staged(tmp_path, monkeypatch, with_report):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache"))

    def judged(*typed: str) -> str:
        assert run_tool("train", [*COMMON, *typed]) == 0
        told = json.loads(Path("run/metrics.json").read_text())["verdict"]
        assert told["words"] in Path("run/train.log").read_text()
        assert told["words"] in html.unescape(Path("run/report.html").read_text())
        return told["kind"]

    return judged


def striped(folder: Path, images: int, seed: int) -> None:
    """Images of four classes: stripes that run across, down, or along one of the diagonals."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    for number in range(images):
        direction = number % 4
        place = (y, x, x + y, x - y)[direction] + rng.integers(8)
        pixels = np.where(place // 4 % 2, 200, 60)[..., None] + rng.normal(0, 15, (32, 32, 3))
        file = folder / f"class{direction}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.slow
def test_a_model_that_is_too_small_underfits(staged):
    count = "data.reader.count={train: 240, val: 60, test: 4}"
    size = ("image_size=64", "model.width=0.125", "engine.epochs=6", "optim.lr=0.012")
    assert staged("task=semantic", *size, count) == UNDERFITS


@pytest.mark.slow
def test_one_trained_too_long_on_50_images_overfits(staged):
    count = "data.reader.count={train: 50, val: 200, test: 10}"
    size = ("image_size=48", "model.width=0.5", "engine.epochs=60", "optim.lr=0.008", "schedule.warmup=0.05")
    assert staged("task=classify", *size, count) == OVERFITS


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "kind"), [(0.0, FITS), (0.75, HELD_DOWN)])
def test_absurd_augmentation_holds_down_what_fits_without_it(staged, tmp_path, noise, kind):
    """Three images of four are drowned in noise."""
    striped(tmp_path / "set" / "train", 160, seed=0)
    striped(tmp_path / "set" / "val", 80, seed=1)
    data = ("data=folder", f"data.root={tmp_path / 'set'}", "data.splits={train: train, val: val, test: null}")
    drowned = f"augment.transforms=[{{GaussNoise: {{std_range: [0.9, 1.0], p: {noise}}}}}]"
    size = ("image_size=32", "model.width=0.25", "engine.epochs=12", "optim.lr=0.01")
    assert staged("task=classify", *data, *size, drowned) == kind
