"""Metrics: what a head's predictions are worth, in original pixels and on original labels."""

from visionkit.metrics.classification import TopK
from visionkit.metrics.coco import CocoDetection
from visionkit.metrics.coco_backends import coco_evaluate
from visionkit.metrics.coco_instances import CocoInstances
from visionkit.metrics.localization import LocalizationAccuracy
from visionkit.metrics.panoptic import PanopticQuality
from visionkit.metrics.semantic import SemanticScores
from visionkit.metrics.voc import voc_evaluate

__all__ = [
    "CocoDetection",
    "CocoInstances",
    "LocalizationAccuracy",
    "PanopticQuality",
    "SemanticScores",
    "TopK",
    "coco_evaluate",
    "voc_evaluate",
]
