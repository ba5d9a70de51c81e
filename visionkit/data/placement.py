"""Labels that follow their image: scaled, cut by the canvas's edges, and masks kept together with their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.ops.run_lengths import mask_window
from visionkit.preprocess import Placement, Preprocess, resize_indices
from visionkit.structures import IGNORE_INDEX, RLE, Geometry, Labels, Sample

LEAST_VISIBLE = 0.1
"""An object of which less than this share of its box is left is dropped from training labels."""
LEAST_SIDE = 2.0
"""An object whose box has a side shorter than this, in canvas pixels, is dropped from training labels."""
_MOST_VALUES = 255
_OF_BOXES = ("boxes", "labels", "crowd", "ignore")
_NONE = np.zeros(0, np.int64)


def fit_sample(sample: Sample, preprocess: Preprocess) -> tuple[Sample, Geometry]:
    """Lay a sample, labels included, on the canvas as `Preprocess.fit` lays its image."""
    placement = preprocess.place(sample.labels.size)
    return placed_sample(sample, placement), placement.geometry


def placed_sample(sample: Sample, placement: Placement) -> Sample:
    """Return image and labels in the pixels of a canvas of `placement.size`."""
    image, labels = placement.resized(sample.image), place_labels(sample.labels, placement)
    return replace(sample, image=image, labels=labels, reduction=1)


def place_labels(labels: Labels, placement: Placement) -> Labels:
    """Return the labels in the pixels of a canvas of `placement.size`.

    Objects that the edges of `placement.target` cut are clipped, take their box from what is left of the mask where
    it is known, and are dropped by the rule of `clip_boxes`. Areas become those of the masks, or of the boxes.
    Where no image lies, the semantic map is `IGNORE_INDEX`. `box` becomes unknown when its object is lost.
    """
    moved: dict[str, Any] = {"size": placement.size}
    moved |= {"class_scores": labels.class_scores, "known_classes": labels.known_classes}
    if labels.semantic is not None:
        moved["semantic"] = _placed_map(labels.semantic, placement, IGNORE_INDEX)
    if labels.box is not None:
        box, _, kept = _placed_boxes(labels.box[None], [placement], np.zeros(1, np.bool_), [1])
        moved["box"] = box[0] if kept[0] else None
    if labels.boxes is None:
        return Labels(**moved)
    assert labels.labels is not None
    assert labels.crowd is not None
    assert labels.ignore is not None
    boxes, cut, kept = _placed_boxes(labels.boxes, [placement], labels.crowd, [len(labels.boxes)])
    rows = np.flatnonzero(kept)
    crowd, ignore = labels.crowd[rows], labels.ignore[rows]
    placed = Labels(boxes=boxes[rows], labels=labels.labels[rows], crowd=crowd, ignore=ignore, **moved)
    if labels.masks is None:
        return placed
    painted = paint([labels.masks[row] for row in rows], labels.size)
    maps = [_placed_map(values, placement, 0) for values in painted.maps]
    masks = replace(painted, maps=np.stack(maps) if maps else np.zeros((0, *placement.size), np.uint8)).encode()
    return tie_to_masks(placed, masks, cut[rows])


def place_boxes(parts: Sequence[Labels], placements: Sequence[Placement]) -> Labels:
    """Return the objects of several images, without masks, on the one canvas that all are placed on.

    As `place_labels` of each, one after the other; nothing but `boxes` and what belongs to them is known.
    """
    rows = {name: np.concatenate([getattr(labels, name) for labels in parts]) for name in _OF_BOXES}
    counts = [len(labels.labels) for labels in parts if labels.labels is not None]
    boxes, _, kept = _placed_boxes(rows.pop("boxes"), placements, rows["crowd"], counts)
    lists = [labels.known_classes for labels in parts if labels.known_classes is not None]
    known_classes = np.logical_and.reduce(lists) if lists else None
    of_rows = {name: values[kept] for name, values in rows.items()}
    return Labels(size=placements[0].size, boxes=boxes[kept], known_classes=known_classes, **of_rows)


def clip_boxes(
    boxes: np.ndarray, window: tuple[float, float, float, float] | np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cut (N, 4) xyxy boxes by `window` (x1, y1, x2, y2); return the boxes and which of them remain, (N,) bool.

    window: of all boxes, or (N, 4), one each.

    One remains with at least `LEAST_VISIBLE` of its area and sides of `LEAST_SIDE`; a crowd region (`crowd`, (N,)
    bool) with any area at all.
    """
    edges = np.asarray(window, boxes.dtype)
    clipped = np.minimum(np.maximum(boxes, edges[..., [0, 1, 0, 1]]), edges[..., [2, 3, 2, 3]])
    sides = clipped[:, 2:] - clipped[:, :2]
    shorter = np.minimum(sides[:, 0], sides[:, 1])
    visible = sides[:, 0] * sides[:, 1] >= LEAST_VISIBLE * box_areas(boxes)
    return clipped, (shorter > 0) & (crowd | (visible & (shorter >= LEAST_SIDE)))


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Return the areas of (N, 4) xyxy boxes, (N,)."""
    areas: np.ndarray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def tie_to_masks(labels: Labels, masks: Sequence[RLE], loose: np.ndarray) -> Labels:
    """Return `labels` with `masks`, one a row, and areas counted from them.

    loose: (N,) bool, the rows whose box no longer fits and becomes the extent of the mask; a crowd region keeps its
    box. Rows whose mask is empty are dropped, crowd regions too.
    """
    if not masks:
        return replace(labels.select(np.zeros(0, np.int64)), masks=())
    assert labels.boxes is not None
    assert labels.crowd is not None
    areas = coco_mask.area(list(masks)).astype(np.float64)
    extents = coco_mask.toBbox(list(masks)).astype(np.float64)
    extents[:, 2:] += extents[:, :2]
    boxes = np.where((loose & ~labels.crowd)[:, None], extents, labels.boxes)
    return replace(labels, boxes=boxes, areas=areas, masks=tuple(masks)).select(areas > 0)


@dataclass(frozen=True, eq=False)
class Painted:
    """The masks of N objects as a few maps of object numbers, since objects seldom overlap.

    Hundreds of masks then cost as much to resize, flip or warp as one or two, as long as the values are not blended.

    Attributes:
        maps: (L, H, W) uint8, 0 where no object is.
        home: (N,) the map on which each object is painted.
        value: (N,) its number there, from 1.
    """

    maps: np.ndarray
    home: np.ndarray
    value: np.ndarray

    def encode(self, rows: np.ndarray | None = None) -> list[RLE]:
        """Return the masks of `rows` (all objects when None) as run-length encodings, in that order."""
        chosen = np.arange(len(self.home)) if rows is None else rows
        height, width = self.maps.shape[1:]
        runs = [_runs(values) for values in self.maps]
        plain = []
        for row in chosen.tolist():
            starts, ends = runs[self.home[row]].get(int(self.value[row]), (_NONE, _NONE))
            # Lengths of 0, 1, 0, 1, … from the top of the first column; a last run of zeros counts if it is there.
            edges = np.stack([starts, ends], axis=1).reshape(-1)
            counts = np.diff(edges, prepend=0, append=height * width)
            plain.append({"size": [height, width], "counts": counts[: len(counts) - int(counts[-1] == 0)].tolist()})
        return list(coco_mask.frPyObjects(plain, height, width)) if plain else []


def paint(masks: Sequence[RLE], size: tuple[int, int]) -> Painted:
    """Paint masks of (height, width) `size` onto as few maps as their overlaps allow, first come first served."""
    maps: list[np.ndarray] = []
    used: list[int] = []
    home = np.zeros(len(masks), np.int64)
    value = np.zeros(len(masks), np.int64)
    for row, mask in enumerate(masks):
        inside, x, y = mask_window(mask)
        region = (slice(y, y + inside.shape[0]), slice(x, x + inside.shape[1]))
        for number, values in enumerate(maps):
            if used[number] < _MOST_VALUES and not (values[region].astype(np.bool_) & inside).any():
                break
        else:
            number = len(maps)
            maps.append(np.zeros(size, np.uint8))
            used.append(0)
        used[number] += 1
        maps[number][region][inside] = used[number]
        home[row], value[row] = number, used[number]
    return Painted(np.stack(maps) if maps else np.zeros((0, *size), np.uint8), home, value)


def _runs(values: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return for each number in an (H, W) map where its runs begin and end, counted down the columns as COCO does.

    One pass over the map serves all objects on it.
    """
    flat = np.ascontiguousarray(values.T).reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], len(flat))
    numbers = flat[starts]
    order = np.argsort(numbers, kind="stable")
    found, first = np.unique(numbers[order], return_index=True)
    groups = np.split(order, first[1:])
    return {int(number): (starts[group], ends[group]) for number, group in zip(found, groups, strict=True)}


def _placed_boxes(
    boxes: np.ndarray, placements: Sequence[Placement], crowd: np.ndarray, counts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the boxes on the canvas, which of them are cut, and which remain.

    counts: how many boxes, one after the other, belong to each placement.
    """
    told = []
    for placement in placements:
        (scale_y, scale_x), (y, x) = placement.geometry.scale, placement.geometry.offset
        rows, columns = placement.target
        told.append((scale_x, scale_y, scale_x, scale_y, x, y, x, y, columns[0], rows[0], columns[1], rows[1]))
    each = np.repeat(np.array(told, np.float64), counts, axis=0)
    whole = boxes * each[:, :4] + each[:, 4:8]
    clipped, kept = clip_boxes(whole, each[:, 8:], crowd)
    return clipped, (clipped != whole).any(axis=1), kept


def _placed_map(values: np.ndarray, placement: Placement, empty: int) -> np.ndarray:
    (top, bottom), (left, right) = placement.source
    canvas = np.full(placement.size, empty, np.uint8)
    rows, columns = placement.target
    part = np.ascontiguousarray(values[top:bottom, left:right])
    canvas[slice(*rows), slice(*columns)] = resize_indices(part, placement.target_size)
    return canvas
