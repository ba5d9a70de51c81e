"""Functions on boxes: xyxy, float32 pixels, batched over any leading dimensions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

MOST_BYTES = 64 << 20
"""Of overlaps of boxes that are held at a time, where all are made at once."""
_FLAGS = 8
"""Truth values in a word of 64 bits: combined word by word they take a third of the time on a GPU."""
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
    overlap = iou(first, second)
    hull = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    diagonal = hull.square().sum(-1).clamp(min=1e-9)
    shift = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]).square().sum(-1) / 4
    first_size = (first[..., 2:] - first[..., :2]).clamp(min=1e-6)
    second_size = (second[..., 2:] - second[..., :2]).clamp(min=1e-6)
    angle = torch.atan2(second_size[..., 0], second_size[..., 1]) - torch.atan2(first_size[..., 0], first_size[..., 1])
    aspect = (4 / math.pi**2) * angle.square()
    with torch.no_grad():
        weight = aspect / (1 - overlap + aspect).clamp(min=1e-9)
    return overlap - shift / diagonal - weight * aspect


def distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes from (…, 2) points and their (…, 4) distances to the left, top, right and bottom edge."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


def boxes_to_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """The inverse of `distances_to_boxes`; negative where the point lies outside the box."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)


def non_maximum_suppression(boxes: Tensor, labels: Tensor, candidates: Tensor, threshold: float) -> Tensor:
    """Say which boxes no better kept one of the same label overlaps above `threshold`: greedy suppression.

    Both ways of doing it keep the same boxes; overlaps are float64 in both.

    Args:
        boxes: (B, K, 4) of B images, the best first.
        labels: (B, K) int64.
        candidates: (B, K) bool, the boxes that take part; others are not kept and suppress nothing.
        threshold: of IoU.

    Returns:
        (B, K) bool.
    """
    if boxes.device.type == "cuda":
        return suppressed_together(boxes, labels, candidates, threshold)
    return suppressed_in_turn(boxes.cpu(), labels.cpu(), candidates.cpu(), threshold).to(boxes.device)


def suppressed_in_turn(boxes: Tensor, labels: Tensor, candidates: Tensor, threshold: float) -> Tensor:
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
            keep[i, rows[torchvision.ops.nms(wide + shift[:, None], falling, threshold)]] = True
    return keep


def suppressed_together(
    boxes: Tensor, labels: Tensor, candidates: Tensor, threshold: float, most_bytes: int = MOST_BYTES
) -> Tensor:
    """As `non_maximum_suppression`, all images and boxes at once: a GPU is asked little and seldom waited for.

    A box is kept if no better one that is kept overlaps it. Said over and over of all boxes this settles them from the
    best down, and once it changes nothing it is what suppression in turn keeps.

    `most_bytes`: of the (b, K, K) float64 overlaps that are made at a time; at least one image's are.
    """
    if not candidates.numel():
        return candidates
    images, count = labels.shape
    spare = -count % _FLAGS
    boxes, labels, candidates = F.pad(boxes, (0, 0, 0, spare)), F.pad(labels, (0, spare)), F.pad(candidates, (0, spare))
    rows = count + spare
    step = max(1, most_bytes // max(1, 8 * rows * rows))
    hit = torch.empty((images, rows, rows), dtype=torch.bool, device=boxes.device)
    for first in range(0, images, step):
        part = slice(first, first + step)
        hit[part] = _hit_by_better(boxes[part].double(), labels[part], threshold)
    hit_words = hit.view(torch.int64)
    keep = candidates
    while True:
        for _ in range(_ROUNDS):
            before, keep = keep, candidates > (hit_words & keep.view(torch.int64)[:, None]).any(2)
        if torch.equal(before, keep):
            return keep[:, :count]


def _hit_by_better(boxes: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """(b, K, K) bool: is the box of the row of the same label as the better one of the column, and overlaps it?"""
    x1, y1, x2, y2 = boxes.unbind(-1)
    areas = (x2 - x1) * (y2 - y1)
    width = torch.minimum(x2[:, :, None], x2[:, None]).sub_(torch.maximum(x1[:, :, None], x1[:, None])).clamp_(min=0)
    height = torch.minimum(y2[:, :, None], y2[:, None]).sub_(torch.maximum(y1[:, :, None], y1[:, None])).clamp_(min=0)
    inter = width.mul_(height)
    union = torch.add(areas[:, :, None], areas[:, None], out=height).sub_(inter)
    return (inter.div_(union) > threshold).logical_and_(labels[:, :, None] == labels[:, None]).tril_(-1)
