"""tools/export.py from a run to a file that tools/predict.py takes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from visionkit import cli
from visionkit.errors import DataError
from visionkit.export import run as run_module
from visionkit.structures import Decoding


def test_a_run_is_exported_and_predicts_alike(finished, runs, capsys):
    cv2.imwrite("photograph.png", np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8))
    assert cli.main(["export", f"checkpoint={finished}", "format=torch", "out=made/run.pt2"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("compared with the checkpoint on 6 images: scores equal")
    files = run_module._images(SimpleNamespace(images=".", allow=[], out="made/run.pt2"), None, Decoding())
    assert [(name, image.shape) for name, image in files.items()] == [("photograph.png", (50, 80, 3))]
    assert [file.name for file in (runs / "made").iterdir()] == ["run.pt2"]
    for checkpoint, out in (("made/run.pt2", "one"), (finished, "other")):
        typed = ["predict", f"checkpoint={checkpoint}", "source=photograph.png", f"out={out}", "device=cpu"]
        assert cli.main(typed) == 0
    rows = [json.loads((runs / out / "predictions.json").read_text()) for out in ("one", "other")]
    assert len(rows[0]) == len(rows[1]) > 0
    for one, other in zip(*rows, strict=True):
        np.testing.assert_allclose(one["bbox"], other["bbox"], atol=1e-3)
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)


def test_wrong_keys_are_told_at_once(finished, runs, capsys):
    typed = ["export", f"checkpoint={finished}", "out=a.onnx"]
    for more, said in (
        (["format=onxn"], "format=onxn: one of onnx, torch is wanted (did you mean 'onnx'?)"),
        (["image_size=0"], "image_size=0: a whole number above 0"),
        (["format=torch"], "out=a.onnx: a file that ends in .pt2 is wanted"),
        (["images=absent"], "images=absent: no such file, folder or pattern"),
        (["device=cpu"], "device: "),
    ):
        assert cli.main([*typed, *more]) == 2
        assert said in capsys.readouterr().err
    assert list(runs.iterdir()) == []


def test_without_its_own_images_a_run_is_compared_on_scenes(runs, monkeypatch, capsys):
    def absent(checkpoint, allow):
        raise DataError("/gone: no such folder; give data.root")

    monkeypatch.setattr(run_module, "_validation_images", absent)
    images = run_module._images(SimpleNamespace(images=None, allow=[]), None, Decoding(1, 16))
    assert [(image.shape, image.dtype) for image in images.values()] == [((240, 320, 1), np.uint16)] * 8
    assert "/gone: no such folder" in capsys.readouterr().out
    with pytest.raises(Exception, match="images: 5 channels; name images"):
        run_module._images(SimpleNamespace(images=None, allow=[]), None, Decoding(5))
