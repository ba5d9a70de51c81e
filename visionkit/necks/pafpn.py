"""Path-aggregation feature pyramid (Liu et al. 2018) of CSP blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionkit.blocks import ConvNorm, CSPBlock, rounded
from visionkit.necks.levels import level_number, pyramid_levels
from visionkit.necks.pixels import PIXELS, PixelMap
from visionkit.structures import Features, FeatureSpec


class PAFPN(nn.Module):
    """A top-down path and a bottom-up path after it, merged by concatenation and CSP blocks.

    Args:
        in_specs: the backbone's levels.
        out_levels: the levels that heads read; only what these need is built.
        channels: of every level but "pixels", before `width`.
        depth: bottlenecks in each CSP block.
        width: factor on the channels.
        pixel_channels: of the level "pixels" (see `PixelMap`), before `width`.

    Raises:
        ConfigError: see `pyramid_levels`.
    """

    def __init__(
        self,
        in_specs: Mapping[str, FeatureSpec],
        *,
        out_levels: Sequence[str],
        channels: int = 96,
        depth: int = 1,
        width: float = 1.0,
        pixel_channels: int = 96,
    ) -> None:
        super().__init__()
        read, coarsest = pyramid_levels("PAFPN", in_specs, out_levels)
        channels = rounded(channels * width)
        self.laterals = nn.ModuleDict(
            {f"c{level}": ConvNorm(in_specs[f"c{level}"].channels, channels) for level in read}
        )
        self.down_path = nn.ModuleDict(
            {f"p{level}": CSPBlock(2 * channels, channels, depth, residual=False) for level in reversed(read[:-1])}
        )
        upward = range(read[0] + 1, coarsest + 1)
        self.strided = nn.ModuleDict({f"p{level}": ConvNorm(channels, channels, 3, 2) for level in upward})
        self.up_path = nn.ModuleDict(
            {
                f"p{level}": CSPBlock(2 * channels, channels, depth, residual=False)
                for level in upward
                if level <= read[-1]
            }
        )
        finest_stride = in_specs[f"c{read[0]}"].stride
        self.out_specs = {
            name: FeatureSpec(channels, finest_stride * 2 ** (level_number(name) - read[0]))
            for name in sorted(set(out_levels) - {PIXELS}, key=level_number)
        }
        if PIXELS in out_levels:
            self.pixels = PixelMap(
                in_specs, finest=read[0], pyramid_channels=channels, channels=rounded(pixel_channels * width)
            )
            self.out_specs = {PIXELS: self.pixels.spec, **self.out_specs}

    def forward(self, features: Features) -> Features:
        """The levels of `out_specs`, each (B, channels, H / stride, W / stride)."""
        levels: dict[str, Tensor] = {"p" + name[1:]: conv(features[name]) for name, conv in self.laterals.items()}
        for name, block in self.down_path.items():
            above = levels[f"p{level_number(name) + 1}"]
            x = F.interpolate(above, size=levels[name].shape[-2:], mode="nearest")
            levels[name] = block(torch.cat([x, levels[name]], 1))
        if PIXELS in self.out_specs:
            maps = [levels["p" + name[1:]] for name in self.laterals]  # finest first
            levels[PIXELS] = self.pixels(maps[0], maps[-1], features)
        for name, strided in self.strided.items():
            x = strided(levels[f"p{level_number(name) - 1}"])
            levels[name] = self.up_path[name](torch.cat([x, levels[name]], 1)) if name in self.up_path else x
        return {name: levels[name] for name in self.out_specs}
