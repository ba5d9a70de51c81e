"""torchvision's convolutional networks as backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from visionkit.backbones.weights import load_weights
from visionkit.errors import ConfigError, did_you_mean
from visionkit.structures import Features, FeatureSpec

_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_MOBILENETS = ("mobilenet_v2",)


class Torchvision(nn.Module):
    """A classification network of torchvision without its classifier, cut where the stride doubles.

    Args:
        name: resnet18, resnet34, resnet50, resnet101, resnet152 or mobilenet_v2.
        weights: None; the name of published weights ("IMAGENET1K_V2", "DEFAULT"; torchvision downloads them); or the
            path of a state dict of the whole torchvision network, whose classifier is left out.
        in_channels: channels of the images; other than 3 replaces the first convolution and needs weights=None.

    The levels are c2 to c5 with strides 4 to 32.
    """

    def __init__(self, name: str = "resnet50", *, weights: str | None = None, in_channels: int = 3) -> None:
        super().__init__()
        if name not in _RESNETS + _MOBILENETS:
            known = _RESNETS + _MOBILENETS
            raise ConfigError(f"Torchvision: '{name}' is none of {', '.join(known)}{did_you_mean(name, known)}")
        if in_channels != 3 and weights is not None:
            raise ConfigError(f"Torchvision: weights for 3 channels cannot take {in_channels}; use weights=none")
        network = _network(name, weights)
        stages = _resnet_stages(network) if name in _RESNETS else _mobilenet_stages(network)
        if in_channels != 3:
            _replace_first_convolution(stages[0], in_channels)
        self.stages = nn.ModuleDict({f"c{level}": stage for level, stage in enumerate(stages, 2)})
        channels = [_out_channels(stage) for stage in stages]
        self.out_specs = {f"c{level}": FeatureSpec(count, 2**level) for level, count in enumerate(channels, 2)}

    def trim(self, coarsest: str) -> None:
        """Drop the stages after level `coarsest`, which nothing reads."""
        for name in list(self.stages)[list(self.stages).index(coarsest) + 1 :]:
            del self.stages[name], self.out_specs[name]

    def forward(self, images: Tensor) -> Features:
        """(B, in_channels, H, W) -> c2 to c5."""
        features = {}
        x = images
        for name, stage in self.stages.items():
            x = stage(x)
            features[name] = x
        return features


def _network(name: str, weights: str | None) -> Any:
    if weights is None:
        return torchvision.models.get_model(name)
    published = torchvision.models.get_model_weights(name)
    if weights in ("DEFAULT", *published.__members__):
        return torchvision.models.get_model(name, weights=weights)
    if not Path(weights).exists() and not Path(weights).suffix:
        names = ("none", "DEFAULT", *published.__members__)
        raise ConfigError(
            f"weights={weights}: neither a file nor published weights of {name} ({', '.join(names)})"
            f"{did_you_mean(weights, names)}"
        )
    network = torchvision.models.get_model(name)
    load_weights(network, weights, may_miss=("fc.", "classifier."))
    return network


def _resnet_stages(network: torchvision.models.ResNet) -> list[nn.Sequential]:
    return [
        nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool, network.layer1),
        nn.Sequential(network.layer2),
        nn.Sequential(network.layer3),
        nn.Sequential(network.layer4),
    ]


def _mobilenet_stages(network: torchvision.models.MobileNetV2) -> list[nn.Sequential]:
    features = network.features
    return [features[:4], features[4:7], features[7:14], features[14:]]


def _out_channels(stage: nn.Module) -> int:
    return next(module.num_features for module in reversed(list(stage.modules())) if isinstance(module, nn.BatchNorm2d))


def _replace_first_convolution(stage: nn.Sequential, in_channels: int) -> None:
    convolution = next(module for module in stage.modules() if isinstance(module, nn.Conv2d))
    convolution.in_channels = in_channels
    convolution.weight = nn.Parameter(torch.empty(convolution.out_channels, in_channels, *convolution.kernel_size))
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
