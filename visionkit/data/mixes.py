"""Samples made of several images: mosaics and mix-ups. `copy_paste` has the third kind.

In a training set a sample is, in this order: a mosaic or one image; then objects of another image are pasted into it;
then it is blended with another image; then it is augmented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from visionkit.data.placement import place_boxes, place_labels
from visionkit.errors import CodedLine, ConfigError
from visionkit.preprocess import Placement, fill_value
from visionkit.structures import IGNORE_INDEX, Labels, Sample

_AREA_BELOW = 0.5
"""See `preprocess.resize`: resizing four images is most of a mosaic's cost."""


class Turns:
    """Which samples of a run are mixed.

    Args:
        key: of the configuration, for the messages.
        p: the share of samples.
        until: after which it stops, so that training ends on images as they are: a share of the epochs (a float up to
            1.0), or a number of epochs (an int); None: never.

    Raises:
        ConfigError: a value cannot be.
    """

    def __init__(self, key: str, p: float, until: float | None) -> None:
        fits = until is None or 0 <= until <= (1 if isinstance(until, float) else float("inf"))
        faults = [
            (not 0 <= p <= 1, f"p={p}: a share from 0 to 1"),
            (not fits, f"until={until}: a share of the epochs up to 1.0, or a whole number of epochs,"),
        ]
        refuse(key, faults)
        self.p = p
        self.until = until

    def active(self, epoch: int, epochs: float) -> bool:
        """Say whether samples are mixed in `epoch` (from 0) of a run of `epochs`."""
        if self.until is None:
            return True
        return epoch < (self.until * epochs if isinstance(self.until, float) else self.until)

    def drawn(self, epoch: int, epochs: float, rng: np.random.Generator) -> bool:
        """Say whether the sample that `rng` belongs to is mixed; draws a number only where that is open."""
        return self.p > 0 and self.active(epoch, epochs) and bool(rng.random() < self.p)


class Mosaic:
    """Four images around a random point of one canvas (Bochkovskiy et al. 2020, YOLOv4), with all labels of theirs.

    Each image is scaled by a random factor of the letterbox scale, and the part of it that fits into its quadrant, at
    a random place, is drawn there, touching the centre.

    Args:
        canvas: (height, width).
        p, until: see `Turns`.
        scale: the range of the factor.
        centre: the range of the centre, as a share of each side.
        fill: the grey value where no image lies, 0 to 255.

    Raises:
        ConfigError: a value cannot be.
    """

    partners = 3
    """How many samples are wanted beside the first."""

    def __init__(
        self,
        canvas: Sequence[int],
        *,
        p: float = 1.0,
        until: float | None = None,
        scale: Sequence[float] = (0.5, 1.5),
        centre: Sequence[float] = (0.25, 0.75),
        fill: int = 114,
    ) -> None:
        faults = [
            (not 0 < scale[0] <= scale[1], f"scale={list(scale)}: two rising factors above 0"),
            (not 0 < centre[0] <= centre[1] < 1, f"centre={list(centre)}: two rising shares between 0 and 1"),
            (min(canvas) < 2, f"canvas={list(canvas)}: sides of at least 2 pixels"),
        ]  # fmt: skip
        refuse("augment.mosaic", faults)
        self.turns = Turns("augment.mosaic", p, until)
        self.canvas = (canvas[0], canvas[1])
        self.scale = (scale[0], scale[1])
        self.centre = (centre[0], centre[1])
        self.fill = fill

    def __call__(self, samples: Sequence[Sample], rng: np.random.Generator) -> Sample:
        """Draw four samples, (H, W, C) of one C and dtype, on a canvas; id and file name are those of the first.

        The mosaic knows the fields that all four know, and neither `class_scores` nor `box`: it has no one answer.
        """
        height, width = self.canvas
        y, x = (_drawn(rng, side, self.centre) for side in self.canvas)
        first = samples[0].image
        image = np.full((height, width, first.shape[2]), fill_value(self.fill, first.dtype), first.dtype)
        placements = []
        for number, sample in enumerate(samples):
            placement = self._placement(sample.labels.size, (y, x), number, rng)
            rows, columns = placement.target
            placement.resized(sample.image, area_below=_AREA_BELOW, into=image[slice(*rows), slice(*columns)])
            placements.append(placement)
        labels = _on_one_canvas([sample.labels for sample in samples], placements)
        return replace(samples[0], image=image, labels=labels, reduction=1)

    def _placement(
        self, size: tuple[int, int], centre: tuple[int, int], quadrant: int, rng: np.random.Generator
    ) -> Placement:
        """quadrant: 0 is top left, 1 top right, 2 bottom left, 3 bottom right."""
        ratio = min(self.canvas[0] / size[0], self.canvas[1] / size[1]) * rng.uniform(*self.scale)
        source, target = [], []
        for axis, after in enumerate((quadrant >= 2, quadrant % 2 == 1)):
            room = self.canvas[axis] - centre[axis] if after else centre[axis]
            length = max(1, min(room, round(size[axis] * ratio)))
            used = max(1, min(size[axis], round(length / ratio)))
            first = int(rng.integers(size[axis] - used + 1))
            source.append((first, first + used))
            target.append((centre[axis], centre[axis] + length) if after else (centre[axis] - length, centre[axis]))
        return Placement(size, (source[0], source[1]), (target[0], target[1]), self.canvas)


def _on_one_canvas(parts: Sequence[Labels], placements: Sequence[Placement]) -> Labels:
    known = frozenset.intersection(*(labels.known for labels in parts))
    if "boxes" in known and not known & {"masks", "semantic"}:
        return place_boxes(parts, placements)
    placed = [place_labels(labels, placement) for labels, placement in zip(parts, placements, strict=True)]
    maps = [part.semantic for part in placed if part.semantic is not None]
    # Each map is IGNORE_INDEX, the largest value, outside of its own quadrant.
    semantic = np.minimum.reduce(maps) if len(maps) == len(placed) else None
    return replace(merged_objects(placed), semantic=semantic)


def _drawn(rng: np.random.Generator, side: int, shares: tuple[float, float]) -> int:
    """Draw a whole pixel within `shares` of `side`, so that both sides of it hold at least one pixel."""
    return min(side - 1, max(1, round(rng.uniform(*shares) * side)))


class MixUp:
    """Two images blended, the objects of both counting in full (Zhang et al. 2018; for detection Zhang et al. 2019).

    Args:
        p, until: see `Turns`.
        alpha: each image's share is drawn from Beta(alpha, alpha). 8 keeps nineteen of twenty shares between .27 and
            .73, so that an object that is labelled can be seen; below 1 most blends are nearly one of the images.
        fill: the grey value where neither image lies, 0 to 255.

    Raises:
        ConfigError: a value cannot be.
    """

    def __init__(self, *, p: float = 1.0, until: float | None = None, alpha: float = 8.0, fill: int = 114) -> None:
        refuse("augment.mixup", [(not 0 < alpha < float("inf"), f"alpha={alpha}: a number above 0")])
        self.turns = Turns("augment.mixup", p, until)
        self.alpha = alpha
        self.fill = fill

    def __call__(self, sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
        """Blend two samples, (H, W, C) of one C and dtype, their top left corners together.

        The frame is as large as the larger sides; where one image lies alone, it stays as it is. Fields that both know
        are known. `class_scores` are blended like the pixels (−1 where one of them is −1). A pixel of the semantic map
        on which the two differ has no one class and becomes `IGNORE_INDEX`. There is no one object: `box` is unknown.
        """
        share = float(rng.beta(self.alpha, self.alpha))
        one, two = sample.labels, other.labels
        size = (max(one.size[0], two.size[0]), max(one.size[1], two.size[1]))
        common = (slice(min(one.size[0], two.size[0])), slice(min(one.size[1], two.size[1])))
        first = sample.image
        image = np.full((*size, first.shape[2]), fill_value(self.fill, first.dtype), first.dtype)
        for part in (sample, other):
            image[: part.labels.size[0], : part.labels.size[1]] = part.image
        image[common] = _blended(first[common], other.image[common], share)
        labels = merged_objects([_on_frame(one, size), _on_frame(two, size)])
        if one.semantic is not None and two.semantic is not None:
            semantic = np.full(size, IGNORE_INDEX, np.uint8)
            for values in (one.semantic, two.semantic):
                semantic[: values.shape[0], : values.shape[1]] = values
            differ = one.semantic[common] != two.semantic[common]
            semantic[common][differ] = IGNORE_INDEX
            labels = replace(labels, semantic=semantic)
        if one.class_scores is not None and two.class_scores is not None:
            unknown = (one.class_scores < 0) | (two.class_scores < 0)
            scores = share * one.class_scores + (1 - share) * two.class_scores
            labels = replace(labels, class_scores=np.where(unknown, -1, scores).astype(np.float32))
        return replace(sample, image=image, labels=labels)


def refuse(key: str, faults: Sequence[tuple[bool, str]]) -> None:
    """Raise a ConfigError with a line for each of the (is wrong, what is wanted) `faults` of a mix that is wrong."""
    wrong = [CodedLine(f"{key}.{text} is wanted", "value-unfit") for is_wrong, text in faults if is_wrong]
    if wrong:
        raise ConfigError.of(wrong)


def merged_objects(placed: Sequence[Labels]) -> Labels:
    """Join boxes and masks that lie on one frame; a field that one of them does not know is not known."""
    known = frozenset.intersection(*(labels.known for labels in placed))
    joined: dict[str, Any] = {}
    lists = [labels.known_classes for labels in placed if labels.known_classes is not None]
    if lists:
        joined["known_classes"] = np.logical_and.reduce(lists)
    if "boxes" in known:
        for name in ("boxes", "labels", "crowd", "ignore", "areas"):
            joined[name] = np.concatenate([getattr(labels, name) for labels in placed])
    if "masks" in known:
        joined["masks"] = tuple(mask for labels in placed for mask in labels.masks or ())
    return Labels(size=placed[0].size, **joined)


def _on_frame(labels: Labels, size: tuple[int, int]) -> Labels:
    """Return labels at the top left of a frame that may be larger."""
    if labels.size == size:
        return labels
    own = ((0, labels.size[0]), (0, labels.size[1]))
    return place_labels(labels, Placement(labels.size, own, own, size))


def _blended(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Return share * one + (1 - share) * other of two (H, W, C) images, in their dtype."""
    flat = [np.ascontiguousarray(image).reshape(len(image), -1) for image in (one, other)]
    return cv2.addWeighted(flat[0], share, flat[1], 1 - share, 0).reshape(one.shape)
