"""Suppression as one operator of torch's, `visionkit::suppress`, so that a program with it in can be exported.

Who runs an exported program (.pt2) without `visionkit.load` imports this module first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visionkit.ops.boxes import non_maximum_suppression


@torch.library.custom_op("visionkit::suppress", mutates_args=())
def suppress(boxes: Tensor, labels: Tensor, candidates: Tensor, threshold: float, most: int) -> Tensor:
    """See `non_maximum_suppression`."""
    return non_maximum_suppression(boxes, labels, candidates, threshold, most)


@suppress.register_fake
def _(boxes: Tensor, labels: Tensor, candidates: Tensor, threshold: float, most: int) -> Tensor:  # noqa: ARG001
    return torch.empty_like(candidates)
