"""DeepLabv3+ (Chen et al. 2018): dilated convolutions of several rates on the coarsest level, refined on a fine one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionkit.errors import ConfigError
from visionkit.finishing import Finishing, start_semantic_maps
from visionkit.heads.per_pixel import PixelLoss, check_arguments
from visionkit.predictions import SemanticMap
from visionkit.structures import Decoded, Features, FeatureSpec, Geometry, Targets

_LOW_CHANNELS = 48


class DeepLabV3Plus(nn.Module):
    """Atrous spatial pyramid pooling on the coarse level, joined with the fine level by two 3x3 convolutions.

    Args:
        in_specs: the specs of at least `levels` and `auxiliary`.
        classes: names of the classes, at most 255.
        levels: the fine level and the coarse one.
        channels: of the pyramid pooling and the convolutions after it.
        rates: the dilations, in cells of the coarse level; None: 12, 24, 36 at a stride of 8 or less, else 6, 12, 18.
        dropout: share of values set to 0 in training, before the last convolution.
        hardest, class_weights, every, auxiliary: see `PixelLoss`.
        keep_scores: give predictions their classes' probabilities, which take 2 * C bytes a pixel.

    Raises:
        ConfigError: a level that is not there, no class or too many, or a number out of its range.
    """

    needs = frozenset({"semantic"})

    def __init__(
        self,
        in_specs: Mapping[str, FeatureSpec],
        *,
        classes: Sequence[str],
        levels: Sequence[str] = ("c2", "c5"),
        channels: int = 256,
        rates: Sequence[int] | None = None,
        dropout: float = 0.1,
        hardest: float = 1.0,
        class_weights: Sequence[float] | Mapping[str, float] | None = None,
        every: int = 1,
        auxiliary: str | None = None,
        keep_scores: bool = False,
    ) -> None:
        super().__init__()
        name = "DeepLabV3Plus"
        wanted = ["what is fine", "what is coarse"]
        check_arguments(name, in_specs, classes=classes, levels=levels, wanted=wanted, dropout=dropout)
        if channels < 1 or (rates is not None and min(rates, default=0) < 1):
            raise ConfigError(
                f"{name}: channels={channels}, rates={rates}: numbers of at least 1 are wanted", code="value-unfit"
            )
        self.classes, self.keep_scores = tuple(classes), keep_scores
        self.fine, self.coarse = levels
        self.stride = in_specs[self.fine].stride
        self.criterion = PixelLoss(
            name,
            in_specs,
            classes=classes,
            hardest=hardest,
            class_weights=class_weights,
            every=every,
            auxiliary=auxiliary,
        )
        self.levels = (self.fine, self.coarse, *self.criterion.levels)
        self.default_loss_weights: Mapping[str, float] = self.criterion.weights
        if rates is None:
            rates = (12, 24, 36) if in_specs[self.coarse].stride <= 8 else (6, 12, 18)
        self.pooling = AtrousPyramidPooling(in_specs[self.coarse].channels, channels, rates)
        self.low = _conv(in_specs[self.fine].channels, _LOW_CHANNELS, 1)
        self.refine = nn.Sequential(_conv(channels + _LOW_CHANNELS, channels, 3), _conv(channels, channels, 3))
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Conv2d(channels, len(classes), 1)

    def forward(self, features: Features, sizes: Tensor) -> Tensor:
        """(B, C, h, w) logits at the fine level's stride."""
        low = self.low(features[self.fine])
        high = self.pooling(features[self.coarse])
        high = F.interpolate(high, size=low.shape[-2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.score(self.dropout(self.refine(torch.cat([high, low], 1))))
        return logits

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        """cross_entropy and dice, and auxiliary where there is one; see `PixelLoss`."""
        losses: dict[str, Tensor] = self.criterion(
            self.forward(features, targets.sizes), self.stride, features, targets
        )
        return losses

    def decode(self, raw: Tensor, sizes: Tensor) -> Decoded:
        """logits (B, C, h, w) at the fine level's stride, without the factors of `class_weights`."""
        return {"logits": self.criterion.corrected(raw)}

    def finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> list[SemanticMap]:
        """One SemanticMap an image, resampled once."""
        return self.start_finish(decoded, geometries)()

    @property
    def finishing(self) -> Finishing:
        """See `Head`."""
        return Finishing("semantic", stride=self.stride, keep_scores=self.keep_scores)

    def start_finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> Callable[[], list[SemanticMap]]:
        """See `Head`."""
        return start_semantic_maps(decoded["logits"], geometries, self.stride, keep_scores=self.keep_scores)


class AtrousPyramidPooling(nn.Module):
    """A 1x1 convolution, dilated 3x3 ones and the mean of the whole map side by side, merged by a 1x1 convolution.

    Laid out as torchvision's `ASPP` (Chen et al. 2017), whose state it takes.
    """

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        branches: list[nn.Module] = [_conv(in_channels, channels, 1)]
        branches += [_conv(in_channels, channels, 3, rate) for rate in rates]
        self.convs = nn.ModuleList([*branches, _WholeMap(in_channels, channels)])
        self.project = nn.Sequential(*_conv(len(self.convs) * channels, channels, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, channels, h, w)."""
        merged: Tensor = self.project(torch.cat([conv(x) for conv in self.convs], 1))
        return merged


class _WholeMap(nn.Sequential):
    """The mean of the map, a 1x1 convolution, BatchNorm and ReLU, spread over the map again."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *_conv(in_channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        pool, conv, norm, activation = self
        assert isinstance(norm, nn.BatchNorm2d)
        y: Tensor = conv(pool(x))
        if self.training and len(y) == 1:
            # A single value a channel has no variance; the running statistics stand in.
            y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        else:
            y = norm(y)
        y = activation(y)
        return y.expand(-1, -1, *x.shape[-2:])


def _conv(in_channels: int, out_channels: int, kernel: int, rate: int = 1) -> nn.Sequential:
    padding = rate * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=rate, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
