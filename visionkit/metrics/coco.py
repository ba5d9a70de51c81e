"""Average precision and recall of COCO's detection benchmark as a running metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.metrics.coco_numbers import NO_OBJECT, class_summary, missing, summary
from visionkit.metrics.matching import IOU_THRESHOLDS, MAX_DETECTIONS, Comparison, Curves, accumulate, match
from visionkit.metrics.voc import VOC_NUMBERS, voc_means, voc_precisions
from visionkit.predictions import Detections, Instances, Prediction
from visionkit.structures import ImageId, Labels

Row = Mapping[str, np.ndarray]


class CocoDetection:
    """COCO's twelve numbers (`NUMBERS`, 0 to 1) for boxes, in original pixels; satisfies `interfaces.Metric`.

    Images are counted whose truth knows boxes, and of each the 100 best detections per class. Crowd regions follow
    COCO. Objects marked `ignore` (VOC's difficult) are not to be found; detections that reach the IoU threshold with
    one, and with no free object that counts, are neither right nor wrong, however many there are. (pycocotools
    disregards an `ignore` key, so where there are such objects its numbers differ.)

    Args:
        classes: names, in the order of the labels.
        category_ids: the source's id of each class; they set only the order of the mean, so that it equals
            pycocotools' to the last bit.
        voc: tell VOC's average precision, too (`VOC_NUMBERS`, see `voc_precisions`), of all detections.
    """

    headline = "AP"

    def __init__(
        self, classes: Sequence[str], category_ids: Sequence[int | str] | None = None, *, voc: bool = False
    ) -> None:
        self.classes = tuple(classes)
        self.voc = voc
        self.reasons: dict[str, str] = {}
        self._order = class_order("CocoDetection", self.classes, category_ids)
        self._state: dict[ImageId, Row] = {}
        self._curves: Curves | None = None

    def update(self, image_id: ImageId, prediction: Prediction, truth: Labels) -> None:
        """Take one image; one whose truth does not know boxes is left out, one seen before is replaced.

        Raises:
            ValueError: a box or score is not finite, or a label lies outside the classes.
        """
        if not isinstance(prediction, Detections):
            raise TypeError(f"CocoDetection: Detections are wanted, not {type(prediction).__name__}")
        if truth.boxes is None:
            return
        check_image("CocoDetection", image_id, prediction, truth, len(self.classes))
        best = best_per_class(prediction.scores, prediction.labels, truth.known_classes, every=self.voc)
        self._state[image_id] = image_row(
            prediction.boxes[best], prediction.scores[best], prediction.labels[best], truth
        )
        self._curves = None

    def state(self) -> dict[ImageId, Row]:
        """Per image: boxes (N, 4) xyxy, scores, labels of its detections by falling score, and its truth."""
        return dict(self._state)

    def merge(self, states: Iterable[Mapping[ImageId, Any]]) -> None:
        """Take in the images of other states; an image that is there already is not counted again."""
        for state in states:
            for image_id, row in state.items():
                self._state.setdefault(image_id, row)
        self._curves = None

    def compute(self) -> dict[str, float]:
        """The numbers by name; nan, with a reason, where there is no object to be found."""
        curves = self._evaluated()
        numbers = summary(curves.precision, curves.recall)
        self.reasons = missing(numbers)
        if self.voc:
            means = voc_means(self._voc_precisions())
            numbers |= means
            self.reasons |= {name: NO_OBJECT for name, value in means.items() if np.isnan(value)}
        return numbers

    def per_class(self) -> dict[str, float]:
        """AP of each class; nan where the class has no object to be found."""
        return {name: row["AP"] for name, row in self.class_table().items()}

    def class_table(self) -> dict[str, dict[str, float]]:
        """Of each class AP, AP50, AP75, AR100, with `voc` VOC's, and objects: how many are to be found; nan if none."""
        return class_table(self._evaluated(), self.classes, self._order, self._voc_precisions() if self.voc else None)

    def precision(self) -> np.ndarray:
        """(T, R, K): precision at COCO's IoU thresholds and recalls, the classes in their order; −1 without objects."""
        curves: np.ndarray = self._evaluated().precision[:, :, np.argsort(self._order), 0]
        return curves

    def _evaluated(self) -> Curves:
        if self._curves is None:
            self._curves = evaluated(self._state, box_overlaps, self._order)
        return self._curves

    def _voc_precisions(self) -> np.ndarray:
        return voc_precisions(in_order(self._state), len(self.classes))


def id_order(value: int | str) -> tuple[bool, int | str]:
    """A sorting key for ids: numbers first, by size, then strings."""
    return isinstance(value, str), value


def class_order(name: str, classes: Sequence[str], category_ids: Sequence[int | str] | None) -> list[int]:
    """The classes' numbers in the order of the source's ids, in which means are taken; `name` is who asks."""
    if category_ids is not None and len(category_ids) != len(classes):
        raise ValueError(f"{name}: {len(category_ids)} category ids beside {len(classes)} classes")
    ids: Sequence[int | str] = range(len(classes)) if category_ids is None else category_ids
    return sorted(range(len(ids)), key=lambda index: id_order(ids[index]))


def check_image(name: str, image_id: ImageId, prediction: Detections | Instances, truth: Labels, classes: int) -> None:
    """Refuse what the metric `name` cannot score: a box or score that is not finite, a label outside the classes."""
    assert truth.labels is not None
    if not (np.isfinite(prediction.boxes).all() and np.isfinite(prediction.scores).all()):
        raise ValueError(f"{name}: image {image_id}: a predicted box or score is not finite")
    for labels in (prediction.labels, truth.labels):
        if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
            wrong = labels[(labels < 0) | (labels >= classes)][0]
            raise ValueError(f"{name}: image {image_id}: label {wrong} with {classes} classes")


def best_per_class(
    scores: np.ndarray, labels: np.ndarray, known_classes: np.ndarray | None, *, every: bool = False
) -> np.ndarray:
    """Rows by falling score (equal ones in the given order), `every` one or the best of `MAX_DETECTIONS` per class.

    Rows of a class that the image's set does not label (`Labels.known_classes`) are left out: nobody knows whether they
    are right.
    """
    order = np.argsort(-scores, kind="stable")
    if known_classes is not None:
        order = order[known_classes[labels[order]]]
    if every or len(order) <= MAX_DETECTIONS[-1]:
        return order
    labels = labels[order]
    by_class = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.empty(len(order), np.int64)
    rank[by_class] = np.arange(len(order)) - np.repeat(starts, counts)
    return order[rank < MAX_DETECTIONS[-1]]


def image_row(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, truth: Labels) -> Row:
    """What is kept of an image: its detections by falling score, and its truth."""
    assert truth.boxes is not None and truth.labels is not None and truth.areas is not None
    assert truth.crowd is not None and truth.ignore is not None
    return {
        "boxes": boxes,
        "scores": scores,
        "labels": labels.astype(np.int32),
        "truth_boxes": truth.boxes,
        "truth_labels": truth.labels.astype(np.int32),
        "truth_areas": truth.areas,
        "crowd": truth.crowd,
        "ignore": truth.ignore,
    }


def in_order(rows: Mapping[ImageId, Row]) -> list[Row]:
    """The images' rows in the order of their ids, in which equal scores rank."""
    return [rows[image_id] for image_id in sorted(rows, key=id_order)]


def evaluated(
    rows: Mapping[ImageId, Row], overlaps: Callable[[Row], tuple[np.ndarray, np.ndarray]], order: Sequence[int]
) -> Curves:
    """Precision and recall of all images' rows, the classes in `order`; overlaps: see `compared`."""
    comparison = compared(in_order(rows), overlaps)
    return accumulate(comparison, match(comparison), order)


def compared(rows: Sequence[Row], overlaps: Callable[[Row], tuple[np.ndarray, np.ndarray]]) -> Comparison:
    """Lay the images' rows end to end.

    Args:
        rows: see `image_row`; of each image and class the best of `MAX_DETECTIONS` are taken.
        overlaps: from a row to its detections' areas (D,) in pixels and IoUs (D, G) with the objects, COCO's for
            crowds; those of different classes are not looked at.
    """
    areas, pairs, ious = [np.zeros(0)], [np.zeros((2, 0), np.int64)], [np.zeros(0)]
    starts = np.zeros(2, np.int64)
    for row in rows:
        areas_of, ious_of = overlaps(row)
        near = (ious_of >= IOU_THRESHOLDS[0]) & (row["labels"][:, None] == row["truth_labels"])
        places = np.stack(np.nonzero(near))
        areas.append(areas_of)
        pairs.append(places + starts[:, None])
        ious.append(ious_of[places[0], places[1]])
        starts += near.shape
    found, there = np.concatenate(pairs, axis=1)
    comparison = Comparison(
        images=np.repeat(np.arange(len(rows)), [len(row["labels"]) for row in rows]),
        scores=_column(rows, "scores", np.float64),
        labels=_column(rows, "labels", np.int64),
        areas=np.concatenate(areas),
        truth_labels=_column(rows, "truth_labels", np.int64),
        truth_areas=_column(rows, "truth_areas", np.float64),
        crowd=_column(rows, "crowd", np.bool_),
        ignore=_column(rows, "ignore", np.bool_),
        found=found,
        there=there,
        ious=np.concatenate(ious),
    )
    return comparison.best(MAX_DETECTIONS[-1])


def class_table(
    curves: Curves, classes: Sequence[str], order: Sequence[int], voc: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """See `CocoDetection.class_table`; the classes of the curves are in `order`; voc: (K, 2) of `voc_precisions`."""
    table: dict[str, dict[str, float]] = {}
    for name, k in zip(classes, np.argsort(order), strict=True):
        table[name] = class_summary(curves.precision[:, :, k], curves.recall[:, k])
        if voc is not None:
            table[name] |= dict(zip(VOC_NUMBERS, voc[order[k]].tolist(), strict=True))
        table[name]["objects"] = int(curves.objects[k])
    return table


def box_overlaps(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """The areas of an image's detected boxes and their IoUs with the true ones."""
    boxes, truth_boxes = _xywh(row["boxes"]), _xywh(row["truth_boxes"])
    ious = np.zeros((len(boxes), len(truth_boxes)))
    if ious.size:
        ious = np.asarray(coco_mask.iou(boxes, truth_boxes, row["crowd"].astype(int).tolist()))
    return boxes[:, 2] * boxes[:, 3], ious


def _column(rows: Sequence[Row], name: str, dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *(row[name] for row in rows)], dtype=dtype)


def _xywh(boxes: np.ndarray) -> np.ndarray:
    result = boxes.astype(np.float64)
    result[:, 2:] -= result[:, :2]
    return result
