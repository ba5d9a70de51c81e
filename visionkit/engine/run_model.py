"""The model of a run: built, filled with weights, and divided into what learns when and how fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from visionkit.build import backbone_weights, build_model
from visionkit.engine.distributed import Processes
from visionkit.engine.freezing import Freezing, synchronised
from visionkit.engine.optim import create_optimizer
from visionkit.errors import ConfigError
from visionkit.model import VisionModel
from visionkit.stages import Stage, backbone_stages
from visionkit.transfer import Taken, take_weights

SMALL_BATCH = 16
"""Images: with fewer, a BatchNorm's statistics harm what is learned (Wu & He 2018, Group Normalization, figure 1)."""
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def begun_model(
    cfg: DictConfig, description: Mapping[str, Any], processes: Processes, device: torch.device
) -> tuple[VisionModel, Taken]:
    """The model as training begins, and what it took of `cfg.weights`.

    Raises:
        ConfigError: parts that do not fit each other, norms that this device cannot synchronise, or random weights that
            are to be held still.
        CheckpointError: weights that are missing or do not fit.
    """
    model = build_model(description, weights=backbone_weights(cfg.weights), allow=None)
    taken = take_weights(model, description, cfg.weights)
    if cfg.weights == "auto" and not taken.fates:
        for key, held in (("freeze", cfg.model.freeze != "none"), ("norm", cfg.model.norm == "frozen")):
            if held:
                raise ConfigError(
                    f"model.{key}={cfg.model[key]}: weights=auto: none are shipped for this model, so they are random; "
                    "give weights=NAME, FILE or RUN",
                    code="value-missing",
                )
    if norm_mode(cfg, processes, device) == "sync":
        model = synchronised(model, device)
    return model, taken


def norm_mode(cfg: DictConfig, processes: Processes, device: torch.device) -> str:
    """What the batch norms do: frozen, live, or, where there are several processes, sync.

    auto is sync on several GPUs with fewer than `SMALL_BATCH` images each, else live.
    """
    batch, norm, several = cfg.data.batch_size, str(cfg.model.norm), processes.world > 1
    if norm == "auto":
        small = batch != "auto" and batch < SMALL_BATCH
        return "sync" if several and small and device.type == "cuda" else "live"
    return "live" if norm == "sync" and not several else norm


def said_of_norms(model: VisionModel, images: int, processes: Processes) -> str | None:
    """A line on how the batch norms fare, where each of several processes has a batch of so many images; else None."""
    norms = [module for module in model.modules() if isinstance(module, _BATCH_NORM)]
    if processes.world == 1 or not norms:
        return None
    if any(isinstance(module, nn.SyncBatchNorm) for module in norms):
        return f"batch norms take their statistics from the batches of all {processes.world} processes (model.norm)"
    if images >= SMALL_BATCH:
        return None
    own = f"batch norms take their statistics from each process's own {images} images"
    on_gpu = next(model.parameters()).device.type == "cuda"
    return f"{own}; {'model.norm=sync takes all' if on_gpu else 'torch synchronises them on GPUs alone'}"


def learning_stages(cfg: DictConfig, model: VisionModel) -> dict[str, Stage]:
    """The stages of the backbone, where some of them learn otherwise than the rest; else none."""
    alike = cfg.optim.layer_decay == 1 and cfg.model.freeze == "none" and not cfg.model.unfreeze
    if alike and cfg.model.norm != "frozen":
        return {}
    return backbone_stages(model.backbone, model.preprocess.decoding.channels, model.preprocess.canvas)


def freezing(cfg: DictConfig, stages: Mapping[str, Stage]) -> Freezing:
    """What `model.freeze`, `model.unfreeze` and `model.norm` ask for.

    Raises:
        ConfigError: see `Freezing`.
    """
    return Freezing(stages, freeze=cfg.model.freeze, unfreeze=cfg.model.unfreeze, norm=cfg.model.norm)


def optimizer(cfg: DictConfig, model: VisionModel, stages: Mapping[str, Stage]) -> torch.optim.Optimizer:
    """The optimizer that `optim` asks for; `model` is on its device, and nothing in it is frozen yet."""
    values: Any = OmegaConf.to_container(cfg.optim, resolve=True)
    return create_optimizer(model=model, stages=stages, **values)
