"""Functions on masks: packed bits to what a fine feature map can be compared with, and losses between the two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK_PIXELS = 2**26
"""Bits that are unpacked at once, a byte each."""


def covered_shares(packed: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Say what share of each cell of a grid a mask covers.

    Args:
        packed: (K, ceil(H * W / 8)) uint8, bits along the flattened canvas, most significant first (`Targets.masks`).
        size: (height, width) of the grid; the canvas is `stride` times as large.
        stride: canvas pixels of a cell's side.

    Returns:
        (K + 1, height, width) float16 in [0, 1], the last one an empty mask, which an object without a mask finds at
        its row −1. A share instead of a yes or no keeps the outline's place within the cell.
    """
    height, width = size
    pixels = height * width * stride**2
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    rows = max(1, _CHUNK_PIXELS // pixels)
    shares = torch.zeros((len(packed) + 1, height, width), dtype=torch.float16, device=packed.device)
    for target, chunk in zip(torch.split(shares[:-1], rows), torch.split(packed, rows), strict=True):
        bits = (chunk[..., None] >> shifts & 1).flatten(1)[:, :pixels]
        counts = bits.view(-1, height, stride, width, stride).sum((2, 4), dtype=torch.float32)
        target.copy_(counts / stride**2)
    return shares


def touched_cells(boxes: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """(…, 4) xyxy canvas pixels -> (…, height, width) bool: the cells of a grid that a box touches.

    A box that is no number touches none.
    """
    height, width = size
    x = torch.arange(width, device=boxes.device) * stride
    y = torch.arange(height, device=boxes.device) * stride
    columns = (x + stride > boxes[..., 0:1]) & (x < boxes[..., 2:3])
    rows = (y + stride > boxes[..., 1:2]) & (y < boxes[..., 3:4])
    return rows[..., :, None] & columns[..., None, :]


def mask_losses(logits: Tensor, wanted: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Mean binary cross-entropy, and dice loss with squares (Milletari et al. 2016), over the cells that count.

    Args:
        logits: (…, h, w) float.
        wanted: (…, h, w) float in [0, 1]; shares are met exactly by both losses.
        inside: (…, h, w) bool, the cells that count.

    Returns:
        (…) and (…); 0 where no cell counts.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    entropy = torch.where(inside, entropy, 0.0).sum((-2, -1)) / inside.sum((-2, -1)).clamp(min=1)
    found = torch.where(inside, logits.sigmoid(), 0.0)
    there = torch.where(inside, wanted, 0.0)
    both = (found * there).sum((-2, -1))
    either = (found.square() + there.square()).sum((-2, -1))
    return entropy, 1 - (2 * both + 1) / (either + 1)


def unions(shares: Tensor, slots: Tensor, count: int) -> Tensor:
    """Add up the masks that go into the same slot, at most to 1.

    Args:
        shares: (K, h, w) float in [0, 1].
        slots: (K,) int64, from 0 to `count`; what goes into the last one is thrown away.
        count: how many slots are wanted.

    Returns:
        (count, h, w) float32.
    """
    total = torch.zeros((count + 1, *shares.shape[1:]), device=shares.device)
    return total.index_add_(0, slots, shares.float())[:count].clamp(max=1)
