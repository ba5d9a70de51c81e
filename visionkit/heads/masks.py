"""Instance segmentation: the dense detector, whose cells also say how to mix an object's mask from shared maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionkit.assigners import Assignment, TaskAligned
from visionkit.blocks import ConvNorm, rounded
from visionkit.errors import ConfigError
from visionkit.finishing import Finishing, start_instances
from visionkit.heads.dense import DenseDetection, SharedTower, by_cell, refuse_small, refuse_unfit
from visionkit.ops import masks as mask_ops
from visionkit.predictions import Instances
from visionkit.structures import Decoded, Features, FeatureSpec, Geometry, Targets


class DenseInstance(nn.Module):
    """`DenseDetection`, and for each cell coefficients by which prototype maps add up to its object's mask.

    After YOLACT (Bolya et al. 2019). The masks learn from a few cells of each object, inside its box alone, what share
    of each cell of the map the object covers. In training the prototypes' branch also tells, class by class, which
    pixels belong to any object.

    Args:
        in_specs: the specs of at least `levels`.
        classes: names of the classes.
        levels: those of the detector, finest first, and last the map that the prototypes are made from.
        prototypes: how many maps are mixed.
        samples: most cells of an image whose masks are trained.
        depth, channels, width, bins, gamma, assigner, one_to_one, nms, candidates, score_threshold, iou_threshold: see
            `DenseDetection`.
        most: objects kept in an image; COCO counts no more than 100 of a class.

    Raises:
        ConfigError: see `DenseDetection`; or only one level, or a number out of its range.
    """

    needs = frozenset({"boxes", "masks"})
    default_loss_weights: Mapping[str, float] = MappingProxyType(
        {**DenseDetection.default_loss_weights, "mask": 2.0, "semantic": 1.0}
    )

    def __init__(
        self,
        in_specs: Mapping[str, FeatureSpec],
        *,
        classes: Sequence[str],
        levels: Sequence[str] = ("p3", "p4", "p5", "pixels"),
        prototypes: int = 32,
        samples: int = 64,
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
        most: int = 100,
    ) -> None:
        super().__init__()
        refuse_unfit("DenseInstance", in_specs, levels, classes)
        if len(levels) < 2:
            raise ConfigError(
                f"DenseInstance: levels={list(levels)}: name those of the boxes, and last that of the masks",
                code="levels-unfit",
            )
        refuse_small("DenseInstance", {"prototypes": (prototypes, 1), "samples": (samples, 1)})
        *box_levels, map_level = levels
        self.detection = DenseDetection(
            in_specs,
            classes=classes,
            levels=box_levels,
            depth=depth,
            channels=channels,
            width=width,
            bins=bins,
            gamma=gamma,
            assigner=assigner,
            one_to_one=one_to_one,
            nms=nms,
            candidates=candidates,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            most=most,
        )
        self.default_loss_weights = {**self.default_loss_weights, **self.detection.default_loss_weights}
        self.levels, self.classes = tuple(levels), tuple(classes)
        self.samples = samples
        self.stride = in_specs[map_level].stride
        entry = in_specs[box_levels[0]].channels
        inner = entry if channels is None else rounded(channels * width)
        self.coefficient_tower = SharedTower(entry, inner, depth, len(box_levels))
        self.coefficient = nn.Conv2d(inner, prototypes, 1)
        map_channels = in_specs[map_level].channels
        self.prototype_branch = ConvNorm(map_channels, map_channels, 3)
        self.prototype = nn.Conv2d(map_channels, prototypes, 1)
        self.semantic = nn.Conv2d(map_channels, len(classes), 1)
        self._initialise()

    def forward(self, features: Features, sizes: Tensor) -> dict[str, Tensor]:
        """What `DenseDetection` gives for A cells, coefficients (B, A, K) and prototypes (B, K, h, w).

        K: prototypes; (h, w): the cells of the last level. The logits of a cell's mask are its coefficients times the
        prototypes.
        """
        return {
            **self.detection(features, sizes),
            "coefficients": self._coefficients(features),
            "prototypes": self.prototype(self.prototype_branch(features[self.levels[-1]])),
        }

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        """The losses of `DenseDetection`; mask: cross-entropy + dice inside the box; semantic: cross-entropy.

        Both are weighted so that each object whose mask is known counts alike, and divided by the number of those. An
        object of an image that knows no masks trains its box alone; crowd regions and ignored objects train no mask,
        and where they are the semantic maps do not learn.

        Raises:
            ConfigError: the canvas is no multiple of the last level's stride.
        """
        return self.learned_losses(self.learned(features), features, targets)

    def learned(self, features: Features) -> dict[str, Tensor]:
        """What `DenseDetection.learned` gives, coefficients and prototypes (see `forward`), and semantic, the logits of
        a map half as fine.
        """
        branch = self.prototype_branch(features[self.levels[-1]])
        return {
            **self.detection.learned(features),
            "coefficients": self._coefficients(features),
            "prototypes": self.prototype(branch),
            "semantic": self.semantic(F.avg_pool2d(branch, 2, ceil_mode=True)),
        }

    def learned_losses(self, learned: Mapping[str, Tensor], features: Features, targets: Targets) -> dict[str, Tensor]:
        """`loss` of what `learned` gave; of the features only shapes are read."""
        assert targets.boxes is not None and targets.mask_row is not None and targets.masks is not None
        size = (learned["prototypes"].shape[-2], learned["prototypes"].shape[-1])
        self._check_canvas(size, targets.masks)
        losses, assignment = self.detection.raw_losses(learned, self.detection.grids(features), targets)
        shares = mask_ops.covered_shares(targets.masks, size, self.stride)
        chosen = targets.positive_rows() & targets.known["masks"][:, None] & (targets.mask_row >= 0)
        total = targets.total("masks")
        mask = self._mask_loss(learned["coefficients"], learned["prototypes"], shares, assignment, targets, chosen)
        semantic = self._semantic_loss(learned["semantic"], shares, targets, chosen)
        return {**losses, "mask": mask / total, "semantic": semantic / total}

    def decode(self, raw: Mapping[str, Tensor], sizes: Tensor) -> Decoded:
        """As `DenseDetection.decode`, coefficients (B, N, K) of the N rows beside, and prototypes (B, K, h, w)."""
        decoded = dict(self.detection.decode(raw, sizes))
        cells = decoded.pop("cells")[..., None].expand(-1, -1, raw["coefficients"].shape[-1])
        return {
            **decoded,
            "coefficients": raw["coefficients"].gather(1, cells).float(),
            "prototypes": raw["prototypes"].float(),
        }

    def finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> list[Instances]:
        """Instances in original pixels, best first; those of a batch share the memory of their prototypes."""
        return self.start_finish(decoded, geometries)()

    @property
    def finishing(self) -> Finishing:
        """See `Head`."""
        return Finishing("instances", stride=self.stride)

    def start_finish(self, decoded: Decoded, geometries: Sequence[Geometry]) -> Callable[[], list[Instances]]:
        """See `Head`."""
        return start_instances(decoded, geometries, self.stride)

    def _mask_loss(
        self,
        coefficients: Tensor,
        prototypes: Tensor,
        shares: Tensor,
        assignment: Assignment,
        targets: Targets,
        learned: Tensor,
    ) -> Tensor:
        """The sum over the objects (B, M) that are `learned`."""
        assert targets.boxes is not None and targets.mask_row is not None
        # One row more, that none learns from: then there is one to look up also where there are no objects.
        learned, mask_row = F.pad(learned, (0, 1)), F.pad(targets.mask_row, (0, 1), value=-1)
        cells, rows, weight = sampled_cells(assignment, learned, self.samples)
        boxes = F.pad(targets.boxes, (0, 0, 0, 1)).gather(1, rows[..., None].expand(-1, -1, 4))
        wanted = shares[mask_row.gather(1, rows)].float()
        chosen = coefficients.gather(1, cells[..., None].expand(-1, -1, coefficients.shape[-1]))
        logits = torch.bmm(chosen, prototypes.flatten(2)).float().view_as(wanted)
        inside = mask_ops.touched_cells(boxes, (wanted.shape[-2], wanted.shape[-1]), self.stride)
        entropy, dice = mask_ops.mask_losses(logits, wanted, inside)
        return (torch.where(weight > 0, entropy + dice, 0.0) * weight).sum()

    def _semantic_loss(self, logits: Tensor, shares: Tensor, targets: Targets, learned: Tensor) -> Tensor:
        """The sum over images of their objects' number times the mean over pixels of the sum over classes."""
        assert targets.labels is not None and targets.mask_row is not None
        images, classes, height, width = logits.shape
        shares = F.avg_pool2d(shares.float()[None], 2, ceil_mode=True)[0]
        image = torch.arange(images, device=logits.device)[:, None]
        labels = targets.labels.clamp(min=0)
        known = targets.known["masks"][:, None] & (targets.labels >= 0) & (targets.mask_row >= 0)
        wanted = self._union(shares, targets.mask_row, image * classes + labels, learned, images * classes)
        unlabelled = self._union(shares, targets.mask_row, image.expand_as(labels), known & ~learned, images)
        counted = (unlabelled == 0)[:, None] & (learned.sum(1) > 0)[:, None, None, None]
        if targets.known_classes is not None:
            counted = counted & targets.known_classes[:, :, None, None]
        loss = F.binary_cross_entropy_with_logits(logits.float(), wanted.view_as(logits), reduction="none")
        per_image = torch.where(counted, loss, 0.0).sum((1, 2, 3)) / (height * width)
        return (per_image * learned.sum(1)).sum()

    def _union(self, shares: Tensor, mask_row: Tensor, slots: Tensor, chosen: Tensor, count: int) -> Tensor:
        """(count, h, w): the union of the masks of the `chosen` objects (B, M) that have the same of `slots` (B, M)."""
        # Objects that are not chosen write where nothing is read.
        slot = torch.full((len(shares),), count, device=shares.device)
        row = torch.where(chosen, mask_row, len(shares) - 1)
        slot.scatter_(0, row.flatten(), torch.where(chosen, slots, count).flatten())
        return mask_ops.unions(shares, slot, count)

    def _coefficients(self, features: Features) -> Tensor:
        return by_cell(
            self.coefficient(self.coefficient_tower(features[level], index))
            for index, level in enumerate(self.levels[:-1])
        )

    def _check_canvas(self, size: tuple[int, int], masks: Tensor) -> None:
        pixels = size[0] * size[1] * self.stride**2
        if masks.shape[1] != -(-pixels // 8):
            raise ConfigError(
                f"DenseInstance: image_size must be a multiple of {self.stride}, the stride of its masks",
                code="value-unfit",
            )

    def _initialise(self) -> None:
        assert self.semantic.bias is not None
        nn.init.normal_(self.semantic.weight, std=0.01)
        nn.init.constant_(self.semantic.bias, -math.log(99.0))  # as the detector's scores: most pixels are background


def sampled_cells(assignment: Assignment, learned: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose cells that answer for objects: the best one of each object first, then its second best, and so on.

    Args:
        assignment: of A cells to M > 0 objects.
        learned: (B, M) bool, the objects that count.
        most: cells an image.

    Returns:
        cells (B, S) int64, their objects (B, S) int64, and weights (B, S) in proportion to their quality that add up to
        the number of the image's objects; 0 where a row is left over.
    """
    row = assignment.row.clamp(min=0)
    answers = (assignment.row >= 0) & learned.gather(1, row)
    quality = torch.where(answers, assignment.quality, 0.0)
    best = quality.new_zeros(learned.shape).scatter_reduce(1, row, quality, "amax")
    rank = torch.where(answers, quality / best.gather(1, row).clamp(min=1e-9), -1.0)
    top, cells = rank.topk(min(most, rank.shape[1]), dim=1)
    weight = torch.where(top >= 0, quality.gather(1, cells), 0.0)
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-6) * learned.sum(1, keepdim=True)
    return cells, row.gather(1, cells), weight
