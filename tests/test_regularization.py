"""What holds a network back from learning by heart, from the configuration's arguments to what it does in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from visionkit.backbones import Plain
from visionkit.build import build_reader, describe_model
from visionkit.config import compose
from visionkit.data.augmentation import build_augmentation
from visionkit.data.readers import Shapes
from visionkit.engine.checkpoint import open_checkpoint
from visionkit.engine.distributed import Processes
from visionkit.engine.run_model import begun_model, norm_mode
from visionkit.errors import ConfigError
from visionkit.heads import (
    FCN,
    DeepLabV3Plus,
    LinearClassification,
    ObjectLocalization,
    PlainClassification,
    SemanticSegmentation,
)
from visionkit.structures import FeatureSpec

SPECS = {"pixels": FeatureSpec(8, 4), **{f"c{level}": FeatureSpec(8, 2**level) for level in (2, 3, 4, 5)}}
LAYERS = ({"conv": 8}, {"dropout": 0.4}, "pool", "flatten", {"dropout": 0.4}, {"dense": None}, "softmax")
CLASSES = ("a", "b", "c")


def built(kind):
    if kind is Plain:
        return Plain(LAYERS, image_size=16)
    if kind is PlainClassification:
        backbone = Plain(LAYERS, image_size=16)
        return PlainClassification(backbone.out_specs, classes=CLASSES, layers=LAYERS, map_size=(8, 8), levels=("c1",))
    return kind(SPECS, classes=CLASSES, dropout=0.4)


def given(part):
    """Inputs on which a part can be called: images, or features and the sizes of the images."""
    torch.manual_seed(5)
    if isinstance(part, Plain):
        return (torch.randn(4, 3, 16, 16),)
    if isinstance(part, PlainClassification):
        return {level: torch.randn(4, 8, 8, 8) for level in part.levels}, torch.full((4, 2), 16)
    return {name: torch.randn(4, 8, 64 // spec.stride, 64 // spec.stride) for name, spec in SPECS.items()}, torch.full(
        (4, 2), 64
    )


def flat(value):
    values = value.values() if isinstance(value, dict) else [value]
    return torch.cat([one.flatten() for one in values])


@pytest.mark.parametrize(
    "kind",
    [LinearClassification, ObjectLocalization, SemanticSegmentation, FCN, DeepLabV3Plus, Plain, PlainClassification],
)
def test_dropout_acts_in_training_alone(kind):
    part = built(kind)
    dropped = []
    for module in part.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d) and module.p == 0.4:
            module.register_forward_hook(
                lambda _module, x, y: dropped.append(float((y == 0)[x[0] != 0].float().mean()))
            )
    inputs = given(part)
    with torch.no_grad():
        part.train()
        torch.manual_seed(0)
        first, again = flat(part(*inputs)), flat(part(*inputs))
        assert dropped
        assert np.mean(dropped) == pytest.approx(0.4, abs=0.2)
        assert not torch.equal(first, again)
        torch.manual_seed(0)
        assert torch.equal(flat(part(*inputs)), first)
        part.eval()
        assert torch.equal(flat(part(*inputs)), flat(part(*inputs)))


@pytest.mark.parametrize("task", ["classification", "localization", "semantic"])
def test_stronger_augmentation_changes_images_more(task, tmp_path):
    """The mean distance of pixels from those of the image itself, by the transforms alone."""
    scenes = Shapes("train", size=64, count=8, objects=1, cache_folder=tmp_path)
    changes = []
    for strength in ("_light", "", "_strong"):
        cfg = compose("train", ["data=coco", "data.root=/x", "image_size=64", f"augment={task}{strength}"])
        values = OmegaConf.to_container(cfg.augment, resolve=True)
        parts = build_augmentation(**values, canvas=(64, 64), fill=114, seed=0)
        distances = []
        for index in range(8):
            sample = scenes.read(index)
            for draw in range(6):
                seen = parts.transforms(sample, np.random.default_rng([index, draw])).image.astype(float)
                if seen.shape == sample.image.shape:
                    distances.append(np.abs(seen - sample.image).mean())
        changes.append(float(np.mean(distances)))
    assert changes[0] > 3
    assert 1.1**2 * changes[0] < 1.1 * changes[1] < changes[2]


def test_batch_norms_live_by_the_batch_and_remember_it(train, runs):
    assert train("task=classify", "engine.max_steps=2", "run_dir=live", "model.norm=live") == 0
    weights = open_checkpoint(runs / "live" / "checkpoints" / "last").weights("model")
    means = [value for name, value in weights.items() if name.endswith("running_mean")]
    assert means
    assert all(value.abs().max() > 0 for value in means)


@pytest.mark.parametrize(
    ("typed", "world", "device", "wanted"),
    [
        (("model.norm=sync",), 2, "cuda", "sync"),
        (("model.norm=sync",), 1, "cuda", "live"),  # nobody to be synchronised with
        (("model.norm=auto", "data.batch_size=2"), 2, "cuda", "sync"),
        (("model.norm=auto", "data.batch_size=64"), 2, "cuda", "live"),
        (("model.norm=auto", "data.batch_size=2"), 2, "cpu", "live"),
        (("model.norm=frozen",), 2, "cuda", "frozen"),
    ],
)
def test_which_norms_a_run_has(typed, world, device, wanted):
    cfg = OmegaConf.create({"model": {"norm": "auto"}, "data": {"batch_size": 8}})
    cfg.merge_with_dotlist(list(typed))
    assert norm_mode(cfg, Processes(rank=0, world=world), torch.device(device)) == wanted


def test_a_run_of_several_processes_synchronises_its_norms(runs):
    """Where torch cannot, on a CPU, it is refused."""
    cfg = compose("train", ["task=classify", "image_size=64", "data.reader.count={train: 4, val: 2, test: 2}"])
    description = describe_model(cfg, build_reader(cfg.data, "train"))
    model, _ = begun_model(cfg, description, Processes(rank=0, world=2), torch.device("cpu"))
    assert model.training
    cfg.model.norm = "sync"
    with pytest.raises(ConfigError, match=r"model.norm=sync: torch synchronises batch norms on GPUs, not on cpu"):
        begun_model(cfg, description, Processes(rank=0, world=2), torch.device("cpu"))
