"""Localization: what is it, and where is the one object?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionkit.blocks import ConvNorm
from visionkit.errors import ConfigError
from visionkit.finishing import Finishing, start_localizations
from visionkit.ops import boxes as box_ops
from visionkit.ops.pooling import attention, cell_centres, masked_mean, valid_cells
from visionkit.predictions import Localization
from visionkit.structures import Decoded, Features, FeatureSpec, Geometry, Targets


class ObjectLocalization(nn.Module):
    """Class and box of one object, by attention over the cells instead of a plain mean, which loses the place.

    Each edge of the box has a map of attention over the cells that hold image, and each cell says how far the edge is
    from its own centre; the edge lies at the attention's mean of what the cells say (a soft-argmax, Levine et al.
    2016, with offsets). So a shifted object shifts its box, and an edge can lie anywhere between the cells' centres.
    Classes are read off the mean of all cells beside the mean under an attention map of their own.

    Args:
        in_specs: the specs of at least `levels`.
        classes: names of the classes.
        levels: what it reads, finest first; coarser levels are brought to the finest one's cells.
        depth: 3x3 convolutions before the maps.
        channels: of these; None: as many as the coarsest level has.
        dropout: share of the pooled features set to 0 in training.
        label_smoothing: share of the target given to all classes alike (Szegedy et al. 2016).
        box_per_class: a box for each class, of which the true class's learns; otherwise one box for all.

    Raises:
        ConfigError: a level that is not there, no class, or a number out of its range.
    """

    needs = frozenset({"class_scores", "box"})
    finishing = Finishing("localization")
    default_loss_weights: Mapping[str, float] = MappingProxyType({"cross_entropy": 1.0, "giou": 1.0, "l1": 1.0})

    def __init__(
        self,
        in_specs: Mapping[str, FeatureSpec],
        *,
        classes: Sequence[str],
        levels: Sequence[str] = ("c5",),
        depth: int = 1,
        channels: int | None = None,
        dropout: float = 0.2,
        label_smoothing: float = 0.0,
        box_per_class: bool = False,
    ) -> None:
        super().__init__()
        if not levels or any(level not in in_specs for level in levels):
            raise ConfigError(
                f"ObjectLocalization reads {', '.join(levels)}, but there are only {', '.join(in_specs)}",
                code="levels-unfit",
            )
        if not classes:
            raise ConfigError(
                "ObjectLocalization: the class list is empty; name classes, or use data that has some",
                code="classes-missing",
            )
        for argument, share in (("dropout", dropout), ("label_smoothing", label_smoothing)):
            if not 0 <= share <= 1:
                raise ConfigError(f"ObjectLocalization: {argument}={share} must be from 0 to 1", code="value-unfit")
        inner = in_specs[levels[-1]].channels if channels is None else channels
        for argument, value, least in (("depth", depth, 0), ("channels", inner, 1)):
            if value < least:
                raise ConfigError(
                    f"ObjectLocalization: {argument}={value} must be at least {least}", code="value-unfit"
                )
        self.levels, self.classes = tuple(levels), tuple(classes)
        self.stride = in_specs[levels[0]].stride
        self.label_smoothing = label_smoothing
        self.boxes = len(classes) if box_per_class else 1
        self.enter = nn.ModuleList(ConvNorm(in_specs[level].channels, inner) for level in levels)
        self.tower = nn.Sequential(*(ConvNorm(inner, inner, 3) for _ in range(depth)))
        # No biases on what a softmax over the cells follows: it takes them away.
        self.edge_attention = nn.Conv2d(inner, 4 * self.boxes, 1, bias=False)
        self.class_attention = nn.Conv2d(inner, 1, 1, bias=False)
        self.offset = nn.Conv2d(inner, 4 * self.boxes, 1)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * inner, len(classes))
        nn.init.normal_(self.offset.weight, std=0.01)
        assert self.offset.bias is not None
        # The first boxes are two cells wide around the middle: with no area an IoU would teach nothing.
        self.offset.bias.data = torch.tensor([-1.0, -1.0, 1.0, 1.0]).repeat(self.boxes)

    def forward(self, features: Features, sizes: Tensor) -> dict[str, Tensor]:
        """logits (B, C), boxes (B, 1 or C, 4): float32 xyxy canvas pixels, unclipped."""
        x = self._merged(features)
        height, width = x.shape[-2:]
        valid = valid_cells(sizes, (height, width), self.stride)
        focus = (x * attention(self.class_attention(x), valid)).sum((-2, -1))
        pooled = torch.cat([masked_mean(x, valid), focus], 1)
        logits = self.linear(self.dropout(pooled))
        across = cell_centres(width, self.stride, x).expand(height, width)
        down = cell_centres(height, self.stride, x)[:, None].expand(height, width)
        centres = torch.stack([across, down, across, down]).repeat(self.boxes, 1, 1)
        edges = centres + self.offset(x).float() * self.stride
        boxes = (edges * attention(self.edge_attention(x), valid)).sum((-2, -1)).view(x.shape[0], self.boxes, 4)
        return {"logits": logits, "boxes": boxes}

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        """cross_entropy, giou (1 − generalised IoU) and l1 (mean of the edges' shares of the image's side), per image.

        The first is divided by the images that know their class, the others by those that know their box. With a box
        per class, images of unknown class teach no box.
        """
        assert targets.class_scores is not None and targets.box is not None
        raw = self.forward(features, targets.sizes)
        known = targets.known["class_scores"]
        wanted = torch.where(known[:, None], targets.class_scores, 0.0).clamp(min=0)
        smoothed = wanted * (1 - self.label_smoothing) + self.label_smoothing / wanted.shape[1]
        cross_entropy = F.cross_entropy(raw["logits"].float(), smoothed, reduction="none")

        placed = targets.known["box"]
        boxes = raw["boxes"]
        if self.boxes > 1:
            placed = placed & known
            boxes = boxes.gather(1, wanted.argmax(1)[:, None, None].expand(-1, 1, 4))
        boxes = boxes[:, 0]
        goal = torch.where(placed[:, None], targets.box, boxes.detach())
        giou = 1 - box_ops.generalised_iou(boxes, goal)
        sides = targets.sizes.flip(-1).to(boxes).repeat(1, 2)
        l1 = ((boxes - goal).abs() / sides).mean(1)
        total = targets.total("box")
        return {
            "cross_entropy": torch.where(known, cross_entropy, 0.0).sum() / targets.total("class_scores"),
            "giou": torch.where(placed, giou, 0.0).sum() / total,
            "l1": torch.where(placed, l1, 0.0).sum() / total,
        }

    def decode(self, raw: Mapping[str, Tensor], sizes: Tensor) -> Decoded:
        """scores (B, C) probabilities, boxes (B, C, 4) clipped to `sizes`, valid (B, C): all of them."""
        scores = raw["logits"].float().softmax(1)
        limit = sizes.flip(-1).to(raw["boxes"])[:, None].repeat(1, 1, 2)
        boxes = torch.minimum(raw["boxes"].clamp(min=0), limit)
        boxes = torch.cat([boxes[..., :2], torch.maximum(boxes[..., :2], boxes[..., 2:])], -1)
        return {
            "scores": scores,
            "boxes": boxes.expand(-1, len(self.classes), -1),
            "valid": torch.ones_like(scores, dtype=torch.bool),
        }

    def finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> list[Localization]:
        """One Localization an image, in original pixels."""
        return self.start_finish(decoded, geometries)()

    def start_finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> Callable[[], list[Localization]]:
        """See `Head`."""
        return start_localizations(decoded, geometries)

    def _merged(self, features: Features) -> Tensor:
        """(B, channels, h, w) with the cells of the finest level."""
        parts = [enter(features[level]) for enter, level in zip(self.enter, self.levels, strict=True)]
        merged = parts[0]
        for part in parts[1:]:
            merged = merged + F.interpolate(part, size=merged.shape[-2:], mode="bilinear")
        result: Tensor = self.tower(merged)
        return result
