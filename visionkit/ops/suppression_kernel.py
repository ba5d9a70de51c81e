"""Greedy suppression as one kernel for CUDA devices: all images at once, and nobody waits.

It needs Triton, which comes with PyTorch on Linux, and the C compiler that Triton calls when a kernel is first used.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_WARPS = 8


def suppressed(boxes: Tensor, labels: Tensor, candidates: Tensor, threshold: float, most: int | None) -> Tensor:
    """As `visionkit.ops.boxes.non_maximum_suppression`, of up to `visionkit.ops.boxes.MOST_BOXES` boxes an image."""
    images, count = labels.shape
    keep = torch.zeros((images, count), dtype=torch.uint8, device=boxes.device)
    limit = torch.full((1,), threshold, dtype=torch.float64, device=boxes.device)  # Triton would round a number
    with torch.cuda.device(boxes.device):  # Triton takes the current one
        _suppress[(images,)](
            boxes.contiguous(), labels.contiguous(), candidates.contiguous().view(torch.uint8), keep, limit, count,
            count if most is None else most, SIZE=triton.next_power_of_2(count), num_warps=_WARPS,
            enable_fp_fusion=False,
        )  # fmt: skip
    return keep.view(torch.bool)


# Triton reads annotations as types of its own.
@triton.jit(do_not_specialize=["count", "most"])  # type: ignore[untyped-decorator]
def _suppress(boxes, labels, candidates, keep, limit, count, most, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, N803
    first = tl.program_id(0).to(tl.int64) * count
    place = tl.arange(0, SIZE)
    there = place < count
    corner = boxes + (first + place) * 4
    x1 = tl.load(corner, mask=there, other=0.0).to(tl.float64)
    y1 = tl.load(corner + 1, mask=there, other=0.0).to(tl.float64)
    x2 = tl.load(corner + 2, mask=there, other=0.0).to(tl.float64)
    y2 = tl.load(corner + 3, mask=there, other=0.0).to(tl.float64)
    label = tl.load(labels + first + place, mask=there, other=-1)
    left = tl.load(candidates + first + place, mask=there, other=0) > 0
    area = (x2 - x1) * (y2 - y1)
    threshold = tl.load(limit)
    best = tl.min(tl.where(left, place, SIZE), axis=0)
    kept = 0
    while (best < SIZE) & (kept < most):
        tl.store(keep + first + best, 1)
        kept += 1
        own = boxes + (first + best) * 4
        own_x1, own_y1 = tl.load(own).to(tl.float64), tl.load(own + 1).to(tl.float64)
        own_x2, own_y2 = tl.load(own + 2).to(tl.float64), tl.load(own + 3).to(tl.float64)
        width = tl.maximum(tl.minimum(x2, own_x2) - tl.maximum(x1, own_x1), 0.0)
        height = tl.maximum(tl.minimum(y2, own_y2) - tl.maximum(y1, own_y1), 0.0)
        inter = width * height
        union = area + (own_x2 - own_x1) * (own_y2 - own_y1) - inter
        hit = (inter / union > threshold) & (label == tl.load(labels + first + best))
        left = left & (place > best) & (hit == 0)
        best = tl.min(tl.where(left, place, SIZE), axis=0)
