"""Panoptic quality (Kirillov et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.metrics.coco import in_order
from visionkit.predictions import PanopticMap, Prediction
from visionkit.structures import ImageId, Labels

_VALUES = 256
"""How many different values a semantic map can hold."""
_MOST_IDS = 1 << 24
"""COCO's pictures hold ids below it."""


class PanopticQuality:
    """PQ, SQ and RQ over all classes, over things and over stuff, 0 to 1; satisfies `interfaces.Metric`.

    A predicted and a true segment of one class match where their IoU, void pixels left out, is above 0.5. Of a class,
    SQ is the mean IoU of its matches, RQ is matches / (matches + half of what is unmatched on either side), and PQ
    (`PQ/<class>`) their product. The means leave out classes that occur in neither truth nor prediction. A prediction
    of which more than half lies on void and in crowds of its class is not counted where it matches nothing.

    Images are counted whose truth knows masks and semantic map; see `panoptic_truth`.

    Args:
        classes: all classes; first those of `Labels.semantic`, in its order.
        things: the classes of `Labels.labels`, in its order, all of them among `classes`; the others are stuff.
    """

    headline = "PQ"

    def __init__(self, classes: Sequence[str], things: Sequence[str]) -> None:
        lacking = [name for name in things if name not in classes]
        if lacking:
            raise ValueError(f"PanopticQuality: of the things, {', '.join(lacking)} are not among the classes")
        self.classes, self.things = tuple(classes), tuple(things)
        self.reasons: dict[str, str] = {}
        self._state: dict[ImageId, dict[str, np.ndarray]] = {}

    def update(self, image_id: ImageId, prediction: Prediction, truth: Labels) -> None:
        """Take one image; one whose truth does not know masks and pixels is left out, one seen before is replaced.

        Raises:
            ValueError: the prediction is of another size, or its ids, segments and classes do not agree.
        """
        if not isinstance(prediction, PanopticMap):
            raise TypeError(f"PanopticQuality: a PanopticMap is wanted, not {type(prediction).__name__}")
        if truth.masks is None or truth.semantic is None:
            return
        where = f"PanopticQuality: image {image_id}"
        if prediction.ids.shape != tuple(truth.size):
            raise ValueError(f"{where}: a map of {prediction.ids.shape} for an image of {tuple(truth.size)}")
        labels = np.array([one.label for one in prediction.segments], np.int64)
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(self.classes)):
            raise ValueError(f"{where}: a segment's label lies outside the {len(self.classes)} classes")
        found = _renumbered(prediction, where)
        wanted = panoptic_truth(truth, self.classes, self.things)
        self._state[image_id] = {"counts": _counts(wanted, found, labels, len(self.classes))}

    def state(self) -> dict[ImageId, dict[str, np.ndarray]]:
        """Per image: counts (4, C) float64: of each class the sum of IoUs, matches, wrong and missed segments."""
        return dict(self._state)

    def merge(self, states: Iterable[Mapping[ImageId, Any]]) -> None:
        """Take in the images of other states; an image that is there already is not counted again."""
        for state in states:
            for image_id, row in state.items():
                self._state.setdefault(image_id, row)

    def compute(self) -> dict[str, float]:
        """The numbers by name; nan, with a reason, where no class occurs."""
        rows = [row["counts"] for row in in_order(self._state)]  # a sum's last bits depend on it
        iou, right, wrong, missed = np.sum(rows, axis=0) if rows else np.zeros((4, len(self.classes)))
        weight = right + (wrong + missed) / 2
        occurs = weight > 0
        segmentation = np.divide(iou, right, out=np.zeros_like(iou), where=right > 0)
        recognition = np.divide(right, weight, out=np.zeros_like(iou), where=occurs)
        quality = {"PQ": segmentation * recognition, "SQ": segmentation, "RQ": recognition}
        thing = np.isin(self.classes, self.things)
        groups = {"": (occurs, "class"), "_things": (occurs & thing, "thing"), "_stuff": (occurs & ~thing, "stuff")}
        numbers: dict[str, float] = {}
        self.reasons = {}
        for ending, (members, kind) in groups.items():
            for name, values in quality.items():
                numbers[name + ending] = float(values[members].mean()) if members.any() else float("nan")
                if not members.any():
                    self.reasons[name + ending] = f"no {kind} in truth or prediction"
        for label, name in enumerate(self.classes):
            numbers[f"PQ/{name}"] = float(quality["PQ"][label]) if occurs[label] else float("nan")
            if not occurs[label]:
                self.reasons[f"PQ/{name}"] = "in neither truth nor prediction"
        return numbers


@dataclass(frozen=True, eq=False)
class PanopticTruth:
    """ids: (H, W) int32, 0 is void, k the k-th of T segments; labels: (T,) int64; crowd: (T,) bool."""

    ids: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


def panoptic_truth(truth: Labels, classes: Sequence[str], things: Sequence[str]) -> PanopticTruth:
    """Make the true segments of labels that know masks and semantic map.

    Each mask is a thing, each class of stuff in the semantic map one segment of the pixels that no mask covers. Where
    masks overlap, a pixel goes to one whose class the semantic map gives it, otherwise to any of them; among equals to
    the first; and to a crowd only where there is nothing else. Pixels of things without a mask are void, as are those
    of objects that are ignored. An object of which no pixel is left is no segment.

    Args:
        truth: knows masks and semantic.
        classes: as in `PanopticQuality`.
        things: the same.
    """
    assert truth.semantic is not None and truth.labels is not None
    assert truth.crowd is not None and truth.ignore is not None
    count, semantic = len(truth.labels), truth.semantic
    stuff = [label for label, name in enumerate(classes[: _VALUES - 1]) if name not in things]
    number_of = np.zeros(_VALUES, np.int32)
    number_of[stuff] = count + 1 + np.arange(len(stuff))
    ids = number_of[semantic]
    label_of = np.array([classes.index(name) for name in things], np.int64)[truth.labels]
    ranks = np.where(truth.ignore, 0, np.where(truth.crowd, 1, 2))
    order = sorted(range(count), key=lambda row: (ranks[row], -row))  # what comes later lies above
    extents = _extents(truth)
    for row in order:
        place, mask = extents[row]
        ids[place][mask] = 0 if truth.ignore[row] else row + 1
    for row in order:
        place, mask = extents[row]
        if ranks[row] == 2:
            ids[place][mask & (semantic[place] == label_of[row])] = row + 1
    labels = np.concatenate([label_of, np.array(stuff, np.int64)])
    crowd = np.concatenate([truth.crowd, np.zeros(len(stuff), np.bool_)])
    there = np.bincount(ids.ravel(), minlength=len(labels) + 1)[1:] > 0
    renumber = np.concatenate([[0], np.cumsum(there) * there]).astype(np.int32)
    return PanopticTruth(renumber[ids], labels[there], crowd[there])


def _extents(truth: Labels) -> list[tuple[tuple[slice, slice], np.ndarray]]:
    """Where each mask lies, rows and columns, and the mask there."""
    if not truth.masks:
        return []
    corners = coco_mask.toBbox(list(truth.masks)).astype(np.int64).tolist()
    places = [(slice(y, y + height), slice(x, x + width)) for x, y, width, height in corners]
    bitmaps = coco_mask.decode(list(truth.masks)).view(np.bool_)
    return [(place, bitmaps[*place, row]) for row, place in enumerate(places)]


def _renumbered(prediction: PanopticMap, where: str) -> np.ndarray:
    """(H, W) int64: 0 where there is no segment, k for the k-th of the prediction's segments."""
    given = np.array([0] + [one.id for one in prediction.segments])
    ids = prediction.ids
    largest = max(int(ids.max(initial=0)), int(given.max()))
    if ids.min(initial=0) < 0 or given[1:].min(initial=1) < 1 or largest >= _MOST_IDS:
        raise ValueError(f"{where}: an id is not a number from 1 to {_MOST_IDS - 1}")
    number_of = np.full(largest + 1, -1)
    number_of[given] = np.arange(len(given))
    found: np.ndarray = number_of[ids]
    if len(np.unique(given)) < len(given) or found.min(initial=0) < 0:
        raise ValueError(f"{where}: the ids of the map are not those of its segments")
    if not np.bincount(found.ravel(), minlength=len(given))[1:].all():
        raise ValueError(f"{where}: a segment has no pixel in the map")
    return found


def _counts(truth: PanopticTruth, found: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(4, classes) float64, see `PanopticQuality.state`; found: (H, W), its segments from 1; labels: theirs."""
    true_count, count = len(truth.labels), len(labels)
    pairs = np.bincount(
        (truth.ids.astype(np.int64) * (count + 1) + found).ravel(), minlength=(true_count + 1) * (count + 1)
    )
    shared = pairs.reshape(true_count + 1, count + 1)
    true_areas, areas, on_void = shared.sum(1)[1:], shared.sum(0)[1:], shared[0, 1:]
    same = truth.labels[:, None] == labels[None]
    inter = shared[1:, 1:]
    union = true_areas[:, None] + (areas - on_void)[None] - inter
    iou = np.where(same & ~truth.crowd[:, None], inter / np.maximum(union, 1), 0.0)
    row, column = np.nonzero(iou > 0.5)  # no segment can have two of them
    excused = on_void + np.where(same & truth.crowd[:, None], inter, 0).sum(0)
    wrong = excused <= 0.5 * areas
    wrong[column] = False
    missed = ~truth.crowd
    missed[row] = False
    counts = np.zeros((4, classes))
    counts[0] = np.bincount(labels[column], iou[row, column], minlength=classes)
    counts[1] = np.bincount(labels[column], minlength=classes)
    counts[2] = np.bincount(labels[wrong], minlength=classes)
    counts[3] = np.bincount(truth.labels[missed], minlength=classes)
    return counts
