"""The convolutional building blocks that our own backbone, necks and heads share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConvNorm(nn.Sequential):
    """Convolution without bias, BatchNorm, SiLU; padded so that stride 1 keeps the size."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels, eps=1e-3),
            nn.SiLU(),
        )


class Bottleneck(nn.Module):
    """Two 3x3 convolutions around which the input is added.

    drop_path: share of the samples that, in training, pass around the convolutions alone (`drop_path`).
    """

    def __init__(self, channels: int, *, residual: bool = True, drop_path: float = 0.0) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNorm(channels, channels, 3), ConvNorm(channels, channels, 3))
        self.residual = residual
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        y: Tensor = self.convs(x)
        if not self.residual:
            return y
        return x + (drop_path(y, self.drop_path) if self.training else y)


class CSPBlock(nn.Module):
    """Cross-stage partial block: half of the channels run through `depth` bottlenecks, every stage is kept and merged.

    After CSPNet (Wang et al. 2020) and ELAN (Wang et al. 2022). drop_path: of each bottleneck; empty: none drops.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int = 1,
        *,
        residual: bool = True,
        drop_path: Sequence[float] = (),
    ) -> None:
        super().__init__()
        half = out_channels // 2
        shares = drop_path or (0.0,) * depth
        self.enter = ConvNorm(in_channels, 2 * half)
        self.stages = nn.ModuleList(
            Bottleneck(half, residual=residual, drop_path=share) for _, share in zip(range(depth), shares, strict=True)
        )
        self.leave = ConvNorm((2 + depth) * half, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        parts = list(self.enter(x).chunk(2, 1))
        for stage in self.stages:
            parts.append(stage(parts[-1]))
        merged: Tensor = self.leave(torch.cat(parts, 1))
        return merged


class PyramidPooling(nn.Module):
    """Three chained 5x5 max poolings, seeing 5, 9 and 13 cells wide (SPPF, after He et al. 2015)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter = ConvNorm(channels, half)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.leave = ConvNorm(4 * half, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        merged: Tensor = self.leave(torch.cat(parts, 1))
        return merged


def drop_path(branch: Tensor, share: float) -> Tensor:
    """Set a residual branch of (B, …) to 0 for a random `share` of the samples, the others divided by 1 − share.

    The mean stays what it is. Stochastic depth (Huang et al. 2016), from torch's generator; share 0 draws nothing.
    """
    if share == 0:
        return branch
    kept = branch.new_empty(branch.shape[0], *[1] * (branch.ndim - 1)).bernoulli_(1 - share)
    return branch * (kept / (1 - share))


def rounded(channels: float, multiple: int = 8) -> int:
    """The nearest multiple of `multiple`, at least one."""
    return max(multiple, int(channels / multiple + 0.5) * multiple)
