from __future__ import annotations

import pytest

from visionkit.backbones import CSP
from visionkit.heads import (
    DenseDetection,
    DenseInstance,
    LinearClassification,
    ObjectLocalization,
    SemanticSegmentation,
)
from visionkit.model import VisionModel
from visionkit.necks import PAFPN
from visionkit.preprocess import Preprocess


@pytest.fixture(scope="module")
def model():
    """A small model with a head of each kind."""
    backbone = CSP("nano", width=0.25)
    levels = ("p3", "p4", "p5", "pixels")
    neck = PAFPN(backbone.out_specs, out_levels=levels, width=0.25)
    given = {**backbone.out_specs, **neck.out_specs}
    kinds = {
        "classification": LinearClassification, "localization": ObjectLocalization, "detection": DenseDetection,
        "semantic": SemanticSegmentation, "instance": DenseInstance,
    }  # fmt: skip
    heads = {name: kind(given, classes=["a", "b", "c"]) for name, kind in kinds.items()}
    return VisionModel(backbone, neck, heads, preprocess=Preprocess(64)).eval()
