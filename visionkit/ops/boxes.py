"""Functions on boxes: xyxy, float32 pixels, batched over any leading dimensions."""

from __future__ import annotations

import math

import torch
import torchvision
from torch import Tensor


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


def non_maximum_suppression(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Indices of the (N, 4) boxes that no better-scored box of the same label overlaps above `threshold`, best first.

    Classes are told apart by shifting their boxes; in float64, because in float32 the shift would eat the fraction of a
    pixel and make an image's result depend on the number of classes.
    """
    if boxes.numel() == 0:
        return boxes.new_zeros(0, dtype=torch.long)
    wide = boxes.double()
    shift = labels.to(wide) * (wide.max() - wide.min() + 1.0)
    kept: Tensor = torchvision.ops.nms(wide + shift[:, None], scores.double(), threshold)
    return kept
