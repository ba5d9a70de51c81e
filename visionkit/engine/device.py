"""Which device the work runs on."""

from __future__ import annotations

import torch
from torch import nn

from visionkit.errors import ConfigError, did_you_mean

KINDS = ("cpu", "cuda", "mps")


def resolve_device(name: str | torch.device) -> torch.device:
    """Turn "auto", "cpu", "cuda", "cuda:1" or "mps" into a device that is there; auto takes CUDA, then MPS, then CPU.

    Raises:
        ConfigError: no such device in this machine, or not a device's name.
    """
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    kind, _, number = str(name).partition(":")
    if kind not in KINDS or (number and not number.isdecimal()) or (":" in str(name) and not number):
        hint = did_you_mean(str(name), ("auto", *KINDS))
        raise ConfigError(f"device={name}: auto, cpu, cuda, cuda:<number> or mps is wanted{hint}")
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if int(number or 0) >= counts[kind]:
        there = f"this machine has {counts[kind]} {kind} devices"
        raise ConfigError(f"device={name}: {there}; device=auto takes what there is")
    return torch.device(str(name))


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of mixed precision: bf16, fp16 or fp32 (none), or by device for auto.

    auto is bfloat16 on GPUs that compute in it and on CPUs with AMX, where it trained our detector 1.3 to 2 times
    faster; float16 on older GPUs; float32 elsewhere.
    """
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if precision != "auto":
        return named[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


def channels_last_pays(backbone: nn.Module, device: torch.device) -> bool:
    """Whether channels_last is the faster layout, as measured: on GPUs, and on CPUs with depthwise convolutions."""
    return device.type == "cuda" or (device.type == "cpu" and getattr(backbone, "has_depthwise", False))
