"""From image files to batches: readers, augmentation, sampling, loaders."""

from __future__ import annotations

from visionkit.data.batch_mixes import BatchMix
from visionkit.data.class_map import class_map, field_classes
from visionkit.data.collate import Collate, CollateEvaluation
from visionkit.data.copy_paste import CopyPaste
from visionkit.data.loader import EvaluationSet, TrainingSet, batches, evaluation_loader, training_loader
from visionkit.data.mixes import MixUp, Mosaic
from visionkit.data.placement import fit_sample
from visionkit.data.sampler import EpochSampler, repeat_factors
from visionkit.data.transforms import Augment
from visionkit.data.transforms_v2 import TorchvisionAugment

__all__ = [
    "Augment",
    "BatchMix",
    "Collate",
    "CollateEvaluation",
    "CopyPaste",
    "EpochSampler",
    "EvaluationSet",
    "MixUp",
    "Mosaic",
    "TorchvisionAugment",
    "TrainingSet",
    "batches",
    "class_map",
    "evaluation_loader",
    "field_classes",
    "fit_sample",
    "repeat_factors",
    "training_loader",
]
