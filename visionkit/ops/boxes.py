"""Functions on boxes: xyxy, float32 pixels, batched over any leading dimensions."""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

LOGGER = logging.getLogger("visionkit")
MOST_BOXES = 2048
"""Of an image that `visionkit.ops.suppression_kernel` takes: all are held in one program's registers."""
MOST_BYTES = 128 << 20
"""Of overlaps of boxes that are held at a time, where all are made at once."""
_BLOCK = 512
"""Boxes of an image that are settled at a time, where those of all images are."""
_ROUNDS = 8
"""Of suppression between two looks at whether it is done: a look makes the host wait, a round costs hardly more."""


def area(boxes: Tensor) -> Tensor:
    """(…, 4) -> (…): areas, 0 for inverted boxes."""
    width_height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return width_height[..., 0] * width_height[..., 1]


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of (…, 4) and (…, 4) that broadcast; 0 where both are empty."""
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    width_height = (bottom_right - top_left).clamp(min=0)
    inter = width_height[..., 0] * width_height[..., 1]
    union = area(first) + area(second) - inter
    return inter / union.clamp(min=1e-9)


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU less the share of the hull that neither box covers, in [−1, 1] (Rezatofighi et al. 2019), (…, 4) each."""
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    width_height = (bottom_right - top_left).clamp(min=0)
    inter = width_height[..., 0] * width_height[..., 1]
    union = area(first) + area(second) - inter
    corners = torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:])
    hull = area(torch.cat(corners, -1))
    return inter / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def complete_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU less centre distance less aspect penalty of (…, 4) and (…, 4), in (−1.5, 1] (Zheng et al. 2020)."""
    # Each box is taken apart once: the gradient of every slice is a tensor of its own, filled and added.
    (low, high), (second_low, second_high) = first.chunk(2, -1), second.chunk(2, -1)
    width, height = (high - low).clamp(min=1e-6).unbind(-1)
    second_width, second_height = (second_high - second_low).clamp(min=1e-6).unbind(-1)
    shared = torch.minimum(high, second_high) - torch.maximum(low, second_low)
    shared_width, shared_height = shared.clamp(min=0).unbind(-1)
    inter = shared_width * shared_height
    overlap = inter / (width * height + second_width * second_height - inter).clamp(min=1e-9)
    hull = torch.maximum(high, second_high) - torch.minimum(low, second_low)
    diagonal = hull.square().sum(-1).clamp(min=1e-9)
    shift = (low + high - second_low - second_high).square().sum(-1) / 4
    angle = torch.atan2(second_width, second_height) - torch.atan2(width, height)
    aspect = (4 / math.pi**2) * angle.square()
    with torch.no_grad():
        weight = aspect / (1 - overlap + aspect).clamp(min=1e-9)
    return overlap - shift / diagonal - weight * aspect


def distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes from (…, 2) points and their (…, 4) distances to the left, top, right and bottom edge."""
    left_top, right_bottom = distances.chunk(2, -1)
    return torch.cat([points - left_top, points + right_bottom], -1)


def boxes_to_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """The inverse of `distances_to_boxes`; negative where the point lies outside the box."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)


def non_maximum_suppression(
    boxes: Tensor, labels: Tensor, candidates: Tensor, threshold: float, most: int | None = None
) -> Tensor:
    """Say which boxes no better kept one of the same label overlaps above `threshold`: greedy suppression.

    However it is done, on a CPU, by operators or by a kernel, the same boxes are kept; overlaps are float64.

    Args:
        boxes: (B, K, 4) of B images, the best first.
        labels: (B, K) int64.
        candidates: (B, K) bool, the boxes that take part; others are not kept and suppress nothing.
        threshold: of IoU.
        most: how many of an image's kept boxes are wanted, the best ones; the others count as not kept. None: all.

    Returns:
        (B, K) bool.
    """
    if torch.compiler.is_exporting():
        from visionkit.ops.suppression import suppress  # defines the operator that an exported program calls

        kept: Tensor = suppress(boxes, labels, candidates, threshold, labels.shape[1] if most is None else most)
        return kept
    if boxes.device.type == "cuda":
        kernel = _kernel(boxes.device)
        if kernel is not None and 0 < labels.shape[1] <= MOST_BOXES:
            return kernel(boxes, labels, candidates, threshold, most)
        return suppressed_together(boxes, labels, candidates, threshold, most)
    return suppressed_in_turn(boxes.cpu(), labels.cpu(), candidates.cpu(), threshold, most).to(boxes.device)


@functools.cache
def _kernel(device: torch.device) -> Callable[..., Tensor] | None:
    """`visionkit.ops.suppression_kernel.suppressed`, once it was seen to work on the device."""
    generator = torch.Generator().manual_seed(0)
    corners = 100 * torch.rand(2, 600, 2, generator=generator)
    boxes = torch.cat([corners, corners + 40 * torch.rand(2, 600, 2, generator=generator)], -1)
    labels = torch.randint(0, 2, (2, 600), generator=generator)
    candidates = torch.rand(2, 600, generator=generator) < 0.9
    try:
        with warnings.catch_warnings(action="ignore"):  # of Triton, about the next one
            from visionkit.ops.suppression_kernel import suppressed

            found = suppressed(boxes.to(device), labels.to(device), candidates.to(device), 0.5, 300)
        if torch.equal(found.cpu(), suppressed_in_turn(boxes, labels, candidates, 0.5, 300)):
            return suppressed
        fault = "a wrong answer"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what Triton, its compiler or the device's driver meets
        fault = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    LOGGER.info(
        f"suppression goes through PyTorch's own operators, which is slower: Triton does not work here ({fault})"
    )
    return None


def suppressed_in_turn(
    boxes: Tensor, labels: Tensor, candidates: Tensor, threshold: float, most: int | None = None
) -> Tensor:
    """As `non_maximum_suppression`, image by image and box by box: cheapest on a CPU.

    Classes are told apart by shifting their boxes; in float64, because in float32 the shift would eat the fraction of a
    pixel and make an image's result depend on the number of classes.
    """
    keep = torch.zeros_like(candidates)
    for i in range(len(boxes)):
        rows = torch.nonzero(candidates[i])[:, 0]
        if len(rows):
            wide = boxes[i][rows].double()
            shift = labels[i][rows].to(wide) * (wide.max() - wide.min() + 1.0)
            falling = torch.arange(len(rows), 0, -1, dtype=torch.float64)
            keep[i, rows[torchvision.ops.nms(wide + shift[:, None], falling, threshold)[:most]]] = True
    return keep


def suppressed_together(
    boxes: Tensor,
    labels: Tensor,
    candidates: Tensor,
    threshold: float,
    most: int | None = None,
    *,
    most_bytes: int = MOST_BYTES,
) -> Tensor:
    """As `non_maximum_suppression`, all images at once: a GPU is asked little and seldom waited for.

    Block by block from the best boxes down, and no further than until every image has `most` boxes or no candidates
    left; for a detector's best 100 to 300 the first blocks are enough.

    `most_bytes`: of the (b, 512, K) float64 overlaps that are made at a time; at least one image's are.
    """
    if not candidates.numel():
        return candidates
    images, count = labels.shape
    step = max(1, most_bytes // (8 * min(_BLOCK, count) * count))
    parts = (slice(first, first + step) for first in range(0, images, step))
    wanted = count if most is None else most
    return torch.cat([_settled(boxes[i].double(), labels[i], candidates[i], threshold, wanted) for i in parts])


def _settled(boxes: Tensor, labels: Tensor, candidates: Tensor, threshold: float, most: int) -> Tensor:
    """As `suppressed_together`, of float64 boxes.

    A box is kept if no better one that is kept overlaps it. Said over and over of all boxes of a block this settles
    them from the best down, and once it changes nothing it is what suppression in turn keeps.
    """
    keep = torch.zeros_like(candidates)
    for first in range(0, labels.shape[1], _BLOCK):
        block = slice(first, first + _BLOCK)
        hit = _hit_by_better(boxes, labels, block, threshold)
        kept = free = candidates[:, block] > (hit[:, :, :first] & keep[:, None, :first]).any(2)
        within = hit[:, :, first:]
        state = 2
        while state >= 2:
            for _ in range(_ROUNDS):
                before, kept = kept, free > (within & kept[:, None]).any(2)
            keep[:, block] = kept
            more = (keep.sum(1) < most) & candidates[:, block.stop :].any(1)
            state = int(2 * (before != kept).any() + more.any())  # the host waits: so for both answers at once
        if state == 0:
            break
    return keep & (keep.cumsum(1) <= most)


def _hit_by_better(boxes: Tensor, labels: Tensor, rows: slice, threshold: float) -> Tensor:
    """(b, r, c) bool: does the better box c, of all up to the last of `rows`, overlap the box r of the same label?"""
    x1, y1, x2, y2 = boxes[:, : rows.stop].unbind(-1)
    areas = (x2 - x1) * (y2 - y1)
    width, height = (
        torch.minimum(high[:, rows, None], high[:, None])
        .sub_(torch.maximum(low[:, rows, None], low[:, None]))
        .clamp_(0)
        for low, high in ((x1, x2), (y1, y2))
    )
    inter = width.mul_(height)
    union = torch.add(areas[:, rows, None], areas[:, None], out=height).sub_(inter)
    alike = labels[:, rows, None] == labels[:, None, : rows.stop]
    return (inter.div_(union) > threshold).logical_and_(alike).tril_(rows.start - 1)
