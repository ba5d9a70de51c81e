from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visionkit import cli
from visionkit.engine.evaluate import Evaluation, evaluate, write_evaluation, write_map
from visionkit.metrics import CocoDetection
from visionkit.predictions import Classification, Detections, PanopticMap, Segment, SemanticMap
from visionkit.structures import Batch, Geometry, Labels, Targets


def plain_pycocotools(truth: Path, rows: Path) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        source = COCO(str(truth))
        scores = COCOeval(source, source.loadRes(json.loads(rows.read_text())), "bbox")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    return float(scores.stats[0])


def numbers(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "metrics.json").read_text())


# ---------------------------------------------------------------------------------------------- the checkpoint of a run
def test_a_checkpoint_scores_what_its_run_said(runs, finished, capsys):
    """To the last digit; the predictions are the same too, and plain pycocotools agrees."""
    folder = shutil.copytree(finished / "checkpoints" / "best", "elsewhere")
    assert cli.main(["evaluate", f"checkpoint={folder}", "run_dir=again", "device=cpu"]) == 0
    assert (runs / "again" / "predictions.json").read_text() == (finished / "predictions.json").read_text()
    said = json.loads((finished / "metrics.json").read_text())
    del said["verdict"]  # of a training run alone
    assert json.loads((runs / "again" / "metrics.json").read_text()) == said
    ap = numbers("again")["detection/AP"]
    shown = capsys.readouterr().out
    assert f"detection/AP                     {ap:.4f}" in shown
    assert "detection/AP_large               n/a (no labelled object of at least 96² pixels)" in shown
    export = ["data.split=test", "image_size=64", "data.reader.count={test: 5}", "fix=truth.json"]
    assert cli.main(["check_data", *export]) == 0
    assert ap > 0
    assert plain_pycocotools(Path("truth.json"), Path("again/predictions.json")) == pytest.approx(ap, abs=1e-9)


def test_other_splits_other_worlds_and_the_default_folder(runs, finished):
    assert cli.main(["evaluate", f"checkpoint={finished}", "data.split=val", "device=cpu"]) == 0
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    val = numbers("runs/evaluate/detect-001")
    assert val["split"] == "val"
    # Both epochs' checkpoints are there; the best one's number stands in metrics.jsonl.
    epochs = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert (
        val["detection/AP"] == max(line["detection/AP"] for line in epochs if "epoch" in line) >= last["detection/AP"]
    )
    assert cli.main(["evaluate", f"checkpoint={finished}", "data.seed=5", "device=cpu", "debug.images=3"]) == 0
    assert numbers("runs/evaluate/detect-002")["detection/AP"] != numbers(finished)["detection/AP"]
    rows = json.loads(Path("runs/evaluate/detect-002/predictions.json").read_text())
    assert {row["image_id"] for row in rows} <= {1, 2, 3}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("checkpoint=nowhere",), "checkpoint=nowhere: there is no such folder"),
        (("checkpoint={run}", "run_dir={run}"), "is the folder of a run, whose metrics.json stays"),
        (("checkpoint={run}", "run_dir=file/x"), "run_dir=file/x: cannot be written (Not a directory)"),
        (("checkpoint={run}", "data.split=vall"), "nothing for the split 'vall'; it has train, val, test"),
        (("checkpoint={run}", "device=cuda:77"), "device=cuda:77: this machine has"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_a_line(runs, finished, capsys, typed, said):
    Path("file").touch()
    before = (finished / "metrics.json").stat().st_mtime_ns
    assert cli.main(["evaluate", *(text.format(run=finished) for text in typed)]) == 2
    line, _mend = capsys.readouterr().err.splitlines()
    assert said in line
    assert [path.name for path in runs.iterdir()] == ["file"]
    assert (finished / "metrics.json").stat().st_mtime_ns == before


# ----------------------------------------------------------------------------------------------------------- other data
def write_voc(root: Path, names: tuple[str, ...]) -> None:
    """Four photographs with one box each, in the list `val`."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        stem, name = f"{number:03d}", names[number % len(names)]
        cv2.imwrite(str(root / f"JPEGImages/{stem}.jpg"), rng.integers(0, 255, (60, 80, 3), np.uint8))
        (root / f"Annotations/{stem}.xml").write_text(
            f"<annotation><filename>{stem}.jpg</filename><size><width>80</width><height>60</height><depth>3</depth>"
            f"</size><object><name>{name}</name><difficult>0</difficult><bndbox><xmin>5</xmin><ymin>6</ymin>"
            "<xmax>70</xmax><ymax>50</ymax></bndbox></object></annotation>"
        )
    (root / "ImageSets/Main/val.txt").write_text("".join(f"{number:03d}\n" for number in range(4)))


def test_data_with_some_of_the_classes_in_another_order(runs, finished):
    """Labels go by name; what the source has no class for stands in no row, since it has no id there."""
    known = json.loads((finished / "checkpoints/best/model.json").read_text())["heads"]["detection"]["classes"]
    chosen = sorted((known[7], known[2]))
    write_voc(Path("voc"), tuple(reversed(chosen)))
    typed = ["data=voc", "data.root=voc", "run_dir=out", "device=cpu", "data.split=val"]
    assert cli.main(["evaluate", f"checkpoint={finished}", *typed]) == 0
    rows = json.loads(Path("out/predictions.json").read_text())
    assert {row["category_id"] for row in rows} == {1, 2}
    assert {row["file_name"] for row in rows} <= {f"JPEGImages/{number:03d}.jpg" for number in range(4)}
    assert cli.main(["check_data", *typed[:2], "data.split=val", "fix=truth.json"]) == 0
    truth = json.loads(Path("truth.json").read_text())
    assert [category["name"] for category in truth["categories"]] == chosen
    ap = numbers("out")["detection/AP"]
    assert plain_pycocotools(Path("truth.json"), Path("out/predictions.json")) == pytest.approx(ap, abs=1e-9)


def test_a_class_that_the_model_lacks_is_named(runs, finished, capsys):
    write_voc(Path("voc"), ("zebra",))
    typed = ["data=voc", "data.root=voc", "run_dir=out", "device=cpu"]
    assert cli.main(["evaluate", f"checkpoint={finished}", *typed]) == 2
    line, _mend = capsys.readouterr().err.splitlines()
    assert "the data has classes that the model lacks: zebra" in line
    assert "data.classes=[…]" in line
    assert not Path("out").exists()


# -------------------------------------------------------------------------------------------------------------- by hand
class Stub(torch.nn.Module):
    """Predicts class 1 for each image, by both of its heads."""

    def predict(self, images, sizes, geometries):
        box = np.array([[1, 2, 3, 5]], np.float32)
        return [
            {
                "classification": Classification(np.array([0.25, 0.75], np.float32)),
                "detection": Detections(box, np.array([0.5], np.float32), np.array([1])),
            }
            for _ in geometries
        ]


class Count:
    headline = "images"
    reasons = {"none": "never any"}  # noqa: RUF012

    def __init__(self):
        self.seen = []

    def update(self, image_id, prediction, truth):
        self.seen.append((image_id, type(prediction), truth.size))

    def compute(self):
        return {"images": float(len(self.seen)), "none": float("nan")}


def batch(*ids):
    geometries = tuple(Geometry((8, 9), (8, 9), (1.0, 1.0)) for _ in ids)
    targets = Targets(sizes=torch.full((len(ids), 2), 8), known={})
    labels = tuple(Labels(size=(8, 9)) for _ in ids)
    names = tuple(f"{image_id}.png" for image_id in ids)
    images = torch.zeros(len(ids), 3, 9, 9, dtype=torch.uint8)
    return Batch(images=images, targets=targets, geometries=geometries, image_ids=ids, file_names=names, labels=labels)


def test_every_image_is_judged_and_told_with_the_sources_ids(tmp_path):
    metrics = {"classification": Count(), "detection": Count()}
    ids = {"classification": [None, 90], "detection": [3, "cup"]}
    result = evaluate(Stub(), [batch(7, "x"), batch(5)], metrics, ids, torch.device("cpu"))
    assert metrics["detection"].seen == [(image_id, Detections, (8, 9)) for image_id in (7, "x", 5)]
    assert result.numbers["classification/images"] == 3.0
    assert result.rows["classification"] == [
        {"image_id": image_id, "category_id": 90, "score": 0.75, "file_name": f"{image_id}.png"}
        for image_id in (7, "x", 5)
    ]
    first = {"image_id": 7, "category_id": "cup", "bbox": [1.0, 2.0, 2.0, 3.0], "score": 0.5, "file_name": "7.png"}
    assert result.rows["detection"][0] == first
    write_evaluation(result, tmp_path, split="val")
    assert numbers(tmp_path) == {
        "split": "val", "classification/images": 3.0, "classification/none": None, "detection/images": 3.0,
        "detection/none": None, "reasons": {"classification/none": "never any", "detection/none": "never any"},
    }  # fmt: skip
    assert json.loads((tmp_path / "predictions.json").read_text()) == result.rows
    one = Evaluation(rows={"detection": result.rows["detection"]})
    write_evaluation(one, tmp_path, split="val")
    assert json.loads((tmp_path / "predictions.json").read_text()) == result.rows["detection"]
    write_evaluation(Evaluation(), tmp_path, split="none")
    assert json.loads((tmp_path / "predictions.json").read_text()) == {}


def test_what_cannot_be_is_null_with_a_reason_also_class_by_class(tmp_path):
    metric = CocoDetection(["cup", "a/b"])
    boxes = np.array([[0.0, 0, 100, 100]])
    metric.update(1, Detections(boxes, np.ones(1), np.zeros(1, np.int64)), Labels(
        size=(100, 100), boxes=boxes, labels=np.zeros(1, np.int64)
    ))  # fmt: skip
    values = {f"detection/{name}": value for name, value in metric.compute().items()}
    reasons = {f"detection/{name}": reason for name, reason in metric.reasons.items()}
    result = Evaluation(
        numbers=values | {"multitask/mean": float("nan")}, reasons=reasons, metrics={"detection": metric}
    )
    write_evaluation(result, tmp_path, split="val")
    told = numbers(tmp_path)
    assert told["detection/AP_small"] is None
    assert told["reasons"]["detection/AP_small"] == "no labelled object of at most 32² pixels"
    whole = dict.fromkeys(("AP", "AP50", "AP75", "AR100"), pytest.approx(1.0))
    nothing = dict.fromkeys(whole, None) | {"objects": 0, "reason": "no labelled object to be found"}
    assert told["per_class"] == {"detection": {"cup": {**whole, "objects": 1}, "a/b": nothing}}
    assert result.absent()["multitask/mean"] == "nothing to be judged by"
    assert set(result.absent()) == {name for name, value in told.items() if "/" in name and value is None}


def test_vocs_numbers_may_be_asked_of_a_checkpoint(runs, finished, capsys):
    typed = [f"checkpoint={finished}", "run_dir=voc", "device=cpu"]
    assert cli.main(["evaluate", *typed, "engine.voc_ap=true"]) == 0
    told, before = numbers("voc"), numbers(finished)
    assert 0 < told["detection/VOC_AP"] <= 1
    assert "detection/VOC07_AP" in capsys.readouterr().out
    assert {name: told[name] for name in before if "/" in name} == {
        name: before[name] for name in before if "/" in name
    }


def test_a_class_without_an_id_gives_no_row():
    result = evaluate(Stub(), [batch(1)], {"detection": Count()}, {"detection": [1, None]}, torch.device("cpu"))
    assert result.rows == {"detection": []}
    assert result.numbers["detection/images"] == 1.0


# ---------------------------------------------------------------------------------------------------------------- maps
def read_png(file: Path) -> np.ndarray:
    pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else pixels[..., ::-1]


def test_an_id_never_leads_out_of_the_folder(tmp_path):
    ids = ("../x", "a/b", "..", 7, "../../x", "/etc/x", "a/../../b", "a/..", "x.png", ".hidden", "a b/é", "...")
    folder = tmp_path / "in" / "maps"
    for number, image_id in enumerate(ids):
        write_map(np.full((2, 3), number, np.uint8), folder, image_id)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(folder in path.resolve().parents for path in files)
    assert len(files) == len(ids), "each has a file of its own"
    assert sorted(read_png(file)[0, 0] for file in files) == list(range(len(ids)))
    assert (folder / "a" / "b.png").is_file()
    assert (folder / "7.png").is_file()


def test_maps_hold_the_numbers_themselves(tmp_path):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(read_png(write_map(pixels, tmp_path, 1)), pixels)
    colours = np.stack([pixels, pixels[::-1], pixels.T], -1)
    assert np.array_equal(read_png(write_map(colours, tmp_path, 2)), colours)


class Maps(torch.nn.Module):
    """Predicts a semantic and a panoptic map beside the class of each image."""

    def predict(self, images, sizes, geometries):
        ids = np.array([[0, 1], [300, 70000]], np.int32)
        segments = (Segment(1, 0, True, 0.5, 1), Segment(300, 1, False, 1.0, 1), Segment(70000, 2, False, 1.0, 1))
        return [
            {
                "classification": Classification(np.array([0.25, 0.75], np.float32)),
                "semantic": SemanticMap(np.array([[0, 2], [1, 255]], np.uint8)),
                "panoptic": PanopticMap(ids, segments),
            }
            for _ in geometries
        ]


def test_semantic_and_panoptic_maps_are_written_where_they_are_wanted(tmp_path):
    names = ("classification", "semantic", "panoptic")
    ids = {"classification": [1, 2], "semantic": [4, 5, 6], "panoptic": [8, None, 9]}
    for maps in (None, tmp_path / "maps"):
        metrics = {name: Count() for name in names}
        result = evaluate(Maps(), [batch(7, "x/y")], metrics, ids, torch.device("cpu"), maps=maps)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {f"maps/{head}/{name}.png" for head in ("semantic", "panoptic") for name in ("7", "x/y")}
    assert read_png(tmp_path / "maps/semantic/7.png").tolist() == [[0, 2], [1, 255]]
    assert read_png(tmp_path / "maps/panoptic/x/y.png").tolist() == [
        [[0, 0, 0], [1, 0, 0]], [[44, 1, 0], [112, 17, 1]]
    ]  # fmt: skip
    assert result.rows["semantic"] == []
    assert result.rows["panoptic"][1] == {
        "image_id": "x/y",
        "segments_info": [
            {"id": 1, "category_id": 8, "score": 0.5, "area": 1},
            {"id": 70000, "category_id": 9, "score": 1.0, "area": 1},
        ],
        "file_name": "x/y.png",
    }
