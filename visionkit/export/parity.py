"""Whether an exported file predicts what its checkpoint predicts, in original pixels, object by object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from visionkit.predictions import (
    Classification,
    Detections,
    Instances,
    Localization,
    PanopticMap,
    Prediction,
    SemanticMap,
)


@dataclass(frozen=True)
class Bounds:
    """The most that two predictions may differ by.

    Attributes:
        pixels: of a box's edges, canvas pixels where an image was scaled down, else original ones.
        scores: of scores.
        maps: the share of the pixels of a semantic map.
        masks: the share of the pixels of an object's mask; four pixels in any case.
        panoptic: the share of the pixels of a panoptic map, in which a whole segment may hang on a threshold.
        ties: the share of all objects that may have another one in their place, which overlaps them and has their
            score, since suppression kept one of two that are equal; one object in any case.
    """

    pixels: float
    scores: float
    maps: float
    masks: float
    panoptic: float
    ties: float


BOUNDS: Mapping[str, Bounds] = {
    "fp32": Bounds(pixels=1e-3, scores=1e-3, maps=1e-3, masks=0.01, panoptic=0.01, ties=0.01),
    "fp16": Bounds(pixels=1.0, scores=0.02, maps=0.01, masks=0.05, panoptic=0.05, ties=0.1),
}
"""By precision of the exported weights."""
_FEWEST_PIXELS = 4


class Disagreement(Exception):
    """Two predictions differ; the message says by how much."""


@dataclass
class Parity:
    """What was found so far, over all images that were compared.

    Attributes:
        bounds: see `Bounds`.
        images: compared.
        objects: compared.
        tied: objects of which the other side has an equal one.
        scores, pixels: the largest differences, pixels as in `Bounds`.
        maps: the largest share of differing pixels.
        thresholds: by head name, `ExportedHead.thresholds`: where lists end, ends may differ.
    """

    bounds: Bounds
    images: int = 0
    objects: int = 0
    tied: int = 0
    scores: float = 0.0
    pixels: float = 0.0
    maps: float = 0.0
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def add(self, wanted: Mapping[str, Prediction], found: Mapping[str, Prediction], zoom: float) -> None:
        """Compare one image's predictions by head name.

        zoom: original pixels of a canvas pixel, at least 1.

        Raises:
            Disagreement: they differ by more than the bounds.
        """
        self.images += 1
        for name, one in wanted.items():
            try:
                self._compare(name, one, found[name], zoom)
            except Disagreement as fault:
                raise Disagreement(f"head '{name}': {fault}") from None
        if self.tied > max(1, self.bounds.ties * self.objects):
            raise Disagreement(f"{self.tied} of {self.objects} objects have another one in their place")

    def told(self) -> str:
        """What was found, in a line."""
        parts = [f"scores within {self.scores:.1e}"] if self.scores else ["scores equal"]
        if self.objects:
            parts.append(f"the boxes of {self.objects} objects within {self.pixels:.1e} pixels")
        if self.tied:
            parts.append(f"{self.tied} tied")
        parts.append(f"pixels of maps that differ: {self.maps:.2%}")
        return f"{self.images} images: {', '.join(parts)}"

    def _compare(self, name: str, wanted: Prediction, found: Prediction, zoom: float) -> None:
        if isinstance(wanted, Classification) and isinstance(found, Classification):
            self._scores(wanted.scores, found.scores)
        elif isinstance(wanted, Localization) and isinstance(found, Localization):
            self._scores(wanted.scores, found.scores)
            self._boxes(wanted.boxes, found.boxes, zoom)
        elif isinstance(wanted, Detections | Instances) and isinstance(found, Detections | Instances):
            self._objects(name, wanted, found, zoom)
        elif isinstance(wanted, SemanticMap) and isinstance(found, SemanticMap):
            self._maps(wanted.classes, found.classes, self.bounds.maps)
        elif isinstance(wanted, PanopticMap) and isinstance(found, PanopticMap):
            self._maps(_labels(wanted), _labels(found), self.bounds.panoptic)
        else:
            raise Disagreement(f"{type(found).__name__} in place of {type(wanted).__name__}")

    def _scores(self, wanted: np.ndarray, found: np.ndarray) -> None:
        _same_shape(wanted, found)
        largest = _largest(wanted, found)
        if not largest <= self.bounds.scores:
            raise Disagreement(f"scores differ by {largest:.2g} (at most {self.bounds.scores:g})")
        self.scores = max(self.scores, largest)

    def _boxes(self, wanted: np.ndarray, found: np.ndarray, zoom: float) -> None:
        _same_shape(wanted, found)
        largest = _largest(wanted, found) / zoom
        if not largest <= self.bounds.pixels:
            raise Disagreement(f"boxes differ by {largest:.2g} pixels (at most {self.bounds.pixels:g})")
        self.pixels = max(self.pixels, largest)
        self.objects += len(wanted)

    def _objects(self, name: str, wanted: Detections | Instances, found: Detections | Instances, zoom: float) -> None:
        """Pair the objects; what is left over has a tie to say for itself, or hardly a score."""
        rows, partners = self._pairs(wanted, found, zoom)
        self._boxes(wanted.boxes[rows], found.boxes[partners], zoom)
        self._scores(wanted.scores[rows], found.scores[partners])
        limits = self.thresholds.get(name, {})
        floor = max(limits.get("score_threshold", 0.0), *(_cut(one, limits.get("most")) for one in (wanted, found)))
        tied = []
        for one, other, paired in ((wanted, found, rows), (found, wanted, partners)):
            left = np.setdiff1d(np.flatnonzero(one.scores > floor + self.bounds.scores), paired)
            for row in left.tolist():
                if not _has_equal(one, row, other, self.bounds.scores):
                    what = f"score {one.scores[row]:.3f}, box {np.round(one.boxes[row], 2).tolist()}"
                    raise Disagreement(f"an object of one is none of the other ({what})")
            tied.append(len(left))
        self.tied += max(tied)
        self.objects += max(len(wanted), len(found)) - len(rows)
        if isinstance(wanted, Instances) and isinstance(found, Instances):
            for row, partner in zip(rows.tolist(), partners.tolist(), strict=True):
                self._mask(wanted.mask(row), found.mask(partner))

    def _pairs(
        self, wanted: Detections | Instances, found: Detections | Instances, zoom: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows of `wanted`, and of `found` that are the same within the bounds; each row once."""
        near = np.abs(wanted.boxes[:, None] - found.boxes[None]).max(-1) <= self.bounds.pixels * zoom
        near &= np.abs(wanted.scores[:, None] - found.scores[None]) <= self.bounds.scores
        near &= wanted.labels[:, None] == found.labels[None]
        rows, partners, free = [], [], np.ones(len(found), bool)
        for row, candidates in enumerate(near):
            places = np.flatnonzero(candidates & free)
            if len(places):
                rows.append(row)
                partners.append(int(places[0]))
                free[places[0]] = False
        return np.array(rows, np.int64), np.array(partners, np.int64)

    def _mask(self, wanted: np.ndarray, found: np.ndarray) -> None:
        _same_shape(wanted, found)
        differing, area = int(np.count_nonzero(wanted != found)), int(np.count_nonzero(wanted))
        if differing > max(_FEWEST_PIXELS, self.bounds.masks * area):
            raise Disagreement(f"{differing} pixels of a mask of {area} differ")

    def _maps(self, wanted: np.ndarray, found: np.ndarray, most: float) -> None:
        _same_shape(wanted, found)
        share = float(np.mean(wanted != found))
        if share > most and np.count_nonzero(wanted != found) > _FEWEST_PIXELS:
            raise Disagreement(f"{share:.2%} of the pixels differ (at most {most:.2%})")
        self.maps = max(self.maps, share)


def _has_equal(one: Detections | Instances, row: int, other: Detections | Instances, scores: float) -> bool:
    """Whether suppression may have kept a box of `other` in place of the box `row` of `one`."""
    like = (np.abs(other.scores - one.scores[row]) <= scores) & (other.labels == one.labels[row])
    return bool((_overlaps(one.boxes[row], other.boxes[like]) >= 0.5).any())


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    inter = sides.clip(min=0).prod(1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - inter
    shares: np.ndarray = inter / np.maximum(union, 1e-9)
    return shares


def _cut(one: Detections | Instances, most: float | None) -> float:
    """The score at which a list was cut; 0 where it was not."""
    return float(one.scores.min()) if most is not None and len(one) >= most else 0.0


def _labels(one: PanopticMap) -> np.ndarray:
    """(H, W) int64: the class of each pixel's segment, −1 where there is none."""
    labels = np.full(int(one.ids.max(initial=0)) + 1, -1, np.int64)
    for segment in one.segments:
        labels[segment.id] = segment.label
    mapped: np.ndarray = labels[one.ids]
    return mapped


def _largest(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(wanted.astype(np.float64) - found).max(initial=0.0))


def _same_shape(wanted: np.ndarray, found: np.ndarray) -> None:
    if wanted.shape != found.shape:
        raise Disagreement(f"shape {found.shape} in place of {wanted.shape}")
