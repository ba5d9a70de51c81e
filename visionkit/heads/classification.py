"""Classification: what is it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionkit.blocks import ConvNorm
from visionkit.errors import ConfigError
from visionkit.ops.pooling import masked_mean, valid_cells
from visionkit.predictions import Classification
from visionkit.structures import Decoded, Features, FeatureSpec, Geometry, Targets


class LinearClassification(nn.Module):
    """Mean over the cells that hold image, dropout, one linear layer.

    Args:
        in_specs: the specs of at least `levels`.
        classes: names of the classes.
        levels: the one feature level that it reads.
        channels: of a 1x1 convolution before the mean, so that each cell may say what it sees where an image holds many
            things; None: no such convolution.
        dropout: share of the pooled features set to 0 in training.
        label_smoothing: share of the target given to all classes alike (Szegedy et al. 2016); single-label only.
        multi_label: an image may have several classes: a sigmoid each instead of one softmax.

    Raises:
        ConfigError: a level that is not there, no class, or a share outside 0 to 1.
    """

    needs = frozenset({"class_scores"})
    default_loss_weights: Mapping[str, float] = MappingProxyType({"cross_entropy": 1.0})

    def __init__(
        self,
        in_specs: Mapping[str, FeatureSpec],
        *,
        classes: Sequence[str],
        levels: Sequence[str] = ("c5",),
        channels: int | None = None,
        dropout: float = 0.2,
        label_smoothing: float = 0.0,
        multi_label: bool = False,
    ) -> None:
        super().__init__()
        if len(levels) != 1 or levels[0] not in in_specs:
            said = f"reads one level, not {list(levels)}; there are {', '.join(in_specs)}"
            raise ConfigError(f"LinearClassification {said}")
        if not classes:
            raise ConfigError("LinearClassification: the class list is empty; name classes, or use data that has some")
        for argument, share in (("dropout", dropout), ("label_smoothing", label_smoothing)):
            if not 0 <= share <= 1:
                raise ConfigError(f"LinearClassification: {argument}={share} must be from 0 to 1")
        if channels is not None and channels < 1:
            raise ConfigError(f"LinearClassification: channels={channels} must be at least 1")
        self.levels, self.classes = tuple(levels), tuple(classes)
        self.stride = in_specs[levels[0]].stride
        self.label_smoothing, self.multi_label = label_smoothing, multi_label
        self.dropout = nn.Dropout(dropout)
        entry = in_specs[levels[0]].channels
        self.enter = nn.Identity() if channels is None else ConvNorm(entry, channels)
        self.linear = nn.Linear(entry if channels is None else channels, len(classes))

    def forward(self, features: Features, sizes: Tensor) -> Tensor:
        """(B, C) logits."""
        (level,) = self.levels
        x = self.enter(features[level])
        valid = valid_cells(sizes, (x.shape[-2], x.shape[-1]), self.stride)
        logits: Tensor = self.linear(self.dropout(masked_mean(x, valid)))
        return logits

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        """cross_entropy: per image (multi-label: the mean over its known classes), divided by the images that know."""
        assert targets.class_scores is not None
        logits = self.forward(features, targets.sizes).float()
        known = targets.known["class_scores"]
        wanted = torch.where(known[:, None], targets.class_scores, -1.0)
        if self.multi_label:
            told = wanted >= 0
            values = F.binary_cross_entropy_with_logits(logits, wanted.clamp(min=0), reduction="none")
            loss = torch.where(told, values, 0.0).sum(1) / told.sum(1).clamp(min=1)
        else:
            wanted = wanted.clamp(min=0)
            smoothed = wanted * (1 - self.label_smoothing) + self.label_smoothing / wanted.shape[1]
            loss = F.cross_entropy(logits, smoothed, reduction="none")
        return {"cross_entropy": torch.where(known, loss, 0.0).sum() / targets.total("class_scores")}

    def decode(self, raw: Tensor, sizes: Tensor) -> Decoded:
        """scores (B, C): probabilities."""
        logits = raw.float()
        return {"scores": logits.sigmoid() if self.multi_label else logits.softmax(1)}

    def finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> list[Classification]:
        """One Classification an image; the geometries say only how many."""
        scores = decoded["scores"].cpu().numpy()
        return [Classification(scores[i]) for i in range(len(geometries))]
