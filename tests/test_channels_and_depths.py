"""Images of other channels and depths than three and eight, from the configuration to predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from visionkit.build import build_model, build_reader, describe_model
from visionkit.config import compose, evaluation_data
from visionkit.data import TrainingSet
from visionkit.errors import ConfigError, DataError, UserError
from visionkit.model import VisionModel
from visionkit.predictor import Predictor, to_array
from visionkit.structures import Decoding

SIZES = [(40, 50), (1, 1), (7, 5000), (60, 30)]


def typed(root: Path, *more: str) -> list[str]:
    return [
        "task=classify", "data=folder", f"data.root={root}", "augment=none", "image_size=32", "model.width=0.25",
        "data.splits.val=null", *more,
    ]  # fmt: skip


def written(root: Path, channels: int, dtype: str) -> Path:
    """Arrays of odd sizes in two classes."""
    for number, size in enumerate(SIZES):
        folder = root / "train" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 250, (*size, channels))
        np.save(folder / f"{number}.npy", (values * (257 if dtype == "uint16" else 1)).astype(dtype))
    return root


def built(*overrides: str) -> tuple[Any, Any, VisionModel]:
    cfg = compose("train", overrides)
    reader = build_reader(cfg.data, "train")
    return cfg, reader, build_model(describe_model(cfg, reader))


@pytest.mark.parametrize(
    ("channels", "dtype", "depth", "backbone"),
    [(1, "uint8", "8", "csp_nano"), (4, "uint16", "16", "resnet18"), (6, "float32", "float", "csp_nano")],
)
def test_a_step_and_a_prediction(tmp_path: Path, channels: int, dtype: str, depth: str, backbone: str) -> None:
    keys = [f"data.channels={channels}", f"data.bit_depth={depth}", f"backbone={backbone}"]
    cfg, reader, model = built(*typed(written(tmp_path, channels, dtype), *keys))
    assert len(cfg.preprocess.mean) == channels
    data = TrainingSet(reader, model.preprocess, classes=reader.classes, fields=model.needs, epochs=1, seed=0)
    batch = data.collate([data[0, index] for index in range(4)])
    assert batch.images.shape == (4, channels, 32, 32) and batch.images.dtype == getattr(torch, dtype)
    loss = sum(model(batch.images, batch.targets).values())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(one.grad).all() for one in model.parameters() if one.grad is not None)
    predictor = Predictor(model, "cpu")
    paths = [reader.path(index) for index in range(4)]
    arrays = [np.load(path) for path in paths]
    tensors = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    by_kind = [predictor.predict(list(images)) for images in (paths, arrays, tensors)]
    scores = [[one["classification"].scores for one in predictions] for predictions in by_kind]
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


def test_the_usual_images_change_nothing(tmp_path: Path) -> None:
    cfg = compose("train", typed(written(tmp_path, 3, "uint8")))
    description = describe_model(cfg, build_reader(cfg.data, "train"))
    assert "in_channels" not in description["backbone"]
    assert description["preprocess"]["mean"] == [0.485, 0.456, 0.406]


def test_other_channels_take_the_mean_of_the_usual_statistics(tmp_path: Path) -> None:
    values = compose("train", typed(tmp_path, "data.channels=2")).preprocess
    assert (values.mean, values.std) == ([0.449] * 2, [0.226] * 2)
    weights = "weights={path: w.pt, mean: 0.5, std: [0.1, 0.2]}"
    values = compose("train", typed(tmp_path, "data.channels=2", weights)).preprocess
    assert (values.mean, values.std) == ([0.5, 0.5], [0.1, 0.2])


@pytest.mark.parametrize(
    ("keys", "fault", "message"),
    [
        (["data.channels=4"], DataError, r"0\.npy: it holds 3 channels, and data\.channels=4; give data\.channels=3"),
        (["model.backbone.in_channels=4"], ConfigError, r"model\.backbone\.in_channels=4 beside data\.channels=3"),
        (
            ["data.channels=1", "preprocess.mean=[0.5, 0.5]", "preprocess.std=[1, 1]"],
            ConfigError,
            r"preprocess\.mean has 2 values beside data\.channels=1",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_built(
    tmp_path: Path, keys: list[str], fault: type[Exception], message: str
) -> None:
    with pytest.raises(fault, match=message):
        built(*typed(written(tmp_path, 3, "uint8"), *keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("data.channels=1", "data.channels=1: Shapes takes no channels; leave it out, or choose another data="),
        ("data.bit_depth=12", "data.bit_depth=12: one of 8, 16, float is wanted"),
        ("data.channels=0", "data.channels=0: 1 or more is wanted"),
        ("data.cache=dsk", "data.cache=dsk: one of none, ram, disk is wanted (did you mean 'disk'?)"),
        ("data.cache_gib=0", "data.cache_gib=0: a number above 0 is wanted"),
        ("data.reduced_decoding=always", "data.reduced_decoding=always: one of auto, false is wanted"),
    ],
)
def test_keys_that_cannot_be(keys: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("train", ["augment=none", keys])
    assert message in str(caught.value).splitlines()


def test_an_evaluation_takes_the_models_kind_of_images(tmp_path: Path) -> None:
    trained = compose("train", typed(tmp_path, "data.channels=4", "data.bit_depth=16")).data
    given = compose("train", typed(tmp_path)).data
    data = evaluation_data(trained, given)
    assert (data.channels, data.bit_depth) == (4, 16)


def test_arrays_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match=r"image: an \(H, W, 4\) uint16 array is wanted, not \(2, 2, 3\) uint8"):
        to_array(np.zeros((2, 2, 3), np.uint8), decoding=Decoding(4, 16))
    with pytest.raises(UserError, match=r"image: a \(1, H, W\) uint8 tensor is wanted, not \(3, 2, 2\) uint8"):
        to_array(torch.zeros((3, 2, 2), dtype=torch.uint8), decoding=Decoding(1))
    grey = to_array(Image.new("RGB", (1, 1), (100, 50, 200)), decoding=Decoding(1, 16))
    assert grey.dtype == np.uint16 and abs(int(grey[0, 0, 0]) - 82 * 257) < 257
