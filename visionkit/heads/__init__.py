"""Heads: each answers one question from feature maps."""

from __future__ import annotations

from visionkit.heads.classification import LinearClassification
from visionkit.heads.dense import DenseDetection

__all__ = ["DenseDetection", "LinearClassification"]
