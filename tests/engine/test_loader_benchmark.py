"""The benchmark of loaders: what it prints and saves, on a set of seconds."""

from __future__ import annotations

import itertools
import json
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit import cli
from visionkit.data.readers import Coco
from visionkit.engine import index_benchmark, loader_benchmark, loader_peers
from visionkit.engine.processes import cpu_seconds, own_memory

TINY = ("debug=tiny", "device=cpu", "data.batch_size=2", "data.reader.count={train: 4, val: 2, test: 2}")


@pytest.fixture
def timed(runs, monkeypatch):
    for name, value in (("_ROUNDS", 2), ("_BATCHES", 2), ("_PROFILED", 1)):
        monkeypatch.setattr(loader_benchmark, name, value)
    return lambda *typed: cli.main(["benchmark", "loader", *TINY, "data.workers=1", *typed])


@pytest.fixture
def small_set(tmp_path):
    """Three images of 10 x 8 with three boxes each, as COCO has them."""
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    images = [{"id": i + 1, "file_name": f"{i}.png", "height": 8, "width": 10} for i in range(3)]
    for image in images:
        Image.new("RGB", (10, 8)).save(root / "images" / image["file_name"])
    boxes = [[0, 1, 3, 4.5], [3, 1, 3, 4.5], [6, 2, 4, 6]]
    annotations = [
        {
            "id": 3 * i + n + 1,
            "image_id": i + 1,
            "category_id": 1,
            "bbox": bbox,
            "area": bbox[2] * bbox[3],
            "iscrowd": 0,
        }
        for i in range(3)
        for n, bbox in enumerate(boxes)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (root / "train.json").write_text(json.dumps(content))
    return root


def test_our_loader_is_timed_and_its_stages(timed, capsys):
    assert timed("run_dir=out") == 0
    told = json.loads(Path("out/loader.json").read_text())
    assert (told["workers"], told["batch_size"], told["image_size"]) == (1, 2, [64, 64])
    parts = told["ms_per_image"]
    stages = sum(parts[name] for name in ("read", "decode", "mix", "augment", "collate"))
    assert stages == pytest.approx(parts["total"], abs=0.01)
    assert min(parts.values()) >= 0 and parts["mix"] > 0 and parts["collate"] > 0
    assert told["images_per_second"]["visionkit"] > 0 and told["objects_per_sample"]["visionkit"] > 0
    assert len(told["worker_growth_mb"]["visionkit"]) == 1
    shown = capsys.readouterr().out
    assert "ms an image" in shown and "visionkit" in shown


def test_loaders_take_turns_and_what_was_made_ahead_is_not_counted(monkeypatch):
    monkeypatch.setattr(loader_benchmark, "_ROUNDS", 2)
    monkeypatch.setattr(loader_benchmark, "_BATCHES", 3)
    drawn = []

    def loader(name, objects):
        for number in itertools.count():
            drawn.append(name)
            yield 4, objects if number else 1000

    told = loader_benchmark.compare({"a": lambda: loader("a", 8), "b": lambda: loader("b", 6)}, workers=1)
    assert "".join(drawn) == "ab" + 2 * (7 * "a" + 7 * "b")
    assert told["objects_per_sample"] == {"a": 2.0, "b": 1.5}
    assert told["worker_growth_mb"] == {"a": [], "b": []}


def test_unknown_loaders_are_refused(timed, capsys):
    assert timed("against=[ultralitics]") == 2
    assert "there is no such loader (did you mean 'ultralytics'?)" in capsys.readouterr().err


def test_torchvisions_pipelines_give_batches(small_set):
    makers = loader_peers.torchvision(Coco(small_set, "train"), (32, 48), 2, 0)
    assert list(makers) == ["torchvision lsj", "torchvision ssd"]
    for make in makers.values():
        batches = make()
        assert {next(batches)[0] for _ in range(4)} == {1, 2}
        batches.close()


def test_yolo_copy_has_the_same_boxes(small_set, tmp_path):
    reader = Coco(small_set, "train")
    (tmp_path / "yolo").mkdir()
    told = json.loads(loader_peers._write_yolo(reader, tmp_path / "yolo").read_text())
    assert told["names"] == ["a"]
    rows = np.loadtxt(tmp_path / "yolo/labels/train/0000000.txt").reshape(-1, 5)
    centres, sides = rows[:, 1:3] * (10, 8), rows[:, 3:] * (10, 8)
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    np.testing.assert_allclose(boxes, reader.labels(0).boxes, atol=1e-4)
    assert (tmp_path / "yolo/images/train/0000000.png").resolve() == (small_set / "images/0.png").resolve()


def test_index_of_a_generated_file(capsys):
    told = index_benchmark.index_benchmark(workers=2, images=300, boxes=2000)
    assert told["images"] == 300 and told["boxes"] == 2000 and len(told["worker_growth_mb"]) == 2
    assert told["seconds"]["reopen"] > 0 and told["index_to_json_load"] > 0
    assert "300 images, 2000 boxes with polygons" in capsys.readouterr().out


def test_memory_and_time_of_a_process_are_its_own():
    before, worked = own_memory(os.getpid()), cpu_seconds(os.getpid())
    block = mmap.mmap(-1, 32 << 20)  # not from the C library, which may have kept what other tests freed
    block.write(b"1" * len(block))
    assert own_memory(os.getpid()) - before > 20 and cpu_seconds(os.getpid()) >= worked > 0
    block.close()
