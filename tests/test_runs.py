"""Whole runs by the command line, on the data that users have."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from visionkit import cli

SOURCE = {"boxes": [(4, 5, 30, 40), (40, 10, 75, 50)], "size": (60, 80)}


def write_coco(root: Path, split: str, ids: tuple[int, ...], *, empty: tuple[int, ...] = (), broken: int = 0) -> None:
    """Photographs with numbers as ids and categories 7 and 90; those of `empty` show nothing."""
    folder = root / "images" / split
    folder.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    rng = np.random.default_rng(ids[0])
    annotations = []
    for image_id in ids:
        image = rng.integers(0, 255, (*SOURCE["size"], 3), np.uint8)
        cv2.imwrite(str(folder / f"{image_id}.jpg"), image)
        for box, category in zip(SOURCE["boxes"], (90, 7), strict=True):
            if image_id not in empty:
                x1, y1, x2, y2 = box
                row = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                number = len(annotations) + 1
                annotations.append({"id": number, "image_id": image_id, "category_id": category, **row})
    if broken:
        (folder / f"{broken}.jpg").write_bytes((folder / f"{broken}.jpg").read_bytes()[:300])
    height, width = SOURCE["size"]
    images = [{"id": one, "file_name": f"{one}.jpg", "height": height, "width": width} for one in ids]
    categories = [{"id": 90, "name": "cup"}, {"id": 7, "name": "hat"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def on_files(runs):
    """Train a tiny detector on a data set in files."""
    typed = ("image_size=64", "model.width=0.25", "device=cpu", "data.workers=0", "engine.precision=fp32")
    return lambda *more: cli.main(["train", *typed, "data.batch_size=4", "engine.epochs=1", *more])


def test_the_sources_own_ids_return(on_files):
    """Images without objects are trained on; a set smaller than a batch is trained on."""
    write_coco(Path("set"), "train", (11, 5, 900), empty=(5,))
    write_coco(Path("set"), "val", (3000000000, 17), empty=(17,))
    assert on_files("data=coco", "data.root=set", "run_dir=a") == 0
    assert "steps 0 to 1" in Path("a/train.log").read_text()
    rows = json.loads(Path("a/predictions.json").read_text())
    assert {row["image_id"] for row in rows} == {3000000000, 17}
    assert {row["category_id"] for row in rows} == {7, 90}
    assert {row["file_name"] for row in rows} <= {f"images/val/{one}.jpg" for one in (3000000000, 17)}
    numbers = json.loads(Path("a/metrics.json").read_text())
    assert numbers["split"] == "val"
    assert numbers["detection/AP"] is not None


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("data.root=nowhere",), ("nowhere",)),
        (("data.root=set", "data.splits.train=trian"), ("trian",)),
        (("data.root=set", "data.classes=[cup, zebra]"), ("zebra",)),
        (("data.root=broken",), ("12.jpg", "data.on_error=skip")),
        (("data.root=all_empty",), ("none of 2 images has an object", "label it")),
        (("data.root=set", "task=classify"), ("needs class_scores, but the data has only boxes",)),
        (("data.root=set", "head.detection.classes=[cup]"), ("the model lacks: hat",)),
        (("data.root=set", "weights=nowhere.pt"), ("weights=nowhere.pt: there is no such file",)),
        (("data.root=set", "run_dir=set"), ("run_dir=set: is not empty",)),
        (("data.root=set", "run_dir=set/annotations/instances_val.json/x"), ("cannot be written",)),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(on_files, runs, capsys, typed, said):
    for root in ("set", "broken", "all_empty"):
        write_coco(Path(root), "val", (1, 2))
    write_coco(Path("set"), "train", (11, 12))
    write_coco(Path("broken"), "train", (11, 12), broken=12)
    write_coco(Path("all_empty"), "train", (11, 12), empty=(11, 12))
    before = sorted(runs.rglob("*"))
    assert on_files("data=coco", *typed) == 2
    told = capsys.readouterr().err
    assert all(text in told for text in said), told
    assert "Traceback" not in told
    assert sorted(runs.rglob("*")) == before


def test_what_was_left_out_is_counted_named_and_logged(on_files, capsys):
    write_coco(Path("set"), "train", (11, 12, 13), broken=12)
    write_coco(Path("set"), "val", (1, 2))
    typed = ("data=coco", "data.root=set", "data.on_error=skip", "run_dir=a", "engine.max_steps=1")
    assert on_files(*typed) == 0
    log = Path("a/train.log").read_text()
    assert "train: left out by data.on_error=skip: 1 problem in the data:" in log
    assert "12.jpg" in log
    assert "2 training images" in log
    assert "12.jpg" in capsys.readouterr().out


def test_remarks_of_one_run_stay_out_of_the_log_of_another(on_files):
    write_coco(Path("set"), "train", (11, 12), broken=12)
    write_coco(Path("set"), "val", (1, 2))
    typed = ("data=coco", "data.root=set", "data.on_error=skip", "engine.max_steps=1")
    assert on_files(*typed, "run_dir=a") == 0
    first = Path("a/train.log").read_text()
    assert on_files(*typed, "run_dir=b") == 0
    assert Path("a/train.log").read_text() == first


def test_a_detector_learns_eight_scenes_by_heart(train, runs):
    """Catches most faults anywhere between the reader and the metric."""
    typed = (
        "data.splits={train: train, val: train, test: null}",
        "data.reader.count={train: 8}",
        "augment.transforms=[]",
    )
    typed += ("data.batch_size=4", "optim.lr=0.01", "engine.epochs=70", "engine.evaluate_every=70")
    assert train(*typed, "engine.ema={decay: 0.95, warmup: 10}", "run_dir=a") == 0
    assert json.loads(Path("a/metrics.json").read_text())["detection/AP"] >= 0.5


def test_a_classifier_learns_eight_scenes_by_heart(train, runs):
    typed = (
        "data.splits={train: train, val: train, test: null}",
        "data.reader.count={train: 8}",
        "augment.transforms=[]",
    )
    typed += ("data.batch_size=4", "optim.lr=0.003", "engine.epochs=70", "engine.evaluate_every=70")
    typed += ("task=classify", "engine.ema={decay: 0.8, warmup: 10}", "preprocess=letterbox")
    typed += ("head.classification={levels: [c5], dropout: 0.0}",)
    assert train(*typed, "run_dir=a") == 0
    assert json.loads(Path("a/metrics.json").read_text())["classification/top1"] == 1.0
