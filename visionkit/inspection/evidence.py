"""What in the image speaks for an answer: Grad-CAM (Selvaraju et al. 2017) on the maps that a head reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from visionkit.interfaces import Backbone, Head
from visionkit.model import VisionModel
from visionkit.structures import Decoded, Features, RawOutput

_LEAST_SCORE = 0.05
"""Of detections whose evidence is told, unless no class has any better."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks for one class in one image.

    Attributes:
        label: of the class.
        score: 0 to 1: the class's score, that of its strongest detection, or its share of the image's pixels.
        heat: (h, w) float32, at least 0, of the part of the canvas that holds image: where the evidence lies. In the
            units of the class's logit, so that those of one head may be compared.
        box: (4,) float32 xyxy canvas pixels, where the head says that the object is; None where it does not.
        region: (h, w) bool, the pixels that the head gives to the class; None where it does not.
    """

    label: int
    score: float
    heat: np.ndarray
    box: np.ndarray | None = None
    region: np.ndarray | None = None


def class_evidence(
    model: VisionModel, images: Tensor, size: tuple[int, int], *, most: int = 3
) -> dict[str, list[Evidence]]:
    """Return, by head, the evidence for its strongest answers in an image, strongest first.

    What speaks for a class is its logit (for a whole image), the logit of its strongest detection, or the mean of its
    logits over the pixels that it wins (Vinogradova et al. 2020). The gradient of that weighs the channels of each map
    that the head reads; the weighted sum, where it is positive, is enlarged to the canvas, and that of several maps is
    added up. For answers on the whole image the gradient is averaged over the map first, as Grad-CAM has it. Answers
    that have a place of their own take it cell by cell (ODAM, Zhao and Chan 2023): a detection hangs on the cells
    around its own alone, and by a mean all that looks alike elsewhere would seem to speak for it. A head that reads
    single cells alone, as that of the plain CNN behind its last pooling, is told by the backbone's coarsest map that
    has several.

    Args:
        model: in eval mode.
        images: (1, C, H, W), one canvas on the model's device, as `VisionModel.outputs` takes it.
        size: (height, width) of the part of the canvas that holds image.
        most: classes of a head; those of which nothing is detected, or that win no pixel, are left out.
    """
    with torch.no_grad():
        levels = model.features(images)
    sizes = torch.tensor([size], device=images.device)
    canvas = (images.shape[-2], images.shape[-1])
    found = {}
    for name, head in model.named_heads():
        maps, read = _maps_and_levels(model, images, head, levels)
        found[name] = _of_head(head, maps, read, sizes, canvas, most)
    return found


def _maps_and_levels(
    model: VisionModel, images: Tensor, head: Head, levels: Features
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The maps on which the evidence is told, and the levels that a head is given, which hang on them."""
    if all(_cells(levels[name]) == 1 for name in head.levels):
        with torch.enable_grad():
            traced = dict(model.features(images))
        wide = [name for name in cast(Backbone, model.backbone).out_specs if _cells(levels[name]) > 1]
        if wide and all(traced[name].requires_grad for name in (*head.levels, wide[-1])):
            return [traced[min(wide, key=lambda name: _cells(levels[name]))]], traced
    leaves = {name: levels[name].detach().float().requires_grad_() for name in head.levels}
    # Copies, since a head may change its input in place.
    with torch.enable_grad():
        return list(leaves.values()), {**levels, **{name: leaf.clone() for name, leaf in leaves.items()}}


def _cells(maps: Tensor) -> int:
    return maps.shape[-2] * maps.shape[-1]


class _Answer(NamedTuple):
    """A class, its score, the index of the logits that speak for it, and where the head sees it (`Evidence`)."""

    label: int
    score: float
    chosen: Any
    box: np.ndarray | None = None
    region: np.ndarray | None = None


def _of_head(
    head: Head, maps: list[Tensor], levels: Features, sizes: Tensor, canvas: tuple[int, int], most: int
) -> list[Evidence]:
    with torch.enable_grad():
        raw = head.forward(levels, sizes)
        logits = class_logits(raw)[0].float()
    with torch.no_grad():
        decoded = head.decode(_detached(raw), sizes)
    height, width = (int(side) for side in sizes[0])
    by_place = bool({"boxes", "semantic"} & head.needs)
    found = []
    for answer in _answers(head, logits.detach(), decoded, (height, width), canvas)[:most]:
        with torch.enable_grad():
            speaks = logits[answer.chosen].mean()
        gradients = torch.autograd.grad(speaks, maps, retain_graph=True, allow_unused=True)
        heat = torch.zeros(canvas, device=sizes.device)
        for one, gradient in zip(maps, gradients, strict=True):
            if gradient is not None:
                activation = class_activation(one.detach().float(), gradient.float(), by_place=by_place)
                heat += enlarged(activation, canvas)
        placed = heat[:height, :width].cpu().numpy()
        found.append(Evidence(answer.label, answer.score, placed, answer.box, answer.region))
    return found


def class_activation(maps: Tensor, gradients: Tensor, *, by_place: bool) -> Tensor:
    """Weigh (1, C, h, w) maps by their gradients and add them up; (h, w), the negative part made 0.

    by_place: each cell by the gradient at that cell; else by the mean over all cells.
    """
    weights = gradients if by_place else gradients.mean((2, 3), keepdim=True)
    return (weights * maps).sum(1).clamp(min=0)[0]


def enlarged(heat: Tensor, canvas: tuple[int, int]) -> Tensor:
    """(h, w) -> the canvas's (H, W), bilinear."""
    return F.interpolate(heat[None, None], size=canvas, mode="bilinear", align_corners=False)[0, 0]


def class_logits(raw: RawOutput) -> Tensor:
    """The logits of the classes in what a head gives, as `Head.forward` says: the tensor itself, or its "logits"."""
    return raw if isinstance(raw, Tensor) else raw["logits"]


def _detached(raw: RawOutput) -> RawOutput:
    return raw.detach() if isinstance(raw, Tensor) else {name: value.detach() for name, value in raw.items()}


def _answers(
    head: Head, logits: Tensor, decoded: Decoded, size: tuple[int, int], canvas: tuple[int, int]
) -> list[_Answer]:
    """What a head says, strongest first; the kind of its logits goes by the labels that it learns from."""
    if "boxes" in head.needs:
        return _objects(logits, decoded)
    if "semantic" in head.needs:
        return _regions(logits, decoded, size, canvas)
    scores = decoded["scores"][0].float()
    boxes = decoded["boxes"][0].float().cpu().numpy() if "boxes" in decoded else None
    return [
        _Answer(label, float(scores[label]), label, None if boxes is None else boxes[label])
        for label in scores.argsort(descending=True, stable=True).tolist()
    ]


def _objects(logits: Tensor, decoded: Decoded) -> list[_Answer]:
    """The strongest detection of each class; logits: (A, C)."""
    answers: dict[int, _Answer] = {}
    for row in decoded["valid"][0].nonzero()[:, 0].tolist():  # scores fall
        label, score = int(decoded["labels"][0, row]), float(decoded["scores"][0, row])
        if label not in answers and (score >= _LEAST_SCORE or not answers):
            cell = int((logits[:, label].sigmoid() - score).abs().argmin())
            answers[label] = _Answer(label, score, (cell, label), decoded["boxes"][0, row].float().cpu().numpy())
    return list(answers.values())


def _regions(logits: Tensor, decoded: Decoded, size: tuple[int, int], canvas: tuple[int, int]) -> list[_Answer]:
    """The classes that win pixels, the largest first; logits: (C, h, w)."""
    said = decoded["logits"].float()
    winners = said[0].argmax(0)
    down, across = (
        (torch.arange(cells, device=said.device) + 0.5) * (side / cells) < max(held, side / cells)
        for cells, side, held in zip(winners.shape, canvas, size, strict=True)
    )
    on_image = down[:, None] & across
    large = F.interpolate(said, size=canvas, mode="bilinear", align_corners=False)[0, :, : size[0], : size[1]].argmax(0)
    shares = torch.bincount(large.flatten(), minlength=len(logits)) / large.numel()
    answers = []
    for label in shares.argsort(descending=True, stable=True).tolist():
        cells = (winners == label) & on_image
        if cells.any():
            answers.append(_Answer(label, float(shares[label]), (label, cells), region=(large == label).cpu().numpy()))
    return answers
