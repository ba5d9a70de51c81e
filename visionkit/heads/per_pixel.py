"""What the heads that classify every pixel share: the checks of their arguments, their losses, and their maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from visionkit.errors import ConfigError
from visionkit.ops.resample import original_classes
from visionkit.ops.segmentation_losses import segmentation_losses
from visionkit.predictions import SemanticMap
from visionkit.structures import IGNORE_INDEX, Features, FeatureSpec, Geometry, Targets


def check_arguments(
    head: str,
    in_specs: Mapping[str, FeatureSpec],
    *,
    classes: Sequence[str],
    levels: Sequence[str],
    wanted: Sequence[str],
    dropout: float,
) -> None:
    """Refuse levels that are not there or not as many as `wanted` (what each is for), and wrong classes or dropout.

    Raises:
        ConfigError: naming the head, the argument and what is possible.
    """
    missing = [level for level in levels if level not in in_specs]
    if missing:
        raise ConfigError(f"{head} reads {', '.join(levels)}, but there are only {', '.join(in_specs)}")
    if not classes:
        raise ConfigError(f"{head}: the class list is empty; name the classes, or use data that has semantic maps")
    if len(classes) > IGNORE_INDEX:
        raise ConfigError(f"{head}: {len(classes)} classes, but a map's values hold {IGNORE_INDEX}; merge some")
    if len(levels) != len(wanted):
        raise ConfigError(f"{head}: levels={list(levels)}: one level each is wanted for {', '.join(wanted)}")
    if not 0 <= dropout < 1:
        raise ConfigError(f"{head}: dropout={dropout} must be at least 0 and below 1")


class PixelLoss(nn.Module):
    """Cross-entropy and soft dice of every labelled pixel, and of an auxiliary branch that is there for training only.

    Args:
        head: the head's name, for messages.
        in_specs: the specs of at least `auxiliary`.
        classes: how many.
        hardest: share of each image's labelled pixels, those with the highest loss, whose cross-entropy counts.
        class_weights: a factor on the cross-entropy of each class's pixels; None: 1. The sum is divided by the number
            of labelled pixels whatever the factors are, so factors of mean 1 keep its scale.
        auxiliary: the level on which a branch of its own (see `fully_convolutional`) learns the same labels, by
            cross-entropy, for the backbone's sake (Zhao et al. 2017); None: no such branch.

    Attributes:
        levels: `auxiliary`, if any; the head must read them, too.
        weights: the losses' default weights, by name.

    Raises:
        ConfigError: a value cannot be.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        head: str,
        in_specs: Mapping[str, FeatureSpec],
        *,
        classes: int,
        hardest: float,
        class_weights: Sequence[float] | None,
        auxiliary: str | None,
    ) -> None:
        super().__init__()
        if not 0 < hardest <= 1:
            raise ConfigError(f"{head}: hardest={hardest}: a share above 0 and at most 1 is wanted")
        if class_weights is not None and (len(class_weights) != classes or min(class_weights) < 0):
            raise ConfigError(
                f"{head}: class_weights={list(class_weights)}: {classes} factors of at least 0 are wanted, a class each"
            )
        if auxiliary is not None and auxiliary not in in_specs:
            raise ConfigError(f"{head}: auxiliary={auxiliary}: there are only the levels {', '.join(in_specs)}")
        self.hardest = hardest
        self.levels = () if auxiliary is None else (auxiliary,)
        self.weights = {"cross_entropy": 1.0, "dice": 1.0}
        values = None if class_weights is None else torch.tensor([float(value) for value in class_weights])
        self.register_buffer("class_weights", values, persistent=False)
        if auxiliary is not None:
            self.weights["auxiliary"] = 0.4
            self.auxiliary_stride = in_specs[auxiliary].stride
            self.auxiliary = fully_convolutional(in_specs[auxiliary].channels, classes, dropout=0.1)

    def forward(self, logits: Tensor, stride: int, features: Features, targets: Targets) -> dict[str, Tensor]:
        """The named losses of (B, C, h, w) logits of this stride, divided by the number of labelled pixels."""
        assert targets.semantic is not None
        known = targets.known["semantic"][:, None, None]
        labels = torch.where(known, targets.semantic, IGNORE_INDEX)
        total = targets.total("semantic")
        cross_entropy, dice = segmentation_losses(
            logits, labels, stride=stride, class_weights=self.class_weights, hardest=self.hardest
        )
        losses = {"cross_entropy": cross_entropy.sum() / total, "dice": dice.sum() / total}
        for level in self.levels:
            cross_entropy, _ = segmentation_losses(
                self.auxiliary(features[level]), labels, stride=self.auxiliary_stride, class_weights=self.class_weights
            )
            losses["auxiliary"] = cross_entropy.sum() / total
        return losses


def fully_convolutional(in_channels: int, classes: int, *, dropout: float) -> nn.Sequential:
    """3x3 convolution to a quarter of the channels, BatchNorm, ReLU, dropout, 1x1 convolution to the classes."""
    inner = max(1, in_channels // 4)
    return nn.Sequential(
        nn.Conv2d(in_channels, inner, 3, padding=1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(inner, classes, 1),
    )


def semantic_maps(
    logits: Tensor, geometries: Sequence[Geometry], stride: int, *, keep_scores: bool
) -> list[SemanticMap]:
    """(B, C, h, w) logits -> a map an image, in original pixels; see `original_classes`."""
    return [
        SemanticMap(*original_classes(logits[i], geometry, stride, keep_scores=keep_scores))
        for i, geometry in enumerate(geometries)
    ]
