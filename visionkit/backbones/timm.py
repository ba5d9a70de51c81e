"""timm's convolutional networks as backbones (extra `timm`)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionkit.backbones.weights import load_weights
from visionkit.errors import CheckpointError, ConfigError, did_you_mean, listed
from visionkit.structures import Features, FeatureSpec

if TYPE_CHECKING:
    from types import ModuleType


class Timm(nn.Module):
    """A convolutional network of timm that gives feature maps (`features_only`), without its classifier.

    Args:
        name: as timm knows it, such as "resnet18" or "convnext_tiny.fb_in1k".
        weights: None; "DEFAULT", the published weights of that name, which timm downloads; or the path of a state dict
            of the whole timm network, whose classifier is left out. Some files expect another mean and std than
            ImageNet's.
        in_channels: channels of the images; other than 3 needs weights=None.

    A level is named by its stride: c1 for 2, c2 for 4 … c5 for 32. Levels have ceil(side / stride) cells: images are
    filled up with zeros to a multiple of the coarsest stride, and what lies beyond is cut off again. `left_out`: the
    names of what was not taken over from the weights, and of what was trimmed.

    Raises:
        ConfigError: timm is not installed, does not know the network, or gives no feature maps of it.
        CheckpointError: a file that does not fit the network, or a failed download.
    """

    def __init__(self, name: str, *, weights: str | None = None, in_channels: int = 3) -> None:
        super().__init__()
        timm = _timm()
        known = timm.list_models()
        if name.partition(".")[0] not in known:
            raise ConfigError(
                f"Timm: timm {timm.__version__} knows no network '{name}'{did_you_mean(name, known)}",
                code="choice-unknown",
            )
        if in_channels != 3 and weights is not None:
            raise ConfigError(
                f"Timm: weights for 3 channels cannot take {in_channels}; use weights=none", code="channels-differ"
            )
        self.name, self.in_channels = name, in_channels
        self.network = _network(name, weights, in_chans=in_channels)
        self.left_out = [] if weights is None else [f"{prefix}.*" for prefix in _classifiers(self.network)]
        self.out_specs = _specs(self.network, name, in_channels)

    @staticmethod
    def statistics(name: str, weights: str) -> dict[str, list[float]]:
        """The "mean" and "std" that the published weights expect; nothing for others."""
        published = _timm().get_pretrained_cfg(name) if weights == "DEFAULT" else None
        return {} if published is None else {"mean": list(published.mean), "std": list(published.std)}

    def trim(self, coarsest: str) -> None:
        """Drop what comes after level `coarsest`, which nothing reads; freeze what timm keeps of it all the same."""
        kept = list(self.out_specs)[: list(self.out_specs).index(coarsest) + 1]
        indices = self.network.feature_info.out_indices[: len(kept)]
        network = _network(self.name, None, in_chans=self.in_channels, out_indices=tuple(indices))
        state = self.network.state_dict()
        network.load_state_dict({name: state[name] for name in network.state_dict()})
        self.left_out += [f"network.{name}" for name in state if name not in network.state_dict()]
        self.network, self.out_specs = network, {level: self.out_specs[level] for level in kept}
        _freeze_unread(network, self.in_channels, 2 * self.out_specs[coarsest].stride)

    def forward(self, images: Tensor) -> Features:
        """(B, in_channels, H, W) -> the levels of `out_specs`."""
        height, width = images.shape[-2:]
        coarsest = max(spec.stride for spec in self.out_specs.values())
        filled = F.pad(images, (0, -width % coarsest, 0, -height % coarsest))
        maps = zip(self.out_specs.items(), self.network(filled), strict=True)
        return {level: x[..., : -(-height // spec.stride), : -(-width // spec.stride)] for (level, spec), x in maps}


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            "Timm: timm is not installed; pip install 'visionkit[timm]'", code="package-missing"
        ) from error
    return timm


def _network(name: str, weights: str | None, **options: Any) -> Any:
    if weights not in (None, "DEFAULT"):
        whole = _created(name)
        load_weights(whole, weights, may_miss=tuple(f"{prefix}." for prefix in _classifiers(whole)))
        options["pretrained_cfg_overlay"] = {"state_dict": whole.state_dict(), "custom_load": False}
    return _created(name, pretrained=weights is not None, features_only=True, **options)


def _classifiers(network: Any) -> tuple[str, ...]:
    """How the names of the tensors of its classifier begin, which no backbone has."""
    told = network.pretrained_cfg.get("classifier") or ()
    return (told,) if isinstance(told, str) else tuple(told)


def _created(name: str, **options: Any) -> Any:
    try:
        return _timm().create_model(name, **options)
    except OSError as error:
        raise CheckpointError(
            f"weights=DEFAULT: the download of timm's {name} failed ({error}); fetch it elsewhere and give its path",
            code="download-failed",
        ) from error
    except (RuntimeError, AssertionError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"Timm: timm gives no feature maps of {name} ({error})", code="backbone-unfit") from error


@torch.no_grad()
def _specs(network: Any, name: str, in_channels: int) -> dict[str, FeatureSpec]:
    """What timm says of its levels, when a small image that goes through shows the same."""
    channels, strides = network.feature_info.channels(), network.feature_info.reduction()
    side = 2 * max(strides)
    wanted = [(1, count, side // stride, side // stride) for count, stride in zip(channels, strides, strict=True)]
    try:
        found: Any = [tuple(x.shape) for x in network.eval()(torch.zeros(1, in_channels, side, side))]
    except (RuntimeError, AssertionError, ValueError) as error:
        found = error
    network.train()
    doubles = all(coarser == 2 * finer for finer, coarser in pairwise(strides))
    if found != wanted or not doubles or strides[0].bit_count() != 1:
        said = f"strides {listed(strides)}, and of {side} x {side} pixels {found}"
        raise ConfigError(
            f"Timm: {name} has no maps whose strides double and divide the image ({said}); use another",
            code="backbone-unfit",
        )
    return {
        f"c{stride.bit_length() - 1}": FeatureSpec(count, stride)
        for count, stride in zip(channels, strides, strict=True)
    }


def _freeze_unread(network: nn.Module, in_channels: int, side: int) -> None:
    parameters = list(network.parameters())
    with torch.enable_grad():
        maps = network.eval()(torch.zeros(1, in_channels, side, side))
        gradients = torch.autograd.grad([x.sum() for x in maps], parameters, allow_unused=True)
    network.train()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
