"""Whole runs by the command line, on the data that users have."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from visionkit import cli
from visionkit.data.readers import Shapes

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
    typed += ("data.batch_size=4", "optim.lr=0.01", "engine.epochs=60", "engine.evaluate_every=60")
    assert train(*typed, "engine.ema={decay: 0.95, warmup: 10}", "run_dir=a") == 0
    assert json.loads(Path("a/metrics.json").read_text())["detection/AP"] >= 0.5


def test_a_classifier_learns_eight_scenes_by_heart(train, runs):
    typed = (
        "data.splits={train: train, val: train, test: null}",
        "data.reader.count={train: 8}",
        "augment.transforms=[]",
    )
    typed += ("data.batch_size=4", "optim.lr=0.003", "engine.epochs=40", "engine.evaluate_every=40")
    typed += ("task=classify", "engine.ema={decay: 0.8, warmup: 10}", "preprocess=letterbox")
    typed += ("head.classification={levels: [c5], dropout: 0.0}",)
    assert train(*typed, "run_dir=a") == 0
    assert json.loads(Path("a/metrics.json").read_text())["classification/top1"] == 1.0


# ------------------------------------------------------------------------------------------------------------ all tasks
FIVE = ("classification", "localization", "detection", "semantic", "instance")


def numbers(folder: str) -> dict:
    """Without the verdict, which only a training run has."""
    told = json.loads((Path(folder) / "metrics.json").read_text())
    return {key: value for key, value in told.items() if key != "verdict"}


def test_all_heads_train_together_and_their_checkpoint_repeats_the_numbers(train, runs):
    assert train("task=multitask", "merges=[panoptic]", "run_dir=a", "engine.max_steps=3") == 0
    assert cli.main(["evaluate", "checkpoint=a", "run_dir=again", "device=cpu"]) == 0
    assert numbers("again") == numbers("a")
    found = numbers("a")
    headlines = ("top1", "acc50", "AP", "mIoU", "AP")
    values = [found[f"{head}/{key}"] for head, key in zip((*FIVE, "panoptic"), (*headlines, "PQ"), strict=True)]
    assert all(0 <= value <= 1 for value in values)
    assert found["multitask/mean"] == pytest.approx(np.mean(values))
    rows = json.loads(Path("a/predictions.json").read_text())
    assert set(rows) == {*FIVE, "panoptic"}
    assert rows == json.loads(Path("again/predictions.json").read_text())
    assert {len(rows[head]) for head in ("localization", "panoptic")} == {5}
    assert rows["semantic"] == []
    assert all({"bbox", "score", "segmentation"} < set(row) for row in rows["instance"])
    steps = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    assert {key.split("/")[0] for key in steps[0] if "/" in key} == set(FIVE)
    for name in ("semantic", "panoptic"):
        pictures = sorted(Path("a/predictions", name).glob("*.png"))
        assert [picture.stem for picture in pictures] == ["1", "2", "3", "4", "5"]
        assert all(
            picture.read_bytes() == Path("again/predictions", name, picture.name).read_bytes() for picture in pictures
        )


def test_panoptic_pictures_and_segments_belong_together(train, runs, with_report):
    assert train("task=panoptic", "run_dir=a", "engine.max_steps=2") == 0
    assert "could not be" not in Path("a/train.log").read_text()
    rows = json.loads(Path("a/predictions.json").read_text())["panoptic"]
    assert [row["image_id"] for row in rows] == [1, 2, 3, 4, 5]
    known = set(Shapes("test", size=64, count=1).category_ids) | set(range(11, 17))
    for row in rows:
        pixels = cv2.imread(f"a/predictions/panoptic/{row['image_id']}.png")[..., ::-1].astype(int)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        areas = {one: int((ids == one).sum()) for one in np.unique(ids).tolist() if one}
        assert areas == {one["id"]: one["area"] for one in row["segments_info"]}
        assert {one["category_id"] for one in row["segments_info"]} <= known
    assert 0 <= numbers("a")["panoptic/PQ"] <= 1
    assert "panoptic/PQ" in json.loads(Path("a/metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize(("task", "headline"), [("semantic", "mIoU"), ("instance", "AP"), ("localize", "acc50")])
def test_each_task_alone_runs_to_its_number(train, runs, task, headline):
    assert train(f"task={task}", "run_dir=a", "engine.max_steps=2") == 0
    head = "localization" if task == "localize" else task
    assert 0 <= numbers("a")[f"{head}/{headline}"] <= 1


# ---------------------------------------------------------------------------------------------------- labels from files
def write_csv(root: Path) -> None:
    """Four images a split, of which train's second and val's first show two objects, the second of them larger."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for split, several in (("train", 1), ("val", 0)):
        lines = ["file,x1,y1,x2,y2,label"]
        for number in range(4):
            name = f"{split}{number}.png"
            cv2.imwrite(str(root / name), rng.integers(0, 255, (60, 80, 3), np.uint8))
            lines.append(f"{name},10,10,30,30,{('cup', 'hat')[number % 2]}")
            if number == several:
                lines.append(f"{name},20,20,70,55,hat")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")


def test_localization_wants_one_object_or_is_told_which(on_files, runs, capsys):
    write_csv(Path("set"))
    before = sorted(runs.rglob("*"))
    assert on_files("task=localize", "data=csv", "data.root=set", "run_dir=a") == 2
    line, _mend = capsys.readouterr().err.splitlines()
    assert line.startswith("train1.png: 2 objects")
    assert "data.box=largest" in line
    assert sorted(runs.rglob("*")) == before
    assert on_files("task=localize", "data=csv", "data.root=set", "run_dir=a", "data.box=largest") == 0
    found = numbers("a")
    assert found["split"] == "val"
    assert 0 <= found["localization/acc50"] <= 1
    rows = json.loads(Path("a/predictions.json").read_text())
    assert [row["file_name"] for row in rows] == [f"val{number}.png" for number in range(4)]
    # The checkpoint remembers which object was meant.
    assert cli.main(["evaluate", "checkpoint=a", "run_dir=again", "device=cpu"]) == 0
    assert numbers("again") == found


def write_class_folders(root: Path) -> None:
    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 255, (50, 60, 3), np.uint8))


def write_instance_masks(root: Path) -> None:
    """Images with two instances each, by number in the mask."""
    rng = np.random.default_rng(2)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(3):
            mask = np.zeros((48, 64), np.uint8)
            mask[5:30, 5:25], mask[20:45, 30:60] = 1, 2
            image = rng.integers(0, 100, (48, 64, 3), np.uint8) + 100 * (mask[..., None] > 0).astype(np.uint8)
            cv2.imwrite(str(root / "images" / split / f"{number}.png"), image)
            cv2.imwrite(str(root / "masks" / split / f"{number}.png"), mask)


def test_two_sets_that_know_different_labels_train_together(on_files, runs):
    """One knows the class of each image, the other the pixels of each object."""
    write_class_folders(Path("insects"))
    write_instance_masks(Path("people"))
    sets = ("data=[folder,masks]", "data.sets.folder.root=insects", "data.sets.masks.root=people")
    typed = (*sets, "data.sets.masks.reader.kind=instances", "data.sets.masks.classes=[person]")
    heads = ("task=multitask", "heads=[classification,instance]", "engine.max_steps=2", "engine.log_steps=1")
    assert on_files(*typed, *heads, "augment.mosaic.p=0.5", "run_dir=a", "data.proportions={folder: 1, masks: 3}") == 0
    described = json.loads(Path("a/checkpoints/last/model.json").read_text())["heads"]
    assert described["classification"]["classes"] == ["ant", "bee"]
    assert described["instance"]["classes"] == ["person"]
    lines = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "total" in line] == [1, 2]
    assert any(line["classification/cross_entropy"] > 0 for line in lines if "total" in line)
    assert any(line["instance/mask"] > 0 for line in lines if "total" in line)
    rows = json.loads(Path("a/predictions.json").read_text())
    assert {row["file_name"].split("/")[0] for row in rows["instance"]} <= {"folder", "masks"}
    found = numbers("a")
    assert all(found[key] is not None for key in ("classification/top1", "instance/AP", "multitask/mean"))
    assert cli.main(["evaluate", "checkpoint=a", "run_dir=again", "device=cpu"]) == 0
    assert numbers("again") == found


def test_without_heads_two_sets_choose_them(on_files, runs):
    write_class_folders(Path("insects"))
    write_instance_masks(Path("people"))
    sets = ("data=[folder,masks]", "data.sets.folder.root=insects", "data.sets.masks.root=people")
    assert on_files(*sets, "data.sets.masks.reader.kind=instances", "task=multitask", "engine.max_steps=1",
                    "run_dir=a") == 0  # fmt: skip
    heads = json.loads(Path("a/checkpoints/last/model.json").read_text())["heads"]
    assert set(heads) == {"classification", "detection", "instance"}
