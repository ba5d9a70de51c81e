from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import visionkit.predict_files
from visionkit import cli
from visionkit.backbones import CSP
from visionkit.errors import ConfigError, DataError, UserError
from visionkit.features import FeatureFile, batch_features, read_features
from visionkit.heads import DenseDetection, LinearClassification
from visionkit.model import VisionModel
from visionkit.necks import FPN
from visionkit.predictor import Predictor
from visionkit.preprocess import Preprocess


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    backbone = CSP("nano", width=0.25)
    neck = FPN(backbone.out_specs, out_levels=["p3", "p4"], channels=8)
    heads = {
        "classification": LinearClassification(backbone.out_specs, classes=("a", "b")),
        "detection": DenseDetection(neck.out_specs, classes=("a",), levels=["p3", "p4"]),
    }
    made = VisionModel(backbone, neck, heads, preprocess=Preprocess(64))
    with torch.no_grad():  # batch norms that have seen images: else all features are near 0
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        made.features(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    return made.eval()


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in ((64, 64), (20, 60), (90, 40))]


@pytest.mark.parametrize("level", ["c2", "c5", "p3", None])
def test_vectors_and_maps_of_every_level(model, images, level):
    specs = {**model.backbone.out_specs, **model.neck.out_specs}
    spec = specs[level or "c5"]
    predictor = Predictor(model, "cpu")
    vectors = predictor.features(images, level)
    maps = predictor.features(images, level, pooled=False, batch_size=2)
    assert (vectors.shape, vectors.dtype) == ((3, spec.channels), np.float32)
    assert maps.shape == (3, spec.channels, 64 // spec.stride, 64 // spec.stride)
    np.testing.assert_allclose(vectors[0], maps[0].mean((1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predictor.features(images[0], level), vectors[:1], rtol=1e-4, atol=1e-5)


def test_cells_beside_the_image_do_not_speak(model, images):
    """An image of 20 x 60 fills the upper 21 of 64 rows: three of the eight rows of c3."""
    maps, vectors = (Predictor(model, "cpu").features(images[1], "c3", pooled=pooled) for pooled in (False, True))
    np.testing.assert_allclose(vectors[0], maps[0, :, :3].mean((1, 2)), rtol=1e-4, atol=1e-5)
    assert np.abs(vectors[0] - maps[0].mean((1, 2))).max() > 1e-3


def test_they_are_what_the_classifier_reads(model, images):
    """With its weights and bias, the vectors give its logits."""
    predictor = Predictor(model, "cpu")
    head = model.heads["classification"]
    logits = predictor.features(images) @ head.linear.weight.detach().numpy().T + head.linear.bias.detach().numpy()
    scores = np.stack([prediction["classification"].scores for prediction in predictor.predict(images)])
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(1).numpy(), scores, rtol=1e-4)


def test_no_gradient_is_kept(model):
    found = batch_features(model, torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]]))
    assert isinstance(found, np.ndarray)
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_what_cannot_be_is_refused(model, images):
    predictor = Predictor(model, "cpu")
    with pytest.raises(ConfigError, match=r"level=c6: the model has c2, c3, c4, c5, p3, p4$"):
        predictor.features(images, "c6")
    with pytest.raises(UserError, match="batch_size=0"):
        predictor.features(images, batch_size=0)
    with pytest.raises(UserError, match="no image was given"):
        predictor.features([])


# -------------------------------------------------------------------------------------------------------------- files
def test_a_file_of_features_and_back(tmp_path):
    names, features = np.array(["a/1.png", "b/ü.png"]), np.ones((2, 5), np.float32)
    FeatureFile(names, features, "c5").write(tmp_path / "one.npz")
    found = read_features(tmp_path / "one.npz")
    assert (found.names.tolist(), found.level, found.labels) == (names.tolist(), "c5", None)
    np.testing.assert_array_equal(found.features, features)
    FeatureFile(names, features, "c5", np.array([1, 0]), np.array(["x", "y"])).write(tmp_path / "one.npz")
    labelled = read_features(tmp_path / "one.npz")
    assert (labelled.labels.tolist(), labelled.classes.tolist()) == ([1, 0], ["x", "y"])
    assert [file.name for file in tmp_path.iterdir()] == ["one.npz"]


def test_what_is_no_file_of_features_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    np.savez(tmp_path / "uneven.npz", names=np.array(["a"]), features=np.ones((2, 3), np.float32), level=np.array("c5"))
    np.savez(tmp_path / "whole.npz", names=np.array(["a"]), features=np.ones((1, 3), np.int64), level=np.array("c5"))
    for name, said in (("gone", "there is no such file"), ("text", "no file of features"),
                       ("other", "no file of features"), ("uneven", "names and features do not"),
                       ("whole", "names and features do not")):  # fmt: skip
        with pytest.raises(DataError, match=rf"{name}\.npz: {said}.*save=\[features\]"):
            read_features(tmp_path / f"{name}.npz")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    names = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "trap.npz", names=names, features=np.ones((1, 3), np.float32), level=np.array("c5"))
    with pytest.raises(DataError, match="no file of features"):
        read_features(tmp_path / "trap.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.fixture
def run(model, tmp_path, monkeypatch, images):
    for name, image in zip(("b.png", "a/1.png", "a/2.png"), images, strict=True):
        (tmp_path / "photographs" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photographs" / name)
    monkeypatch.setattr(visionkit.predict_files, "load", lambda _checkpoint, device, *_, **__: Predictor(model, device))
    monkeypatch.chdir(tmp_path)
    typed = ["predict", "checkpoint=x", "source=photographs", "out=out", "device=cpu", "batch_size=2"]
    return lambda *more: cli.main([*typed, *more])


def test_features_alone_are_saved_by_name(run, model, images, tmp_path):
    assert run("save=[features]") == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["features.npz"]
    found = read_features(tmp_path / "out" / "features.npz")
    assert (found.names.tolist(), found.level) == (["a/1.png", "a/2.png", "b.png"], "c5")
    wanted = Predictor(model, "cpu").features([images[1], images[2], images[0]])
    np.testing.assert_allclose(found.features, wanted, rtol=1e-4, atol=1e-5)


def test_maps_of_another_level_beside_the_rest(run, tmp_path):
    assert run("save=[features,predictions]", "features.level=p3", "features.pool=false") == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["features.npz", "predictions.json"]
    assert read_features(tmp_path / "out" / "features.npz").features.shape == (3, 8, 8, 8)


def test_unreadable_files_are_left_out_and_told(run, tmp_path, capsys):
    (tmp_path / "photographs" / "c.png").write_bytes(b"nothing")
    assert run("save=[features]") == 0
    assert len(read_features(tmp_path / "out" / "features.npz").names) == 3
    assert "c.png" in capsys.readouterr().err


def test_wrong_keys_end_with_two_and_nothing_written(run, tmp_path, capsys):
    for typed, said in (
        (["save=[features]", "features.level=c9"], "level=c9: the model has c2"),
        (["save=[feature]"], "save=[feature]: any of drawings, predictions, csv, crops, features is wanted"),
        (["save=[]"], "save=[]: any of drawings, predictions, csv, crops, features is wanted"),
        (["features.pol=true"], "features.pol: there is no such key (did you mean 'features.pool'?)"),
    ):
        assert run(*typed) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_video_has_no_features(run, tmp_path, capsys):
    (tmp_path / "clip.mp4").write_bytes(b"nothing")
    assert run("source=clip.mp4", "save=[features]") == 2
    assert "save=[features]: this is for images" in capsys.readouterr().err
