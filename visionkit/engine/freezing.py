"""Which part of the backbone learns at which step, and what its batch norms do."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from visionkit.backbones import Timm
from visionkit.errors import ConfigError, did_you_mean
from visionkit.model import VisionModel
from visionkit.stages import Stage

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


class Freezing:
    """Holds stages of the backbone still, from the first one on, until their epoch has come.

    A stage that is held still gets no gradient, so that no optimizer changes it, decays it or keeps a state of it; and
    it behaves as in evaluation: its batch norms use the statistics that came with the weights and leave them as they
    are, dropout and drop path do nothing. What is held still is a function of the epoch alone: a resumed run has
    nothing to restore. The optimizer must be made before the first `apply`, and so has all parameters from then on.

    Args:
        stages: of the backbone, fine to coarse (`visionkit.stages`).
        freeze: "none", "backbone", or the level up to which, its own stage included, stages are frozen.
        unfreeze: by level, or "all" for those that are not named, the epoch with which its stage begins to learn: 2:
            after two epochs, 0: at once. A stage that is left out stays frozen.
        norm: "frozen": the backbone's batch norms are held still whether their stages learn or not, factors and
            offsets, too; "live" or "sync": they are not.

    Raises:
        ConfigError: a level that is not there or not frozen, or a stage that would learn before a later one.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        *,
        freeze: str = "none",
        unfreeze: Mapping[str, float] = MappingProxyType({}),
        norm: str = "live",
    ) -> None:
        frozen = _frozen_levels(list(stages), freeze)
        self.until = _epochs(frozen, unfreeze)
        self.stages = {level: stages[level] for level in frozen}
        norms = [module for stage in stages.values() for module in stage.modules if isinstance(module, _BATCH_NORM)]
        self._norms = norms if norm == "frozen" else []
        for module in self._norms:
            module.requires_grad_(False)
        learning = {id(p) for stage in stages.values() for p in stage.parameters if p.requires_grad}
        self._parameters = {
            level: [p for p in stage.parameters if id(p) in learning] for level, stage in self.stages.items()
        }
        self._frozen: list[str] | None = None
        self._still: list[nn.Module] = []

    def frozen_at(self, epoch: float) -> list[str]:
        """The levels whose stages are frozen when so many epochs, with their fraction, are behind."""
        return [level for level in self.stages if epoch < self.until[level]]

    def apply(self, epoch: float) -> bool:
        """Freeze and thaw as it is due; call before each step, since `model.train()` wakes all modules up.

        Args:
            epoch: how many are behind, with their fraction.

        Returns:
            whether stages were frozen or thawed by this call.
        """
        frozen = self.frozen_at(epoch)
        changed = frozen != self._frozen
        if changed:
            self._hold(frozen)
        if self._still and self._still[0].training:
            for module in self._still:
                module.training = False
        return changed

    def _hold(self, frozen: list[str]) -> None:
        for level, parameters in self._parameters.items():
            for parameter in parameters:
                parameter.requires_grad_(level not in frozen)
        for module in self._still:
            module.training = True
        self._still = [*self._norms, *(module for level in frozen for module in self.stages[level].modules)]
        self._frozen = frozen


def synchronised(model: VisionModel, device: torch.device) -> VisionModel:
    """Let the model's batch norms take their statistics from all processes' batches, in place; returns the model.

    Names and values in the state dict stay the same. Modules are replaced: build `Freezing`, optimizer and EMA
    afterwards.

    Raises:
        ConfigError: torch has no such norm for this device.
    """
    if device.type != "cuda":
        raise ConfigError(
            f"model.norm=sync: torch synchronises batch norms on GPUs, not on {device.type}; use live",
            code="value-unfit",
        )
    convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
    if isinstance(model.backbone, Timm):  # whose norms hold an activation, which torch's function would drop
        convert = importlib.import_module("timm.layers").convert_sync_batchnorm
    converted: VisionModel = convert(model)
    return converted


def _frozen_levels(levels: list[str], freeze: str) -> list[str]:
    if freeze == "none":
        return []
    if freeze == "backbone":
        return levels
    if freeze not in levels:
        known = ("none", "backbone", *levels)
        raise ConfigError(
            f"model.freeze={freeze}: one of {', '.join(known)} is wanted{did_you_mean(freeze, known)}",
            code="choice-unknown",
        )
    return levels[: levels.index(freeze) + 1]


def _epochs(frozen: list[str], unfreeze: Mapping[str, float]) -> dict[str, float]:
    """By frozen level, the epoch with which its stage begins to learn; infinite: never."""
    for name in unfreeze:
        if not frozen or name not in (*frozen, "all"):
            there = f"the frozen levels are {', '.join(frozen)}" if frozen else "nothing is; add model.freeze=backbone"
            raise ConfigError(
                f"model.unfreeze.{name}: this is not frozen{did_you_mean(name, frozen)}; {there}", code="value-unfit"
            )
    epochs = {level: unfreeze.get(level, unfreeze.get("all", math.inf)) for level in frozen}
    for (earlier, first), (later, second) in pairwise(epochs.items()):
        if first < second:
            when = "never" if math.isinf(second) else f"after {second:g}"
            said = f"{earlier} would learn after {first:g} epochs and {later}, which comes behind it, {when}"
            raise ConfigError(f"model.unfreeze: {said}; the last stage must be the first to learn", code="value-unfit")
    return epochs
