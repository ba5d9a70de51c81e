"""Class numbers from a reader's lists to a model's, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from visionkit.errors import DataError, did_you_mean, listed
from visionkit.interfaces import Reader
from visionkit.structures import IGNORE_INDEX, Labels


def field_classes(reader: Reader) -> Mapping[str, Sequence[str]]:
    """Return the classes that a reader uses for "boxes" (and masks), "class_scores" (and box) and "semantic".

    A reader of several sets says it in `field_classes`; of others all objects and images share `classes`.
    """
    own: Mapping[str, Sequence[str]] | None = getattr(reader, "field_classes", None)
    if own is not None:
        return own
    return {"boxes": reader.classes, "class_scores": reader.classes, "semantic": reader.semantic_classes}


class ClassMap:
    """Labels from a reader's class lists to a model's, by name.

    Args:
        reader: whose `classes` and `semantic_classes` the labels count.
        classes: the model's classes of boxes and masks.
        fields: of `LABEL_FIELDS`, those that are wanted; the others become unknown.
        semantic_classes: the model's classes of semantic maps.
        image_classes: the model's classes of whole images; None: those of boxes.

    Raises:
        DataError: the reader has a class that the model lacks, for a field that is wanted.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        classes: Sequence[str],
        fields: frozenset[str],
        semantic_classes: Sequence[str] = (),
        image_classes: Sequence[str] | None = None,
    ) -> None:
        self.fields = fields | {"boxes"} if "masks" in fields else fields
        wanted, own = self.fields & reader.fields, field_classes(reader)
        image_classes = classes if image_classes is None else image_classes
        self.counts = (len(classes), len(image_classes))
        self._objects = self._images = np.zeros(0, np.int64)
        if "boxes" in wanted:
            self._objects = class_map(reader.classes, classes, used=own["boxes"])
        self._is_same = np.array_equal(self._objects, np.arange(len(self._objects)))
        if wanted & {"class_scores", "box"}:
            self._images = class_map(reader.classes, image_classes, used=own["class_scores"])
        self._pixels = np.full(256, IGNORE_INDEX, np.uint8)
        if "semantic" in wanted:
            mapped = class_map(reader.semantic_classes, semantic_classes, key="head.semantic.classes")
            self._pixels[: len(mapped)] = mapped

    def __call__(self, labels: Labels) -> Labels:
        """Return the wanted fields, with the model's class numbers."""
        kept = labels if labels.known <= self.fields else labels.keep(self.fields)
        changed: dict[str, Any] = {}
        if kept.labels is not None and not self._is_same:
            changed["labels"] = self._objects[kept.labels]
        if kept.known_classes is not None:  # of boxes; without them it says nothing
            has_boxes = kept.labels is not None
            known = _moved(kept.known_classes, self._objects, self.counts[0]) if has_boxes else None
            changed["known_classes"] = known
        if kept.class_scores is not None:
            changed["class_scores"] = _moved(kept.class_scores, self._images, self.counts[1])
        if kept.semantic is not None:
            changed["semantic"] = cv2.LUT(kept.semantic, self._pixels)
        return replace(kept, **changed) if changed else kept


def class_map(
    source: Sequence[str], target: Sequence[str], *, used: Sequence[str] | None = None, key: str = "data.classes"
) -> np.ndarray:
    """Return for each class of `source` its place in `target`, (len(source),) int64, by name; −1 where it has none.

    A class that only `target` has is no fault: a model may know more than a set shows.

    Raises:
        DataError: `target` lacks a class of `used` (None: any of `source`); names them, and `key`, which leaves them
            out.
    """
    places = {name: number for number, name in enumerate(target)}
    missing = [name for name in (source if used is None else used) if name not in places]
    if missing:
        raise DataError(
            f"the data has classes that the model lacks: {listed(missing)}{did_you_mean(missing[0], target)}; "
            f"the model knows {listed(target)}. Name those to be used with {key}=[…]",
            code="class-list-differs",
        )
    return np.array([places.get(name, -1) for name in source], np.int64)


def _moved(values: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """Return (count,) with the values at their new places, 0 where there is none."""
    result = np.zeros(count, values.dtype)
    there = places >= 0
    result[places[there]] = values[there]
    return result
