"""From image files to batches: readers, augmentation, sampling, loaders."""

from __future__ import annotations

from visionkit.data.class_map import class_map, field_classes
from visionkit.data.collate import Collate, CollateEvaluation
from visionkit.data.loader import EvaluationSet, TrainingSet, batches, evaluation_loader, training_loader
from visionkit.data.mixes import Mosaic
from visionkit.data.placement import fit_sample
from visionkit.data.sampler import EpochSampler
from visionkit.data.transforms import Augment

__all__ = [
    "Augment",
    "Collate",
    "CollateEvaluation",
    "EpochSampler",
    "EvaluationSet",
    "Mosaic",
    "TrainingSet",
    "batches",
    "class_map",
    "evaluation_loader",
    "field_classes",
    "fit_sample",
    "training_loader",
]
