"""VisionModel: backbone -> neck -> heads by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from visionkit.errors import ConfigError, did_you_mean, printable
from visionkit.interfaces import Backbone, Head, LearningHead, Merge, Neck
from visionkit.predictions import Prediction
from visionkit.preprocess import Preprocess
from visionkit.structures import Decoded, Features, Geometry, RawOutput, Targets

Learned = tuple[Features, dict[str, dict[str, Tensor]]]
"""What the losses read of the network: its levels, and by head what `learned` gives, of heads that have it."""


class LossWeights(nn.Module):
    """The factors on the losses: fixed, or learned for each head beside the fixed ones.

    Learned, the loss L of a head counts as exp(−s) L + s / 2, where s is the logarithm of its uncertainty's variance
    (Kendall et al. 2018): a head whose loss stays large is weighed less.

    Args:
        heads: by name; a head's `default_loss_weights` are the factors of its losses, 1 where it has none.
        weights: factors by "head/name", in place of the default, or by head, on all of its losses.
        learned: learn one uncertainty a head.

    Raises:
        ConfigError: for a head that is not there, or a loss that its head does not have.
    """

    def __init__(
        self, heads: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None, *, learned: bool = False
    ) -> None:
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
                raise ConfigError(
                    f"model.loss_weights.{name}: no head of that name{did_you_mean(name, known)}", code="key-unknown"
                )
            if loss and name not in known and hasattr(heads[head], "default_loss_weights"):
                hint = did_you_mean(name, known)
                raise ConfigError(
                    f"model.loss_weights.{name}: head '{head}' has no such loss{hint}", code="key-unknown"
                )
        zeros = {name: nn.Parameter(torch.zeros(())) for name in heads} if learned else {}
        self.log_variances = nn.ParameterDict(zeros)

    def forward(self, losses: Mapping[str, Tensor], shares: Mapping[str, Tensor] = MappingProxyType({})) -> Tensor:
        """The weighted sum of scalar losses by "head/name".

        shares: by head, the share of the step's labels that this batch holds, 0 to 1; read where weights are learned,
            so that accumulating batches changes nothing and a head without labels keeps its uncertainty.
        """
        terms = []
        for name, loss in losses.items():
            head = name.split("/")[0]
            factor = self.weights.get(name, self.defaults.get(name, 1.0)) * self.weights.get(head, 1.0)
            if head in self.log_variances:
                terms.append(torch.exp(-self.log_variances[head]) * factor * loss)
            else:
                terms.append(factor * loss)
        terms += [0.5 * shares[head] * value for head, value in self.log_variances.items()]
        return torch.stack(terms).sum()


class VisionModel(nn.Module):
    """One backbone, at most one neck, any number of heads, and the preprocessing that belongs to their weights.

    Args:
        backbone: see `visionkit.interfaces.Backbone`.
        neck: see `visionkit.interfaces.Neck`; None where every head reads the backbone.
        heads: by the name under which their losses, metrics and predictions go.
        preprocess: from pixels to network input.
        loss_weights, learn_loss_weights: see `LossWeights`.
        merges: by name, answers made from those of the heads.

    Raises:
        ConfigError: a head reads a level that neither backbone nor neck gives, or a merge a head that is not there; or
            a name is none of letters, digits, _ and -, as files and folders of results need them.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None,
        heads: Mapping[str, nn.Module],
        *,
        preprocess: Preprocess,
        loss_weights: Mapping[str, float] | None = None,
        learn_loss_weights: bool = False,
        merges: Mapping[str, Merge] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        if not heads:
            raise ConfigError(
                "VisionModel: no head; name at least one, such as heads=[detection]", code="heads-missing"
            )
        for name in (*heads, *merges):
            if re.fullmatch(r"[\w-]+", name) is None:
                raise ConfigError(
                    f"head '{printable(name)}': a name is made of letters, digits, _ and -; rename it",
                    code="name-unfit",
                )
        given = [*cast(Backbone, backbone).out_specs, *(cast(Neck, neck).out_specs if neck is not None else ())]
        for name, head in heads.items():
            lacking = [level for level in cast(Head, head).levels if level not in given]
            if lacking:
                raise ConfigError(
                    f"head '{name}' reads {', '.join(lacking)}, but there are only {', '.join(given)}",
                    code="levels-unfit",
                )
        for name, merge in merges.items():
            missing = [head for head in merge.reads if head not in heads]
            if missing or name in heads:
                fault = f"reads the heads {', '.join(merge.reads)}" if missing else "is the name of a head"
                raise ConfigError(f"merge '{name}' {fault}, and the model has {', '.join(heads)}", code="heads-missing")
        self.backbone, self.neck, self.heads = backbone, neck, nn.ModuleDict(heads)
        self.preprocess = preprocess
        self.loss_weights = LossWeights(heads, loss_weights, learned=learn_loss_weights)
        self.merges = dict(merges)
        self.memory_format = torch.contiguous_format
        self.dtype = torch.float32

    def use_memory_format(self, memory_format: torch.memory_format) -> VisionModel:
        """Lay weights and images out in `memory_format` from now on; which one is faster depends on the device."""
        self.memory_format = memory_format
        return self.to(memory_format=memory_format)

    @property
    def needs(self) -> frozenset[str]:
        """The label fields that the heads' losses read."""
        return frozenset().union(*(head.needs for _, head in self.named_heads()))

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The class names of each answer, heads and merges, in the order of its labels and scores."""
        heads = {name: head.classes for name, head in self.named_heads()}
        return heads | {name: merge.classes for name, merge in self.merges.items()}

    def features(self, images: Tensor) -> Features:
        """(B, C, H, W) images, not normalised -> every level that the backbone and the neck give."""
        normalised = self.preprocess.normalise(images).to(self.dtype)
        levels = dict(self.backbone(normalised.contiguous(memory_format=self.memory_format)))
        if self.neck is not None:
            levels.update(self.neck(levels))
        return levels

    def forward(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """The training entry: (B, C, H, W) uint8 images -> scalar losses by "head/name", and their weighted "total"."""
        features, learned = self.network(images)
        losses = {}
        for name, head in self.named_heads():
            if name in learned:
                own = cast(LearningHead, head).learned_losses(learned[name], features, targets)
            else:
                own = head.loss(features, targets)
            losses.update({f"{name}/{key}": value for key, value in own.items()})
        return {**losses, "total": self.loss_weights(losses, self._shares(targets))}

    def network(self, images: Tensor) -> Learned:
        """(B, C, H, W) uint8 images -> what the losses read; all that is computed without labels.

        `visionkit.engine.graphs` replays it.
        """
        features = self.features(images)
        heads = {name: head for name, head in self.named_heads() if isinstance(head, LearningHead)}
        # Whose head takes only shapes from a level has no gradient for it.
        read = {level for name, head in self.named_heads() if name not in heads for level in head.levels}
        levels = {name: level if name in read else level.detach() for name, level in features.items()}
        return levels, {name: head.learned(features) for name, head in heads.items()}

    def outputs(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, RawOutput]:
        """Each head's raw tensors for (B, C, H, W) uint8 images; sizes (B, 2): the images' part of each canvas."""
        features = self.features(images)
        if sizes is None:
            sizes = torch.tensor(images.shape[-2:], device=images.device).repeat(len(images), 1)
        return {name: head(features, sizes) for name, head in self.heads.items()}

    @torch.inference_mode()
    def decoded(self, images: Tensor, sizes: Tensor) -> dict[str, Decoded]:
        """Forward and decode: each head's answers in network pixels, for who merges tiles or views before finishing.

        images, sizes: see `predict`.
        """
        raw = self.outputs(images, sizes)
        return {name: head.decode(raw[name], sizes) for name, head in self.named_heads()}

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
        decoded = self.decoded(images, sizes)
        # All are asked for before any is waited for: while the device works for one head, another's tensors are copied
        # and a third's predictions made. Maps take it longest, and so come last.
        asked = {
            name: _started(head, decoded[name], geometries)
            for name, head in sorted(self.named_heads(), key=lambda named: "logits" in decoded[named[0]])
        }
        finished = {name: predictions() for name, predictions in asked.items()}
        predictions = [{name: finished[name][i] for name in self.heads} for i in range(len(geometries))]
        for prediction in predictions:
            prediction.update({name: merge.merge(prediction) for name, merge in self.merges.items()})
        return predictions

    def _shares(self, targets: Targets) -> dict[str, Tensor]:
        if not len(self.loss_weights.log_variances):
            return {}
        counts = targets.counts()
        return {
            name: torch.stack([counts[field] / targets.total(field) for field in sorted(head.needs)]).amax()
            for name, head in self.named_heads()
        }

    def named_heads(self) -> Iterable[tuple[str, Head]]:
        """The heads by name, as what they are."""
        return cast("Iterable[tuple[str, Head]]", self.heads.items())


def _started(head: Head, decoded: Decoded, geometries: Sequence[Geometry]) -> Callable[[], Sequence[Prediction]]:
    """What gives the head's predictions, asked for already if the head can (`start_finish`)."""
    start = getattr(head, "start_finish", None)
    return partial(head.finish, decoded, geometries) if start is None else start(decoded, geometries)
