"""Anchor-free dense detection: every cell of every level says which class it sees and how far the box's edges are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from visionkit.assigners import Assignment, TaskAligned, covered_cells, one_for_each_place
from visionkit.blocks import rounded
from visionkit.errors import ConfigError
from visionkit.finishing import Finishing, start_detections
from visionkit.grids import Grid, cells_of
from visionkit.ops import boxes as box_ops
from visionkit.ops.losses import distribution_focal, quality_focal
from visionkit.predictions import Detections
from visionkit.structures import Decoded, Features, FeatureSpec, Geometry, Targets


class DenseDetection(nn.Module):
    """One-stage detection without anchors: task-aligned assignment, scores that mean IoU, distances as distributions.

    The towers share their convolutions over the levels while each level has BatchNorms of its own, since the levels'
    statistics differ (RTMDet, Lyu et al. 2022). Distances to the four edges are expectations over `bins` (generalised
    focal loss, Li et al. 2020), in strides.

    Several cells learn to find each object, and non-maximum suppression keeps one. Beside them a second tower learns,
    on features that it leaves alone, which single cell is to speak for the object: by its scores nothing needs to be
    suppressed (dual assignment, after YOLOv10, Wang et al. 2024; the boxes are the same).

    A cell answers for one place: of objects whose boxes coincide the first has the cells, and they score the classes of
    all.

    Args:
        in_specs: the specs of at least `levels`, which must have the same number of channels.
        classes: names of the classes.
        levels: what it reads, finest first.
        depth: convolutions in each tower.
        channels: of the towers, before `width`; None: those of the levels.
        width: factor on `channels`.
        bins: of a distance; the farthest edge that a cell can tell is bins − 1 strides away.
        gamma: focusing of the quality focal loss; 0 is binary cross-entropy.
        assigner: which cell answers for which object.
        one_to_one: train the second tower.
        nms: choose by non-maximum suppression; else by the second tower's scores, without any.
        candidates: most scores of an image that enter non-maximum suppression.
        score_threshold: scores under it are no detections.
        iou_threshold: of non-maximum suppression.
        most: detections kept in an image.

    Raises:
        ConfigError: a level that is not there, levels of different channels, no class, or a number out of its range.
    """

    needs = frozenset({"boxes"})
    finishing = Finishing("detections")
    default_loss_weights: Mapping[str, float] = MappingProxyType(
        {"classification": 1.0, "box": 2.0, "distribution": 0.5}
    )
    bin_values: Tensor

    def __init__(
        self,
        in_specs: Mapping[str, FeatureSpec],
        *,
        classes: Sequence[str],
        levels: Sequence[str] = ("p3", "p4", "p5"),
        depth: int = 2,
        channels: int | None = None,
        width: float = 1.0,
        bins: int = 16,
        gamma: float = 1.0,
        assigner: TaskAligned | None = None,
        one_to_one: bool = False,
        nms: bool = True,
        candidates: int = 1000,
        score_threshold: float = 0.001,
        iou_threshold: float = 0.7,
        most: int = 300,
    ) -> None:
        super().__init__()
        refuse_unfit("DenseDetection", in_specs, levels, classes)
        least = {"depth": (depth, 1), "bins": (bins, 2), "gamma": (gamma, 0), "candidates": (candidates, 1)}
        refuse_small("DenseDetection", {**least, "most": (most, 1)})
        for argument, share in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
            if not 0 <= share <= 1:
                raise ConfigError(f"DenseDetection: {argument}={share} must be from 0 to 1", code="value-unfit")
        if not (nms or one_to_one):
            raise ConfigError(
                "DenseDetection: nms=false chooses by scores that only one_to_one=true learns", code="keys-contradict"
            )
        self.levels, self.classes = tuple(levels), tuple(classes)
        self.strides = tuple(in_specs[level].stride for level in levels)
        self.bins, self.gamma = bins, gamma
        self.candidates, self.most = candidates, most
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.assigner = assigner or TaskAligned()
        self.single_assigner = TaskAligned(top=1)
        self.nms = nms
        entry = _channels(in_specs, levels)
        inner = entry if channels is None else rounded(channels * width)
        self.score_tower = SharedTower(entry, inner, depth, len(levels))
        self.box_tower = SharedTower(entry, inner, depth, len(levels))
        self.score = nn.Conv2d(inner, len(classes), 1)
        self.distance = nn.Conv2d(inner, 4 * bins, 1)
        if one_to_one:
            self.default_loss_weights = {**self.default_loss_weights, "one_to_one": 1.0}
        self.single_tower = SharedTower(entry, inner, depth, len(levels)) if one_to_one else None
        self.single_score = nn.Conv2d(inner, len(classes), 1) if one_to_one else None
        self._initialise()
        self.register_buffer("bin_values", torch.arange(bins, dtype=torch.float32), persistent=False)

    def forward(self, features: Features, sizes: Tensor) -> dict[str, Tensor]:
        """logits (B, A, C), distances (B, A, 4 * bins), points (A, 2), strides (A, 1) over all levels' A cells.

        C: classes; points: (x, y) canvas pixels of the cells' centres; strides: pixels. The logits are those by which
        `decode` chooses: with `nms` the first tower's, else the second's.
        """
        tower, score = (self.score_tower, self.score) if self.nms else (self.single_tower, self.single_score)
        assert tower is not None and score is not None
        return {"logits": self._logits(features, tower, score), **self._edges(features)}

    def learned(self, features: Features) -> dict[str, Tensor]:
        """What `raw_losses` reads: as `forward`, the first tower's logits, and single_logits (B, A, C) of the second.

        The second tower's gradients end at the features.
        """
        raw = {"logits": self._logits(features, self.score_tower, self.score), **self._edges(features)}
        if self.single_tower is not None and self.single_score is not None:
            alone = {name: features[name].detach() for name in self.levels}
            raw["single_logits"] = self._logits(alone, self.single_tower, self.single_score)
        return raw

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        """classification, box (1 − complete IoU), distribution and one_to_one, each summed and divided by the number of
        objects; one_to_one, the classification of the second tower, is there if that is.

        Within an image the cells' box losses are weighted by their quality, the weights adding up to its number of
        objects; so each object counts alike, and images do not weigh on each other.
        """
        return self.learned_losses(self.learned(features), features, targets)

    def learned_losses(self, learned: Mapping[str, Tensor], features: Features, targets: Targets) -> dict[str, Tensor]:
        """`loss` of what `learned` gave; of the features only shapes are read."""
        return self.raw_losses(learned, self.grids(features), targets)[0]

    def grids(self, features: Features) -> tuple[Grid, ...]:
        """The cells of each level, as they follow each other in the raw tensors."""
        return tuple(
            Grid(features[level].shape[-2], features[level].shape[-1], stride)
            for level, stride in zip(self.levels, self.strides, strict=True)
        )

    def raw_losses(
        self, raw: Mapping[str, Tensor], grids: Sequence[Grid], targets: Targets
    ) -> tuple[dict[str, Tensor], Assignment]:
        """The losses of what `learned` gave, and which cell answers for which object (that of the first tower)."""
        assert targets.boxes is not None and targets.labels is not None
        assert targets.crowd is not None and targets.ignore is not None
        with torch.no_grad():  # only the cells that answer for an object learn where its edges are
            predicted = self._boxes(self._by_edge(raw["distances"]), raw["points"], raw["strides"])
        positive = targets.positive_rows() & targets.known["boxes"][:, None]
        unlabelled = covered_cells(grids, targets.boxes, (targets.crowd | targets.ignore) & (targets.labels >= 0))
        speaks, named = one_for_each_place(targets.boxes, targets.labels, positive, len(self.classes))
        total = targets.total("boxes")

        found = (predicted, targets.boxes, targets.labels, speaks)
        assignment = self.assigner(grids, raw["logits"].detach(), *found)
        losses = {"classification": self._score_loss(raw["logits"], assignment, named, unlabelled, targets)}
        if "single_logits" in raw:
            single = self.single_assigner(grids, raw["single_logits"].detach(), *found)
            losses["one_to_one"] = self._score_loss(raw["single_logits"], single, named, unlabelled, targets)
        weight = assignment.gained / assignment.gained.sum(1, keepdim=True).clamp(min=1e-6)
        losses |= self._edge_losses(raw, assignment, targets.boxes, weight * positive.sum(1, keepdim=True))
        return {name: loss / total for name, loss in losses.items()}, assignment

    def decode(self, raw: Mapping[str, Tensor], sizes: Tensor) -> Decoded:
        """boxes (B, K, 4) clipped to `sizes`, scores (B, K) falling, labels (B, K), valid (B, K): the chosen ones.

        cells (B, K) int64: the cell of `raw` that each is from.
        """
        points, strides = raw["points"], raw["strides"]
        wanted = self.candidates if self.nms else self.most
        best, cell, labels = self._best(raw["logits"], points, sizes, wanted)
        distances = raw["distances"].gather(1, cell[..., None].expand(-1, -1, 4 * self.bins))
        boxes = self._boxes(self._by_edge(distances), points[cell], strides[cell])
        limit = sizes.flip(-1).to(boxes)[:, None].repeat(1, 1, 2)
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        candidates = best > self.score_threshold
        if not self.nms:
            return {"boxes": boxes, "scores": best, "labels": labels, "cells": cell, "valid": candidates}
        keep = box_ops.non_maximum_suppression(boxes, labels, candidates, self.iou_threshold, self.most)
        # The kept ones come first, in their order; where nothing is left the first candidate is repeated.
        kept = keep.byte().sort(dim=1, descending=True, stable=True).indices[:, : self.most]
        valid = keep.gather(1, kept)
        kept = torch.where(valid, kept, 0)
        return {
            "boxes": boxes.gather(1, kept[..., None].expand(-1, -1, 4)),
            "scores": best.gather(1, kept),
            "labels": labels.gather(1, kept),
            "cells": cell.gather(1, kept),
            "valid": valid,
        }

    def finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> list[Detections]:
        """Detections in original pixels, best first."""
        return self.start_finish(decoded, geometries)()

    def start_finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> Callable[[], list[Detections]]:
        """See `Head`."""
        return start_detections(decoded, geometries)

    def _initialise(self) -> None:
        assert self.distance.bias is not None
        for score in (self.score, self.single_score):
            if score is not None:
                nn.init.normal_(score.weight, std=0.01)
                assert score.bias is not None
                nn.init.constant_(score.bias, -math.log(99.0))  # a prior of 0.01: most cells are background
        nn.init.normal_(self.distance.weight, std=0.01)
        # Distances start near three strides, so that the first assignments overlap their objects.
        self.distance.bias.data = -torch.linspace(0, self.bins / 4, self.bins).repeat(4)

    def _logits(self, features: Features, tower: SharedTower, score: nn.Conv2d) -> Tensor:
        return by_cell(score(tower(features[level], index)) for index, level in enumerate(self.levels))

    def _edges(self, features: Features) -> dict[str, Tensor]:
        """distances, points and strides, see `forward`."""
        maps = (self.distance(self.box_tower(features[level], index)) for index, level in enumerate(self.levels))
        cells = cells_of(self.grids(features), features[self.levels[0]].device)
        return {"distances": by_cell(maps), "points": cells.points, "strides": cells.strides}

    def _score_loss(
        self, logits: Tensor, assignment: Assignment, named: Tensor, unlabelled: Tensor, targets: Targets
    ) -> Tensor:
        """The sum over cells and classes: an assigned cell's classes should score its quality, all else 0.

        named: (B, M, C) float, 1 for the classes of what each object speaks for;
        unlabelled: (B, A) bool, the cells that count only where they are assigned.
        """
        row, quality = assignment.row, assignment.quality
        if named.shape[1]:
            own = named.gather(1, row.clamp(min=0)[..., None].expand_as(logits))
            wanted = own * quality[..., None]
        else:
            wanted = torch.zeros_like(logits, dtype=torch.float32)
        loss = quality_focal(logits.float(), wanted, self.gamma)
        if targets.known_classes is not None:
            loss = torch.where(targets.known_classes[:, None], loss, 0.0)
        counted = targets.known["boxes"][:, None] & ((row >= 0) | ~unlabelled)
        return torch.where(counted[..., None], loss, 0.0).sum()

    def _edge_losses(
        self, raw: Mapping[str, Tensor], assignment: Assignment, boxes: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """box and distribution, the sums over claims (B, P) by their weight (B, P), which is 0 where none is met."""
        cells, met = assignment.claimed, weight > 0
        points, strides = raw["points"][cells], raw["strides"][cells]
        distances = self._by_edge(raw["distances"].gather(1, cells[..., None].expand(-1, -1, 4 * self.bins)))
        predicted = self._boxes(distances, points, strides)
        # A claim that is not met wants what is there, whatever its own box: the gradient is finite.
        claims = cells.shape[1] // max(boxes.shape[1], 1)
        own = boxes[:, :, None].expand(-1, -1, claims, -1).flatten(1, 2)
        goal = torch.where(met[..., None], own, predicted.detach())
        box_loss = torch.where(met, 1 - box_ops.complete_iou(predicted, goal), 0.0)
        bins_wanted = box_ops.boxes_to_distances(points, goal) / strides
        bin_loss = torch.where(met, distribution_focal(distances, bins_wanted).mean(-1), 0.0)
        return {"box": (box_loss * weight).sum(), "distribution": (bin_loss * weight).sum()}

    def _best(self, logits: Tensor, points: Tensor, sizes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The `count` best scores of each image, falling, their cells and their classes, (B, K) each.

        They are all within the `count` cells whose best class scores highest, so the others need no look.
        """
        cells, classes = logits.shape[1:]
        on_image = (points[None] < sizes[:, None].flip(-1)).all(-1)
        of_cells = torch.where(on_image, logits.amax(-1), -torch.inf)
        highest, cell = of_cells.topk(min(count, cells), dim=1)
        if classes == 1:
            return highest.float().sigmoid(), cell, torch.zeros_like(cell)
        chosen = logits.gather(1, cell[..., None].expand(-1, -1, classes))
        chosen = torch.where(torch.isinf(highest)[..., None], highest[..., None], chosen)
        best, place = chosen.flatten(1).topk(min(count, chosen[0].numel()), dim=1)
        return best.float().sigmoid(), cell.gather(1, place // classes), place % classes

    def _by_edge(self, distances: Tensor) -> Tensor:
        """(…, 4 * bins) -> (…, 4, bins) float32."""
        return distances.float().view(*distances.shape[:-1], 4, self.bins)

    def _boxes(self, distances: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """(…, 4, bins) logits of distances in strides -> (…, 4) xyxy pixels."""
        expected = (distances.softmax(-1) * self.bin_values).sum(-1) * strides
        return box_ops.distances_to_boxes(points, expected)


class SharedTower(nn.Module):
    """`depth` 3x3 convolutions shared by all levels, each followed by the level's own BatchNorm and SiLU."""

    def __init__(self, in_channels: int, channels: int, depth: int, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1, bias=False) for i in range(depth)
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(channels, eps=1e-3) for _ in range(depth)) for _ in range(levels)
        )
        self.activation = nn.SiLU()

    def forward(self, x: Tensor, level: int) -> Tensor:
        """(B, in_channels, H, W) of the level -> (B, channels, H, W)."""
        for conv, norm in zip(self.convs, cast(nn.ModuleList, self.norms[level]), strict=True):
            x = self.activation(norm(conv(x)))
        return x


def by_cell(maps: Iterable[Tensor]) -> Tensor:
    """Maps (B, C, H, W), one a level -> (B, A, C) over all levels' A cells."""
    return torch.cat([one.flatten(2).transpose(1, 2) for one in maps], 1)


def refuse_unfit(head: str, in_specs: Mapping[str, FeatureSpec], levels: Sequence[str], classes: Sequence[str]) -> None:
    """Raise ConfigError where a level is not there, or there is no class."""
    if any(level not in in_specs for level in levels):
        raise ConfigError(
            f"{head} reads {', '.join(levels)}, but the neck gives {', '.join(in_specs)}", code="levels-unfit"
        )
    if not classes:
        raise ConfigError(
            f"{head}: the class list is empty; name the classes, or use data that has some", code="classes-missing"
        )


def refuse_small(head: str, least: Mapping[str, tuple[float, int]]) -> None:
    """Raise ConfigError where an argument's value, the first of its two, is below its least."""
    for argument, (value, bound) in least.items():
        if value < bound:
            raise ConfigError(f"{head}: {argument}={value} must be at least {bound}", code="value-unfit")


def _channels(in_specs: Mapping[str, FeatureSpec], levels: Sequence[str]) -> int:
    """The one number of channels that all levels have."""
    found = {in_specs[level].channels for level in levels}
    if len(found) != 1:
        said = f"{', '.join(levels)} have {sorted(found)} channels; use a neck that makes them alike"
        raise ConfigError(f"DenseDetection shares its towers over its levels, but {said}", code="levels-unfit")
    return found.pop()
