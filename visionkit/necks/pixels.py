"""The level "pixels": one fine feature map that all per-pixel heads share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionkit.blocks import ConvNorm
from visionkit.structures import Features, FeatureSpec

PIXELS = "pixels"


class PixelMap(nn.Module):
    """The finest pyramid level, told of the whole image, merged with the backbone's level of half its stride.

    The mean of the coarsest level is added everywhere (the context of ParseNet, Liu et al. 2015), since the class of a
    pixel hangs on what the scene is. Without a finer backbone level the map has the stride of the pyramid's finest.

    Args:
        in_specs: the backbone's levels.
        finest: the number of the finest pyramid level that is there.
        pyramid_channels: of every pyramid level.
        channels: of the map.
    """

    def __init__(
        self, in_specs: Mapping[str, FeatureSpec], *, finest: int, pyramid_channels: int, channels: int
    ) -> None:
        super().__init__()
        stride = in_specs[f"c{finest}"].stride
        finer = in_specs.get(f"c{finest - 1}")
        self.lateral_name = f"c{finest - 1}" if finer is not None and 2 * finer.stride == stride else None
        self.context = nn.Conv2d(pyramid_channels, pyramid_channels, 1)
        self.enter = ConvNorm(pyramid_channels, channels)
        entering = channels
        if self.lateral_name is not None and finer is not None:
            self.lateral = ConvNorm(finer.channels, channels)
            entering, stride = 2 * channels, finer.stride
        self.merge = nn.Sequential(ConvNorm(entering, channels, 3), ConvNorm(channels, channels, 3))
        self.spec = FeatureSpec(channels, stride)

    def forward(self, finest: Tensor, coarsest: Tensor, features: Features) -> Tensor:
        """(B, P, h, w), (B, P, h', w') pyramid levels, and the backbone's -> (B, channels, H / stride, W / stride)."""
        x: Tensor = self.enter(finest + self.context(coarsest.mean((-2, -1), keepdim=True)))
        if self.lateral_name is not None:
            finer = features[self.lateral_name]
            x = F.interpolate(x, size=finer.shape[-2:], mode="nearest")
            x = torch.cat([x, self.lateral(finer)], 1)
        merged: Tensor = self.merge(x)
        return merged
