"""Feature pyramid network (Lin et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from visionkit.necks.levels import level_number, pyramid_levels
from visionkit.necks.pixels import PIXELS, PixelMap
from visionkit.structures import Features, FeatureSpec


class FPN(nn.Module):
    """Top-down sums of 1x1 laterals, smoothed by 3x3 convolutions; levels past the backbone's by strided convolutions.

    Args:
        in_specs: the backbone's levels.
        out_levels: the levels that heads read, such as ("p3", "p4", "p5"); only these are built.
        channels: of every level but "pixels".
        pixel_channels: of the level "pixels" (see `PixelMap`).

    Raises:
        ConfigError: see `pyramid_levels`.
    """

    def __init__(
        self,
        in_specs: Mapping[str, FeatureSpec],
        *,
        out_levels: Sequence[str],
        channels: int = 256,
        pixel_channels: int = 128,
    ) -> None:
        super().__init__()
        read, coarsest = pyramid_levels("FPN", in_specs, out_levels)
        self.laterals = nn.ModuleDict(
            {f"c{level}": nn.Conv2d(in_specs[f"c{level}"].channels, channels, 1) for level in read}
        )
        self.smooth = nn.ModuleDict(
            {f"p{level}": nn.Conv2d(channels, channels, 3, padding=1) for level in read if f"p{level}" in out_levels}
        )
        self.extra = nn.ModuleDict(
            {f"p{level}": nn.Conv2d(channels, channels, 3, 2, 1) for level in range(read[-1] + 1, coarsest + 1)}
        )
        finest_stride = in_specs[f"c{read[0]}"].stride
        self.out_specs = {
            name: FeatureSpec(channels, finest_stride * 2 ** (level_number(name) - read[0]))
            for name in sorted(set(out_levels) - {PIXELS}, key=level_number)
        }
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        if PIXELS in out_levels:
            self.pixels = PixelMap(in_specs, finest=read[0], pyramid_channels=channels, channels=pixel_channels)
            self.out_specs = {PIXELS: self.pixels.spec, **self.out_specs}

    def forward(self, features: Features) -> Features:
        """The levels of `out_specs`, each (B, channels, H / stride, W / stride)."""
        merged: dict[str, Tensor] = {}
        above: Tensor | None = None
        for name in reversed(list(self.laterals)):
            x = self.laterals[name](features[name])
            above = x if above is None else x + F.interpolate(above, size=x.shape[-2:], mode="nearest")
            merged["p" + name[1:]] = above
        levels = {name: conv(merged[name]) for name, conv in self.smooth.items()}
        x = next(iter(merged.values()))
        for name, conv in self.extra.items():
            x = levels[name] = conv(F.relu(x))
        if PIXELS in self.out_specs:
            maps = list(merged.values())  # coarsest first
            levels[PIXELS] = self.pixels(maps[-1], maps[0], features)
        return {name: levels[name] for name in self.out_specs}
