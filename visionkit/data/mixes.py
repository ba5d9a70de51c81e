"""Samples made of several images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from visionkit.data.placement import place_labels
from visionkit.errors import ConfigError
from visionkit.preprocess import Placement, fill_value
from visionkit.structures import Labels, Sample

_AREA_BELOW = 0.5
"""See `preprocess.resize`: resizing four images is most of a mosaic's cost."""


class Mosaic:
    """Four images around a random point of one canvas (Bochkovskiy et al. 2020, YOLOv4), with all labels of theirs.

    Each image is scaled by a random factor of the letterbox scale, and the part of it that fits into its quadrant, at
    a random place, is drawn there, touching the centre.

    Args:
        canvas: (height, width).
        p: the share of samples that become mosaics.
        until: after which the mosaics stop, so that training ends on whole images: a share of the epochs (a float up
            to 1.0), or a number of epochs (an int); None: never.
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
            (not 0 <= p <= 1, f"p={p}: a share from 0 to 1"),
            (until is not None and (until < 0 or (isinstance(until, float) and until > 1)),
             f"until={until}: a share of the epochs up to 1.0, or a whole number of epochs,"),
            (not 0 < scale[0] <= scale[1], f"scale={list(scale)}: two rising factors above 0"),
            (not 0 < centre[0] <= centre[1] < 1, f"centre={list(centre)}: two rising shares between 0 and 1"),
            (min(canvas) < 2, f"canvas={list(canvas)}: sides of at least 2 pixels"),
        ]  # fmt: skip
        wrong = [f"augment.mosaic.{text} is wanted" for is_wrong, text in faults if is_wrong]
        if wrong:
            raise ConfigError("\n".join(wrong))
        self.canvas = (canvas[0], canvas[1])
        self.p = p
        self.until = until
        self.scale = (scale[0], scale[1])
        self.centre = (centre[0], centre[1])
        self.fill = fill

    def active(self, epoch: int, epochs: float) -> bool:
        """Say whether mosaics are made in `epoch` (from 0) of a run of `epochs`."""
        if self.until is None:
            return True
        return epoch < (self.until * epochs if isinstance(self.until, float) else self.until)

    def __call__(self, samples: Sequence[Sample], rng: np.random.Generator) -> Sample:
        """Draw four samples, (H, W, C) of one C and dtype, on a canvas; id and file name are those of the first.

        The mosaic knows the fields that all four know, and neither `class_scores` nor `box`: it has no one answer.
        """
        height, width = self.canvas
        y, x = (_drawn(rng, side, self.centre) for side in self.canvas)
        first = samples[0].image
        image = np.full((height, width, first.shape[2]), fill_value(self.fill, first.dtype), first.dtype)
        placed = []
        for number, sample in enumerate(samples):
            placement = self._placement(sample.labels.size, (y, x), number, rng)
            rows, columns = placement.target
            image[slice(*rows), slice(*columns)] = placement.resized(sample.image, area_below=_AREA_BELOW)
            placed.append(place_labels(sample.labels, placement))
        return replace(samples[0], image=image, labels=_merged(placed))

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


def _drawn(rng: np.random.Generator, side: int, shares: tuple[float, float]) -> int:
    """Draw a whole pixel within `shares` of `side`, so that both sides of it hold at least one pixel."""
    return min(side - 1, max(1, round(rng.uniform(*shares) * side)))


def _merged(placed: Sequence[Labels]) -> Labels:
    """Join labels that lie on one canvas; a field that one of them does not know is not known."""
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
    if "semantic" in known:
        maps = [labels.semantic for labels in placed if labels.semantic is not None]
        # Each map is IGNORE_INDEX, the largest value, outside of its own quadrant.
        joined["semantic"] = np.minimum.reduce(maps)
    return Labels(size=placed[0].size, **joined)
