"""Small models of every kind of head, with random weights that give all kinds of scores."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import visionkit
from visionkit.backbones import Plain
from visionkit.export import export_model
from visionkit.export import files as files_module
from visionkit.heads import (
    FCN,
    DeepLabV3Plus,
    DenseDetection,
    DenseInstance,
    LinearClassification,
    ObjectLocalization,
    PanopticMerge,
    PlainClassification,
    SemanticSegmentation,
)
from visionkit.model import VisionModel
from visionkit.necks import FPN, PAFPN
from visionkit.preprocess import Preprocess
from visionkit.structures import FeatureSpec

logging.getLogger("torch.__trace").propagate = False  # pytest would keep thousands of lines

THINGS, STUFF = ("cat", "dog", "cow"), ("sky", "grass", "cat", "road")
HEADS = {
    "classification": lambda specs: LinearClassification(specs, classes=THINGS),
    "labels": lambda specs: LinearClassification(specs, classes=THINGS, multi_label=True),
    "localization": lambda specs: ObjectLocalization(specs, classes=THINGS, levels=("p3", "p4"), box_per_class=True),
    "detection": lambda specs: DenseDetection(specs, classes=THINGS, most=60),
    "instance": lambda specs: DenseInstance(specs, classes=THINGS, prototypes=6, most=20),
    "semantic": lambda specs: SemanticSegmentation(specs, classes=STUFF, class_weights=[1, 2, 1, 3]),
    "deeplab": lambda specs: DeepLabV3Plus(specs, classes=STUFF, channels=16, keep_scores=True),
    "fcn": lambda specs: FCN(specs, classes=STUFF),
}
LEVELS = ("p3", "p4", "p5", "pixels")


class FiveConvolutions(torch.nn.Module):
    """A backbone that is exported in no time."""

    def __init__(self, in_channels=3):
        super().__init__()
        channels = [in_channels, 8, 12, 16, 16, 16]
        self.out_specs = {f"c{i}": FeatureSpec(channels[i], 2**i) for i in range(2, 6)}
        convs = [torch.nn.Conv2d(channels[i], channels[i + 1], 3, 2, 1) for i in range(5)]
        self.convs = torch.nn.ModuleList(convs)

    def forward(self, x):
        levels = []
        for conv in self.convs:
            x = torch.relu(conv(x))
            levels.append(x)
        return {f"c{i}": levels[i - 1] for i in range(2, 6)}


def build(*names, backbone=None, canvas=128, merges=(), seed=0, **preprocess):
    """A model in eval mode whose weights and statistics are random, so that scores of all sizes are given."""
    torch.manual_seed(seed)
    small = backbone is None
    backbone = FiveConvolutions(len(preprocess.get("mean", (0, 0, 0)))) if small else backbone()
    neck = (FPN if small else PAFPN)(backbone.out_specs, out_levels=LEVELS, channels=32)
    specs = {**backbone.out_specs, **neck.out_specs}
    heads = {name: HEADS[name](specs) for name in names}
    model = VisionModel(
        backbone,
        neck,
        heads,
        preprocess=Preprocess(canvas, **preprocess),
        merges={name: PanopticMerge(heads) for name in merges},
    )
    return spread(model)


def spread(model):
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(std=0.1)
        elif name.endswith((".score", ".linear", ".coefficient", ".prototype")):
            torch.nn.init.normal_(module.weight, std=0.5)
            torch.nn.init.zeros_(module.bias)
        elif name.endswith(".distance"):
            torch.nn.init.normal_(module.weight, std=0.2)
    return model.eval()


def build_plain(canvas=32):
    layers = [
        {"conv": {"filters": 4, "kernel": 3, "padding": "same", "activation": "relu"}},
        {"pool": {"kind": "max", "size": 2, "stride": 2}},
        "flatten",
        {"dense": {"units": 3, "activation": "none"}},
        "softmax",
    ]
    torch.manual_seed(0)
    backbone = Plain(layers, image_size=canvas)
    level, spec = list(backbone.out_specs.items())[-1]
    size = (canvas // spec.stride, canvas // spec.stride)
    head = PlainClassification(backbone.out_specs, classes=THINGS, layers=layers, map_size=size, levels=(level,))
    return VisionModel(backbone, None, {"classification": head}, preprocess=Preprocess(canvas)).eval()


def photographs(count=4, channels=3, seed=0):
    """Images of many forms, blocks of colour under noise, by name: nothing is in them twice, so no scores tie."""
    generator = np.random.default_rng(seed)
    images = {}
    for place in range(count):
        height, width = [(96, 160), (200, 90), (64, 64), (300, 400)][place % 4]
        coarse = generator.integers(0, 256, (6, 8, channels), np.uint8)
        noise = generator.integers(0, 64, (height, width, channels))
        large = np.kron(coarse, np.ones((height // 6 + 1, width // 8 + 1, 1), np.uint8))[:height, :width]
        images[f"photograph {place}"] = (large * 0.75 + noise).astype(np.uint8)
    return images


@pytest.fixture(scope="session")
def every_head():
    """A model of all kinds of answers, the panoptic merge too."""
    names = ("classification", "localization", "detection", "instance", "semantic")
    return build(*names, merges=("panoptic",))


@pytest.fixture(scope="session")
def files(every_head, tmp_path_factory):
    """The same model as .onnx and as .pt2, by format."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("exported")
    made = {"torch": folder / "model.pt2", "onnx": folder / "model.onnx"}
    follow, followed = files_module.exported, []

    def once(*given):
        followed[:] = followed or [follow(*given)]
        return followed[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files_module, "exported", once)  # to follow the model takes as long as to write a file of it
        for kind, file in made.items():
            export_model(every_head, file, images=photographs(2), format=kind)
    return made


@pytest.fixture(scope="session")
def opened(files):
    """A predictor for each of these files, by format."""
    return {kind: visionkit.load(file, "cpu") for kind, file in files.items()}


@pytest.fixture
def photographed():
    """photographed(5): so many images by name, see `photographs`."""
    return photographs


@pytest.fixture
def builds():
    """builds("detection", canvas=64): a model with these heads; builds.plain(): one written as a list of layers."""
    return SimpleNamespace(model=build, plain=build_plain)
