"""Boxes as localization's one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.data.cache import image_file, prepare
from visionkit.data.fingerprint import parts_of
from visionkit.data.readers.source import semantic_category_ids
from visionkit.data.validate import class_counts
from visionkit.errors import ConfigError, DataError, did_you_mean
from visionkit.interfaces import Reader
from visionkit.structures import Decoding, Labels, Sample

CHOICES = ("largest", "first")


class SingleObject:
    """A reader that knows boxes, with `box` and one-hot `class_scores` of one object an image beside what it knows.

    Crowds and ignored objects do not count. Of an image without objects both stay unknown.

    Args:
        reader: knows boxes.
        box: which object of several: "largest" (by its box; the first of equals) or "first"; None refuses them.

    Raises:
        DataError: the reader knows no boxes; or `box` is None and an image has several objects, which is looked for
            at once, in all labels until the first.
        ConfigError: `box` is something else.
    """

    def __init__(self, reader: Reader, box: str | None = None) -> None:
        if box is not None and box not in CHOICES:
            raise ConfigError(
                f"data.box={box}: largest or first is wanted{did_you_mean(box, CHOICES)}", code="choice-unknown"
            )
        if "boxes" not in reader.fields:
            raise DataError(
                "the data knows no boxes to make single objects of; choose another data=", code="labels-lacking"
            )
        self.reader, self.box = reader, box
        self.classes, self.category_ids = reader.classes, reader.category_ids
        self.semantic_classes, self.semantic_category_ids = reader.semantic_classes, semantic_category_ids(reader)
        self.image_ids, self.file_names = reader.image_ids, reader.file_names
        self.fields = reader.fields | {"box", "class_scores"}
        self.problems = getattr(reader, "problems", [])
        self.notes: Sequence[str] = getattr(reader, "notes", [])
        if box is None:
            for index in range(len(reader)):
                self._place(index, reader.labels(index))

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """The labels of image `index`."""
        return self._with_box(index, self.reader.labels(index))

    def image_file(self, index: int) -> tuple[Path, Decoding] | None:
        """The image file and how it is decoded, where the reader has such."""
        return image_file(self.reader, index)

    def prepare(self, count: int | None = None) -> None:
        """Let the reader make its first `count` images (None: all), where it makes them."""
        prepare(self.reader, count)

    def read(self, index: int) -> Sample:
        """Image and labels in original pixels."""
        sample = self.reader.read(index)
        return replace(sample, labels=self._with_box(index, sample.labels))

    def class_counts(self) -> np.ndarray | None:
        """(C,) int64: objects per class, all of them, where the reader can tell."""
        return class_counts(self.reader)

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        return [self.box, parts_of(self.reader)]

    def _with_box(self, index: int, labels: Labels) -> Labels:
        place = self._place(index, labels)
        if place is None:
            return replace(labels, box=None, class_scores=None)
        assert labels.boxes is not None and labels.labels is not None
        scores = np.zeros(len(self.classes), np.float32)
        scores[labels.labels[place]] = 1
        return replace(labels, box=labels.boxes[place].copy(), class_scores=scores)

    def _place(self, index: int, labels: Labels) -> int | None:
        """The row of the one object, None where there is none."""
        if labels.boxes is None or labels.crowd is None or labels.ignore is None:
            return None
        places = np.flatnonzero(~(labels.crowd | labels.ignore))
        if len(places) > 1 and self.box is None:
            fault = f"{len(places)} objects, but localization is of one"
            raise DataError(
                f"{self.file_names[index]}: {fault}; choose with data.box=largest or data.box=first", code="label-count"
            )
        if len(places) == 0:
            return None
        if self.box != "largest":
            return int(places[0])
        sides = labels.boxes[places, 2:] - labels.boxes[places, :2]
        return int(places[sides.prod(axis=1).argmax()])
