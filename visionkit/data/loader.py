"""From a reader to batches: the two data sets, and the loaders around them."""

from __future__ import annotations

import errno
import math
import multiprocessing.queues
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from visionkit.data.cache import Source, image_source
from visionkit.data.class_map import ClassMap
from visionkit.data.collate import Collate, CollateEvaluation
from visionkit.data.copy_paste import CopyPaste
from visionkit.data.freed_memory import keep_freed_memory
from visionkit.data.loader_room import PREFETCH, workers_with_room
from visionkit.data.mixes import MixUp, Mosaic
from visionkit.data.neighbours import Neighbours
from visionkit.data.placement import placed_sample
from visionkit.data.recent import narrowed, recent_bytes
from visionkit.data.sampler import EpochSampler
from visionkit.data.transforms import Augment
from visionkit.data.transforms_v2 import TorchvisionAugment
from visionkit.errors import ConfigError, UserError, told
from visionkit.interfaces import Reader
from visionkit.preprocess import Preprocess
from visionkit.structures import LABEL_FIELDS, Batch, Geometry, Labels, Sample

_MIXED_AS_A_WHOLE = 512
"""In a set of at most so many images any may be mixed with any: most of them are kept in memory anyway.

With partners of one group, BCCD's 292 images came to AP .533 to .535, of the whole set to .541 and .543 (256 pixels,
30 epochs, two seeds, 2026-11-22).
"""
_SAMPLE_STREAM = 1
"""Sets a sample's random stream apart from the sampler's order of an epoch."""
_REDUCED_ABOVE = 1.5
"""A JPEG decoded at a part of its size keeps at least this many times the sides that it takes on the canvas.

After the resize it then differs from the one decoded in full by less than 4 grey levels on average (coco128: 2.7 at 213
pixels by 1/2, 3.7 at 106 by 1/4), and lies within a pixel of its place. Decoding and resizing to 640 pixels takes 13.7
ms instead of 19.4 from 1920 x 1440, and 28 instead of 65 from 3840 x 2880 (coco128 enlarged 3 and 6 times, one core of
a 2-core Xeon, 2026-11-22); photographs of up to three times the canvas are not reduced, since little would be gained.
"""


class TrainingSet(Dataset[Sample]):
    """Augmented samples on the canvas; each is a pure function of the seed and its place, whoever makes it and when.

    Args:
        reader: one split of one data set.
        preprocess: the canvas, and how an image is laid on it.
        classes, semantic_classes, image_classes: the model's class lists (see `ClassMap`).
        fields: of `LABEL_FIELDS`, those that some head's loss reads.
        epochs: how many passes over the data the whole run makes (`EpochSampler.passes`), for `Turns.until`.
        seed: of all that is random here.
        augment: applied last; the result may not be larger than the canvas.
        mosaic, copy_paste, mixup: applied in this order, each to the samples of its turn.
        cache, cache_bytes: what is kept of decoded images, see `visionkit.data.cache.image_source`.
        reduced_decoding: JPEGs much larger than the canvas are decoded at a part of their size.
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
        augment: Augment | TorchvisionAugment | None = None,
        mosaic: Mosaic | None = None,
        copy_paste: CopyPaste | None = None,
        mixup: MixUp | None = None,
        cache: str = "none",
        cache_bytes: int | None = None,
        reduced_decoding: bool = False,
    ) -> None:
        if mosaic is not None and mosaic.canvas != preprocess.canvas:
            raise ConfigError(
                f"augment.mosaic: canvas {mosaic.canvas} beside preprocess's {preprocess.canvas}",
                code="keys-contradict",
            )
        self.reader = reader
        self.preprocess = preprocess
        wanted = fields | {"boxes"} if "masks" in fields else fields
        read = wanted if copy_paste is None else wanted | {"masks"}  # it cuts objects out by them, whoever learns
        self.map_labels = ClassMap(
            reader, classes=classes, semantic_classes=semantic_classes, image_classes=image_classes, fields=read
        )
        self.epochs = epochs
        self.seed = seed
        self.augment = augment
        self.mosaic, self.copy_paste, self.mixup = mosaic, copy_paste, mixup
        self.collate = Collate(preprocess.canvas, preprocess.fill, wanted, self.map_labels.counts)
        least = self._least_size if reduced_decoding else None
        asked = narrowed(reader, read)
        self.mixes = any(mix is not None for mix in (mosaic, copy_paste, mixup))
        recent = recent_bytes() if self.mixes else 0
        self._source: Source = image_source(asked, cache=cache, cache_bytes=cache_bytes, least=least, recent=recent)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, place: tuple[int, ...]) -> Sample:
        """Make the sample of (epoch, index), or of (epoch, index, *images) as `Neighbours` gives them.

        It is mixed with some of those images; where none is named, with any of the same set.

        Raises:
            DataError: the image cannot be read.
            ConfigError: a transform made the sample larger than the canvas.
        """
        epoch, index, *near = place
        rng = np.random.default_rng([self.seed, epoch, index, _SAMPLE_STREAM])
        index %= len(self)  # a repeat within one epoch has a number of its own (`EpochSampler`)
        sample = self._mixed(index, epoch, near, rng)
        if self.augment is not None:
            sample = self.augment(sample, rng)
        if self.preprocess.policy == "resize_crop":
            return placed_sample(sample, self.preprocess.crop(sample.labels.size))
        too_large = any(side > most for side, most in zip(sample.labels.size, self.preprocess.canvas, strict=True))
        if too_large and self.augment is not None:
            raise ConfigError(
                f"augment.transforms ({', '.join(self.augment.names)}) made a sample of {sample.labels.size}, larger "
                f"than the canvas {self.preprocess.canvas}; crop to it, or leave the resizing out",
                code="augmentation-unfit",
            )
        return sample

    def _mixed(self, index: int, epoch: int, near: Sequence[int], rng: np.random.Generator) -> Sample:
        """One image or a mosaic, in which objects of another image may be pasted, blended with another image or not."""
        sample = self._read(index)
        if self.mosaic is not None and self.mosaic.turns.drawn(epoch, self.epochs, rng):
            sample = self.mosaic([sample, *self._others(index, near, self.mosaic.partners, rng)], rng)
        else:
            sample = self._on_canvas(sample)
        if self.copy_paste is not None and self.copy_paste.turns.drawn(epoch, self.epochs, rng):
            (donor,) = self._others(index, near, 1, rng)
            sample = self.copy_paste(sample, donor, rng)
        if self.mixup is not None and self.mixup.turns.drawn(epoch, self.epochs, rng):
            (other,) = self._others(index, near, 1, rng)
            sample = self.mixup(sample, self._on_canvas(other), rng)
        known = sample.labels.known
        return (
            sample if known <= self.collate.fields else replace(sample, labels=sample.labels.keep(self.collate.fields))
        )

    def _on_canvas(self, sample: Sample) -> Sample:
        return placed_sample(sample, self.preprocess.place_uncropped(sample.labels.size))

    def _others(self, index: int, near: Sequence[int], count: int, rng: np.random.Generator) -> list[Sample]:
        """Partners of a mix, of the same set: sets that are mixed know different fields."""
        if near:
            return [self._read(int(other)) for other in rng.choice(near, size=count, replace=len(near) < count)]
        segments = getattr(self.reader, "segments", ((0, len(self), 1.0),))
        start, images = next((start, images) for start, images, _ in segments if start <= index < start + images)
        return [self._read(start + int(other)) for other in rng.integers(images, size=count)]

    def _least_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size at which an image is still sharp enough, whatever its sample makes of it."""
        scales = [mix.scale[1] for mix in (self.mosaic, self.copy_paste) if mix is not None]
        largest = max([_REDUCED_ABOVE, *scales])
        height, width = self.preprocess.place_uncropped(size).target_size
        return math.ceil(largest * height), math.ceil(largest * width)

    def _read(self, index: int) -> Sample:
        sample = self._source.read(index)
        return replace(sample, labels=self.map_labels(sample.labels))


class Judged(Protocol):
    """Images that a model is judged on: an `EvaluationSet`, or an `AugmentedSlice` of the training images."""

    reader: Reader
    preprocess: Preprocess
    collate: CollateEvaluation

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Sample, Geometry, Labels]: ...


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
    dataset: TrainingSet, sampler: EpochSampler, *, workers: int, device: torch.device, timeout: float = 0.0
) -> DataLoader[Sample]:
    """Return the endless loader of `sampler`'s batches, from its `start` on; worker processes stay between epochs.

    workers: at most; shared memory may have room for fewer (`workers_with_room`).
    timeout: seconds for which a batch is waited for, see `batches`; 0: for ever.
    """
    places = batch_places(dataset, sampler)
    workers = workers_with_room(workers, sampler.batch_size, dataset.preprocess, dataset.collate.fields)
    return DataLoader(dataset, batch_sampler=places, collate_fn=dataset.collate, **_settings(workers, device, timeout))


def batch_places(dataset: TrainingSet, sampler: EpochSampler) -> Iterable[list[Any]]:
    """Return the batches of `sampler` as the set takes them: with neighbours where samples of a large set are mixed."""
    return Neighbours(sampler) if dataset.mixes and len(dataset) > _MIXED_AS_A_WHOLE else sampler


def evaluation_loader(
    dataset: Judged,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
    timeout: float = 0.0,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[tuple[Sample, Geometry, Labels]]:
    """Return the loader of this rank's share: every image of the set on exactly one rank, none repeated.

    The last batch may be smaller; a rank may have no batch at all. workers, timeout: as of `training_loader`.
    """
    workers = workers_with_room(workers, batch_size, dataset.preprocess, frozenset())
    return DataLoader(
        cast("Dataset[tuple[Sample, Geometry, Labels]]", dataset),
        batch_size=batch_size,
        sampler=range(rank, len(dataset), world),
        collate_fn=dataset.collate,
        **_settings(workers, device, timeout),
    )


def batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Yield a loader's batches; what a worker says of the user's data arrives as it said it, without its traceback."""
    try:
        yield from loader
    except UserError as error:
        # torch puts the worker's whole traceback into the message of an error of the same class.
        _, name, printed = str(error).rpartition(f"{type(error).__module__}.{type(error).__qualname__}: ")
        if not name:  # of this process
            raise
        message, code = told(printed)
        raise type(error)(message, code=code) from error


def _settings(workers: int, device: torch.device, timeout: float) -> Mapping[str, Any]:
    settings: dict[str, Any] = {"num_workers": workers, "pin_memory": device.type == "cuda"}
    # A loader draws a seed as it starts; not from the run's own stream, since a resumed run starts its loaders anew.
    settings["generator"] = torch.Generator()
    if workers > 0:
        # On Linux "fork", since it shares what is already in memory; elsewhere it is not safe.
        context = "fork" if sys.platform == "linux" else None
        settings |= {"persistent_workers": True, "worker_init_fn": _start_worker}
        settings |= {"multiprocessing_context": context, "prefetch_factor": PREFETCH, "timeout": timeout}
    return settings


def _start_worker(_worker: int) -> None:
    """One thread a worker: the workers already fill the cores. Signals to the run are answered by its main process.

    Ctrl-C and Slurm signal every process of the run, and the main process still needs its workers to end the step.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # elsewhere nobody tells who sent a signal, and SIGTERM ends the worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by, args=(os.getppid(),), daemon=True).start()
    # A batch that cannot be handed over would be dropped, and waited for in vain.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_of_handing_over)  # type: ignore[attr-defined]
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()


def _end_of_handing_over(error: Exception, _batch: Any) -> None:
    """End this process, where shared memory is used up by the signal of a process that writes to it then."""
    if hasattr(signal, "SIGBUS") and ("shared memory" in str(error) or getattr(error, "errno", 0) == errno.ENOSPC):
        signal.raise_signal(signal.SIGBUS)  # to this thread, which so comes no further
    traceback.print_exception(error)
    os._exit(1)


def _end_by(parent: int) -> None:
    """End this process by a SIGTERM that its parent sends, and by no other."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.kill(os.getpid(), signal.SIGTERM)
