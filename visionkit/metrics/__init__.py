"""Metrics: what a head's predictions are worth, in original pixels and on original labels."""

from visionkit.metrics.classification import TopK
from visionkit.metrics.coco import CocoDetection, coco_evaluate

__all__ = ["CocoDetection", "TopK", "coco_evaluate"]
