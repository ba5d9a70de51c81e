"""From decoded tensors to predictions in original pixels: what a head does last, and needs no weights for.

An exported model does it with arrays of its own, so that there is one way for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from visionkit.ops.resample import start_original_classes
from visionkit.ops.transfer import start_host_arrays
from visionkit.predictions import Classification, Detections, Instances, Localization, Prediction, SemanticMap
from visionkit.structures import Decoded, Geometry, boxes_to_original

READS: Mapping[str, tuple[str, ...]] = {
    "classification": ("scores",),
    "localization": ("scores", "boxes"),
    "detections": ("boxes", "scores", "labels", "valid"),
    "instances": ("boxes", "scores", "labels", "valid", "coefficients", "prototypes"),
    "semantic": ("logits",),
}
"""By kind of predictions, the decoded tensors that they are made of."""
_LARGEST = 6e4
"""Of prototypes in float16; beyond is infinity, and what infinities add up to is no number."""


@dataclass(frozen=True)
class Finishing:
    """How a head's decoded tensors become predictions, in plain values.

    Attributes:
        kind: of predictions, a name of `READS`.
        stride: canvas pixels of a cell of the maps; read for instances and semantic maps.
        keep_scores: give semantic maps their classes' probabilities.
    """

    kind: str
    stride: int = 1
    keep_scores: bool = False

    def __post_init__(self) -> None:
        if self.kind not in READS:
            raise ValueError(f"Finishing: kind={self.kind}: one of {', '.join(READS)} is wanted")
        if self.stride < 1:
            raise ValueError(f"Finishing: stride={self.stride} must be at least 1")

    def start(self, decoded: Decoded, geometries: Sequence[Geometry]) -> Callable[[], Sequence[Prediction]]:
        """Ask the device for what the predictions need, and return what waits for it: one prediction a geometry."""
        if self.kind == "classification":
            return start_classifications(decoded, geometries)
        if self.kind == "localization":
            return start_localizations(decoded, geometries)
        if self.kind == "detections":
            return start_detections(decoded, geometries)
        if self.kind == "instances":
            return start_instances(decoded, geometries, self.stride)
        return start_semantic_maps(decoded["logits"], geometries, self.stride, keep_scores=self.keep_scores)


def start_classifications(decoded: Decoded, geometries: Sequence[Geometry]) -> Callable[[], list[Classification]]:
    """scores (B, C); the geometries say only how many."""
    arrived = start_host_arrays({"scores": decoded["scores"]})
    return lambda: [Classification(scores) for scores in arrived()["scores"][: len(geometries)]]


def start_localizations(decoded: Decoded, geometries: Sequence[Geometry]) -> Callable[[], list[Localization]]:
    """scores (B, C), boxes (B, C, 4) xyxy canvas pixels."""
    arrived = start_host_arrays({name: decoded[name] for name in READS["localization"]})

    def localizations() -> list[Localization]:
        arrays = arrived()
        boxes = boxes_to_original(arrays["boxes"], geometries).astype("float32")
        return [Localization(scores, box) for scores, box in zip(arrays["scores"], boxes, strict=True)]

    return localizations


def start_detections(decoded: Decoded, geometries: Sequence[Geometry]) -> Callable[[], list[Detections]]:
    """boxes (B, N, 4) xyxy canvas pixels, scores (B, N) falling, labels (B, N), valid (B, N)."""
    arrived = start_host_arrays({name: decoded[name] for name in READS["detections"]})

    def detections() -> list[Detections]:
        arrays = arrived()
        boxes = boxes_to_original(arrays["boxes"], geometries).astype("float32")
        columns = (_valid_rows(column, arrays["valid"]) for column in (boxes, arrays["scores"], arrays["labels"]))
        return [Detections(*rows) for rows in zip(*columns, strict=True)]

    return detections


def _valid_rows(column: np.ndarray, valid: np.ndarray) -> list[np.ndarray]:
    """Of each image the rows of (B, N, …) that are valid, in memory of their own."""
    counts = valid.sum(1)
    if np.array_equal(valid, np.arange(valid.shape[1]) < counts[:, None]):  # they come first: to cut is far cheaper
        return [rows[:count].copy() for rows, count in zip(column, counts.tolist(), strict=True)]
    return [rows[chosen] for rows, chosen in zip(column, valid, strict=True)]


def start_instances(decoded: Decoded, geometries: Sequence[Geometry], stride: int) -> Callable[[], list[Instances]]:
    """As `start_detections`; coefficients (B, N, K), and prototypes (B, K, h, w), whose memory a batch shares."""
    cells = [tuple(math.ceil(side / stride) for side in geometry.size) for geometry in geometries]
    height, width = (max(sides, default=0) for sides in zip(*cells, strict=True))
    detections = start_detections(decoded, geometries)  # first: few numbers, of which the host has most to make
    prototypes = decoded["prototypes"][:, :, :height, :width].clamp(-_LARGEST, _LARGEST).half()
    arrived = start_host_arrays({"coefficients": decoded["coefficients"], "prototypes": prototypes})

    def instances() -> list[Instances]:
        every = detections()  # made while the prototypes are on their way
        arrays = arrived()
        return [
            Instances(
                boxes=found.boxes,
                scores=found.scores,
                labels=found.labels,
                coefficients=arrays["coefficients"][i, : len(found)],
                prototypes=arrays["prototypes"][i, :, : cells[i][0], : cells[i][1]],
                geometry=geometries[i],
                stride=stride,
            )
            for i, found in enumerate(every)
        ]

    return instances


def start_semantic_maps(
    logits: Tensor, geometries: Sequence[Geometry], stride: int, *, keep_scores: bool
) -> Callable[[], list[SemanticMap]]:
    """logits (B, C, h, w), resampled once to original pixels; see `original_classes`."""
    arrived = start_original_classes(logits, geometries, stride, keep_scores=keep_scores)
    return lambda: [SemanticMap(classes, scores) for classes, scores in arrived()]
