"""Runs whose data cannot come: processes that hang, too little shared memory, too few images."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from visionkit import cli
from visionkit.data import TrainingSet, loader
from visionkit.engine.checkpoint import open_checkpoint
from visionkit.model import VisionModel

TYPED = ("task=classify", "engine.train_slice=0", "data.workers=1", "run_dir=a")
_NEW_MOUNTS = 0x00020000
"""CLONE_NEWNS of unshare(2)."""


def test_a_process_that_hangs_ends_the_run_within_the_time_out(train, in_child):
    """Places are (epoch, index): 20 images are gone through twice in 13 of 14 steps, and then nothing more comes."""
    read = TrainingSet.__getitem__

    def hanging(self, place):
        if place[0] == 2:
            time.sleep(1000)
        return read(self, place)

    def work() -> int:
        TrainingSet.__getitem__ = hanging
        return train(*TYPED, "engine.timeout=4")

    began = time.monotonic()
    assert os.waitstatus_to_exitcode(in_child(work, Path("log"))) == 1
    assert time.monotonic() - began < 60
    line = Path("log").read_text().splitlines()[-2]
    assert line.startswith("a process that loads data did not answer for engine.timeout seconds; ")
    assert "; step-7 is saved, resume=a goes on from it" in line
    assert json.loads(Path("a/status.json").read_text())["status"] == "failed"
    assert in_child(lambda: train(*TYPED, "resume=auto"), Path("log")) == 0, Path("log").read_text()
    assert open_checkpoint("a", "last").step == 14


def test_an_evaluation_heeds_the_time_out_too(runs, finished, in_child):
    def work() -> int:
        loader.EvaluationSet.__getitem__ = lambda *given: time.sleep(1000)
        typed = ("data.workers=1", "engine.timeout=3", "device=cpu", "run_dir=b")
        return cli.main(["evaluate", f"checkpoint={finished}", *typed])

    assert os.waitstatus_to_exitcode(in_child(work, Path("log"))) == 1
    line = Path("log").read_text().splitlines()[-2]
    assert line.startswith("a process that loads data did not answer for engine.timeout seconds; ")


# ------------------------------------------------------------------------------------------------------- shared memory
@pytest.fixture
def in_small_memory(in_child):
    """in_small_memory("700k", action): run it in a process whose /dev/shm has so much; the exit code."""

    def start(size: str, action) -> int:
        def work() -> int:
            if ctypes.CDLL(None).unshare(_NEW_MOUNTS):
                return 77
            for command in (
                ["mount", "--make-rprivate", "/"],
                ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"],
            ):
                if subprocess.run(command, capture_output=True, check=False).returncode:
                    return 77
            return action()

        code = os.waitstatus_to_exitcode(in_child(work, Path("log")))
        if code == 77:
            pytest.skip("needs the right to mount a tmpfs")
        return code

    return start


def test_shared_memory_for_fewer_processes_gets_fewer(train, in_small_memory):
    """A batch takes 144 KiB."""
    typed = ("image_size=128", "data.workers=2", "engine.epochs=1", "run_dir=a", "task=classify")
    assert in_small_memory("700k", lambda: train(*typed)) == 0, Path("log").read_text()
    assert "data.workers: 1 instead of 2, since /dev/shm has 1 MiB free" in Path("log").read_text()


def test_shared_memory_that_is_too_small_all_the_same_is_named(train, in_small_memory):
    def work() -> int:
        loader.workers_with_room = lambda workers, *given: workers
        return train("image_size=128", "data.workers=2", "run_dir=a", "task=classify", "engine.timeout=30")

    assert in_small_memory("200k", work) == 1, Path("log").read_text()
    assert (
        "shared memory (/dev/shm) is too small for 2 processes that load batches of 3 x 128 x 128"
        in Path("log").read_text()
    )


# -------------------------------------------------------------------------------------------------------- few of a kind
def test_a_data_set_smaller_than_a_batch_is_gone_through_again_until_it_is_full(train):
    typed = ("data.reader.count={train: 2, val: 2, test: 2}", "data.batch_size=5", "engine.log_steps=1")
    assert train("task=classify", "run_dir=a", "engine.epochs=3", *typed) == 0
    steps = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "total" in line] == [1, 2, 3]


def make_folder(root: Path, *splits: str) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            if split in splits:
                assert cv2.imwrite(str(root / split / name / "1.png"), np.zeros((8, 8, 3), "uint8"))


def test_an_empty_evaluation_set_is_named_before_anything_is_written(train, runs, capsys):
    make_folder(runs / "data", "train")
    typed = ("data=folder", f"data.root={runs / 'data'}", "data.splits={train: train, val: val}", "image_size=64")
    code = cli.main(["train", "task=classify", *typed, "device=cpu", "run_dir=a"])
    line = capsys.readouterr().err
    assert code == 2, line
    assert f"{runs / 'data'} (val): the split holds no usable image; choose another data.split" in line
    assert not Path("a").exists()


def test_an_evaluation_without_images_is_refused(runs, finished, monkeypatch, capsys):
    monkeypatch.setattr("visionkit.data.readers.shapes.Shapes.__len__", lambda self: 0)
    assert cli.main(["evaluate", f"checkpoint={finished}", "device=cpu", "run_dir=b"]) == 2
    assert "data.split=test: holds no usable image; choose another" in capsys.readouterr().err
    assert not Path("b").exists()


def test_a_batch_of_one_that_a_batch_norm_cannot_take_is_named(train, capsys):
    """The last level has one value a channel of a 32 x 32 image."""
    one = ("image_size=32", "head.classification.levels=[c5]", "data.batch_size=1", "run_dir=a")
    assert train("task=classify", *one) == 1
    line = capsys.readouterr().err
    assert line.startswith("batches of 1 x 32 x 32 pixels: a BatchNorm sees a single value a channel")
    assert "raise data.batch_size to 2 or more" in line


def test_memory_that_is_used_up_in_an_evaluation_is_told(runs, finished, monkeypatch, capsys):
    monkeypatch.setattr(VisionModel, "predict", lambda *given: torch.empty(1 << 60, dtype=torch.uint8))
    assert cli.main(["evaluate", f"checkpoint={finished}", "device=cpu", "data.workers=0", "run_dir=b"]) == 1
    assert "out of memory on cpu with batches of 16 x 64 x 64 pixels; lower batch_size" in capsys.readouterr().err
