"""What the heads that classify every pixel share: the checks of their arguments, and their losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from visionkit.errors import ConfigError, did_you_mean, listed
from visionkit.ops.segmentation_losses import segmentation_losses
from visionkit.structures import IGNORE_INDEX, Features, FeatureSpec, Targets


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
        raise ConfigError(
            f"{head} reads {', '.join(levels)}, but there are only {', '.join(in_specs)}", code="levels-unfit"
        )
    if not classes:
        raise ConfigError(
            f"{head}: the class list is empty; name the classes, or use data that has semantic maps",
            code="classes-missing",
        )
    if len(classes) > IGNORE_INDEX:
        raise ConfigError(
            f"{head}: {len(classes)} classes, but a map's values hold {IGNORE_INDEX}; merge some", code="value-unfit"
        )
    if len(levels) != len(wanted):
        raise ConfigError(
            f"{head}: levels={list(levels)}: one level each is wanted for {', '.join(wanted)}", code="levels-unfit"
        )
    if not 0 <= dropout < 1:
        raise ConfigError(f"{head}: dropout={dropout} must be at least 0 and below 1", code="value-unfit")


class PixelLoss(nn.Module):
    """Cross-entropy and soft dice of every labelled pixel, and of an auxiliary branch that is there for training only.

    Args:
        head: the head's name, for messages.
        in_specs: the specs of at least `auxiliary`.
        classes: names of the classes.
        hardest: share of each image's labelled pixels, those with the highest loss, whose cross-entropy counts.
        class_weights: a factor above 0 on the cross-entropy of each class's pixels, by name or for all classes in their
            order; 1 where none is given. The sum is divided by the number of labelled pixels whatever they are.
            `corrected` takes the factors out of the logits again (Menon et al. 2021), so that rare classes are learned
            early and yet not predicted too often.
        every: in each step one of so many rows and columns of pixels is learned from, another one each time: at 2 the
            losses cost a quarter, at full size they can take a third of a small network's step on a CPU.
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
        classes: Sequence[str],
        hardest: float,
        class_weights: Sequence[float] | Mapping[str, float] | None,
        auxiliary: str | None,
        every: int = 1,
    ) -> None:
        super().__init__()
        if not 0 < hardest <= 1:
            raise ConfigError(f"{head}: hardest={hardest}: a share above 0 and at most 1 is wanted", code="value-unfit")
        if every < 1:
            raise ConfigError(f"{head}: every={every} must be at least 1", code="value-unfit")
        factors = _factors(head, classes, class_weights)
        if auxiliary is not None and auxiliary not in in_specs:
            raise ConfigError(
                f"{head}: auxiliary={auxiliary}: there are only the levels {', '.join(in_specs)}", code="levels-unfit"
            )
        self.hardest, self.every = hardest, every
        self.levels = () if auxiliary is None else (auxiliary,)
        self.weights = {"cross_entropy": 1.0, "dice": 1.0}
        self.register_buffer("class_weights", None if factors is None else torch.tensor(factors), persistent=False)
        if auxiliary is not None:
            self.weights["auxiliary"] = 0.4
            self.auxiliary_stride = in_specs[auxiliary].stride
            self.auxiliary = fully_convolutional(in_specs[auxiliary].channels, len(classes), dropout=0.1)

    def corrected(self, logits: Tensor) -> Tensor:
        """(B, C, h, w) logits as trained -> those of the classes as often as they are."""
        return logits if self.class_weights is None else logits - self.class_weights.log()[:, None, None]

    def forward(self, logits: Tensor, stride: int, features: Features, targets: Targets) -> dict[str, Tensor]:
        """The named losses of (B, C, h, w) logits of this stride, divided by the number of labelled pixels."""
        assert targets.semantic is not None
        known = targets.known["semantic"][:, None, None]
        labels = torch.where(known, targets.semantic, IGNORE_INDEX)
        total = targets.total("semantic")
        row, column = torch.randint(self.every, (2,)).tolist() if self.every > 1 else (0, 0)
        learned = partial(
            segmentation_losses,
            labels=labels,
            class_weights=self.class_weights,
            every=self.every,
            first=(row, column),
        )
        cross_entropy, dice = learned(logits, stride=stride, hardest=self.hardest)
        losses = {"cross_entropy": cross_entropy.sum() / total, "dice": dice.sum() / total}
        for level in self.levels:
            cross_entropy, _ = learned(self.auxiliary(features[level]), stride=self.auxiliary_stride)
            losses["auxiliary"] = cross_entropy.sum() / total
        return losses


def _factors(
    head: str, classes: Sequence[str], class_weights: Sequence[float] | Mapping[str, float] | None
) -> list[float] | None:
    if class_weights is None:
        return None
    if isinstance(class_weights, Mapping):
        unknown = [name for name in class_weights if name not in classes]
        if unknown:
            hint = did_you_mean(unknown[0], classes)
            raise ConfigError(
                f"{head}: class_weights.{unknown[0]}: no such class{hint}; it knows {listed(classes)}",
                code="class-unknown",
            )
        factors = [float(class_weights.get(name, 1.0)) for name in classes]
    else:
        factors = [float(value) for value in class_weights]
    if len(factors) != len(classes) or not all(0 < value < math.inf for value in factors):
        raise ConfigError(
            f"{head}: class_weights={factors}: {len(classes)} factors above 0 are wanted, a class each",
            code="value-unfit",
        )
    return factors


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
