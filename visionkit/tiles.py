"""Large images in overlapping tiles: which tiles, and how what they say is put together without duplicates.

An object that a tile's border cuts is seen by several tiles, and, if it is not larger than the overlap, by one of them
whole. Two boxes are taken for one object where each tile, of what both show, sees the same (`_likeness`). Whole boxes
win over cut ones, tiles over the whole image at a reduced scale, which joins in for objects that no tile holds. Cut
boxes that none saw whole are joined where their tiles overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from visionkit.parts import Answer, Answers, Found, Group, Part, Run, gather, objects
from visionkit.predictions import Classification, Detections, Instances, Localization

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels of the image."""
_SAME = 0.5
"""The IoU of what two tiles see from which they see one object."""
_SAME_REDUCED = 0.3
"""The same where one is the whole image at a reduced scale, whose boxes are rough."""
_CONTAINED = 0.7
"""The share of a cut box from which it is a fragment of the box that covers it."""
_WEAK = 0.5
"""A fragment whose score is a smaller part of the best one's does not make an object larger; and a tile's box whose
score is a smaller part of what the whole image says yields to that."""
_FAINT = 0.01
"""Objects of a lower score are left out: a hundred tiles would tell of ten thousand."""
_BLOCK = 256
"""Boxes that are compared with all others at a time."""
_BORDER = 64
"""A box is cut if an edge is nearer to the tile's than the tile's side by this."""


def tile_boxes(size: tuple[int, int], tile: int, overlap: float) -> list[Box]:
    """The tiles of an image of (height, width) `size`, row by row: of equal size, spread evenly, inside the image.

    Args:
        size: of the image.
        tile: the side of a tile in pixels; where the image is smaller, the image's.
        overlap: the least share of a tile's side that it has in common with the next one, from 0 to below 1.
    """
    (height, tops), (width, lefts) = ((min(tile, side), _starts(side, tile, overlap)) for side in size)
    return [(left, top, left + width, top + height) for top in tops for left in lefts]


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    if side <= tile:
        return [0]
    steps = int(np.ceil((side - tile) / max(1.0, tile * (1 - overlap))))
    return [round(place) for place in np.linspace(0, side - tile, steps + 1)]


def seen_in_tiles(run: Run, image: np.ndarray, *, tile: int, overlap: float, batch_size: int) -> Answers:
    """Return what is said of an image tile by tile: objects merged, maps blended, all else said of the whole image.

    Args:
        run: what predicts.
        image: (H, W, C).
        tile: see `tile_boxes`.
        overlap: see `tile_boxes`.
        batch_size: tiles at a time.
    """
    size = (image.shape[0], image.shape[1])
    whole = run([image], 1.0)[0]
    boxes = tile_boxes(size, tile, overlap)
    wanted = [name for name, one in whole.items() if not isinstance(one, Classification | Localization)]
    if len(boxes) == 1 or not wanted:
        return whole
    told: list[Answers] = []
    for first in range(0, len(boxes), batch_size):
        shown = [image[y1:y2, x1:x2] for x1, y1, x2, y2 in boxes[first : first + batch_size]]
        told += run(shown, 1.0)
    merged = dict(whole)
    for name in wanted:
        parts = [Part(one[name], box) for one, box in zip(told, boxes, strict=True)]
        merged[name] = _merged(parts, Part(whole[name], (0, 0, size[1], size[0])), size)
    return merged


def _merged(tiles: Sequence[Part], whole: Part, size: tuple[int, int]) -> Answer:
    if isinstance(whole.answer, Detections | Instances):
        parts = [*tiles, whole]
        found = gather(parts)
        return objects(parts, found, merged_objects(found, [part.box for part in parts], size), size)
    return BlendedScores(tiles, size)


# ------------------------------------------------------------------------------------------------------------- objects
def merged_objects(found: Found, tiles: Sequence[Box], size: tuple[int, int]) -> list[Group]:
    """Say which boxes of which tiles are one object, each once; see the module's head.

    Args:
        found: boxes by tile; those of a score under `_FAINT` are left out.
        tiles: where they are, by the numbers in `found.part`; the last is the whole image.
        size: (height, width) of the image.
    """
    cut = cut_boxes(found, tiles, size)
    groups: list[Group] = []
    for label in np.unique(found.labels):
        rows = np.flatnonzero((found.labels == label) & (found.scores >= _FAINT))
        groups += _Merge(found, np.array(tiles, np.float64), rows, cut[rows]).groups() if len(rows) else []
    return groups


def cut_boxes(found: Found, tiles: Sequence[Box], size: tuple[int, int]) -> np.ndarray:
    """(N,) bool: the boxes that end at an edge of their tile where the image goes on."""
    edges = np.array(tiles, np.float64)[found.part]
    limit = np.array([0, 0, size[1], size[0]], np.float64)
    sides = np.tile(edges[:, 2:] - edges[:, :2], 2)
    result: np.ndarray = ((edges != limit) & (np.abs(found.boxes - edges) <= np.maximum(2.0, sides / _BORDER))).any(1)
    return result


class _Merge:
    """The boxes of one label: `rows` of what was found."""

    def __init__(self, found: Found, tiles: np.ndarray, rows: np.ndarray, cut: np.ndarray) -> None:
        self.rows, self.cut = rows, cut
        self.boxes, self.scores, self.part = found.boxes[rows], found.scores[rows], found.part[rows]
        self.label, self.seen = int(found.labels[rows[0]]), tiles[self.part]
        self.reduced = self.part == len(tiles) - 1
        self.free = np.ones(len(rows), bool)
        self.alike, self.fragments = self._neighbours()

    def groups(self) -> list[Group]:
        rank = self.scores * np.where(self.reduced, _WEAK, 1.0)
        order = np.lexsort((-rank, self.cut)).tolist()  # whole ones first
        groups = [self._whole(k) for k in order if self.free[k] and not self.cut[k]]
        groups += [self._joined(k) for k in order if self.free[k]]
        return groups

    def _whole(self, k: int) -> Group:
        """A box that its tile sees whole, which takes one box of each other tile, and its fragments.

        Cut boxes do not make it surer.
        """
        alike = self._best_of_others(k)
        self.free[[k, *alike, *self.fragments[k]]] = False
        score = max(self.scores[m] for m in (k, *alike) if not self.cut[m])
        return Group(self.boxes[k], float(score), self.label, (int(self.rows[k]),))

    def _joined(self, k: int) -> Group:
        """A cut box, those that are the same object in other tiles, those that are the same as these, and fragments."""
        members, waiting = [k], [k]
        self.free[k] = False
        while waiting:
            more = [m for m in self._best_of_others(waiting.pop()) if self.part[m] not in self.part[members]]
            self.free[more] = False
            members += more
            waiting += [m for m in more if self.scores[m] >= _WEAK * self.scores[k]]
        strong = [m for m in members if self.scores[m] >= _WEAK * self.scores[k]]
        self.free[[m for one in strong for m in self.fragments[one]]] = False
        boxes = self.boxes[strong]
        box = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
        return Group(box, float(self.scores[members].max()), self.label, tuple(self.rows[strong].tolist()))

    def _best_of_others(self, k: int) -> list[int]:
        """Of each other tile the free box that is most like box k, of those that are like enough."""
        best: dict[int, int] = {}
        for m in self.alike[k]:  # the most alike first
            if self.free[m]:
                best.setdefault(int(self.part[m]), m)
        return list(best.values())

    def _neighbours(self) -> tuple[list[list[int]], list[list[int]]]:
        """For each box those of other tiles that may be the same, the most alike first, and its fragments.

        A fragment is a cut box that lies in the box, and is no surer.
        """
        first, second = self._touching()
        mine, theirs = self.boxes[first], self.boxes[second]
        # What each box's tile shows of the other box: IoU of the two.
        shown, seen = _clipped(mine, self.seen[second]), _clipped(theirs, self.seen[first])
        inter = _area(_clipped(shown, seen))
        likeness = inter / np.maximum(_area(shown) + _area(seen) - inter, 1e-9)
        is_alike = likeness >= np.where(self.reduced[first] | self.reduced[second], _SAME_REDUCED, _SAME)
        lies_in = _area(_clipped(mine, theirs)) >= _CONTAINED * np.maximum(_area(theirs), 1e-9)
        weaker = self.cut[second] & (self.scores[second] <= self.scores[first]) & (_area(theirs) < _area(mine))
        alike: list[list[int]] = [[] for _ in self.rows]
        fragments: list[list[int]] = [[] for _ in self.rows]
        for k in np.flatnonzero(is_alike)[np.argsort(-likeness[is_alike], kind="stable")]:
            alike[first[k]].append(int(second[k]))
        for k in np.flatnonzero(lies_in & weaker):
            fragments[first[k]].append(int(second[k]))
        return alike, fragments

    def _touching(self) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of boxes of different tiles that have something in common, each pair both ways."""
        x1, y1, x2, y2 = np.ascontiguousarray(self.boxes.T)
        pairs = []
        for start in range(0, len(self.rows), _BLOCK):
            rows = slice(start, start + _BLOCK)
            common = self.part[rows, None] != self.part
            for low, high in ((x1, x2), (y1, y2)):
                common &= (low[rows, None] < high) & (high[rows, None] > low)
            pairs.append(np.argwhere(common) + np.array([start, 0]))
        first, second = np.concatenate(pairs).T
        return first, second


def _clipped(boxes: np.ndarray, to: np.ndarray) -> np.ndarray:
    """The common part of (…, 4) boxes; inverted where there is none."""
    low, high = np.maximum(boxes[..., :2], to[..., :2]), np.minimum(boxes[..., 2:], to[..., 2:])
    return np.concatenate([low, high], axis=-1)


def _area(boxes: np.ndarray) -> np.ndarray:
    sides: np.ndarray = (boxes[..., 2:] - boxes[..., :2]).clip(0)
    area: np.ndarray = sides[..., 0] * sides[..., 1]
    return area


# ---------------------------------------------------------------------------------------------------------------- maps
@dataclass(frozen=True, eq=False)
class BlendedScores:
    """Probabilities of tiles, blended where they overlap: a tile counts less towards an edge where the image goes on.

    See `PixelScores`; of the tiles only the grids behind their probabilities are held.
    """

    tiles: Sequence[Part]
    size: tuple[int, int]

    def rows(self, first: int, last: int) -> Tensor:
        """See `PixelScores`."""
        total: Tensor | None = None
        weights: Tensor | None = None
        for tile in self.tiles:
            left, top, right, bottom = tile.box
            above, below = max(first, top), min(last, bottom)
            if above >= below:
                continue
            scores = tile.rows(above, below)
            if total is None or weights is None:
                total = scores.new_zeros((len(scores), last - first, self.size[1]))
                weights = scores.new_zeros((last - first, self.size[1]))
            down = _ramp(top, bottom, self.size[0])[above - top : below - top]
            weight = (down[:, None] * _ramp(left, right, self.size[1])).to(scores)
            place = (slice(above - first, below - first), slice(left, right))
            total[:, *place] += scores * weight
            weights[place] += weight
        assert total is not None and weights is not None
        return total / weights


def _ramp(first: int, last: int, side: int) -> Tensor:
    """(last − first,): a weight that falls towards an inner edge of the tile, by its distance up to half the tile."""
    length = last - first
    places = torch.arange(length, dtype=torch.float32) + 0.5
    before = places if first > 0 else torch.full_like(places, float(length))
    after = length - places if last < side else torch.full_like(places, float(length))
    return torch.minimum(before, after).clamp(max=length / 2)
