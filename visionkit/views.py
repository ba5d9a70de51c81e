"""Test-time augmentation: an image seen several times, mirrored and at other scales, and the answers put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from visionkit.ops.boxes import iou
from visionkit.parts import Answer, Answers, Found, Group, Part, Run, gather, objects
from visionkit.predictions import Classification, Detections, Instances, Localization

View = tuple[bool, float]
"""Mirrored or not, and the factor on the usual canvas."""
VIEWS: tuple[View, ...] = ((False, 1.0), (True, 1.0), (False, 1.25), (True, 1.25))
"""Those of `tta=true`, where the network takes canvases of other sizes."""
MIRRORED: tuple[View, ...] = ((False, 1.0), (True, 1.0))
"""Those of networks with a fixed canvas."""
_SAME = 0.55
"""The IoU from which boxes of two views are of one object."""


def seen_in_views(run: Run, images: Sequence[np.ndarray], views: Sequence[View], scale: float = 1.0) -> list[Answers]:
    """Return what views say of each image in the mean; objects by weighted box fusion (Solovyev et al. 2021).

    Args:
        run: what predicts.
        images: (H, W, C) each.
        views: how they are looked at.
        scale: a factor on all views' canvases.
    """
    told = []
    for mirrored, factor in views:
        shown = [np.ascontiguousarray(image[:, ::-1]) for image in images] if mirrored else images
        told.append(run(shown, scale * factor))
    merged: list[Answers] = []
    for i, image in enumerate(images):
        size = (image.shape[0], image.shape[1])
        whole = (0, 0, size[1], size[0])
        parts = {
            name: [Part(one[i][name], whole, mirrored) for one, (mirrored, _) in zip(told, views, strict=True)]
            for name in told[0][i]
        }
        merged.append({name: _mean(those, size) for name, those in parts.items()})
    return merged


def fused(found: Found, views: int) -> list[Group]:
    """Boxes of one label that several views agree on: their mean by score; the score is the mean over all views.

    Each view adds one box at most to a group. The first member is the best one.
    """
    groups: list[Group] = []
    for label in np.unique(found.labels):
        rows = np.flatnonzero(found.labels == label)
        rows = rows[np.argsort(-found.scores[rows], kind="stable")]
        boxes = torch.from_numpy(found.boxes[rows])
        same = iou(boxes[:, None], boxes[None]).numpy()
        same[(found.part[rows][:, None] == found.part[rows]) | (same < _SAME)] = 0
        free = np.ones(len(rows), bool)
        for k in range(len(rows)):
            if not free[k]:
                continue
            best: dict[int, int] = {}
            for j in np.flatnonzero(same[k] * free):
                part = int(found.part[rows[j]])
                if part not in best or same[k, j] > same[k, best[part]]:
                    best[part] = int(j)
            members = [k, *best.values()]
            free[members] = False
            chosen = rows[members]
            scores = found.scores[chosen]
            box = (found.boxes[chosen] * scores[:, None]).sum(0) / max(scores.sum(), 1e-12)
            groups.append(Group(box, float(scores.sum() / views), int(label), tuple(chosen.tolist())))
    return groups


@dataclass(frozen=True, eq=False)
class MeanScores:
    """The mean of what views say of every pixel; see `PixelScores`."""

    parts: Sequence[Part]
    size: tuple[int, int]

    def rows(self, first: int, last: int) -> Tensor:
        """See `PixelScores`."""
        total = self.parts[0].rows(first, last)
        for part in self.parts[1:]:
            total = total + part.rows(first, last)
        return total / len(self.parts)


def _mean(parts: Sequence[Part], size: tuple[int, int]) -> Answer:
    first = parts[0].answer
    if isinstance(first, Classification | Localization):
        answers = cast("list[Localization]", [part.answer for part in parts])
        scores = np.stack([one.scores for one in answers]).mean(0)
        if isinstance(first, Classification):
            return Classification(scores)
        boxes = np.stack([part.placed(one.boxes) for part, one in zip(parts, answers, strict=True)]).mean(0)
        return Localization(scores, boxes.astype(np.float32))
    if isinstance(first, Detections | Instances):
        found = gather(parts)
        groups = fused(found, len(parts))
        if isinstance(first, Instances):  # of masks the best view's is taken: their union would be too large
            groups = [Group(one.box, one.score, one.label, one.members[:1]) for one in groups]
        return objects(parts, found, groups, size)
    return MeanScores(parts, size)
