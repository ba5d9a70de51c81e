"""Average precision as Pascal VOC defines it (Everingham et al., IJCV 2010), by eleven points and by every point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.errors import DataError, UserError
from visionkit.metrics.coco_input import validated

VOC_NUMBERS = ("VOC_AP", "VOC07_AP")
"""VOC_AP: the area under precision over recall, VOC2010 and after; VOC07_AP: precision at eleven recalls, before."""
_RECALLS = np.arange(11) * 0.1


def voc_evaluate(
    ground_truth: Mapping[str, Any] | str | Path,
    detections: Sequence[Mapping[str, Any]] | Mapping[str, Any] | str | Path,
    iou_threshold: float = 0.5,
) -> dict[str, float]:
    """VOC's average precision (0 to 1) of boxes against a ground truth: see `voc_precisions`.

    Args:
        ground_truth: as in `coco_evaluate`; annotations with `difficult`, `ignore` or `iscrowd` of 1 are difficult.
        detections: as in `coco_evaluate`. A bbox [x, y, width, height] is VOC's xmin, ymin, xmax = x + width,
            ymax = y + height.
        iou_threshold: above 0, at most 1.

    Returns:
        `VOC_NUMBERS`, the means over the classes that have an object to be found; and of each class VOC_AP/<name>,
        VOC07_AP/<name>. nan where there is no object to be found.

    Raises:
        DataError: as `coco_evaluate`.
        UserError: the threshold is out of range.
    """
    if not 0 < iou_threshold <= 1:
        raise UserError(
            f"voc_evaluate: iou_threshold is above 0 and at most 1, not {iou_threshold!r}", code="value-unfit"
        )
    truth, results = validated(ground_truth, detections, "bbox")
    names = [category["name"] for category in truth["categories"]]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"ground truth: /categories: {twice!r} is the name of two: give every category its own",
            code="category-duplicate",
        )
    of_truth, of_results = _by_image(truth), _by_image(results)
    rows = [_row(of_truth.get(number, []), of_results.get(number, [])) for number in sorted({*of_truth, *of_results})]
    values = voc_precisions(rows, len(names), iou_threshold)
    of_classes = {
        f"{number}/{name}": float(values[k, n]) for n, number in enumerate(VOC_NUMBERS) for k, name in enumerate(names)
    }
    return voc_means(values) | of_classes


def voc_precisions(rows: Sequence[Mapping[str, np.ndarray]], classes: int, iou_threshold: float = 0.5) -> np.ndarray:
    """(K, 2) float64, `VOC_NUMBERS` of each class; nan where it has no object to be found.

    The rules are those of VOC's development kit. The numbers of a box are those of the pixels on its edges, both
    inside, so that a side is as long as their difference plus 1. A detection, best score first, is compared with the
    one object of its class that it overlaps most (of equal ones the first): if the IoU reaches the threshold it is
    right, unless the object was found before: then it is wrong. One that belongs to a difficult object is neither, and
    difficult objects are not to be found. A recall that falls short of one of the eleven points by rounding alone
    (9 / 15 < 6 * 0.1) does not reach it, as in the scripts by which such numbers are made.

    Args:
        rows: of each image boxes (D, 4) xyxy, scores (D,) falling and labels (D,) of the detections, truth_boxes
            (G, 4), truth_labels (G,), ignore and crowd (G,) of the objects. Equal scores rank in the order given.
        classes: how many there are.
        iou_threshold: see above.
    """
    judged = [_judged(row, iou_threshold) for row in rows]
    scores, labels, right = (np.concatenate([np.zeros(0), *column]) for column in _columns(judged))
    objects = np.zeros(classes)
    for row in rows:
        objects += np.bincount(row["truth_labels"][~(row["ignore"] | row["crowd"])], minlength=classes)
    order = np.argsort(-scores, kind="stable")
    labels, right = labels[order], right[order]
    found = [np.cumsum(right[labels == label]) for label in range(classes)]
    pairs = [_areas(true, count) if count else (np.nan, np.nan) for true, count in zip(found, objects, strict=True)]
    return np.array(pairs, np.float64).reshape(classes, len(VOC_NUMBERS))


def voc_means(values: np.ndarray) -> dict[str, float]:
    """`VOC_NUMBERS` as means over the classes (K, 2) that have a value; nan if none has."""
    known = values[~np.isnan(values[:, 0])]
    means = known.mean(axis=0) if len(known) else np.full(len(VOC_NUMBERS), np.nan)
    return dict(zip(VOC_NUMBERS, means.tolist(), strict=True))


def _judged(row: Mapping[str, np.ndarray], iou_threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and labels of an image's detections that are right or wrong, and which are right."""
    scores, labels = row["scores"], row["labels"]
    right, counted = np.zeros(len(labels), bool), np.ones(len(labels), bool)
    if len(labels) and len(row["truth_labels"]):
        same = labels[:, None] == row["truth_labels"]
        ious = np.where(same, _ious(row["boxes"].astype(np.float64), row["truth_boxes"]), 0.0)
        best = ious.argmax(axis=1)
        reached = ious.max(axis=1) >= iou_threshold
        difficult = (row["ignore"] | row["crowd"])[best]
        counted = ~(reached & difficult)
        hits = np.flatnonzero(reached & ~difficult)
        _, firsts = np.unique(best[hits], return_index=True)
        right[hits[firsts]] = True
    return scores[counted], labels[counted], right[counted]


def _ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(D, G) by VOC's inclusive pixels."""
    corners = np.maximum(boxes[:, None, :2], others[None, :, :2]), np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (corners[1] - corners[0] + 1).clip(0).prod(axis=2)
    areas = [(side[:, 2:] - side[:, :2] + 1).prod(axis=1) for side in (boxes, others)]
    ious: np.ndarray = shared / (areas[0][:, None] + areas[1] - shared)
    return ious


def _areas(true: np.ndarray, objects: float) -> tuple[float, float]:
    """`VOC_NUMBERS` from the running count of right ones among a class's detections by falling score."""
    recall, precision = true / objects, true / np.arange(1, len(true) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    every_point = float((np.diff(recall, prepend=0.0) * envelope).sum())
    places = np.searchsorted(recall, _RECALLS)
    return every_point, float(envelope[places[places < len(envelope)]].sum() / len(_RECALLS))


def _columns(judged: Sequence[tuple[np.ndarray, ...]]) -> list[tuple[np.ndarray, ...]]:
    return list(zip(*judged, strict=True)) if judged else [(), (), ()]


def _by_image(side: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[int, list[Mapping[str, Any]]]:
    rows: dict[int, list[Mapping[str, Any]]] = {}
    for row in side["annotations"]:
        rows.setdefault(row["image_id"], []).append(row)
    return rows


def _row(objects: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    found = sorted(found, key=lambda row: -row["score"])
    return {
        "boxes": _xyxy(found),
        "scores": np.array([row["score"] for row in found], np.float64),
        "labels": np.array([row["category_id"] - 1 for row in found], np.int64),
        "truth_boxes": _xyxy(objects),
        "truth_labels": np.array([row["category_id"] - 1 for row in objects], np.int64),
        "ignore": np.array([row["difficult"] for row in objects], np.bool_),
        "crowd": np.array([row["iscrowd"] for row in objects], np.bool_),
    }


def _xyxy(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
