"""Predictions and truth drawn into photographs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.errors import UserError
from visionkit.predictions import (
    Classification,
    Detections,
    Instances,
    Localization,
    PanopticMap,
    Prediction,
    SemanticMap,
)
from visionkit.report.colours import WHITE, Colour, class_colour
from visionkit.report.paint import outline_map, outline_mask, paint_map, paint_mask
from visionkit.report.pen import Pen
from visionkit.structures import IGNORE_INDEX, RLE, Labels

TOP_CLASSES = 3
"""How many classes of a classification are listed."""
_TEXT_SHARE = 0.35
"""How large letters are at most, as a share of the usual box's side: or many small objects lie under their names."""
_LAYERS = (SemanticMap, PanopticMap, Instances, Detections, Localization, Classification)
"""What is drawn over what, from the ground up."""


def draw(
    image: np.ndarray,
    prediction: Prediction | None,
    classes: Sequence[str],
    *,
    truth: Labels | None = None,
    score_threshold: float = 0.3,
) -> np.ndarray:
    """Return a copy of the image with what was predicted, and the truth where it is given.

    Args:
        image: (H, W, 3) uint8 RGB; lines and text scale with it.
        prediction: detections and instances become boxes and masks in the colour of their class, maps are laid over
            the image with a legend, a classification is a list of its `TOP_CLASSES` best, a localization both a list
            and a box; None draws the truth alone.
        classes: names, in the order of the prediction's and the truth's labels.
        truth: drawn like predictions where it is alone; beside a prediction its boxes are dashed and white, its masks
            and maps white outlines. A true class is listed first. Pixels without a label are hatched.
        score_threshold: detections and instances under it are left out.
    """
    drawing = _Drawing(image)
    if truth is not None and prediction is None:
        drawing.truth(truth, classes)
    if prediction is not None:
        drawing.prediction(prediction, classes, score_threshold)
        if truth is not None:
            drawing.compared(truth.keep(truth_fields(prediction)), classes)
    return drawing.pixels()


def draw_all(
    image: np.ndarray,
    predictions: Mapping[str, Prediction],
    classes: Mapping[str, Sequence[str]],
    *,
    score_threshold: float = 0.3,
) -> np.ndarray:
    """Return a copy of the image with what several heads said, in one picture: maps lowest, then masks, boxes, lists.

    Args:
        image: (H, W, 3) uint8 RGB.
        predictions: by head name; where a panoptic map is among them, semantic map and instances are left out.
        classes: each head's class names.
        score_threshold: detections and instances under it are left out.
    """
    drawing = _Drawing(image)
    merged = any(isinstance(one, PanopticMap) for one in predictions.values())
    for name in sorted(predictions, key=lambda name: _LAYERS.index(type(predictions[name]))):
        if not (merged and isinstance(predictions[name], SemanticMap | Instances)):
            drawing.prediction(predictions[name], classes[name], score_threshold)
    return drawing.pixels()


def truth_fields(prediction: Prediction) -> frozenset[str]:
    """The fields of `Labels` that tell whether the prediction is right."""
    fields: dict[type, tuple[str, ...]] = {
        Classification: ("class_scores",),
        Localization: ("class_scores", "box"),
        Detections: ("boxes",),
        Instances: ("boxes", "masks"),
        SemanticMap: ("semantic",),
        PanopticMap: ("boxes", "masks", "semantic"),
    }
    return frozenset(fields[type(prediction)])


class _Drawing:
    """Paint goes on at once; frames, plates and lists are kept back, to lie on top of all paint."""

    def __init__(self, image: np.ndarray) -> None:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"draw: (H, W, 3) uint8 is wanted, not {image.shape} {image.dtype}")
        self.image = np.array(image, order="C")  # a copy
        self.boxes: list[tuple[np.ndarray, str, Colour]] = []
        self.dashed: list[np.ndarray] = []
        self.lines: list[tuple[str, Colour]] = []
        self.legend: dict[str, Colour] = {}

    def _check_size(self, size: tuple[int, ...]) -> None:
        if size != self.image.shape[:2]:
            shown = "{} x {} pixels (height x width)".format
            told = f"the image has {shown(*self.image.shape[:2])} and the prediction {shown(*size)}"
            raise UserError(f"draw: {told}; give the image that was predicted", code="image-form")

    def pixels(self) -> np.ndarray:
        sides = [math.sqrt(max(1.0, (x2 - x1) * (y2 - y1))) for (x1, y1, x2, y2), _, _ in self.boxes]
        pen = Pen(self.image, most_text=_TEXT_SHARE * float(np.median(sides)) if sides else math.inf)
        for box in self.dashed:
            pen.dashed_box(box)
        for box, _, colour in reversed(self.boxes):  # the best one last, on top
            pen.box(box, colour)
        pen.listing(self.lines)
        pen.legend(list(self.legend.items()))
        if self.boxes:
            boxes, texts, colours = zip(*self.boxes, strict=True)
            pen.tags(np.stack(boxes), texts, colours)
        return pen.pixels()

    # ------------------------------------------------------------------------------------------------- predictions
    def prediction(self, prediction: Prediction, classes: Sequence[str], score_threshold: float) -> None:
        if isinstance(prediction, SemanticMap | PanopticMap):
            self._check_size((prediction.classes if isinstance(prediction, SemanticMap) else prediction.ids).shape)
        elif isinstance(prediction, Instances):
            self._check_size(prediction.geometry.original)
        if isinstance(prediction, SemanticMap):
            self._map(prediction.classes, classes, hatched=False)
        elif isinstance(prediction, PanopticMap):
            self._panoptic(prediction, classes)
        elif isinstance(prediction, Localization):
            self._scores(prediction.scores, classes)
            best = int(prediction.scores.argmax())
            self._box(prediction.box, f"{classes[best]} {prediction.scores[best]:.2f}", best)
        elif isinstance(prediction, Classification):
            self._scores(prediction.scores, classes)
        else:
            self._objects(prediction.above(score_threshold), classes)

    def _objects(self, objects: Detections | Instances, classes: Sequence[str]) -> None:
        order = np.argsort(-objects.scores, kind="stable").tolist()
        if isinstance(objects, Instances):
            for row in reversed(order):
                mask, left, top = objects.window(row)
                paint_mask(self.image, mask, (left, top), class_colour(int(objects.labels[row])))
        for row in order:
            label = int(objects.labels[row])
            self._box(objects.boxes[row], f"{classes[label]} {objects.scores[row]:.2f}", label)

    def _panoptic(self, prediction: PanopticMap, classes: Sequence[str]) -> None:
        labels = np.full(max([0, *(one.id for one in prediction.segments)]) + 1, IGNORE_INDEX, np.uint8)
        counts: dict[int, int] = {}
        for one in sorted(prediction.segments, key=lambda one: -one.area):
            labels[one.id] = one.label
            counts[one.label] = counts.get(one.label, 0) + one.thing
        paint_map(self.image, labels[np.clip(prediction.ids, 0, len(labels) - 1)])
        for one in prediction.segments:
            if one.thing:
                outline_mask(self.image, prediction.ids == one.id)
        for label, count in counts.items():
            self.legend[f"{classes[label]} × {count}" if count > 1 else classes[label]] = class_colour(label)

    def _map(self, labels: np.ndarray, classes: Sequence[str], *, hatched: bool) -> None:
        paint_map(self.image, labels, hatched=hatched)
        pixels = np.bincount(labels.ravel(), minlength=IGNORE_INDEX + 1)
        for label in np.argsort(-pixels[:IGNORE_INDEX], kind="stable").tolist():
            if pixels[label]:
                self.legend[classes[label]] = class_colour(label)

    def _scores(self, scores: np.ndarray, classes: Sequence[str]) -> None:
        best = np.argsort(-scores, kind="stable")[:TOP_CLASSES].tolist()
        self.lines += [(f"{classes[label]} {scores[label]:.2f}", class_colour(label)) for label in best]

    def _box(self, box: np.ndarray, text: str, label: int) -> None:
        self.boxes.append((box, text, class_colour(label)))

    # ------------------------------------------------------------------------------------------------------- truth
    def truth(self, truth: Labels, classes: Sequence[str]) -> None:
        if not truth.known:
            self.lines.append(("not labelled", WHITE))
        if truth.semantic is not None:
            self._map(truth.semantic, classes, hatched=True)
        if truth.boxes is not None:
            self._true_objects(truth, classes)
        true = [] if truth.class_scores is None else np.flatnonzero(truth.class_scores > 0.5).tolist()
        self.lines += [(f"truth: {classes[label]}", WHITE) for label in true]
        if truth.box is not None:
            self._box(truth.box, classes[true[0]] if true else "object", true[0] if true else 0)

    def _true_objects(self, truth: Labels, classes: Sequence[str]) -> None:
        assert truth.boxes is not None
        for rle, label in zip(truth.masks or (), np.asarray(truth.labels).tolist(), strict=truth.masks is not None):
            paint_mask(self.image, _decoded(rle), (0, 0), class_colour(label))
        marks = np.where(np.asarray(truth.crowd), " (crowd)", np.where(np.asarray(truth.ignore), " (ignored)", ""))
        for box, label, mark in zip(truth.boxes, np.asarray(truth.labels).tolist(), marks.tolist(), strict=True):
            self._box(box, f"{classes[label]}{mark}", label)

    def compared(self, truth: Labels, classes: Sequence[str]) -> None:
        """The truth over a prediction."""
        if truth.semantic is not None:
            outline_map(self.image, truth.semantic)
        if truth.masks is not None:
            for rle in truth.masks:
                outline_mask(self.image, _decoded(rle))
        elif truth.boxes is not None:
            self.dashed += list(truth.boxes)
        if truth.box is not None:
            self.dashed.append(truth.box)
        if truth.class_scores is not None:
            true = np.flatnonzero(truth.class_scores > 0.5).tolist()
            self.lines = [(f"truth: {classes[label]}", WHITE) for label in true] + self.lines


def _decoded(rle: RLE) -> np.ndarray:
    mask: np.ndarray = coco_mask.decode(rle).astype(bool)
    return mask
