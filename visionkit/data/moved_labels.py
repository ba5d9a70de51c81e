"""The labels of a sample after a transform of its pixels, by one rule for every library of transforms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.data.placement import Painted, box_areas, tie_to_masks
from visionkit.structures import Labels

ONE_OBJECT = -1
"""The row number of `Labels.box` among the boxes."""
_UNMOVED = 0.01
"""Pixels; a box that comes back within this of where it was has not moved, and keeps its exact coordinates."""


def numbered_boxes(labels: Labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all boxes that have to follow the pixels, `Labels.box` last: (N, 4), crowd (N,) bool, row numbers (N,)."""
    boxes = np.zeros((0, 4)) if labels.boxes is None else labels.boxes
    crowd = np.zeros(0, np.bool_) if labels.crowd is None else labels.crowd
    rows = np.arange(len(boxes))
    if labels.box is None:
        return boxes, crowd, rows
    return np.concatenate([boxes, labels.box[None]]), np.append(crowd, False), np.append(rows, ONE_OBJECT)


def moved_labels(
    before: Labels,
    *,
    size: tuple[int, int],
    boxes: np.ndarray,
    rows: np.ndarray,
    semantic: np.ndarray | None,
    painted: Painted | None,
) -> Labels:
    """Return the labels after a transform.

    Args:
        before: the labels before it.
        size: (height, width) of the image now.
        boxes: (K, 4) float64 xyxy, those that are left, inside the image.
        rows: (K,) int64, the numbers that `numbered_boxes` gave them.
        semantic: (H, W) uint8, the map now.
        painted: the masks of all objects of `before` now; None where they are not known.

    A box that moved, or whose mask did, becomes the extent of the mask, and an object without a visible pixel is
    dropped. `box` becomes unknown when its object is lost.
    """
    moved: dict[str, Any] = {"size": size, "semantic": semantic}
    if before.box is not None:
        found = boxes[rows == ONE_OBJECT]
        moved["box"] = found[0] if len(found) else None
    if before.boxes is None:
        return replace(before, **moved)
    boxes, rows = boxes[rows != ONE_OBJECT], rows[rows != ONE_OBJECT]
    moved_rows = np.abs(boxes - before.boxes[rows]).max(axis=1, initial=0.0) > _UNMOVED
    boxes = np.where(moved_rows[:, None], boxes, before.boxes[rows])
    kept = {name: getattr(before, name)[rows] for name in ("labels", "crowd", "ignore")}
    after = replace(before, boxes=boxes, areas=box_areas(boxes), masks=None, **kept, **moved)
    if painted is None or before.masks is None or not len(rows):
        return after if painted is None else replace(after, masks=())
    masks = painted.encode(rows)
    # Warped boxes are warped corners, which may stay while the mask between them bulges.
    extents = [coco_mask.toBbox(one) for one in ([before.masks[row] for row in rows], masks)]
    return tie_to_masks(after, masks, moved_rows | (extents[0] != extents[1]).any(axis=1))
