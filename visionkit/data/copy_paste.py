"""Objects of one image pasted into another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.data.mixes import Turns, merged_objects, refuse
from visionkit.data.placement import LEAST_SIDE, LEAST_VISIBLE, paint, place_labels, tie_to_masks
from visionkit.preprocess import Placement
from visionkit.structures import IGNORE_INDEX, Labels, Sample


class CopyPaste:
    """Some objects of another image, cut out by their masks and pasted (Ghiasi et al. 2021, Simple Copy-Paste).

    The other image is scaled by a random factor of the scale at which it just fits, laid at a random place, and a
    random number of its objects, at least one, is copied pixel by pixel. Crowd regions and ignored objects are not.

    Args:
        p, until: see `Turns`.
        scale: the range of the factor.

    Raises:
        ConfigError: a value cannot be.
    """

    def __init__(self, *, p: float = 1.0, until: float | None = None, scale: Sequence[float] = (0.5, 1.5)) -> None:
        refuse(
            "augment.copy_paste", [(not 0 < scale[0] <= scale[1], f"scale={list(scale)}: two rising factors above 0")]
        )
        self.turns = Turns("augment.copy_paste", p, until)
        self.scale = (scale[0], scale[1])

    def __call__(self, sample: Sample, donor: Sample, rng: np.random.Generator) -> Sample:
        """Paste objects of `donor` into `sample`, (H, W, C) of one C and dtype; the frame stays that of `sample`.

        What they cover is cut from the masks below. A box below that lost pixels becomes the extent of its mask, and
        an object of which less than `LEAST_VISIBLE` is left is dropped. The semantic map takes the donor's classes,
        `IGNORE_INDEX` where they are not known. Where something was pasted, the image has no longer the one class and
        the one object that it had: `class_scores` and `box` are unknown. Without masks on either side, or without an
        object to paste, `sample` is returned as it is.
        """
        if sample.labels.masks is None or donor.labels.masks is None:
            return sample
        placement = self._placement(donor.labels.size, sample.labels.size, rng)
        placed = place_labels(donor.labels, placement)
        assert placed.crowd is not None and placed.ignore is not None
        candidates = np.flatnonzero(~(placed.crowd | placed.ignore))
        if not len(candidates):
            return sample
        chosen = rng.choice(candidates, size=int(rng.integers(1, len(candidates) + 1)), replace=False)
        pasted = placed.select(np.sort(chosen))
        covered = coco_mask.decode(coco_mask.merge(list(pasted.masks or ()))) > 0
        image = sample.image.copy()
        rows, columns = placement.target
        window = (slice(*rows), slice(*columns))
        image[window][covered[window]] = placement.resized(donor.image)[covered[window]]
        below = _cut(sample.labels, covered)
        labels = merged_objects([below, pasted])
        if below.semantic is not None:
            over = IGNORE_INDEX if placed.semantic is None else placed.semantic
            labels = replace(labels, semantic=np.where(covered, over, below.semantic).astype(np.uint8))
        return replace(sample, image=image, labels=labels)

    def _placement(self, size: tuple[int, int], frame: tuple[int, int], rng: np.random.Generator) -> Placement:
        ratio = min(frame[0] / size[0], frame[1] / size[1]) * rng.uniform(*self.scale)
        source, target = [], []
        for axis in (0, 1):
            length = max(1, min(frame[axis], round(size[axis] * ratio)))
            used = max(1, min(size[axis], round(length / ratio)))
            first = int(rng.integers(size[axis] - used + 1))
            source.append((first, first + used))
            start = int(rng.integers(frame[axis] - length + 1))
            target.append((start, start + length))
        return Placement(size, (source[0], source[1]), (target[0], target[1]), frame)


def _cut(labels: Labels, covered: np.ndarray) -> Labels:
    """Return labels without the pixels of `covered`, (H, W) bool; objects that are nearly hidden are dropped."""
    assert labels.masks is not None and labels.crowd is not None
    if not labels.masks:
        return labels
    before = coco_mask.area(list(labels.masks))
    painted = paint(labels.masks, labels.size)
    painted.maps[:, covered] = 0
    masks = painted.encode()
    after = coco_mask.area(masks)
    touched = after < before
    extents = coco_mask.toBbox(masks)
    seen = (after >= LEAST_VISIBLE * before) & (extents[:, 2:] >= LEAST_SIDE).all(axis=1)
    kept = np.flatnonzero(~touched | seen | labels.crowd)
    return tie_to_masks(labels.select(kept), [masks[row] for row in kept], touched[kept])
