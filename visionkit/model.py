"""VisionModel: backbone -> neck -> heads by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from visionkit.errors import ConfigError, did_you_mean
from visionkit.interfaces import Backbone, Head, Neck
from visionkit.predictions import Prediction
from visionkit.preprocess import Preprocess
from visionkit.structures import Features, Geometry, RawOutput, Targets


class LossWeights(nn.Module):
    """Fixed factors on the losses, by "head/name" or by head; what is not named keeps its head's own default, or 1.

    Raises:
        ConfigError: for a head that is not there, or a loss that its head does not have.
    """

    def __init__(self, heads: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.defaults: dict[str, float] = {
            f"{head}/{name}": value
            for head, module in heads.items()
            for name, value in getattr(module, "default_loss_weights", {}).items()
        }
        self.weights = dict(weights or {})
        known = {*self.defaults, *heads}
        for name in self.weights:
            head, _, loss = name.partition("/")
            if head not in heads:
                raise ConfigError(f"loss_weights.{name}: no head of that name{did_you_mean(name, known)}")
            if loss and name not in known and hasattr(heads[head], "default_loss_weights"):
                raise ConfigError(f"loss_weights.{name}: head '{head}' has no such loss{did_you_mean(name, known)}")

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of named scalar losses."""
        factors = {name: self.weights.get(name, self.defaults.get(name, 1.0)) for name in losses}
        terms = [factors[name] * self.weights.get(name.split("/")[0], 1.0) * loss for name, loss in losses.items()]
        return torch.stack(terms).sum()


class VisionModel(nn.Module):
    """One backbone, at most one neck, any number of heads, and the preprocessing that belongs to their weights.

    Args:
        backbone: see `visionkit.interfaces.Backbone`.
        neck: see `visionkit.interfaces.Neck`; None where every head reads the backbone.
        heads: by the name under which their losses, metrics and predictions go.
        preprocess: from pixels to network input.
        loss_weights: see `LossWeights`.

    Raises:
        ConfigError: when a head reads a level that neither backbone nor neck gives.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None,
        heads: Mapping[str, nn.Module],
        *,
        preprocess: Preprocess,
        loss_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if not heads:
            raise ConfigError("VisionModel: no head; name at least one, such as heads=[detection]")
        given = [*cast(Backbone, backbone).out_specs, *(cast(Neck, neck).out_specs if neck is not None else ())]
        for name, head in heads.items():
            lacking = [level for level in cast(Head, head).levels if level not in given]
            if lacking:
                raise ConfigError(f"head '{name}' reads {', '.join(lacking)}, but there are only {', '.join(given)}")
        self.backbone, self.neck, self.heads = backbone, neck, nn.ModuleDict(heads)
        self.preprocess = preprocess
        self.loss_weights = LossWeights(heads, loss_weights)
        self.memory_format = torch.contiguous_format

    def use_memory_format(self, memory_format: torch.memory_format) -> VisionModel:
        """Lay weights and images out in `memory_format` from now on; which one is faster depends on the device."""
        self.memory_format = memory_format
        return self.to(memory_format=memory_format)

    @property
    def needs(self) -> frozenset[str]:
        """The label fields that the heads' losses read."""
        return frozenset().union(*(head.needs for _, head in self._named_heads()))

    def features(self, images: Tensor) -> Features:
        """(B, C, H, W) images, not normalised -> every level that the backbone and the neck give."""
        normalised = self.preprocess.normalise(images)
        levels = dict(self.backbone(normalised.contiguous(memory_format=self.memory_format)))
        if self.neck is not None:
            levels.update(self.neck(levels))
        return levels

    def forward(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """The training entry: (B, C, H, W) uint8 images -> scalar losses by "head/name", and their weighted "total"."""
        features = self.features(images)
        losses = {
            f"{name}/{key}": value
            for name, head in self._named_heads()
            for key, value in head.loss(features, targets).items()
        }
        return {**losses, "total": self.loss_weights(losses)}

    def outputs(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, RawOutput]:
        """Each head's raw tensors for (B, C, H, W) uint8 images; sizes (B, 2): the images' part of each canvas."""
        features = self.features(images)
        if sizes is None:
            sizes = torch.tensor(images.shape[-2:], device=images.device).repeat(len(images), 1)
        return {name: head(features, sizes) for name, head in self.heads.items()}

    @torch.inference_mode()
    def predict(self, images: Tensor, sizes: Tensor, geometries: Sequence[Geometry]) -> list[dict[str, Prediction]]:
        """The inference entry: forward, decode and finish; one prediction a head for each image, in original pixels.

        Args:
            images: (B, C, H, W) uint8 canvases on the model's device. The model must be in eval mode.
            sizes: (B, 2) int64, the part of each canvas that holds image.
            geometries: how each image was laid on its canvas.
        """
        if self.training:
            raise RuntimeError("VisionModel.predict: call model.eval() first, or BatchNorm uses the batch's statistics")
        raw = self.outputs(images, sizes)
        finished = {name: head.finish(head.decode(raw[name], sizes), geometries) for name, head in self._named_heads()}
        return [{name: finished[name][i] for name in finished} for i in range(len(geometries))]

    def _named_heads(self) -> Iterable[tuple[str, Head]]:
        return cast("Iterable[tuple[str, Head]]", self.heads.items())
