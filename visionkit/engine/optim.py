"""Optimizers and learning-rate schedules, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from visionkit.engine.muon import Muon, hidden_matrices
from visionkit.errors import ConfigError, did_you_mean
from visionkit.stages import Stage

OPTIMIZERS = ("adam", "adamw", "momentum", "muon", "rmsprop", "sgd")
SCHEDULES = ("cosine", "flat_cosine")


def create_optimizer(
    name: str,
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    l1: float = 0.0,
    momentum: float | None = None,
    betas: Sequence[float] | None = None,
    alpha: float | None = None,
    layer_decay: float = 1.0,
    stages: Mapping[str, Stage] = MappingProxyType({}),
) -> torch.optim.Optimizer:
    """Make an optimizer of all parameters that have a gradient now; some may be frozen and thawed later.

    Args:
        name: sgd (w −= lr · g), momentum (Nesterov's), adam, adamw, rmsprop, or muon (for the hidden layers' weights;
            AdamW for the rest).
        model: on its device.
        lr: the rate; the first group has it.
        weight_decay: of the weights of convolutions and linear layers, never of biases, norms and other vectors.
            Decoupled for adamw and muon (w −= lr · decay · w); for the others the classic L2 penalty, decay / 2 · w²,
            whose gradient goes the way of the loss's own.
        l1: factor of an L1 penalty on the same weights, decoupled: after each step a weight is drawn towards 0 by
            lr · l1 and stays there when it is reached (the proximal step of Daubechies et al. 2004), so some become
            exactly 0. With `weight_decay` both act (Zou & Hastie 2005).
        momentum: of momentum (0.9 by default), muon (0.95) and rmsprop (0).
        betas: of adam, adamw and muon; (0.9, 0.999) by default.
        alpha: of rmsprop, the share of the mean square that is kept; 0.99 by default.
        layer_decay: the rates of the backbone's stages fall from the last, lr · layer_decay, to the first, by this
            factor each; necks and heads have the full rate (Bao et al. 2022 for blocks of a transformer).
        stages: of the backbone, fine to coarse (`visionkit.stages`); read where layer_decay is not 1.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(
            f"optim.name={name} is none of {', '.join(OPTIMIZERS)}{did_you_mean(name, OPTIMIZERS)}",
            code="choice-unknown",
        )
    rates = _rates(stages, lr, layer_decay)
    matrices = hidden_matrices(model) if name == "muon" else []
    hidden = parameter_groups(matrices, lr, weight_decay, l1, rates)
    others = parameter_groups(_others(model, matrices), lr, weight_decay, l1, rates)
    fused = next(model.parameters()).device.type in ("cuda", "cpu")
    optimizer = _of_name(name, hidden, others, lr=lr, momentum=momentum, betas=betas, alpha=alpha, fused=fused)
    if l1:
        optimizer.register_step_post_hook(_draw_to_zero)
    return optimizer


def _of_name(
    name: str,
    hidden: list[dict[str, Any]],
    others: list[dict[str, Any]],
    *,
    lr: float,
    momentum: float | None,
    betas: Sequence[float] | None,
    alpha: float | None,
    fused: bool,
) -> torch.optim.Optimizer:
    """The optimizer itself over ready groups, with its defaults for what is None.

    hidden: the groups that Muon steps; empty for every other name.
    """
    both = (0.9, 0.999) if betas is None else (betas[0], betas[1])
    if hidden:
        return Muon(hidden, others, lr=lr, momentum=0.95 if momentum is None else momentum, betas=both)
    if name in ("adamw", "muon"):  # a model without hidden matrices has nothing for Muon to do
        return torch.optim.AdamW(others, lr=lr, betas=both, fused=fused)
    if name == "adam":
        return torch.optim.Adam(others, lr=lr, betas=both, fused=fused)
    if name == "rmsprop":
        rmsprop = torch.optim.RMSprop(others, lr=lr, alpha=0.99 if alpha is None else alpha, momentum=momentum or 0.0)
        rmsprop.register_step_pre_hook(_drop_bad_gradients)
        return rmsprop
    inertia = 0.0 if name == "sgd" else 0.9 if momentum is None else momentum
    sgd = torch.optim.SGD(others, lr=lr, momentum=inertia, nesterov=inertia > 0, fused=fused)
    if inertia:
        sgd.register_step_pre_hook(_begin_momentum)
    return sgd


def parameter_groups(
    parameters: Sequence[Tensor], lr: float, weight_decay: float, l1: float, rates: Mapping[int, float]
) -> list[dict[str, Any]]:
    """Divide parameters by their rate, the highest first, and by whether they decay: those of two and more dimensions.

    rates: by id of a parameter where it is not `lr`.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for parameter in parameters:
        groups.setdefault((rates.get(id(parameter), lr), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": groups[rate, decays], "lr": rate}
        | ({"weight_decay": weight_decay, "l1": l1} if decays else {"weight_decay": 0.0, "l1": 0.0})
        for rate, decays in sorted(groups, reverse=True)
    ]


def _rates(stages: Mapping[str, Stage], lr: float, layer_decay: float) -> dict[int, float]:
    """By id of each of the backbone's parameters, its rate; nothing where all learn at one."""
    if layer_decay == 1:
        return {}
    return {
        id(parameter): lr * layer_decay**depth
        for depth, stage in enumerate(reversed([*stages.values()]), 1)
        for parameter in stage.parameters
    }


def _others(model: nn.Module, matrices: Sequence[Tensor]) -> list[Tensor]:
    known = {id(parameter) for parameter in matrices}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in known]


@torch.no_grad()
def _draw_to_zero(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
    """The L1 step, on weights that were stepped; none where `found_inf` (see `torch.amp.GradScaler`) is not 0."""
    bad: Tensor | None = getattr(optimizer, "found_inf", None)
    for group in optimizer.param_groups:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if group["l1"] and weights:
            reach = torch.full((), -group["lr"] * group["l1"], device=weights[0].device)
            if bad is not None:
                reach = torch.where(bad > 0, 0.0, reach)
            sizes = torch._foreach_abs(weights)
            torch._foreach_add_(sizes, reach)
            torch._foreach_clamp_min_(sizes, 0.0)
            torch._foreach_mul_(sizes, torch._foreach_sign(weights))
            torch._foreach_copy_(weights, sizes)


def _begin_momentum(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
    """Begin at 0, which is what torch does; but its fused kernel breaks where some weights begin later than others."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _drop_bad_gradients(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
    """What the fused kernels of the others do on the device: no step where `found_inf` is not 0. This one waits."""
    bad: Tensor | None = getattr(optimizer, "found_inf", None)
    if bad is not None and bool(bad):
        optimizer.zero_grad(set_to_none=True)


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
            raise ConfigError(
                f"schedule.name={name} is none of {', '.join(SCHEDULES)}{did_you_mean(name, SCHEDULES)}",
                code="choice-unknown",
            )
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
