"""From a reader to batches: the two data sets, and the loaders around them."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from visionkit.data.class_map import ClassMap
from visionkit.data.collate import Collate, CollateEvaluation
from visionkit.data.mixes import Mosaic
from visionkit.data.placement import placed_sample
from visionkit.data.sampler import EpochSampler
from visionkit.data.transforms import Augment
from visionkit.errors import ConfigError, UserError, did_you_mean
from visionkit.interfaces import Reader
from visionkit.preprocess import Preprocess
from visionkit.structures import LABEL_FIELDS, Batch, Geometry, Labels, Sample

CACHES = ("none", "ram")
_SAMPLE_STREAM = 1
"""Sets a sample's random stream apart from the sampler's order of an epoch."""


class PixelCache:
    """Decoded images in memory that all workers share: each image is decoded once, whoever meets it first.

    Images are kept from the front of the reader's list until `most_bytes` are given away; the rest is read again each
    time. Only (H, W, 3) uint8 images are kept. The memory is shared with worker processes that are forked; a process
    started otherwise begins with an empty cache of its own.
    """

    def __init__(self, reader: Reader, most_bytes: int) -> None:
        self._reader = reader
        self._most_bytes = most_bytes
        self._starts = [0]
        for index in range(len(reader)):
            height, width = reader.labels(index).size
            end = self._starts[-1] + height * width * 3
            if end > most_bytes:
                break
            self._starts.append(end)
        self._pixels = np.frombuffer(mmap.mmap(-1, max(1, self._starts[-1])), np.uint8)
        self._filled = np.frombuffer(mmap.mmap(-1, len(self._starts)), np.uint8)

    def __reduce__(self) -> tuple[type[PixelCache], tuple[Reader, int]]:
        return PixelCache, (self._reader, self._most_bytes)

    def __len__(self) -> int:
        """How many images the cache has room for."""
        return len(self._starts) - 1

    def read(self, index: int) -> Sample:
        """Return what the reader's `read` does; the pixels of a kept image are read-only."""
        if index >= len(self):
            return self._reader.read(index)
        pixels = self._pixels[self._starts[index] : self._starts[index + 1]]
        if not self._filled[index]:
            sample = self._reader.read(index)
            if sample.image.nbytes != pixels.nbytes or sample.image.dtype != np.uint8 or sample.image.shape[2] != 3:
                return sample
            pixels[:] = sample.image.reshape(-1)
            # Two workers may write the same bytes at the same time; the mark comes after them.
            self._filled[index] = 1
            return sample
        labels = self._reader.labels(index)
        image = pixels.reshape(*labels.size, 3)
        image.flags.writeable = False
        return Sample(image, labels, self._reader.image_ids[index], self._reader.file_names[index])


class TrainingSet(Dataset[Sample]):
    """Augmented samples on the canvas; each is a pure function of (seed, epoch, index), whoever makes it and when.

    Args:
        reader: one split of one data set.
        preprocess: the canvas, and how an image is laid on it.
        classes, semantic_classes, image_classes: the model's class lists (see `ClassMap`).
        fields: of `LABEL_FIELDS`, those that some head's loss reads.
        epochs: how many passes over the data the whole run makes (`EpochSampler.passes`), for `Mosaic.until`.
        seed: of all that is random here.
        augment: applied last; the result may not be larger than the canvas.
        mosaic: applied while it is active.
        cache: "ram" keeps decoded images in memory that the workers share, "none" decodes each time.
        cache_bytes: the most that "ram" takes.
    """

    def __init__(
        self,
        reader: Reader,
        preprocess: Preprocess,
        *,
        classes: Sequence[str],
        fields: frozenset[str],
        epochs: float,
        seed: int,
        semantic_classes: Sequence[str] = (),
        image_classes: Sequence[str] | None = None,
        augment: Augment | None = None,
        mosaic: Mosaic | None = None,
        cache: str = "none",
        cache_bytes: int = 4 << 30,
    ) -> None:
        if cache not in CACHES:
            choices = f"{', '.join(CACHES)}{did_you_mean(cache, CACHES)}"
            raise ConfigError(f"data.cache={cache}: one of {choices} is wanted")
        if mosaic is not None and mosaic.canvas != preprocess.canvas:
            raise ConfigError(f"augment.mosaic: canvas {mosaic.canvas} beside preprocess's {preprocess.canvas}")
        self.reader = reader
        self.preprocess = preprocess
        self.map_labels = ClassMap(
            reader, classes=classes, semantic_classes=semantic_classes, image_classes=image_classes, fields=fields
        )
        self.epochs = epochs
        self.seed = seed
        self.augment = augment
        self.mosaic = mosaic
        self.collate = Collate(preprocess.canvas, preprocess.fill, self.map_labels.fields, self.map_labels.counts)
        self._source: PixelCache | Reader = PixelCache(reader, cache_bytes) if cache == "ram" else reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        """Make the sample of (epoch, index).

        Raises:
            DataError: the image cannot be read.
            ConfigError: a transform made the sample larger than the canvas.
        """
        epoch, index = place
        rng = np.random.default_rng([self.seed, epoch, index, _SAMPLE_STREAM])
        index %= len(self)  # a repeat within one epoch has a number of its own (`EpochSampler`)
        sample = self._read(index)
        if self.mosaic is not None and self.mosaic.active(epoch, self.epochs) and rng.random() < self.mosaic.p:
            others = self._others(index, rng)
            sample = self.mosaic([sample, *(self._read(int(other)) for other in others)], rng)
        else:
            sample = placed_sample(sample, self.preprocess.place_uncropped(sample.labels.size))
        if self.augment is not None:
            sample = self.augment(sample, rng)
        if self.preprocess.policy == "resize_crop":
            return placed_sample(sample, self.preprocess.crop(sample.labels.size))
        too_large = any(side > most for side, most in zip(sample.labels.size, self.preprocess.canvas, strict=True))
        if too_large and self.augment is not None:
            raise ConfigError(
                f"augment.transforms ({', '.join(self.augment.names)}) made a sample of {sample.labels.size}, larger "
                f"than the canvas {self.preprocess.canvas}; crop to it, or leave the resizing out"
            )
        return sample

    def _others(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """The partners of a mosaic, of the same set: sets that are mixed know different fields."""
        segments = getattr(self.reader, "segments", ((0, len(self), 1.0),))
        start, count = next((start, count) for start, count, _ in segments if start <= index < start + count)
        return start + rng.integers(count, size=self.mosaic.partners if self.mosaic else 0)

    def _read(self, index: int) -> Sample:
        sample = self._source.read(index)
        return replace(sample, labels=self.map_labels(sample.labels))


class EvaluationSet(Dataset[tuple[Sample, Geometry, Labels]]):
    """Images on their canvas, each with its geometry and its truth in original pixels (the model's class numbers).

    Args: as `TrainingSet`; by default all fields of the truth are kept.
    """

    def __init__(
        self,
        reader: Reader,
        preprocess: Preprocess,
        *,
        classes: Sequence[str],
        semantic_classes: Sequence[str] = (),
        image_classes: Sequence[str] | None = None,
        fields: frozenset[str] = frozenset(LABEL_FIELDS),
    ) -> None:
        self.reader = reader
        self.preprocess = preprocess
        self.map_labels = ClassMap(
            reader, classes=classes, semantic_classes=semantic_classes, image_classes=image_classes, fields=fields
        )
        self.collate = CollateEvaluation(preprocess.canvas, preprocess.fill)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Sample, Geometry, Labels]:
        """The sample's own labels know nothing: predictions are judged in original pixels."""
        sample = self.reader.read(index)
        image, geometry = self.preprocess.fit(sample.image)
        return replace(sample, image=image, labels=Labels(size=geometry.size)), geometry, self.map_labels(sample.labels)


def training_loader(
    dataset: TrainingSet, sampler: EpochSampler, *, workers: int, device: torch.device
) -> DataLoader[Sample]:
    """Return the endless loader of `sampler`'s batches, from its `start` on; worker processes stay between epochs."""
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=dataset.collate, **_settings(workers, device))


def evaluation_loader(
    dataset: EvaluationSet, *, batch_size: int, workers: int, device: torch.device, rank: int = 0, world: int = 1
) -> DataLoader[tuple[Sample, Geometry, Labels]]:
    """Return the loader of this rank's share: every image of the set on exactly one rank, none repeated.

    The last batch may be smaller; a rank may have no batch at all.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=range(rank, len(dataset), world),
        collate_fn=dataset.collate,
        **_settings(workers, device),
    )


def batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Yield a loader's batches; what a worker says of the user's data arrives as it said it, without its traceback."""
    try:
        yield from loader
    except UserError as error:
        # torch puts the worker's whole traceback into the message of an error of the same class.
        name = f"{type(error).__module__}.{type(error).__qualname__}: "
        raise type(error)(str(error).rpartition(name)[2].strip()) from error


def _settings(workers: int, device: torch.device) -> Mapping[str, Any]:
    settings: dict[str, Any] = {"num_workers": workers, "pin_memory": device.type == "cuda"}
    # A loader draws a seed as it starts; not from the run's own stream, since a resumed run starts its loaders anew.
    settings["generator"] = torch.Generator()
    if workers > 0:
        # On Linux "fork", since it shares what is already in memory; elsewhere it is not safe.
        context = "fork" if sys.platform == "linux" else None
        settings |= {"persistent_workers": True, "worker_init_fn": _start_worker}
        settings |= {"multiprocessing_context": context}
    return settings


def _start_worker(_worker: int) -> None:
    """One thread a worker: the workers already fill the cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
