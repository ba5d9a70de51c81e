"""Models that come with the toolkit, pretrained on generated scenes in half precision: what `weights=auto` begins with.

`docs/recipes.md` tells how they were trained and what they bring.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from visionkit.engine.checkpoint import open_checkpoint
from visionkit.errors import ConfigError
from visionkit.plain_files import Unreadable
from visionkit.tensor_files import read_safetensors

FOLDER = Path(__file__).parent / "pretrained"


@dataclass(frozen=True)
class Shipped:
    """One such model.

    Attributes:
        file: its weights, with the description in the header.
        description: as of a checkpoint (`visionkit.build.build_model`).
    """

    file: Path
    description: dict[str, Any]

    @property
    def told(self) -> str:
        """What it is, in words."""
        return f"visionkit's own {self.file.stem}, pretrained on generated scenes"

    def weights(self) -> dict[str, Tensor]:
        """Its state dict: float32, on the CPU.

        Raises:
            ConfigError: the file is not whole.
        """
        try:
            return {name: _whole(value) for name, value in read_safetensors(self.file).items()}
        except Unreadable as error:
            raise _broken(self.file, error) from error


@functools.cache
def shipped_models() -> tuple[Shipped, ...]:
    """All of them; where two fit a model alike, the first is meant to be taken.

    Raises:
        ConfigError: a file is not there, or not whole.
    """
    files = [FOLDER / f"{name}.safetensors" for name in ("segmenter_csp_nano", "detector_csp_nano")]
    return tuple(Shipped(file, _description(file)) for file in files)


def ship(run: str | Path, file: str | Path) -> None:
    """Write the moving average of a run's or checkpoint's weights, description included.

    Weights are halved; norms and biases, which are few, keep their precision.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    checkpoint = open_checkpoint(run)
    tensors = {name: value.half() if value.ndim > 1 else value for name, value in checkpoint.weights().items()}
    save_file(tensors, file, {"format": "pt", "description": json.dumps(checkpoint.description)})


def _description(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, "pt") as opened:
            description: dict[str, Any] = json.loads(opened.metadata()["description"])
    except Exception as error:  # a SafetensorError, or what its absence is
        raise _broken(file, error) from error
    return description


def _broken(file: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"weights=auto: {file}: not readable ({error}); install visionkit anew, or type weights=none",
        code="installation-broken",
    )


def _whole(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.float16 else value
