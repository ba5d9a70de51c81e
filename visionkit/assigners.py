"""Which prediction answers for which object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from visionkit.errors import ConfigError
from visionkit.ops import boxes as box_ops


class Grid(NamedTuple):
    """One level's anchor points: the centres of a height x width grid of cells of `stride` pixels, row by row."""

    height: int
    width: int
    stride: int


class Assignment(NamedTuple):
    """Attributes:
    row: (B, A) int64, the object that each anchor answers for, −1 for none.
    quality: (B, A) float32 in [0, 1], what the anchor's score for the object's class should be; 0 for none.
    """

    row: Tensor
    quality: Tensor


class TaskAligned:
    """Task-aligned assignment (TOOD, Feng et al. 2021), batched, in memory that does not grow with objects x anchors.

    An object's candidates on each level are the cells of a window around its centre whose centres lie inside its box;
    on the finest level the cell at its centre always is one, so that no object is too small to be learned. The `top`
    candidates by score^alpha * IoU^beta are positive; an anchor wanted by several objects goes to the one that it
    overlaps most. The quality is the alignment, scaled so that an object's best anchor gets its best IoU.

    Args:
        top: positives per object.
        alpha: exponent of the score.
        beta: exponent of the IoU.
        radius: the window reaches this many cells in each direction.
    """

    def __init__(self, top: int = 10, alpha: float = 0.5, beta: float = 6.0, radius: int = 3) -> None:
        if top < 1 or radius < 0:
            raise ConfigError(
                f"TaskAligned: top={top} must be at least 1 and radius={radius} at least 0", code="value-unfit"
            )
        self.top, self.alpha, self.beta, self.radius = top, alpha, beta, radius

    @torch.no_grad()
    def __call__(
        self, grids: Sequence[Grid], logits: Tensor, predicted: Tensor, boxes: Tensor, labels: Tensor, positive: Tensor
    ) -> Assignment:
        """Assign the anchors of B images.

        Args:
            grids: the levels, finest first; A is the sum of their cells.
            logits: (B, A, C) float, class scores before the sigmoid.
            predicted: (B, A, 4) float32 xyxy boxes in canvas pixels.
            boxes: (B, M, 4) float32 xyxy; M may be 0.
            labels: (B, M) int64.
            positive: (B, M) bool, which rows are objects to be found.
        """
        batch, anchors, classes = logits.shape
        objects = boxes.shape[1]
        if objects == 0:
            return Assignment(
                logits.new_full((batch, anchors), -1, dtype=torch.long), predicted.new_zeros((batch, anchors))
            )
        index, inside = self._candidates(grids, boxes)
        inside &= positive[..., None]
        flat = index.flatten(1)
        score_index = flat * classes + labels.clamp(min=0)[..., None].expand_as(index).flatten(1)
        scores = logits.flatten(1).gather(1, score_index).float().sigmoid().view_as(index)
        candidates = predicted.gather(1, flat[..., None].expand(-1, -1, 4)).view(*index.shape, 4)
        overlap = box_ops.iou(candidates, boxes[:, :, None])
        # Where nothing overlaps yet every product is 0: the tiny offset keeps candidates ahead of what is outside.
        alignment = torch.where(inside, scores**self.alpha * overlap**self.beta + 1e-12, 0.0)

        best, place = alignment.topk(min(self.top, alignment.shape[-1]), dim=-1)
        chosen = index.gather(2, place).flatten(1)
        usable = (best > 0).flatten(1)
        chosen_overlap = torch.where(usable, overlap.gather(2, place).flatten(1), -1.0)
        rows = torch.arange(objects, device=boxes.device)[None, :, None].expand_as(best).flatten(1)

        # Two scatters decide who gets a contested anchor: the largest overlap, then the smallest row among equals.
        highest = predicted.new_full((batch, anchors), -1.0).scatter_reduce(1, chosen, chosen_overlap, "amax")
        wins = usable & (chosen_overlap == highest.gather(1, chosen))
        contender = torch.where(wins, rows, objects)
        row = torch.full((batch, anchors), objects, device=boxes.device).scatter_reduce(1, chosen, contender, "amin")
        wins &= rows == row.gather(1, chosen)

        won = wins.view_as(best)
        strongest = torch.where(won, best, 0.0).amax(-1, keepdim=True)
        highest_overlap = torch.where(won, chosen_overlap.view_as(best), 0.0).amax(-1, keepdim=True)
        scaled = torch.where(won, best / strongest.clamp(min=1e-12) * highest_overlap, 0.0).flatten(1)
        quality = predicted.new_zeros((batch, anchors)).scatter_reduce(1, chosen, scaled, "amax")
        return Assignment(torch.where(row < objects, row, -1), quality)

    def _candidates(self, grids: Sequence[Grid], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, K) anchor indices around each object's centre, and whether each is a candidate."""
        steps = torch.arange(-self.radius, self.radius + 1, device=boxes.device)
        dy, dx = (offsets.flatten() for offsets in torch.meshgrid(steps, steps, indexing="ij"))
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2
        indices, insides, start = [], [], 0
        for level, (height, width, stride) in enumerate(grids):
            column = (centre[..., 0:1] / stride).floor().long() + dx
            line = (centre[..., 1:2] / stride).floor().long() + dy
            x, y = (column + 0.5) * stride, (line + 0.5) * stride
            inside = (x > boxes[..., 0:1]) & (x < boxes[..., 2:3]) & (y > boxes[..., 1:2]) & (y < boxes[..., 3:4])
            if level == 0:
                inside = inside | ((dx == 0) & (dy == 0))
            on_grid = (column >= 0) & (column < width) & (line >= 0) & (line < height)
            indices.append(start + line.clamp(0, height - 1) * width + column.clamp(0, width - 1))
            insides.append(inside & on_grid)
            start += height * width
        return torch.cat(indices, -1), torch.cat(insides, -1)


def covered_cells(grids: Sequence[Grid], boxes: Tensor, rows: Tensor) -> Tensor:
    """(B, A) bool: whose centre lies inside any box of `rows`.

    Args:
        grids: the levels, finest first.
        boxes: (B, M, 4) xyxy canvas pixels.
        rows: (B, M) bool, the boxes that count.

    Each box adds 1 at one corner of its block of cells and takes it away at the others; two running sums then count the
    boxes over each cell, so memory is that of the grid, whatever M.
    """
    parts = []
    for height, width, stride in grids:
        first = torch.ceil(boxes[..., :2] / stride - 0.5).long()
        last = torch.ceil(boxes[..., 2:] / stride - 0.5).long()
        x1, x2 = first[..., 0].clamp(0, width), last[..., 0].clamp(0, width)
        y1, y2 = first[..., 1].clamp(0, height), last[..., 1].clamp(0, height)
        weight = (rows & (x2 > x1) & (y2 > y1)).int()
        counts = torch.zeros(boxes.shape[0], (height + 1) * (width + 1), dtype=torch.int32, device=boxes.device)
        for x, y, sign in ((x1, y1, 1), (x2, y1, -1), (x1, y2, -1), (x2, y2, 1)):
            counts.scatter_add_(1, y * (width + 1) + x, sign * weight)
        table = counts.view(-1, height + 1, width + 1).cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
        parts.append((table[:, :height, :width] > 0).flatten(1))
    return torch.cat(parts, 1)
