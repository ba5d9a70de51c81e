"""The fully convolutional network's head (Long et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from visionkit.finishing import Finishing, start_semantic_maps
from visionkit.heads.per_pixel import PixelLoss, check_arguments, fully_convolutional
from visionkit.predictions import SemanticMap
from visionkit.structures import Decoded, Features, FeatureSpec, Geometry, Targets


class FCN(nn.Module):
    """Two convolutions on the coarsest level, laid out as torchvision's FCN; made for a dilated backbone.

    Args:
        in_specs: the specs of at least `levels` and `auxiliary`.
        classes: names of the classes, at most 255.
        levels: the one feature level that it reads.
        dropout: share of values set to 0 in training, before the last convolution.
        hardest, class_weights, every, auxiliary: see `PixelLoss`; torchvision's has auxiliary="c4".
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
        levels: Sequence[str] = ("c5",),
        dropout: float = 0.1,
        hardest: float = 1.0,
        class_weights: Sequence[float] | Mapping[str, float] | None = None,
        every: int = 1,
        auxiliary: str | None = None,
        keep_scores: bool = False,
    ) -> None:
        super().__init__()
        check_arguments("FCN", in_specs, classes=classes, levels=levels, wanted=["pixels"], dropout=dropout)
        self.classes, self.keep_scores = tuple(classes), keep_scores
        self.level, self.stride = levels[0], in_specs[levels[0]].stride
        self.criterion = PixelLoss(
            "FCN",
            in_specs,
            classes=classes,
            hardest=hardest,
            class_weights=class_weights,
            every=every,
            auxiliary=auxiliary,
        )
        self.levels = (self.level, *self.criterion.levels)
        self.default_loss_weights: Mapping[str, float] = self.criterion.weights
        self.layers = fully_convolutional(in_specs[self.level].channels, len(classes), dropout=dropout)

    def forward(self, features: Features, sizes: Tensor) -> Tensor:
        """(B, C, h, w) logits at the level's stride."""
        logits: Tensor = self.layers(features[self.level])
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
