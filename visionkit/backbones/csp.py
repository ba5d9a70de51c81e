"""CSP: our own small, fast convolutional backbone, made to train well from scratch."""

from __future__ import annotations

from itertools import islice

from torch import Tensor, nn

from visionkit.backbones.weights import load_weights
from visionkit.blocks import ConvNorm, CSPBlock, PyramidPooling, rounded
from visionkit.errors import ConfigError, did_you_mean
from visionkit.structures import Features, FeatureSpec

_SIZES = {
    "nano": ((16, 32, 64, 128, 256), (1, 2, 2, 1)),
    "small": ((32, 64, 128, 256, 512), (1, 2, 2, 1)),
    "medium": ((48, 96, 192, 384, 576), (2, 4, 4, 2)),
    "large": ((64, 128, 256, 512, 512), (3, 6, 6, 3)),
}


class CSP(nn.Module):
    """Strided 3x3 convolutions with a CSP block after each, pyramid pooling on the coarsest level.

    Args:
        size: nano, small, medium or large.
        width: factor on every number of channels, rounded to a multiple of 8.
        in_channels: channels of the images.
        drop_path: share of the samples, from 0 to below 1, that in training pass by the last bottleneck; it rises
            linearly from 0 at the first (stochastic depth, Huang et al. 2016).
        weights: None, or the path of a state dict of this very network.

    `left_out`: the names of what was trimmed.
    """

    def __init__(
        self,
        size: str = "nano",
        *,
        width: float = 1.0,
        in_channels: int = 3,
        drop_path: float = 0.0,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if size not in _SIZES:
            raise ConfigError(
                f"CSP: size '{size}' is none of {', '.join(_SIZES)}{did_you_mean(size, _SIZES)}", code="choice-unknown"
            )
        if not 0 <= drop_path < 1:
            raise ConfigError(
                f"CSP: drop_path {drop_path} is no share; give one from 0 to below 1, such as 0.1", code="value-unfit"
            )
        channels, depths = _SIZES[size]
        blocks = sum(depths)
        shares = iter([drop_path * number / (blocks - 1) for number in range(blocks)])
        stem, *widths = (rounded(value * width) for value in channels)
        self.stem = ConvNorm(in_channels, stem, 3, 2)
        stages = []
        previous = stem
        for out_channels, depth in zip(widths, depths, strict=True):
            mine = tuple(islice(shares, depth))
            block = CSPBlock(out_channels, out_channels, depth, drop_path=mine)
            stages.append(nn.Sequential(ConvNorm(previous, out_channels, 3, 2), block))
            previous = out_channels
        stages[-1].append(PyramidPooling(previous))
        self.stages = nn.ModuleDict({f"c{level}": stage for level, stage in enumerate(stages, 2)})
        self.left_out: list[str] = []
        self.out_specs = {
            f"c{level}": FeatureSpec(out_channels, 2**level) for level, out_channels in enumerate(widths, 2)
        }
        if weights is not None:
            load_weights(self, weights)

    def trim(self, coarsest: str) -> None:
        """Drop the stages after level `coarsest`, which nothing reads."""
        for name in list(self.stages)[list(self.stages).index(coarsest) + 1 :]:
            self.left_out += [f"stages.{name}.{key}" for key in self.stages[name].state_dict()]
            del self.stages[name], self.out_specs[name]

    def forward(self, images: Tensor) -> Features:
        """(B, in_channels, H, W) -> c2 to c5."""
        features = {}
        x = self.stem(images)
        for name, stage in self.stages.items():
            x = stage(x)
            features[name] = x
        return features
