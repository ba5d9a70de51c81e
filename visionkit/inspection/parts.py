"""A model as its picture shows it: levels of backbone and neck, heads and merges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from visionkit.interfaces import Backbone, Neck
from visionkit.model import VisionModel
from visionkit.report.architecture import Answer, Level, Parts
from visionkit.structures import FeatureSpec


def model_parts(model: VisionModel, title: str) -> Parts:
    """Return what `plot_model` draws of a model, for images that fill its canvas."""
    height, width = model.preprocess.canvas
    image = Level("image", model.preprocess.decoding.channels, (height, width), 1)
    backbone = _levels(cast(Backbone, model.backbone).out_specs, (height, width))
    rows = {f"backbone {type(model.backbone).__name__}": [image, *backbone]}
    if model.neck is not None:
        rows[f"neck {type(model.neck).__name__}"] = _levels(cast(Neck, model.neck).out_specs, (height, width))
    heads = [
        Answer(name, type(head).__name__, head.levels, _counted(len(head.classes)))
        for name, head in model.named_heads()
    ]
    merges = [
        Answer(name, type(merge).__name__, merge.reads, _counted(len(merge.classes)))
        for name, merge in model.merges.items()
    ]
    return Parts(title, rows, heads, merges)


def _levels(specs: Mapping[str, FeatureSpec], canvas: tuple[int, int]) -> list[Level]:
    return [
        Level(name, spec.channels, (-(-canvas[0] // spec.stride), -(-canvas[1] // spec.stride)), spec.stride)
        for name, spec in specs.items()
    ]


def _counted(classes: int) -> str:
    return "1 class" if classes == 1 else f"{classes} classes"
