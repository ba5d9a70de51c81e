"""The loss of whole-image classes, by name: what the classification heads share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from visionkit.errors import ConfigError, did_you_mean
from visionkit.ops.losses import quality_focal
from visionkit.structures import Targets

LOSSES = ("auto", "cross_entropy", "focal", "binary_cross_entropy")


class ClassLoss:
    """How far class scores are from one-hot, smoothed, mixed or multi-label targets.

    With classes that exclude each other p = softmax(logits), otherwise p = sigmoid(logits), class by class:

    - cross_entropy: −Σ y log p over the classes, which exclude each other;
    - binary_cross_entropy: the mean over the classes of −y log p − (1 − y) log(1 − p);
    - focal (Lin et al. 2017): the same with the power `gamma` of what is still wrong on every term, so that what is
      known already teaches less: −Σ y (1 − p)^gamma log p, or with `multi_label` the mean of |y − p|^gamma times the
      binary cross-entropy.

    Args:
        name: one of `LOSSES`; auto: cross_entropy, with `multi_label` binary_cross_entropy.
        multi_label: an image may have several classes.
        label_smoothing: share of the target given to all classes alike (Szegedy et al. 2016); single-label only.
        gamma: of focal; 0 gives the loss without it.

    Attributes:
        name: the loss that is meant, never auto; the key of its value.
        is_binary: p is a sigmoid.

    Raises:
        ConfigError: a name that is none, cross_entropy with `multi_label`, or a number out of its range.
    """

    def __init__(self, name: str, *, multi_label: bool, label_smoothing: float, gamma: float) -> None:
        if name not in LOSSES:
            raise ConfigError(
                f"loss={name}: one of {', '.join(LOSSES)} is wanted{did_you_mean(name, LOSSES)}", code="choice-unknown"
            )
        if name == "cross_entropy" and multi_label:
            said = "it takes one class an image, and multi_label=true gives it several"
            raise ConfigError(
                f"loss=cross_entropy: {said}; use loss=binary_cross_entropy or loss=focal", code="keys-contradict"
            )
        if not 0 <= label_smoothing <= 1:
            raise ConfigError(f"label_smoothing={label_smoothing} must be from 0 to 1", code="value-unfit")
        if not (gamma == 0 or 1 <= gamma < float("inf")):  # a power between has no finite slope at 0
            raise ConfigError(f"focal_gamma={gamma} must be 0, or 1 or more", code="value-unfit")
        usual = "binary_cross_entropy" if multi_label else "cross_entropy"
        self.name = usual if name == "auto" else name
        self.is_binary = multi_label or self.name == "binary_cross_entropy"
        self.multi_label, self.label_smoothing, self.gamma = multi_label, label_smoothing, gamma

    def __call__(self, logits: Tensor, targets: Targets) -> dict[str, Tensor]:
        """The mean over the images that know their class, of (B, C) logits; a class that is told as −1 is left out."""
        assert targets.class_scores is not None
        known = targets.known["class_scores"]
        wanted = torch.where(known[:, None], targets.class_scores, -1.0)
        if not self.multi_label:
            wanted = wanted.clamp(min=0)
            wanted = wanted * (1 - self.label_smoothing) + self.label_smoothing / wanted.shape[1]
        values = self._binary(logits.float(), wanted) if self.is_binary else self._exclusive(logits.float(), wanted)
        return {self.name: torch.where(known, values, 0.0).sum() / targets.total("class_scores")}

    def _exclusive(self, logits: Tensor, wanted: Tensor) -> Tensor:
        if self.name == "cross_entropy":
            return F.cross_entropy(logits, wanted, reduction="none")
        logarithms = logits.log_softmax(1)
        return -(wanted * (1 - logarithms.exp()).pow(self.gamma) * logarithms).sum(1)

    def _binary(self, logits: Tensor, wanted: Tensor) -> Tensor:
        told = wanted >= 0
        values = quality_focal(logits, wanted.clamp(min=0), self.gamma if self.name == "focal" else 0.0)
        return torch.where(told, values, 0.0).sum(1) / told.sum(1).clamp(min=1)
