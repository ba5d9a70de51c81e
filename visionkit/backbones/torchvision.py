"""torchvision's convolutional networks as backbones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from visionkit.backbones.weights import load_weights
from visionkit.errors import CheckpointError, ConfigError, did_you_mean
from visionkit.structures import Features, FeatureSpec

DILATABLE = ("resnet", "resnext", "wide_resnet", "regnet", "mobilenet", "efficientnet", "shufflenet")
"""How the names of those begin whose strides are all made by padded convolutions, which can be dilated instead."""
NAMES = tuple(
    name
    for name in torchvision.models.list_models(module=torchvision.models)
    if name.startswith((*DILATABLE, "convnext", "densenet", "squeezenet"))
)
"""Every network of torchvision that can be a backbone."""
_CLASSIFIERS = ("fc.", "classifier.")
"""How the names of the tensors begin that no backbone has."""


class Torchvision(nn.Module):
    """A classification network of torchvision without its classifier, cut where the stride doubles.

    Args:
        name: one of `NAMES`, torchvision's own: ResNet, ResNeXt, Wide ResNet, RegNet, MobileNetV2 and V3, EfficientNet
            and V2, ShuffleNetV2, ConvNeXt, DenseNet, SqueezeNet.
        weights: None; the name of published weights ("IMAGENET1K_V2", "DEFAULT"; torchvision downloads them); or the
            path of a state dict of the whole torchvision network, whose classifier is left out.
        in_channels: channels of the images; other than 3 replaces the first convolution and needs weights=None.
        output_stride: 32; or 16 or 8, the coarsest stride: stages that would be coarser are dilated instead (Chen et
            al. 2017) and keep their weights. Not for ConvNeXt, DenseNet and SqueezeNet.

    The levels are c2 to c5 with strides 4 to 32 (at most `output_stride`), each the last feature map of its stage; c5
    is what the classifier would pool. SqueezeNet ends at c4. Levels have ceil(side / stride) cells. Where torchvision
    drops the remainder (ConvNeXt, DenseNet), maps are filled up; SqueezeNet's first convolution and poolings, which
    torchvision does not pad, are padded as those of the others are. `left_out`: the names of what was not taken over
    from the weights, and of what was trimmed.

    Raises:
        ConfigError: a name, an output stride or weights that cannot be.
        CheckpointError: a file that does not fit the network, or a failed download.
    """

    def __init__(
        self, name: str = "resnet50", *, weights: str | None = None, in_channels: int = 3, output_stride: int = 32
    ) -> None:
        super().__init__()
        _check(name, weights, in_channels, output_stride)
        network = _network(name, weights)
        parts = _parts(network)
        if in_channels != 3:
            _replace_first_convolution(parts, in_channels)
        self.stages, self.out_specs = _cut(parts, in_channels)
        for level, spec in self.out_specs.items():
            if spec.stride > output_stride:
                _dilate(self.stages[level], spec.stride // output_stride)
                self.out_specs[level] = FeatureSpec(spec.channels, output_stride)
        self.left_out = [] if weights is None else [key for key in network.state_dict() if key.startswith(_CLASSIFIERS)]
        self.patches = {level: _patch(stage) for level, stage in self.stages.items()}

    @staticmethod
    def statistics(name: str, weights: str) -> dict[str, list[float]]:
        """The "mean" and "std" that published weights expect; nothing for others. EfficientNetV2-L has its own."""
        published = torchvision.models.get_model_weights(name).__members__ if name in NAMES else {}
        if not published or weights not in ("DEFAULT", *published):
            return {}
        transforms = torchvision.models.get_model_weights(name)[weights].transforms()
        return {"mean": list(transforms.mean), "std": list(transforms.std)}

    def trim(self, coarsest: str) -> None:
        """Drop the stages after level `coarsest`, which nothing reads."""
        for name in list(self.stages)[list(self.stages).index(coarsest) + 1 :]:
            self.left_out += [f"stages.{name}.{key}" for key in self.stages[name].state_dict()]
            del self.stages[name], self.out_specs[name]

    def forward(self, images: Tensor) -> Features:
        """(B, in_channels, H, W) -> c2 to c5."""
        features = {}
        x = images
        for name, stage in self.stages.items():
            x = stage(_filled(x, self.patches[name]))
            features[name] = x
        return features


def _check(name: str, weights: str | None, in_channels: int, output_stride: int) -> None:
    if name not in NAMES:
        raise ConfigError(
            f"Torchvision: '{name}' is none of {', '.join(NAMES)}{did_you_mean(name, NAMES)}", code="choice-unknown"
        )
    if in_channels != 3 and weights is not None:
        raise ConfigError(
            f"Torchvision: weights for 3 channels cannot take {in_channels}; use weights=none", code="channels-differ"
        )
    if output_stride not in (8, 16, 32):
        raise ConfigError(f"Torchvision: output_stride={output_stride} must be 8, 16 or 32", code="value-unfit")
    if output_stride != 32 and not name.startswith(DILATABLE):
        families = "ResNet, ResNeXt, Wide ResNet, RegNet, MobileNet, EfficientNet and ShuffleNet"
        raise ConfigError(
            f"Torchvision: {name} cannot be dilated; use output_stride=32, or one of {families}", code="backbone-unfit"
        )


def _network(name: str, weights: str | None) -> Any:
    if weights is None:
        return torchvision.models.get_model(name)
    published = torchvision.models.get_model_weights(name)
    if weights in ("DEFAULT", *published.__members__):
        try:
            return torchvision.models.get_model(name, weights=weights)
        except OSError as error:
            raise CheckpointError(
                f"weights={weights}: the download of {published[weights].url} failed ({error}); "
                "fetch it elsewhere and give its path",
                code="download-failed",
            ) from error
    if not Path(weights).exists() and not Path(weights).suffix:
        names = ("none", "DEFAULT", *published.__members__)
        raise ConfigError(
            f"weights={weights}: neither a file nor published weights of {name} ({', '.join(names)})"
            f"{did_you_mean(weights, names)}",
            code="weights-missing",
        )
    network = torchvision.models.get_model(name)
    load_weights(network, weights, may_miss=_CLASSIFIERS, rename=_todays_name)
    return network


def _todays_name(name: str) -> str:
    """The published files of DenseNet are older than its names: norm.1 is norm1 today."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d\.)", r"\1\2", name)


def _parts(network: Any) -> dict[str, nn.Module]:
    """What comes before the pooling, in order, in parts of one stride each, under torchvision's own names."""
    body = network.features if hasattr(network, "features") else network
    parts = {name: part for name, part in body.named_children() if name not in ("trunk_output", "avgpool", "fc")}
    if isinstance(network, torchvision.models.RegNet):
        parts.update(network.trunk_output.named_children())
    if isinstance(network, torchvision.models.DenseNet):
        parts["relu5"] = nn.ReLU(inplace=True)  # torchvision applies it as a function
    return parts


def _round_up(part: nn.Module) -> None:
    """Make each halving round up; nothing changes where it does already. Patches are left to `_filled`."""
    for module in part.modules():
        if isinstance(module, nn.AvgPool2d):
            module.ceil_mode = True
        elif isinstance(module, nn.MaxPool2d):
            module.ceil_mode, module.padding = False, 1  # all are 3 x 3
        elif isinstance(module, nn.Conv2d) and module.stride[0] > 1 and _patch(module) == 1:
            module.padding = (module.kernel_size[0] // 2, module.kernel_size[1] // 2)


def _patch(stage: nn.Module) -> int:
    """The side of the patches into which a stage first cuts its input (ConvNeXt), 1 where it does not."""
    convolutions = (module for module in stage.modules() if isinstance(module, nn.Conv2d))
    return next((conv.stride[0] for conv in convolutions if conv.kernel_size == conv.stride and conv.stride[0] > 1), 1)


def _filled(x: Tensor, multiple: int) -> Tensor:
    """Zeros right and below, so that both sides are multiples of `multiple`."""
    below, right = (-side % multiple for side in x.shape[-2:])
    return F.pad(x, (0, right, 0, below)) if below or right else x


@torch.no_grad()
def _cut(parts: dict[str, nn.Module], in_channels: int) -> tuple[nn.ModuleDict, dict[str, FeatureSpec]]:
    """Gather the parts of one stride into a stage, and tell its channels and stride: a small image goes through."""
    side = 64
    stages = nn.ModuleDict()
    specs = {}
    x = torch.zeros(1, in_channels, side, side)
    for name, part in parts.items():
        _round_up(part)
        x = part.eval()(x)
        stride = max(4, side // x.shape[-1])
        level = f"c{stride.bit_length() - 1}"
        if level not in stages:
            stages[level] = nn.Sequential()
        stages[level].add_module(name, part.train())
        specs[level] = FeatureSpec(x.shape[1], stride)
    return stages, specs


def _dilate(stage: nn.Module, factor: int) -> None:
    """Keep the stride that the stage would double: convolutions after the strided ones take steps of `factor` cells.

    A strided convolution itself still sees cells `factor / 2` apart, its predecessors' spacing.
    """
    behind = False
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            strided = module.stride[0] > 1
            behind |= strided
            step = factor if behind and not strided else factor // 2
            module.stride = (1, 1)
            if module.kernel_size[0] > 1:
                module.dilation = (step, step)
                module.padding = (step * (module.kernel_size[0] // 2), step * (module.kernel_size[1] // 2))


def _replace_first_convolution(parts: dict[str, nn.Module], in_channels: int) -> None:
    modules = (module for part in parts.values() for module in part.modules())
    convolution = next(module for module in modules if isinstance(module, nn.Conv2d))
    convolution.in_channels = in_channels
    convolution.weight = nn.Parameter(torch.empty(convolution.out_channels, in_channels, *convolution.kernel_size))
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
