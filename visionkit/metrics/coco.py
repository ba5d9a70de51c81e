"""Average precision and recall of COCO's detection benchmark: as a running metric and from COCO files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visionkit.errors import UserError
from visionkit.metrics.coco_input import validated
from visionkit.metrics.matching import AREAS, IOU_THRESHOLDS, MAX_DETECTIONS, Matches, accumulate, match
from visionkit.predictions import Detections, Instances, Prediction
from visionkit.structures import ImageId, Labels

Row = Mapping[str, np.ndarray]

NUMBERS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
"""The twelve numbers in COCO's order; AP is the mean over IoU 0.50:0.95, AR1 … the recall with that many detections."""


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
    """

    headline = "AP"

    def __init__(self, classes: Sequence[str], category_ids: Sequence[int | str] | None = None) -> None:
        self.classes = tuple(classes)
        self.reasons: dict[str, str] = {}
        self._order = class_order("CocoDetection", self.classes, category_ids)
        self._state: dict[ImageId, Row] = {}
        self._curves: tuple[np.ndarray, np.ndarray] | None = None

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
        best = best_per_class(prediction.scores, prediction.labels, truth.known_classes)
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
        numbers = summary(*self._evaluated())
        self.reasons = missing(numbers)
        return numbers

    def per_class(self) -> dict[str, float]:
        """AP of each class; nan where the class has no object to be found."""
        return class_precision(self._evaluated()[0], self.classes, self._order)

    def precision(self) -> np.ndarray:
        """(T, R, K): precision at COCO's IoU thresholds and recalls, the classes in their order; −1 without objects."""
        curves: np.ndarray = self._evaluated()[0][:, :, np.argsort(self._order), 0, -1]
        return curves

    def _evaluated(self) -> tuple[np.ndarray, np.ndarray]:
        if self._curves is None:
            self._curves = evaluated(self._state, match_boxes, self._order)
        return self._curves


def coco_evaluate(
    ground_truth: Mapping[str, Any] | str | Path,
    detections: Sequence[Mapping[str, Any]] | Mapping[str, Any] | str | Path,
    iou_type: Literal["bbox", "segm"] = "bbox",
    backend: Literal["pycocotools", "faster"] = "pycocotools",
) -> dict[str, float]:
    """COCO's twelve numbers (`NUMBERS`, 0 to 1) of a result file against a ground truth; the inputs stay as they are.

    Image and category ids may be numbers or strings, annotation ids are not used. A missing `iscrowd` is 0, a missing
    `area` that of the mask, else of the box; an `ignore` key is disregarded, as pycocotools does. A number without an
    object to be found is nan; without any detection all others are 0.

    Args:
        ground_truth: a COCO dict, or the path of a JSON file that holds one.
        detections: COCO result rows (bbox as [x, y, width, height] pixels, or segmentation), a dict with them under
            "annotations", or the path of a JSON file that holds either.
        iou_type: compare boxes or masks.
        backend: "faster" is the package faster-coco-eval; both give equal numbers.

    Raises:
        DataError: the inputs cannot be scored; names the place as a JSON pointer, the value and the mend.
        UserError: the backend is unknown or not installed.
    """
    if iou_type not in ("bbox", "segm"):
        raise UserError(f"coco_evaluate: iou_type is 'bbox' or 'segm', not {iou_type!r}")
    if backend not in ("pycocotools", "faster"):
        raise UserError(f"coco_evaluate: backend is 'pycocotools' or 'faster', not {backend!r}")
    truth, results = validated(ground_truth, detections, iou_type)
    if not truth["annotations"]:
        return dict.fromkeys(NUMBERS, float("nan"))
    run = _pycocotools if backend == "pycocotools" else _faster
    return summary(*run(truth, results, iou_type))


def summary(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """The twelve numbers from precision (T, R, K, A, M) and recall (T, K, A, M), where -1 marks what cannot be."""
    at = {f"{threshold:.2f}": index for index, threshold in enumerate(IOU_THRESHOLDS)}
    values = [_mean(precision[..., 0, -1]), *(_mean(precision[[at[t]], ..., 0, -1]) for t in ("0.50", "0.75"))]
    values += [_mean(precision[..., a, -1]) for a in range(1, len(AREAS))]
    values += [_mean(recall[..., 0, m]) for m in range(len(MAX_DETECTIONS))]
    values += [_mean(recall[..., a, -1]) for a in range(1, len(AREAS))]
    return dict(zip(NUMBERS, values, strict=True))


def missing(numbers: Mapping[str, float]) -> dict[str, str]:
    """Why each of `numbers` that is nan is so."""
    areas = {
        "small": "no labelled object of at most 32² pixels",
        "medium": "no labelled object between 32² and 96² pixels",
        "large": "no labelled object of at least 96² pixels",
    }
    absent = {name: areas.get(name.partition("_")[2], "no labelled object to be found") for name in NUMBERS}
    return {name: absent[name] for name, value in numbers.items() if np.isnan(value)}


def id_order(value: int | str) -> tuple[bool, int | str]:
    """A sorting key for ids: numbers first, by size, then strings."""
    return isinstance(value, str), value


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(np.mean(known)) if known.size else float("nan")


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


def best_per_class(scores: np.ndarray, labels: np.ndarray, known_classes: np.ndarray | None) -> np.ndarray:
    """Rows by falling score (equal ones in the given order), at most the last of `MAX_DETECTIONS` per class.

    Rows of a class that the image's set does not label (`Labels.known_classes`) are left out: nobody knows whether they
    are right.
    """
    order = np.argsort(-scores, kind="stable")
    if known_classes is not None:
        order = order[known_classes[labels[order]]]
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


def evaluated(
    rows: Mapping[ImageId, Row], match_image: Callable[[Row], Iterable[tuple[int, Matches]]], order: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall (see `accumulate`) of all images' rows, the classes in `order`."""
    per_class: list[list[Matches]] = [[] for _ in order]
    for image_id in sorted(rows, key=id_order):
        for label, matches in match_image(rows[image_id]):
            per_class[label].append(matches)
    return accumulate([per_class[k] for k in order])


def class_precision(precision: np.ndarray, classes: Sequence[str], order: Sequence[int]) -> dict[str, float]:
    """AP by class from precision (T, R, K, A, M), whose classes are in `order`."""
    values = {classes[k]: _mean(precision[:, :, i, 0, -1]) for i, k in enumerate(order)}
    return {name: values[name] for name in classes}


def match_boxes(row: Row) -> Iterable[tuple[int, Matches]]:
    """Match an image's boxes, class by class."""
    boxes, truth_boxes = _xywh(row["boxes"]), _xywh(row["truth_boxes"])

    def overlaps(found: np.ndarray, there: np.ndarray) -> np.ndarray:
        crowd = row["crowd"][there].astype(int).tolist()
        return np.asarray(coco_mask.iou(boxes[found], truth_boxes[there], crowd))

    return match_classes(row, boxes[:, 2] * boxes[:, 3], overlaps)


def match_classes(
    row: Row, areas: np.ndarray, overlaps: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Iterable[tuple[int, Matches]]:
    """Match an image's detections of each class to its objects.

    Args:
        row: see `image_row`.
        areas: (D,) of the detections, pixels.
        overlaps: from some detections (D,) bool and some objects (G,) bool to their IoU, COCO's for crowds.
    """
    scores = row["scores"].astype(np.float64)
    for label in np.union1d(row["labels"], row["truth_labels"]):
        found, there = row["labels"] == label, row["truth_labels"] == label
        ious = np.zeros((found.sum(), there.sum()))
        if ious.size:
            ious = overlaps(found, there)
        truth = row["truth_areas"][there], row["crowd"][there], row["ignore"][there]
        yield int(label), match(ious, scores[found], areas[found], *truth)


def _xywh(boxes: np.ndarray) -> np.ndarray:
    result = boxes.astype(np.float64)
    result[:, 2:] -= result[:, :2]
    return result


def _pycocotools(truth: dict[str, Any], results: dict[str, Any], iou_type: str) -> tuple[np.ndarray, np.ndarray]:
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for content in (truth, results):
            side = COCO()
            side.dataset = content
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _faster(truth: dict[str, Any], results: dict[str, Any], iou_type: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        from faster_coco_eval import COCO as FasterCOCO  # noqa: N811
        from faster_coco_eval import COCOeval_faster
    except ImportError as error:
        mend = "pip install 'visionkit[fast-eval]', or take backend='pycocotools'"
        raise UserError(f"coco_evaluate: backend 'faster' is not installed: {mend}") from error
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval_faster(FasterCOCO(truth), FasterCOCO(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])
