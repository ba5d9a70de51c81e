"""Loss functions without state; each gives values per element, and whoever calls it masks, sums and divides."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def quality_focal(logits: Tensor, quality: Tensor, gamma: float = 2.0) -> Tensor:
    """|quality − sigmoid(logits)|^gamma * binary cross-entropy (Li et al. 2020), elementwise; gamma = 0 is plain BCE.

    Args:
        logits: float, any shape.
        quality: the wanted score in [0, 1], same shape.
        gamma: how strongly what is already right is turned down.
    """
    loss = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    if gamma == 0:
        return loss
    error = (quality - logits.sigmoid()).abs()
    return loss * (error if gamma == 1 else error.pow(gamma))


def distribution_focal(logits: Tensor, values: Tensor) -> Tensor:
    """Cross-entropy to the two bins around a value, in proportion to nearness (Li et al. 2020).

    Args:
        logits: (…, bins) float.
        values: (…) float, in bins; what lies outside [0, bins − 1] counts as the nearest end.

    Returns:
        (…) float.
    """
    bins = logits.shape[-1]
    values = values.clamp(0, bins - 1 - 1e-3)
    low = values.floor().long().clamp(0, bins - 2)  # where a value is no number, an index all the same
    share = values - low
    log_probabilities = F.log_softmax(logits, -1)
    pair = log_probabilities.gather(-1, torch.stack([low, low + 1], -1))
    return -(pair * torch.stack([1 - share, share], -1)).sum(-1)
