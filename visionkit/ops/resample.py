"""From logits on a grid over the canvas to the pixels of the original image, in one resampling."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from visionkit.structures import Geometry

MOST_BYTES = 64 << 20
"""Of float32 logits in original pixels that are held at a time."""


def original_classes(
    logits: Tensor, geometry: Geometry, stride: int, *, keep_scores: bool = False, most_bytes: int = MOST_BYTES
) -> tuple[np.ndarray, np.ndarray | None]:
    """Say the best class of every original pixel, from logits interpolated bilinearly between the cells' centres.

    Only cells that hold image are read; beyond the outermost of their centres, and where the image was cropped, the
    nearest one speaks. Rows are made in strips, on the logits' device.

    Args:
        logits: (C, h, w) float, C at most 255; the first cell's corner is the canvas's.
        geometry: how the image lies on the canvas.
        stride: canvas pixels of a cell.
        keep_scores: also give the classes' probabilities.
        most_bytes: of a strip's logits; at least one row is made at a time.

    Returns:
        classes (H, W) uint8, and the probabilities (C, H, W) float16 or None.
    """
    height, width = geometry.original
    rows, row_cells = _cells(geometry, 0, stride, logits.shape[1])
    columns, column_cells = _cells(geometry, 1, stride, logits.shape[2])
    used = logits[None, :, :row_cells, :column_cells].float()
    x = columns.to(used)
    step = max(1, most_bytes // (4 * len(logits) * width))
    classes = np.empty((height, width), np.uint8)
    scores = np.empty((len(logits), height, width), np.float16) if keep_scores else None
    for first in range(0, height, step):
        y = rows[first : first + step].to(used)
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1)
        strip = F.grid_sample(used, grid[None], mode="bilinear", align_corners=False)[0]
        # max with its place is several times faster than argmax on a CPU.
        classes[first : first + step] = strip.max(0).indices.to(torch.uint8).cpu().numpy()
        if scores is not None:
            scores[:, first : first + step] = strip.softmax(0).half().cpu().numpy()
    return classes, scores


def _cells(geometry: Geometry, axis: int, stride: int, cells: int) -> tuple[Tensor, int]:
    """Where the original pixels' centres lie among the cells that hold image, −1 to 1, and how many such cells are."""
    holding = min(cells, math.ceil(geometry.size[axis] / stride))
    centres = torch.arange(geometry.original[axis], dtype=torch.float64) + 0.5
    places = (centres * geometry.scale[axis] + geometry.offset[axis]) / stride - 0.5
    return (2 * places.clamp(0, holding - 1) + 1) / holding - 1, holding
