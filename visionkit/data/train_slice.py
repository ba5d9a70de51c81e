"""A fixed slice of the training images, scored as the validation images are: without augmentation; or with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from visionkit.data import TrainingSet
from visionkit.data.cache import image_file, prepare
from visionkit.data.class_map import field_classes
from visionkit.data.collate import CollateEvaluation
from visionkit.data.fingerprint import parts_of
from visionkit.data.recent import narrowed
from visionkit.interfaces import Reader
from visionkit.structures import Decoding, Geometry, ImageId, Labels, Sample


class Picked:
    """Some images of a reader, by their places in it."""

    def __init__(self, reader: Reader, places: np.ndarray) -> None:
        self.reader, self.places = reader, places
        self.classes, self.category_ids = reader.classes, reader.category_ids
        self.semantic_classes, self.fields = reader.semantic_classes, reader.fields
        self.field_classes = field_classes(reader)
        self.image_ids: Sequence[ImageId] = [reader.image_ids[int(place)] for place in places]
        self.file_names: Sequence[str] = [reader.file_names[int(place)] for place in places]

    def __len__(self) -> int:
        return len(self.places)

    def labels(self, index: int) -> Labels:
        """The labels of image `index`."""
        return self.reader.labels(int(self.places[index]))

    def narrowed(self, fields: frozenset[str]) -> Picked:
        """The same images, with labels of `fields` alone where the reader can do so."""
        return Picked(narrowed(self.reader, fields), self.places)

    def image_file(self, index: int) -> tuple[Path, Decoding] | None:
        """The image file and how it is decoded, where the reader has such."""
        return image_file(self.reader, int(self.places[index]))

    def prepare(self, count: int | None = None) -> None:
        """Let the reader make its images, where it makes them."""
        if count is None or count > 0:
            prepare(self.reader)

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        return parts_of(self.reader)

    def read(self, index: int) -> Sample:
        """Image and labels in original pixels."""
        return self.reader.read(int(self.places[index]))


class AugmentedSlice(Dataset[tuple[Sample, Geometry, Labels]]):
    """Training samples as the model is trained on them, to be scored: their canvas is taken for the original image.

    What is mixed on the device (`augment.batch_mix`) is left out: such an image has no one class.

    Args:
        training: the set; samples are those of the first epoch.
        reader: the slice, of the same images.
        places: of its images in the set.
    """

    def __init__(self, training: TrainingSet, reader: Reader, places: np.ndarray) -> None:
        self.training, self.reader, self.places = training, reader, places
        self.preprocess = training.preprocess
        self.collate = CollateEvaluation(self.preprocess.canvas, self.preprocess.fill)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Sample, Geometry, Labels]:
        sample = self.training[0, int(self.places[index])]
        size = sample.labels.size
        return sample, Geometry(original=size, size=size, scale=(1.0, 1.0)), sample.labels


def slice_places(count: int, wanted: int, seed: int) -> np.ndarray:
    """The places of `wanted` images among `count`, (N,) int64, chosen once by the seed; rising."""
    chosen = np.random.default_rng([seed, count]).permutation(count)[:wanted]
    places: np.ndarray = np.sort(chosen)
    return places
