"""The plain CNN: a sequential network, written as a list of layers."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionkit.backbones.plain_layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Pool,
    Step,
    canvas_of,
    follow,
    level_specs,
    stages,
)
from visionkit.backbones.weights import load_weights
from visionkit.structures import Features

_ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


class Plain(nn.Module):
    """What stands before `flatten` in a list of layers, which are written as in `configs/backbone/plain.yaml`:

    - conv: {filters: 32, kernel: 3, stride: 1, padding: same, activation: relu}; padding same (`SamePadding`), valid
      (none) or pixels on every side; activation relu, sigmoid, tanh or none;
    - pool: {kind: max, size: 2, stride: 2, padding: valid}; kind max or average; stride: `size` unless given; padding
      valid (a remainder at the end of a side is dropped) or same (it makes one more cell of what is there);
    - batchnorm, or with an activation behind it batchnorm: {activation: relu};
    - dropout: 0.5, the share of the values set to 0 in training;
    - flatten, dense: {units: 128, activation: relu} and softmax, which are the classification head's
      (`visionkit.heads.PlainClassification`).

    What is left out of a layer has the values of `visionkit.backbones.plain_layers`. Feature levels are the last maps
    of each stride (`plain_layers.stages`). Weights before a ReLU begin as He et al. (2015) have it, all others as
    Glorot and Bengio (2010), biases at 0. `left_out`: the names of what was trimmed.

    Args:
        layers: names, or one-key mappings {name: {argument: value}}; a single value is the first argument.
        image_size: the canvas for which the list is checked: one number for a square, or (height, width).
        in_channels: channels of the images.
        weights: None, or the path of a state dict of this very network.

    Raises:
        ConfigError: a list that cannot be, naming the layer, the size of its input and the mend.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        *,
        image_size: int | Sequence[int],
        in_channels: int = 3,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        steps = follow(layers, (*canvas_of(image_size), in_channels))
        self.stages = nn.ModuleDict({name: sequence(mine) for name, mine in stages(steps).items()})
        self.out_specs = level_specs(steps)
        self.left_out: list[str] = []
        if weights is not None:
            load_weights(self, weights)

    def trim(self, coarsest: str) -> None:
        """Drop the layers behind level `coarsest`, which nothing reads."""
        for name in list(self.stages)[list(self.stages).index(coarsest) + 1 :]:
            self.left_out += [f"stages.{name}.{key}" for key in self.stages[name].state_dict()]
            del self.stages[name], self.out_specs[name]

    def forward(self, images: Tensor) -> Features:
        """(B, in_channels, H, W) -> the levels of `out_specs`."""
        features = {}
        x = images
        for name, stage in self.stages.items():
            x = stage(x)
            features[name] = x
        return features


class SamePadding(nn.Module):
    """Pads so that a window of `kernel` at `stride` gives ceil(side / stride) cells, as TensorFlow defines "same".

    Of the max((cells − 1) * stride + kernel − side, 0) pixels that are added along a side, the smaller half comes
    before and the larger one behind: an even kernel, or a stride above 1 on an even side, pads more below and right.

    Args:
        kernel, stride: of the window that comes after this.
        value: of the added pixels.
    """

    def __init__(self, kernel: int, stride: int, value: float = 0.0) -> None:
        super().__init__()
        self.kernel, self.stride, self.value = kernel, stride, value

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same with more rows below and above, more columns left and right."""
        return F.pad(x, [*self._around(x.shape[-1]), *self._around(x.shape[-2])], value=self.value)

    def _around(self, side: int) -> tuple[int, int]:
        missing = max((math.ceil(side / self.stride) - 1) * self.stride + self.kernel - side, 0)
        return missing // 2, missing - missing // 2

    def extra_repr(self) -> str:
        """For print(model)."""
        return f"kernel={self.kernel}, stride={self.stride}, value={self.value}"


class SameAveragePool(nn.Module):
    """The average over those pixels of a padded window (`SamePadding`) that are of the image."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.pad, self.pool = SamePadding(kernel, stride), nn.AvgPool2d(kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
        shares = self.pool(self.pad(torch.ones_like(x[:1, :1])))
        averages: Tensor = self.pool(self.pad(x)) / shares
        return averages


def sequence(steps: Iterable[Step]) -> nn.Sequential:
    """The modules of layers in a row, named by kind and number; softmax and a last sigmoid are the decoder's."""
    return nn.Sequential(OrderedDict((f"{step.kind}{step.number}", _module(step)) for step in steps))


def _module(step: Step) -> nn.Module:
    layer, entry = step.layer, step.before[-1]
    if isinstance(layer, Conv):
        return _conv(layer, entry)
    if isinstance(layer, Pool):
        return _pool(layer)
    if isinstance(layer, BatchNorm):
        norm = nn.BatchNorm2d(entry) if len(step.before) == 3 else nn.BatchNorm1d(entry)
        return _activated([norm], layer.activation)
    if isinstance(layer, Dropout):
        return nn.Dropout(layer.share)
    if isinstance(layer, Dense):
        return _activated([_begun(nn.Linear(entry, step.after[0]), layer.activation)], layer.activation)
    return nn.Flatten()


def _conv(layer: Conv, in_channels: int) -> nn.Module:
    symmetric = layer.stride == 1 and layer.kernel % 2 == 1
    padding = layer.kernel // 2 if layer.padding == "same" else layer.padding if isinstance(layer.padding, int) else 0
    parts: list[nn.Module] = []
    if layer.padding == "same" and not symmetric:
        parts, padding = [SamePadding(layer.kernel, layer.stride)], 0
    conv = nn.Conv2d(in_channels, layer.filters, layer.kernel, layer.stride, padding)
    return _activated([*parts, _begun(conv, layer.activation)], layer.activation)


def _pool(layer: Pool) -> nn.Module:
    stride = layer.stride or layer.size
    if layer.kind == "average":
        same = layer.padding == "same"
        return SameAveragePool(layer.size, stride) if same else nn.AvgPool2d(layer.size, stride)
    pool = nn.MaxPool2d(layer.size, stride)
    return pool if layer.padding == "valid" else nn.Sequential(SamePadding(layer.size, stride, -math.inf), pool)


def _activated(parts: list[nn.Module], activation: str) -> nn.Module:
    whole = [*parts, *([_ACTIVATIONS[activation]()] if activation in _ACTIVATIONS else [])]
    return whole[0] if len(whole) == 1 else nn.Sequential(*whole)


def _begun(layer: nn.Conv2d | nn.Linear, activation: str) -> nn.Conv2d | nn.Linear:
    if activation == "relu":
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
