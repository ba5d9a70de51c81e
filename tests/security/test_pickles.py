"""Pickles in the place of weights and training states: opened by every door, none runs."""

from __future__ import annotations

import io
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import visionkit
from visionkit.backbones.weights import read_state_dict
from visionkit.errors import CheckpointError, DataError
from visionkit.features import read_features

PAYLOADS = runpy.run_path(str(Path(__file__).parent / "payloads.py"))
Trap, PICKLES, BOMBS = (PAYLOADS[name] for name in ("Trap", "PICKLES", "BOMBS"))


@pytest.mark.parametrize("kind", PICKLES)
def test_the_pickles_do_what_they_would(kind, marker, tmp_path):
    """Or the tests below would show nothing."""
    file = tmp_path / "a.pt"
    file.write_bytes(PICKLES[kind](Trap(marker)))
    try:
        torch.load(file, weights_only=False)
    except Exception:
        assert marker.exists()
    marker.rmdir()


@pytest.mark.parametrize("kind", ["zipped", "nested", "before_1_6"])
def test_resuming_runs_no_pickle(kind, marker, run_of_one, put, resume_refused):
    put(run_of_one / "checkpoints" / "last", "training.pt", PICKLES[kind](Trap(marker)))
    assert "training.pt: not readable (it holds more than tensors and plain values)" in resume_refused()


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors"])
def test_resuming_reads_weights_as_nothing_else(name, marker, run_of_one, put, resume_refused):
    put(run_of_one / "checkpoints" / "last", name, PICKLES["bare"](Trap(marker)))
    assert f"{name}: not readable (" in resume_refused()


def test_resuming_takes_no_more_than_the_file(run_of_one, put, resume_refused, bounded):
    put(run_of_one / "checkpoints" / "last", "training.pt", BOMBS["inflating"]())
    with bounded():
        assert "training.pt: not readable (" in resume_refused()


@pytest.mark.parametrize("change", [None, {"optimizer": None}, {"optimizer": {}}, {"random": "x"}, {"losses": 1}])
def test_a_state_of_another_kind_is_refused(change, run_of_one, put, resume_refused):
    last = run_of_one / "checkpoints" / "last"
    state = torch.load(last / "training.pt", weights_only=True)
    buffer = io.BytesIO()
    torch.save([1] if change is None else {**state, **change}, buffer)
    put(last, "training.pt", buffer.getvalue())
    assert "training.pt: " in resume_refused()


@pytest.mark.parametrize("kind", [*PICKLES, *BOMBS])
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_weights_from_a_file_run_nothing(kind, ending, marker, tmp_path, bounded):
    file = tmp_path / f"weights.{ending}"
    file.write_bytes(PICKLES[kind](Trap(marker)) if kind in PICKLES else BOMBS[kind]())
    with bounded(), pytest.raises(CheckpointError, match=f"weights={file}: not a readable state dict") as error:
        read_state_dict(file)
    assert len(str(error.value).splitlines()) == 1


def test_training_from_hostile_weights_is_refused(marker, tmp_path, refused):
    file = tmp_path / "weights.pt"
    file.write_bytes(PICKLES["zipped"](Trap(marker)))
    said = refused("train", "image_size=64", "data.reader.count={train: 4, val: 2, test: 2}", "device=cpu",
                   "backbone=resnet18", f"weights={file}")  # fmt: skip
    assert "not a readable state dict (it holds more than tensors and plain values)" in said


@pytest.mark.parametrize("name", ["ema.safetensors", "model.safetensors", "model.json", "state.json", "config.yaml"])
def test_a_pickle_of_another_name_is_no_pickle(name, marker, checkpoint, put, refused, image):
    put(checkpoint, name, PICKLES["bare"](Trap(marker)))
    doors = {
        "load": lambda: visionkit.load(checkpoint, "cpu"),
        "evaluate": lambda: refused("evaluate", f"checkpoint={checkpoint}", "device=cpu"),
        "predict": lambda: refused("predict", f"checkpoint={checkpoint}", f"source={image}", "out=out", "device=cpu"),
    }
    if name == "config.yaml":
        assert "config.yaml: not readable" in doors["evaluate"]()
    elif name != "model.safetensors":  # what is trained on, which nothing else opens
        with pytest.raises(CheckpointError, match=f"{name}: "):
            doors["load"]()
        assert f"{name}: " in doors["evaluate"]()
        assert f"{name}: " in doors["predict"]()


def test_a_pickle_for_a_manifest(marker, checkpoint, refused):
    (checkpoint / "manifest.json").write_bytes(pickle.dumps(Trap(marker)))
    assert "manifest.json: " in refused("evaluate", f"checkpoint={checkpoint}", "device=cpu")


def test_what_is_not_asked_for_is_not_opened(marker, checkpoint, put):
    """Predicting needs no state of a training run, and looks at nothing but its checksum."""
    put(checkpoint, "training.pt", PICKLES["zipped"](Trap(marker)))
    assert visionkit.load(checkpoint, "cpu").classes


def test_a_file_of_features_holds_no_objects(marker, tmp_path):
    """What tools/probe.py train=FILE.npz reads."""
    file = tmp_path / "a.npz"
    np.savez(file, names=np.array([Trap(marker)], object), features=np.zeros((1, 2), np.float32), level=np.array("c5"))
    np.load(file, allow_pickle=True)["names"]
    marker.rmdir()
    with pytest.raises(DataError, match="no file of features"):
        read_features(file)
    file.write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises(DataError, match="no file of features"):
        read_features(file)
