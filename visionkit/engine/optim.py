"""Optimizers and learning-rate schedules, by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visionkit.engine.muon import Muon, hidden_matrices
from visionkit.errors import ConfigError, did_you_mean

OPTIMIZERS = ("adamw", "muon", "sgd")
SCHEDULES = ("cosine", "flat_cosine")


def parameter_groups(model: nn.Module, weight_decay: float, leave_out: Sequence[Tensor] = ()) -> list[dict[str, Any]]:
    """Two groups: with decay, and without it (biases, norms and every other vector or scalar)."""
    known = {id(parameter) for parameter in leave_out}
    trained = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def create_optimizer(
    name: str,
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """AdamW, Muon (for the hidden matrices; AdamW for the rest), or SGD with Nesterov momentum."""
    if name not in OPTIMIZERS:
        raise ConfigError(f"optim.name={name} is none of {', '.join(OPTIMIZERS)}{did_you_mean(name, OPTIMIZERS)}")
    if name == "muon" and (matrices := hidden_matrices(model)):
        others = parameter_groups(model, weight_decay, leave_out=matrices)
        return Muon(matrices, others, lr=lr, weight_decay=weight_decay, momentum=momentum, betas=betas)
    groups = parameter_groups(model, weight_decay)
    fused = next(model.parameters()).device.type in ("cuda", "cpu")
    if name in ("adamw", "muon"):  # a model without hidden matrices has nothing for Muon to do
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)


class Schedule:
    """The learning rate's factor at each step: a linear warm-up, then a fall to `final`.

    Args:
        name: cosine falls from the end of the warm-up on, flat_cosine from the share `flat` of the steps on.
        total_steps: of the whole run.
        warmup_steps: of the linear rise; at most a third of the run.
        final: the factor that it falls to, reached when the last step is taken.
        flat: see `name`; not read by cosine.
    """

    def __init__(
        self, name: str, *, total_steps: int, warmup_steps: int, final: float = 0.01, flat: float = 0.5
    ) -> None:
        if name not in SCHEDULES:
            raise ConfigError(f"schedule.name={name} is none of {', '.join(SCHEDULES)}{did_you_mean(name, SCHEDULES)}")
        self.total_steps, self.final = total_steps, final
        self.warmup_steps = min(warmup_steps, total_steps // 3)
        self.flat_until = int(flat * total_steps) if name == "flat_cosine" else self.warmup_steps

    def factor(self, step: int) -> float:
        """The factor for step number `step`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if step < self.flat_until:
            return 1.0
        share = (step - self.flat_until) / max(1, self.total_steps - self.flat_until)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
