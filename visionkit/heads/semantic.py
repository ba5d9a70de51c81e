"""Semantic segmentation on the map that all per-pixel heads share: which class is each pixel?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from visionkit.blocks import ConvNorm, rounded
from visionkit.errors import ConfigError
from visionkit.finishing import Finishing, start_semantic_maps
from visionkit.heads.per_pixel import PixelLoss, check_arguments
from visionkit.predictions import SemanticMap
from visionkit.structures import Decoded, Features, FeatureSpec, Geometry, Targets


class SemanticSegmentation(nn.Module):
    """3x3 convolutions, dropout and one 1x1 convolution on one level.

    Args:
        in_specs: the specs of at least `levels` and `auxiliary`.
        classes: names of the classes, at most 255.
        levels: the one feature level that it reads.
        depth: 3x3 convolutions.
        channels: of these, before `width`; None: those of the level.
        width: factor on `channels`.
        dropout: share of channels set to 0 in training, before the last convolution.
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
        levels: Sequence[str] = ("pixels",),
        depth: int = 2,
        channels: int | None = None,
        width: float = 1.0,
        dropout: float = 0.1,
        hardest: float = 1.0,
        class_weights: Sequence[float] | Mapping[str, float] | None = None,
        every: int = 1,
        auxiliary: str | None = None,
        keep_scores: bool = False,
    ) -> None:
        super().__init__()
        name = "SemanticSegmentation"
        check_arguments(name, in_specs, classes=classes, levels=levels, wanted=["pixels"], dropout=dropout)
        if depth < 0:
            raise ConfigError(f"{name}: depth={depth} must be at least 0", code="value-unfit")
        self.classes, self.keep_scores = tuple(classes), keep_scores
        self.level, self.stride = levels[0], in_specs[levels[0]].stride
        self.criterion = PixelLoss(
            name,
            in_specs,
            classes=classes,
            hardest=hardest,
            class_weights=class_weights,
            every=every,
            auxiliary=auxiliary,
        )
        self.levels = (self.level, *self.criterion.levels)
        self.default_loss_weights: Mapping[str, float] = self.criterion.weights
        entry = in_specs[self.level].channels
        inner = entry if channels is None or depth == 0 else rounded(channels * width)
        self.tower = nn.Sequential(*(ConvNorm(entry if i == 0 else inner, inner, 3) for i in range(depth)))
        self.dropout = nn.Dropout2d(dropout)
        self.score = nn.Conv2d(inner, len(classes), 1)

    def forward(self, features: Features, sizes: Tensor) -> Tensor:
        """(B, C, h, w) logits at the level's stride."""
        logits: Tensor = self.score(self.dropout(self.tower(features[self.level])))
        return logits

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        """cross_entropy and dice, and auxiliary where there is one; see `PixelLoss`."""
        losses: dict[str, Tensor] = self.criterion(
            self.forward(features, targets.sizes), self.stride, features, targets
        )
        return losses

    def decode(self, raw: Tensor, sizes: Tensor) -> Decoded:
        """logits (B, C, h, w) at the level's stride, without the factors of `class_weights`."""
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
