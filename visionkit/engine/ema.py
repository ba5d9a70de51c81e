"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


class EMA:
    """A copy of the model whose floating tensors follow it slowly; the others are copied.

    The decay rises from 0 with decay * (1 − exp(−updates / warmup)), so that the average forgets the random start.

    Args:
        model: what is followed.
        decay: the decay that is reached in the end.
        warmup: updates after which the decay has reached 63 % of it; 0: it is there from the first update on.
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.9998, warmup: float = 1000.0) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.warmup, self.updates = decay, warmup, 0
        mine, theirs = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in theirs.items() if value.is_floating_point()]
        self._averages: list[Tensor] = [mine[name] for name in floating]
        self._sources: list[Tensor] = [theirs[name] for name in floating]
        counts = [name for name in theirs if name not in set(floating)]
        self._copies, self._copied = [mine[name] for name in counts], [theirs[name] for name in counts]

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the model's present weights."""
        self.updates += 1
        rise = 1 - math.exp(-self.updates / self.warmup) if self.warmup else 1.0
        torch._foreach_lerp_(self._averages, self._sources, 1 - self.decay * rise)
        if self._copies:
            torch._foreach_copy_(self._copies, self._copied)
