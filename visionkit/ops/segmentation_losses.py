"""Losses of semantic segmentation, per image and over any number of classes in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MOST_BYTES = 512 << 20
"""Of float32 logits at the size of the labels that are held at a time; the losses need about five times as much.

With 32 images of 640 pixels and 150 classes: 2.7 GiB and 148 ms a step on an H200; all at once, 29 GiB and 88 ms.
"""


def segmentation_losses(
    logits: Tensor,
    labels: Tensor,
    *,
    stride: int,
    class_weights: Tensor | None = None,
    hardest: float = 1.0,
    every: int = 1,
    first: tuple[int, int] = (0, 0),
    most_bytes: int = MOST_BYTES,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and soft dice of each image, both as sums over its labelled pixels, in float32.

    The logits are enlarged to the size of the labels, bilinearly. Where this would take more than `most_bytes`, the
    images are taken in groups, and each group's enlarged logits are made again for the gradient instead of being kept.

    Args:
        logits: (B, C, h, w) float; the centre of cell i lies at pixel (i + 0.5) * stride of the labels.
        labels: (B, H, W) integers; at most h * stride by w * stride. What is C or more is not labelled.
        stride: pixels of a cell.
        class_weights: (C,) float32 factors on the cross-entropy of the classes' pixels; None: 1.
        hardest: share of each image's labelled pixels whose cross-entropy counts, the highest ones, scaled up by
            1 / hardest (Shrivastava et al. 2016); 1: all.
        every: of so many rows and columns one is looked at, and stands for all of them.
        first: the first row and column that is looked at, below `every`.
        most_bytes: see above.

    Returns:
        cross-entropy (B,), and dice (B,): labelled pixels * mean over the classes that the image shows of
        1 − (2 * overlap + 1) / (predicted + true + 1) (Milletari et al. 2016). Both 0 without a labelled pixel.
    """
    seen = labels[:, first[0] :: every, first[1] :: every]
    cross_entropy, dice = _losses_in_groups(
        logits,
        seen,
        _Grid((labels.shape[1], labels.shape[2]), stride, every, first),
        class_weights,
        hardest,
        most_bytes,
    )
    return cross_entropy * every**2, dice * every**2


@dataclass(frozen=True)
class _Grid:
    """Which pixels of `size` are looked at, and the stride of the logits."""

    size: tuple[int, int]
    stride: int
    every: int
    first: tuple[int, int]


def _losses_in_groups(
    logits: Tensor, labels: Tensor, grid: _Grid, class_weights: Tensor | None, hardest: float, most_bytes: int
) -> tuple[Tensor, Tensor]:
    height, width = labels.shape[1:]
    group = max(1, most_bytes // (4 * logits.shape[1] * height * width))
    if group >= len(logits):
        return _image_losses(logits, labels, grid, class_weights, hardest)
    parts = [
        checkpoint(_image_losses, *part, grid, class_weights, hardest, use_reentrant=False, preserve_rng_state=False)
        for part in zip(torch.split(logits, group), torch.split(labels, group), strict=True)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def enlarged(
    logits: Tensor, stride: int, size: tuple[int, int], *, every: int = 1, first: tuple[int, int] = (0, 0)
) -> Tensor:
    """(B, C, h, w) -> (B, C, *size) float32, bilinear: the centre of cell i lies at pixel (i + 0.5) * stride.

    Of the pixels only every so many-th is made, from `first` on.

    By one product along each axis: forth and back a third of the time of `interpolate` on a CPU, and on a GPU the
    gradient's sums are always made in the same order.
    """
    rows, columns = (_weights(cells, stride, logits.device) for cells in logits.shape[2:])
    rows, columns = rows[:, first[0] : size[0] : every], columns[:, first[1] : size[1] : every]
    return rows.T @ (logits.float().contiguous() @ columns)


def _weights(cells: int, stride: int, device: torch.device) -> Tensor:
    """(cells, cells * stride): each pixel's share of each cell."""
    one_hot = torch.eye(cells, device=device)[None]
    return F.interpolate(one_hot, scale_factor=float(stride), mode="linear", align_corners=False)[0]


def _image_losses(
    logits: Tensor, labels: Tensor, grid: _Grid, class_weights: Tensor | None, hardest: float
) -> tuple[Tensor, Tensor]:
    labelled = labels < logits.shape[1]
    wanted = torch.where(labelled, labels, 0).long()
    with torch.autocast(logits.device.type, enabled=False):
        pixels = enlarged(logits, grid.stride, grid.size, every=grid.every, first=grid.first)
        log_probabilities = pixels.log_softmax(1)
        right = log_probabilities.gather(1, wanted[:, None])[:, 0]
        losses = torch.where(labelled, -right, 0.0)
        if class_weights is not None:
            losses = losses * class_weights[wanted]
        return _hardest_sum(losses, labelled, hardest), _dice(log_probabilities.exp(), right.exp(), wanted, labelled)


def _hardest_sum(losses: Tensor, labelled: Tensor, share: float) -> Tensor:
    """(B, H, W) values of at least 0, and which of them count -> (B,)."""
    if share == 1:
        return losses.sum((1, 2))
    # Unlabelled pixels come last: they are never among the first ceil(share * labelled).
    ordered = torch.where(labelled, losses, -1.0).flatten(1).sort(1, descending=True).values
    counted = (labelled.sum((1, 2)) * share).ceil()
    rank = torch.arange(ordered.shape[1], device=ordered.device)
    return torch.where(rank < counted[:, None], ordered, 0.0).sum(1) / share


def _dice(probabilities: Tensor, right: Tensor, wanted: Tensor, labelled: Tensor) -> Tensor:
    """(B, C, H, W) probabilities, those of the right classes (B, H, W), these classes, and which count -> (B,)."""
    images, classes = probabilities.shape[:2]
    predicted = (probabilities.flatten(2) @ labelled.flatten(1)[..., None].float())[..., 0]
    # One row of numbers for all images: only so is a sum by index deterministic on a GPU.
    place = (wanted + classes * torch.arange(images, device=wanted.device)[:, None, None]).flatten()
    none = predicted.new_zeros(images * classes)
    overlap = none.scatter_add(0, place, torch.where(labelled, right, 0.0).flatten()).view(images, classes)
    true = none.scatter_add(0, place, labelled.flatten().float()).view(images, classes)
    dice = torch.where(true > 0, 1 - (2 * overlap + 1) / (predicted + true + 1), 0.0)
    return dice.sum(1) / (true > 0).sum(1).clamp(min=1) * true.sum(1)
