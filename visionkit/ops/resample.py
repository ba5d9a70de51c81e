"""From logits on a grid over the canvas to the pixels of the original image, in one resampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from visionkit.ops.transfer import host_buffer, start_copies, to_device
from visionkit.structures import Geometry

MOST_BYTES = 64 << 20
"""Of float32 logits in original pixels that are held at a time."""

Classes = tuple[np.ndarray, np.ndarray | None]
"""Of an image: classes (H, W) uint8, and the probabilities (C, H, W) float16, or None."""


def original_classes(
    logits: Tensor,
    geometries: Sequence[Geometry],
    stride: int,
    *,
    keep_scores: bool = False,
    most_bytes: int = MOST_BYTES,
) -> list[Classes]:
    """Say the best class of every original pixel, from logits interpolated bilinearly between the cells' centres.

    Only cells that hold image are read; beyond the outermost of their centres, and where the image was cropped, the
    nearest one speaks. Images that lie on their canvases alike are made together, large ones in strips of rows, on the
    logits' device, and the host waits once for all of them.

    Args:
        logits: (B, C, h, w) float, C at most 255; the first cell's corner is the canvas's.
        geometries: how the images lie on their canvases.
        stride: canvas pixels of a cell.
        keep_scores: also give the classes' probabilities.
        most_bytes: of the logits in original pixels that are held at a time; at least one row is made at a time.

    Returns:
        `Classes` of each image.
    """
    return start_original_classes(logits, geometries, stride, keep_scores=keep_scores, most_bytes=most_bytes)()


def start_original_classes(
    logits: Tensor,
    geometries: Sequence[Geometry],
    stride: int,
    *,
    keep_scores: bool = False,
    most_bytes: int = MOST_BYTES,
) -> Callable[[], list[Classes]]:
    """Ask the device for `original_classes`, and return what waits for them."""
    alike: dict[Geometry, list[int]] = {}
    for i, geometry in enumerate(geometries):
        alike.setdefault(geometry, []).append(i)
    placed = _placed(alike, stride, logits)
    results: dict[int, Classes] = {}
    waits: list[Callable[[], None]] = []
    for geometry, images in alike.items():
        y, x, row_cells, column_cells = placed[geometry]
        # On a CPU several images at once gain nothing.
        step = 1 if logits.device.type == "cpu" else max(1, most_bytes // (4 * logits.shape[1] * len(y) * len(x)))
        for first in range(0, len(images), step):
            chosen = images[first : first + step]
            used = _chosen(logits[:, :, :row_cells, :column_cells], chosen).float().contiguous()
            classes, scores, wait = _resampled(used, y, x, keep_scores, most_bytes)
            waits.append(wait)
            for place, i in enumerate(chosen):
                results[i] = classes[place].numpy(), None if scores is None else scores[place].numpy()

    def arrived() -> list[Classes]:
        for wait in waits:
            wait()
        return [results[i] for i in range(len(geometries))]

    return arrived


def _placed(
    geometries: Iterable[Geometry], stride: int, logits: Tensor
) -> dict[Geometry, tuple[Tensor, Tensor, int, int]]:
    """Of each geometry where its rows and its columns lie, see `cells_of_pixels`, and both numbers of cells.

    All places come to the device of the logits in one copy.
    """
    found = {
        geometry: [cells_of_pixels(geometry, axis, stride, logits.shape[2 + axis]) for axis in (0, 1)]
        for geometry in geometries
    }
    every = [places for axes in found.values() for places, _ in axes]
    if not every:
        return {}
    there = iter(torch.split(to_device(torch.cat(every).float(), logits.device), [len(places) for places in every]))
    return {
        geometry: (next(there), next(there), rows, columns) for geometry, ((_, rows), (_, columns)) in found.items()
    }


def _chosen(logits: Tensor, images: Sequence[int]) -> Tensor:
    """The logits of the images, by one slice where they follow each other."""
    first, last = images[0], images[-1]
    return logits[first : last + 1] if last - first + 1 == len(images) else torch.stack([logits[i] for i in images])


def _resampled(
    logits: Tensor, y: Tensor, x: Tensor, keep_scores: bool, most_bytes: int
) -> tuple[Tensor, Tensor | None, Callable[[], None]]:
    """Classes (n, H, W) uint8, probabilities (n, C, H, W) float16, and what waits until the classes are on the host.

    logits: (n, C, h, w) float32; y (H,), x (W,): where among their cells the pixels lie, −1 to 1.
    """
    images, count = logits.shape[:2]
    classes = host_buffer((images, len(y), len(x)), torch.uint8, logits.device)
    scores = torch.empty((images, count, len(y), len(x)), dtype=torch.float16) if keep_scores else None
    step = max(1, most_bytes // (4 * count * images * len(x)))
    for first in range(0, len(y), step):
        part = slice(first, first + step)
        grid = torch.stack([x.expand(len(y[part]), -1), y[part, None].expand(-1, len(x))], -1)
        strip = F.grid_sample(logits, grid.expand(images, -1, -1, -1), mode="bilinear", align_corners=False)
        # max with its place is several times faster than argmax on a CPU.
        wait = start_copies([(classes[:, part], strip.max(1).indices.to(torch.uint8))], logits.device)
        if scores is not None:
            scores[:, :, part] = strip.softmax(1).half()
    return classes, scores, wait  # copies arrive in the order in which they were asked for


def cells_of_pixels(geometry: Geometry, axis: int, stride: int, cells: int) -> tuple[Tensor, int]:
    """Where the original pixels' centres lie among the cells that hold image, −1 to 1, and how many such cells are."""
    holding = min(cells, math.ceil(geometry.size[axis] / stride))
    centres = torch.arange(geometry.original[axis], dtype=torch.float64) + 0.5
    places = (centres * geometry.scale[axis] + geometry.offset[axis]) / stride - 0.5
    return (2 * places.clamp(0, holding - 1) + 1) / holding - 1, holding
