"""Average precision and recall of COCO's instance segmentation: masks, and boxes beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.metrics import coco
from visionkit.metrics.coco_numbers import NO_OBJECT, missing, summary
from visionkit.metrics.matching import Curves
from visionkit.metrics.voc import voc_means, voc_precisions
from visionkit.predictions import Instances, Prediction
from visionkit.structures import ImageId, Labels

BOX_NUMBERS = ("AP", "AP50", "AP75")
"""Those of the boxes' numbers that are told, as box_AP …"""


class CocoInstances:
    """COCO's twelve numbers for masks, and box_AP, box_AP50, box_AP75; satisfies `interfaces.Metric`.

    Counted as in `CocoDetection`, with the overlap of masks in original pixels; a detection's area is that of its
    mask. (Of result rows that hold a mask and a box pycocotools takes the area of the box, which may tell in AP_small,
    AP_medium and AP_large.) An image whose truth knows boxes and no masks counts for the boxes alone.

    Args:
        classes: names, in the order of the labels.
        category_ids: see `CocoDetection`.
        voc: tell VOC's average precision of the boxes, too, as box_VOC_AP and box_VOC07_AP (`CocoDetection`).
    """

    headline = "AP"

    def __init__(
        self, classes: Sequence[str], category_ids: Sequence[int | str] | None = None, *, voc: bool = False
    ) -> None:
        self.classes = tuple(classes)
        self.voc = voc
        self.reasons: dict[str, str] = {}
        self._order = coco.class_order("CocoInstances", self.classes, category_ids)
        self._state: dict[ImageId, coco.Row] = {}
        self._curves: Curves | None = None

    def update(self, image_id: ImageId, prediction: Prediction, truth: Labels) -> None:
        """Take one image; one whose truth does not know boxes is left out, one seen before is replaced.

        Raises:
            ValueError: a box or score is not finite, a label lies outside the classes, or the masks are those of an
                image of another size.
        """
        if not isinstance(prediction, Instances):
            raise TypeError(f"CocoInstances: Instances are wanted, not {type(prediction).__name__}")
        if truth.boxes is None:
            return
        coco.check_image("CocoInstances", image_id, prediction, truth, len(self.classes))
        rows = coco.best_per_class(prediction.scores, prediction.labels, truth.known_classes, every=self.voc)
        best = prediction.select(rows)
        row = coco.image_row(best.boxes, best.scores, best.labels, truth)
        if truth.masks is not None:
            if prediction.geometry.original != tuple(truth.size):
                sizes = f"masks of {prediction.geometry.original} beside labels of {truth.size}"
                raise ValueError(f"CocoInstances: image {image_id}: {sizes}")
            row = {**row, **_mask_row(row, best, truth)}
        self._state[image_id] = row
        self._curves = None

    def state(self) -> dict[ImageId, coco.Row]:
        """Per image: as `CocoDetection.state`; mask_areas (D,) and mask_ious (D, G) where the truth knows masks."""
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
        of_boxes = coco.evaluated(self._state, coco.box_overlaps, self._order)
        numbers, boxes = summary(curves.precision, curves.recall), summary(of_boxes.precision, of_boxes.recall)
        boxes = {name: boxes[name] for name in BOX_NUMBERS}
        absent = missing(boxes)
        if self.voc:
            means = voc_means(voc_precisions(coco.in_order(self._state), len(self.classes)))
            boxes |= means
            absent |= {name: NO_OBJECT for name, value in means.items() if np.isnan(value)}
        self.reasons = missing(numbers) | {f"box_{name}": reason for name, reason in absent.items()}
        return numbers | {f"box_{name}": value for name, value in boxes.items()}

    def per_class(self) -> dict[str, float]:
        """AP of the masks of each class; nan where the class has no object to be found."""
        return {name: row["AP"] for name, row in self.class_table().items()}

    def class_table(self) -> dict[str, dict[str, float]]:
        """Of the masks of each class AP, AP50, AP75, AR100, and objects: how many are to be found; nan if none."""
        return coco.class_table(self._evaluated(), self.classes, self._order)

    def precision(self) -> np.ndarray:
        """(T, R, K): precision at COCO's IoU thresholds and recalls, the classes in their order; −1 without objects."""
        curves: np.ndarray = self._evaluated().precision[:, :, np.argsort(self._order), 0]
        return curves

    def _evaluated(self) -> Curves:
        if self._curves is None:
            known = {image_id: row for image_id, row in self._state.items() if "mask_ious" in row}
            self._curves = coco.evaluated(known, _mask_overlaps, self._order)
        return self._curves


def _mask_row(row: coco.Row, instances: Instances, truth: Labels) -> dict[str, np.ndarray]:
    """Areas of the instances' masks, and their overlaps with objects of the same class; of others 0.

    Overlaps are kept in place of masks: they are small, whatever the image's size.
    """
    found, there = list(instances.encoded_masks()), list(truth.masks or ())
    ious = np.zeros((len(found), len(there)))
    for label in np.intersect1d(row["labels"], row["truth_labels"]):
        of_found = np.flatnonzero(row["labels"] == label)
        of_there = np.flatnonzero(row["truth_labels"] == label)
        crowd = row["crowd"][of_there].astype(int).tolist()
        overlaps = coco_mask.iou([found[i] for i in of_found], [there[i] for i in of_there], crowd)
        ious[np.ix_(of_found, of_there)] = overlaps
    areas = coco_mask.area(found).astype(np.float64) if found else np.zeros(0)
    return {"mask_ious": ious, "mask_areas": areas}


def _mask_overlaps(row: coco.Row) -> tuple[np.ndarray, np.ndarray]:
    return row["mask_areas"], row["mask_ious"]
