"""Means over the part of a feature map that holds image: what the canvas adds beside it must not speak."""

from __future__ import annotations

import torch
from torch import Tensor


def cell_centres(count: int, stride: int, like: Tensor) -> Tensor:
    """(count,) float32 pixels: the centres of the cells along one axis, on the device of `like`."""
    return (torch.arange(count, device=like.device, dtype=torch.float32) + 0.5) * stride


def valid_cells(sizes: Tensor, shape: tuple[int, int], stride: int) -> Tensor:
    """Say which cells of a feature map hold image: those whose centre lies on it, and the first one in any case.

    Args:
        sizes: (B, 2) int64, (height, width) of the part of each canvas that holds image, from the top left corner.
        shape: (h, w) cells.
        stride: pixels of a cell.

    Returns:
        (B, h, w) bool.
    """
    rows = cell_centres(shape[0], stride, sizes) < sizes[:, :1].clamp(min=stride)
    columns = cell_centres(shape[1], stride, sizes) < sizes[:, 1:].clamp(min=stride)
    return rows[:, :, None] & columns[:, None, :]


def masked_mean(features: Tensor, valid: Tensor) -> Tensor:
    """The mean of (B, C, h, w) features over the (B, h, w) valid cells of each image: (B, C) float32."""
    weights = valid / valid.sum((-2, -1), keepdim=True)
    return (features * weights[:, None]).sum((-2, -1))


def attention(logits: Tensor, valid: Tensor) -> Tensor:
    """The softmax of each of the (B, K, h, w) maps over the (B, h, w) valid cells: (B, K, h, w) float32, sums of 1."""
    closed = torch.where(valid[:, None], logits.float(), float("-inf"))
    return closed.flatten(2).softmax(-1).view(logits.shape)
