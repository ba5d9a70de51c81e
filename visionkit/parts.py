"""Parts of an image, or the whole of it seen otherwise, and what a network said of each: boxes, masks and pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from visionkit.ops.resample import MOST_BYTES, cells_of_pixels
from visionkit.predictions import Detections, Instances, Prediction, SemanticMap
from visionkit.structures import RLE, Geometry


class PixelScores(Protocol):
    """The probabilities of every pixel's classes, made when they are asked for."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        ...

    def rows(self, first: int, last: int) -> Tensor:
        """(C, last − first, W) float32 of the rows from `first` up to, and without, `last`."""
        ...


Answer = Prediction | PixelScores
"""What a network says of an image before its parts are put together: maps as the probabilities behind them."""
Answers = Mapping[str, Answer]
"""By head name."""
Run = Callable[[Sequence[np.ndarray], float], Sequence[Answers]]
"""What predicts: images, (H, W, C) each, at a factor on the usual canvas -> answers in the images' own pixels."""


@dataclass(frozen=True, eq=False)
class CanvasScores:
    """Probabilities from (C, h, w) logits on a grid over the canvas, whose cells are `stride` canvas pixels wide."""

    logits: Tensor
    geometry: Geometry
    stride: int

    @property
    def size(self) -> tuple[int, int]:
        """See `PixelScores`."""
        return self.geometry.original

    def rows(self, first: int, last: int) -> Tensor:
        """See `PixelScores`; interpolated as `visionkit.ops.resample.original_classes` does it."""
        y, row_cells = cells_of_pixels(self.geometry, 0, self.stride, self.logits.shape[1])
        x, column_cells = cells_of_pixels(self.geometry, 1, self.stride, self.logits.shape[2])
        y, x = (places.to(self.logits.device, torch.float32) for places in (y[first:last], x))
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1)
        used = self.logits[None, :, :row_cells, :column_cells].float()
        return F.grid_sample(used, grid[None], mode="bilinear", align_corners=False)[0].softmax(0)


def semantic_map(scores: PixelScores, *, most_bytes: int = MOST_BYTES) -> SemanticMap:
    """The best class of every pixel, made in strips of rows of which one holds about `most_bytes`."""
    height, width = scores.size
    classes = np.empty((height, width), np.uint8)
    count = len(scores.rows(0, 1))
    step = max(1, most_bytes // (4 * count * width))
    for first in range(0, height, step):
        last = min(height, first + step)
        classes[first:last] = scores.rows(first, last).max(0).indices.to(torch.uint8).cpu().numpy()
    return SemanticMap(classes)


@dataclass(frozen=True, eq=False)
class Part:
    """What was said of a part of an image.

    Attributes:
        answer: in the part's own pixels.
        box: (left, top, right, bottom), the pixels of the image that the part shows.
        mirrored: the part was shown with left and right exchanged.
    """

    answer: Answer
    box: tuple[int, int, int, int]
    mirrored: bool = False

    def boxes(self) -> np.ndarray:
        """(N, 4) float64 xyxy pixels of the image."""
        assert isinstance(self.answer, Detections | Instances)
        return self.placed(self.answer.boxes)

    def placed(self, boxes: np.ndarray) -> np.ndarray:
        """(N, 4) xyxy boxes of the part's pixels -> float64 of the image's."""
        left, top, right, _ = self.box
        boxes = boxes.astype(np.float64)
        if self.mirrored:
            boxes[:, [0, 2]] = (right - left) - boxes[:, [2, 0]]
        return boxes + np.array([left, top, left, top], np.float64)

    def mask(self, row: int) -> tuple[np.ndarray, int, int]:
        """As `Instances.window`, in the image's pixels."""
        assert isinstance(self.answer, Instances)
        window, x, y = self.answer.window(row)
        left, top, right, _ = self.box
        if self.mirrored:
            window, x = window[:, ::-1], right - left - x - window.shape[1]
        return window, x + left, y + top

    def rows(self, first: int, last: int) -> Tensor:
        """As `PixelScores.rows`, by the image's rows; the columns are those of the part."""
        scores = self.answer.rows(first - self.box[1], last - self.box[1])  # type: ignore[union-attr]
        return scores.flip(2) if self.mirrored else scores


@dataclass(frozen=True, eq=False)
class Found:
    """The objects of all parts, side by side.

    Attributes:
        boxes: (N, 4) float64 xyxy pixels of the image.
        scores, labels: (N,).
        part: (N,) int64, which part each is from, and row: (N,) int64, which of its objects it is.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    part: np.ndarray
    row: np.ndarray


@dataclass(frozen=True, eq=False)
class Group:
    """One object, as several parts may have seen it: box (4,) float64, its members' places in `Found`, best first."""

    box: np.ndarray
    score: float
    label: int
    members: tuple[int, ...]


def gather(parts: Sequence[Part]) -> Found:
    """Lay the objects of parts side by side."""
    answers = [part.answer for part in parts]
    assert all(isinstance(one, Detections | Instances) for one in answers)
    counts = [len(one) for one in answers]  # type: ignore[arg-type]
    return Found(
        boxes=np.concatenate([part.boxes() for part in parts]),
        scores=np.concatenate([one.scores for one in answers]).astype(np.float64),  # type: ignore[union-attr]
        labels=np.concatenate([one.labels for one in answers]),  # type: ignore[union-attr]
        part=np.repeat(np.arange(len(parts)), counts),
        row=np.concatenate([np.arange(count) for count in counts]),
    )


def objects(
    parts: Sequence[Part], found: Found, groups: Sequence[Group], size: tuple[int, int]
) -> Detections | Instances:
    """Make of groups what the parts are of, detections or instances, best first; size: (height, width) of the image.

    The mask of a group is the union of its members' masks inside its box.
    """
    groups = sorted(groups, key=lambda group: -group.score)
    limit = np.array([size[1], size[0]] * 2, np.float64)
    boxes = np.array([group.box for group in groups], np.float64).reshape(-1, 4).clip(0, limit).astype(np.float32)
    scores = np.array([group.score for group in groups], np.float32)
    labels = np.array([group.label for group in groups], np.int64)
    first = parts[0].answer
    if isinstance(first, Detections):
        return Detections(boxes, scores, labels)
    assert isinstance(first, Instances)
    nothing = replace(
        first,
        boxes=boxes,
        scores=scores,
        labels=labels,
        coefficients=np.zeros((len(groups), 0), np.float32),
        prototypes=np.zeros((0, 1, 1), np.float32),
        geometry=Geometry(size, size, (1.0, 1.0)),
        rles=None,
        windows=None,
    )
    windows = tuple(_window(parts, found, group, nothing.corners(row)) for row, group in enumerate(groups))
    return replace(nothing, windows=windows)


def _window(parts: Sequence[Part], found: Found, group: Group, corners: tuple[int, int, int, int]) -> RLE:
    """The mask of a group inside its box (left, top, right, bottom), run-length encoded."""
    left, top, right, bottom = corners
    window = np.zeros((max(0, bottom - top), max(0, right - left)), np.uint8, order="F")
    for member in group.members:
        mask, x, y = parts[found.part[member]].mask(int(found.row[member]))
        x1, y1 = max(x, left), max(y, top)
        x2, y2 = min(x + mask.shape[1], right), min(y + mask.shape[0], bottom)
        if x2 > x1 and y2 > y1:
            window[y1 - top : y2 - top, x1 - left : x2 - left] |= mask[y1 - y : y2 - y, x1 - x : x2 - x]
    encoded: RLE = coco_mask.encode(window)
    return encoded
