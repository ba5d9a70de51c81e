"""Heads: each answers one question from feature maps."""

from __future__ import annotations

from visionkit.heads.classification import LinearClassification
from visionkit.heads.deeplab import DeepLabV3Plus
from visionkit.heads.dense import DenseDetection
from visionkit.heads.fcn import FCN
from visionkit.heads.localization import ObjectLocalization
from visionkit.heads.masks import DenseInstance
from visionkit.heads.panoptic import PanopticMerge
from visionkit.heads.plain import PlainClassification
from visionkit.heads.semantic import SemanticSegmentation

__all__ = [
    "FCN",
    "DeepLabV3Plus",
    "DenseDetection",
    "DenseInstance",
    "LinearClassification",
    "ObjectLocalization",
    "PanopticMerge",
    "PlainClassification",
    "SemanticSegmentation",
]
