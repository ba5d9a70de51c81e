"""Which prediction answers for which object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from visionkit.errors import ConfigError
from visionkit.grids import Grid, corners, windows
from visionkit.ops import boxes as box_ops

COINCIDING = 0.95
"""The IoU from which boxes count as one place: no cell could tell which of the two objects it is to answer for."""
_ROWS = 256
"""Boxes of an image whose overlaps with all others are made at a time."""


class Assignment(NamedTuple):
    """By anchor, and by claim: each object claims P / M anchors, of which it gets those that no other one takes.

    Attributes:
        row: (B, A) int64, the object that each anchor answers for, −1 for none.
        quality: (B, A) float32 in [0, 1], what the anchor's score for the object's class should be; 0 for none.
        claimed: (B, P) int64, the anchors claimed, object after object; one may stand there more than once.
        gained: (B, P) float32, the anchor's quality where the claim is met, else 0.
    """

    row: Tensor
    quality: Tensor
    claimed: Tensor
    gained: Tensor


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
        none = predicted.new_zeros((batch, anchors))
        if objects == 0:
            nobody = torch.full_like(none, -1, dtype=torch.long)
            return Assignment(nobody, none, nobody[:, :0], none[:, :0])
        index, inside = self._candidates(grids, boxes)
        inside &= positive[..., None]
        flat = index.flatten(1)
        score_index = (index * classes + labels.clamp(min=0)[..., None]).flatten(1)
        scores = logits.flatten(1).gather(1, score_index).float().sigmoid().view_as(index)
        candidates = predicted.gather(1, flat[..., None].expand(-1, -1, 4)).view(*index.shape, 4)
        overlap = box_ops.iou(candidates, boxes[:, :, None])
        # Where nothing overlaps yet every product is 0: the tiny offset keeps candidates ahead of what is outside.
        alignment = torch.where(inside, scores**self.alpha * overlap**self.beta + 1e-12, 0.0)

        best, place = alignment.topk(min(self.top, alignment.shape[-1]), dim=-1)
        claimed = index.gather(2, place).flatten(1)
        usable = (best > 0).flatten(1)
        claimed_overlap = torch.where(usable, overlap.gather(2, place).flatten(1), -1.0)
        rows = torch.arange(objects, device=boxes.device)[None, :, None].expand_as(best).flatten(1)

        # Two scatters decide who gets a contested anchor: the largest overlap, then the smallest row among equals.
        highest = torch.full_like(none, -1.0).scatter_reduce(1, claimed, claimed_overlap, "amax")
        wins = usable & (claimed_overlap == highest.gather(1, claimed))
        contender = torch.where(wins, rows, objects)
        row = torch.full_like(none, objects, dtype=torch.long).scatter_reduce(1, claimed, contender, "amin")
        wins &= rows == row.gather(1, claimed)

        won = wins.view_as(best)
        strongest = torch.where(won, best, 0.0).amax(-1, keepdim=True)
        highest_overlap = torch.where(won, claimed_overlap.view_as(best), 0.0).amax(-1, keepdim=True)
        gained = torch.where(won, best / strongest.clamp(min=1e-12) * highest_overlap, 0.0).flatten(1)
        quality = none.scatter_reduce(1, claimed, gained, "amax")
        return Assignment(torch.where(row < objects, row, -1), quality, claimed, gained)

    def _candidates(self, grids: Sequence[Grid], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, K) anchor indices around each object's centre, and whether each is a candidate."""
        window = windows(tuple(grids), self.radius, boxes.device)
        low, high = boxes[:, :, None, None, :2], boxes[:, :, None, None, 2:]
        cell = ((low + high) / 2 / window.strides).floor().long() + window.offsets  # (B, M, levels, cells, 2)
        point = (cell + 0.5) * window.strides
        inside = ((point > low) & (point < high)) | window.home
        on_grid = cell.clamp(min=0).minimum(window.last)
        index = (on_grid * window.steps).sum(-1) + window.first
        return index.flatten(2), (inside & (on_grid == cell)).all(-1).flatten(2)


@torch.no_grad()
def one_for_each_place(boxes: Tensor, labels: Tensor, rows: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Let one object speak for all whose boxes coincide: a cell answers for one object, and scores all its classes.

    Args:
        boxes: (B, M, 4) xyxy; M may be 0.
        labels: (B, M) int64.
        rows: (B, M) bool, the objects that count.
        classes: how many there are.

    Returns:
        speaks (B, M) bool: of `rows`, the first of each place.
        named (B, M, classes) float32: 1 for the classes of the objects that each one speaks for, itself included.

    Memory is M bytes a box.
    """
    if boxes.shape[1] == 0:
        return rows, boxes.new_zeros((len(boxes), 0, classes))
    alike = torch.cat(
        [box_ops.iou(part[:, :, None], boxes[:, None]) >= COINCIDING for part in torch.split(boxes, _ROWS, 1)], 1
    )
    earlier = (alike & rows[:, None] & rows[..., None]).tril(-1)
    # One that is like an earlier object leaves it to that one, if that one leaves it to nobody.
    left, speaker = (earlier & ~earlier.any(-1)[:, None]).byte().max(-1)
    own = torch.arange(boxes.shape[1], device=boxes.device)
    speaker = torch.where(left > 0, speaker, own)
    named = boxes.new_zeros((len(boxes), boxes.shape[1] * classes))
    named.scatter_(1, speaker * classes + labels.clamp(min=0), 1.0)
    return rows & (left == 0), named.view(*labels.shape, classes)


def covered_cells(grids: Sequence[Grid], boxes: Tensor, rows: Tensor) -> Tensor:
    """(B, A) bool: whose centre lies inside any box of `rows`.

    Args:
        grids: the levels, finest first.
        boxes: (B, M, 4) xyxy canvas pixels.
        rows: (B, M) bool, the boxes that count.

    Each box adds 1 at two corners of its block of cells and takes it away at the others; two running sums then count
    the boxes over each cell, so memory is that of the grid, whatever M.
    """
    table = corners(tuple(grids), boxes.device)
    ends = torch.ceil(
        boxes.view(len(boxes), -1, 1, 2, 2) / table.strides - 0.5
    ).long()  # (B, M, levels, first and last, 2)
    ends = ends.clamp(min=0).minimum(table.sizes)
    counts = rows[..., None] & (ends[..., 1, :] > ends[..., 0, :]).all(-1)
    x, y = ends[..., 0], ends[..., 1]
    places = ((y * table.width + table.first[..., 0])[..., None] + x[..., None, :]).flatten(1)
    weights = (counts[..., None, None] * table.signs).flatten(1)
    steps = torch.zeros(len(boxes), len(grids) * table.height * table.width, dtype=torch.int32, device=boxes.device)
    steps.scatter_add_(1, places, weights)
    sums = steps.view(len(boxes), -1, table.height, table.width)
    covered = sums.cumsum(2, dtype=torch.int32).cumsum(3, dtype=torch.int32) > 0
    return torch.cat([covered[:, i, : grid.height, : grid.width].flatten(1) for i, grid in enumerate(grids)], 1)
