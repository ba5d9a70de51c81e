"""Which image comes when: an endless order that is a pure function of the seed, so that a run resumes at any step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count as count_from
from typing import Any

import numpy as np

from visionkit.errors import ConfigError, DataError
from visionkit.interfaces import Reader

_SEGMENT_STREAM = 2
"""Sets a segment's own order apart from an epoch's order and a sample's random stream."""


class EpochSampler:
    """Yields the batches of one rank, without end, as lists of (epoch, index).

    Position p of the endless order is image `permutation(seed, epoch)[p % count]` of epoch `p // count`. Batch s of
    rank r among W ranks with B images each takes the positions from (s·W + r)·B to (s·W + r + 1)·B. So a batch may hold
    the end of an epoch and the beginning of the next; no image is left out of an epoch or shown twice in it, whatever
    the batch size and the number of ranks, and the batch s is the same whether or not the ones before it were drawn.

    Segments give some parts of the list a share of the draws other than their own. An epoch has `count` draws as ever:
    each segment gets its share of them, rounded down or up such that the shares hold in the long run, at random places.
    Its images come in its own random order, all of them before any comes again. So an epoch may show an image several
    times, or not at all; the r-th repetition within an epoch, from 0, is yielded as index + r * count, so that no
    (epoch, index) is yielded twice.

    Repeat factors (Gupta et al. 2019, LVIS; `repeat_factors`) draw some images more often. An epoch keeps its length,
    so that schedules, and runs with and without them, stay comparable: an image has r / mean(r) of the draws that it
    would have otherwise, rounded down or up such that it holds in the long run. Where the mean is above 1, an image of
    a common class is left out of some epochs.

    A set smaller than a batch wraps. `passes` says how many epochs a number of steps really is: `steps_per_epoch`
    rounds up, so that a run of E times that many steps makes E passes or somewhat more.

    Args:
        count: images in the set.
        batch_size: images in a batch of one rank.
        seed: of the order.
        rank, world: this process among how many.
        start: the first batch that is yielded, counted from 0; the number already trained on when a run resumes.
        segments: (first image, number of images, share of the draws) of each part, the shares summing to 1; None, or a
            single one, means that every image is shown once an epoch.
        repeats: the repeat factor of each image, (count,), above 0, relative to others of its segment; None: all alike.

    Raises:
        DataError: the set, or a segment, is empty.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        segments: Sequence[tuple[int, int, float]] | None = None,
        repeats: np.ndarray | None = None,
    ) -> None:
        if count < 1:
            raise DataError(
                "the training split holds no images; name another one with data.splits.train=…", code="split-empty"
            )
        if batch_size < 1 or not 0 <= rank < world or start < 0:
            raise ValueError(f"EpochSampler: batch_size {batch_size}, rank {rank} of {world}, start {start}")
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.start = start
        self.segments = tuple(segments or ()) if len(segments or ()) > 1 else ()
        if self.segments:
            if min(size for _, size, _ in self.segments) < 1:
                raise DataError(
                    "one of the training sets holds no images; leave it out of data, or mend data.sets",
                    code="split-empty",
                )
            if abs(sum(share for _, _, share in self.segments) - 1) > 1e-6:
                raise ValueError(f"EpochSampler: the shares of {self.segments} do not sum to 1")
        if repeats is not None and (repeats.shape != (count,) or not (repeats > 0).all()):
            raise ValueError(f"EpochSampler: repeats of shape {repeats.shape} beside {count} images")
        self.repeats = repeats
        self._kept_order = lru_cache(maxsize=2)(self._order)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of each rank in an epoch, the last one begun: ceil(count / (batch_size · world))."""
        return -(-self.count // (self.batch_size * self.world))

    def passes(self, steps: int) -> float:
        """Epochs of the order that `steps` batches of every rank cover."""
        return steps * self.batch_size * self.world / self.count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in count_from(self.start):
            yield self.places(self.positions(step))

    def positions(self, step: int) -> range:
        """The positions of batch `step` in the endless order."""
        first = (step * self.world + self.rank) * self.batch_size
        return range(first, first + self.batch_size)

    def places(self, positions: Iterable[int]) -> list[tuple[int, int]]:
        """The (epoch, index) at each of some positions of the endless order."""
        places = (divmod(position, self.count) for position in positions)
        return [(epoch, int(self._kept_order(epoch)[place])) for epoch, place in places]

    def _order(self, epoch: int) -> np.ndarray:
        """The indices of an epoch's draws, (count,) int64."""
        rng = np.random.default_rng([self.seed, epoch])
        if not self.segments:
            indices = self._pass(rng, 0, self.count, epoch)
            return indices if self.repeats is None else indices + _repetitions(indices) * self.count
        draws = self._draws(epoch + 1)
        before = draws[:, :-1].sum(axis=1).tolist()
        parts = [self._of_segment(k, before[k], int(draws[k, -1])) for k in range(len(self.segments))]
        return rng.permutation(np.concatenate(parts))

    def _draws(self, epochs: int) -> np.ndarray:
        """How often each of the first epochs draws from each segment, (segments, epochs) int64; each epoch, `count`.

        Draw d belongs to the segment in whose part of 0 to 1 (d + offset) / count falls.
        """
        offsets = _offsets(np.arange(epochs))
        ends = np.cumsum([share for _, _, share in self.segments]) * self.count
        ends[-1] = self.count
        drawn_up_to = np.ceil(ends[:, None] - offsets).clip(0, self.count).astype(np.int64)
        drawn_up_to[-1] = self.count
        return np.diff(drawn_up_to, axis=0, prepend=0)

    def _of_segment(self, which: int, before: int, draws: int) -> np.ndarray:
        """The indices of a segment's next draws after `before` others, (draws,) int64."""
        first, size, _ = self.segments[which]
        passes = range(before // size, (before + draws - 1) // size + 1) if draws else range(0)
        rngs = [np.random.default_rng([self.seed, one, which, _SEGMENT_STREAM]) for one in passes]
        orders = [self._pass(rng, first, size, one) for rng, one in zip(rngs, passes, strict=True)]
        if not orders:
            return np.zeros(0, np.int64)
        skipped = before - passes[0] * size
        own = np.concatenate(orders)[skipped : skipped + draws]
        indices: np.ndarray = first + own + _repetitions(own) * self.count
        return indices

    def _pass(self, rng: np.random.Generator, first: int, size: int, number: int) -> np.ndarray:
        """The order in which one pass goes through the `size` images from `first` on, (size,) int64, counted from it.

        With repeat factors, draw d is of the image in whose part of 0 to 1 (d + offset) / size falls.
        """
        if self.repeats is None:
            return rng.permutation(size)
        ends = np.cumsum(self.repeats[first : first + size])
        drawn = np.searchsorted(ends * (size / ends[-1]), np.arange(size) + _offsets(number), side="right")
        return rng.permutation(drawn.clip(max=size - 1))


def repeat_factors(reader: Reader, least: float) -> np.ndarray:
    """Return how often each image of a reader is to be drawn, relative to others: (N,) float64, 1 or more.

    A class that a share f of the images shows has the factor max(1, sqrt(least / f)), an image the largest of its
    classes' (Gupta et al. 2019, LVIS: A Dataset for Large Vocabulary Instance Segmentation, which takes 0.001). The
    classes of an image are those of its objects, crowd regions left out, and its own; an image without any has 1.

    Raises:
        ConfigError: the images have neither objects nor classes of their own.
    """
    if not reader.fields & {"boxes", "class_scores"}:
        raise ConfigError(
            "data.repeat_factor: counts classes of objects or of images, and the data have neither",
            code="labels-lacking",
        )
    shown = np.zeros((len(reader), len(reader.classes)), np.bool_)
    for index in range(len(reader)):
        labels = reader.labels(index)
        if labels.labels is not None and labels.crowd is not None:
            shown[index, labels.labels[~labels.crowd]] = True
        if labels.class_scores is not None:
            shown[index] |= labels.class_scores > 0
    shares = shown.mean(axis=0)
    factors = np.sqrt(np.maximum(1.0, least / np.where(shares > 0, shares, np.inf)))
    result: np.ndarray = np.where(shown, factors, 1.0).max(axis=1, initial=1.0)
    return result


def _offsets(number: int | np.ndarray) -> Any:
    """From 0 to 1: multiples of the golden ratio are spread evenly, so that what one rounds down another rounds up."""
    return number * ((5**0.5 - 1) / 2) % 1


def _repetitions(values: np.ndarray) -> np.ndarray:
    """For each value, how often it stands before, (N,) int64."""
    order = np.argsort(values, kind="stable")
    _, firsts, counts = np.unique(values[order], return_index=True, return_counts=True)
    result = np.empty(len(values), np.int64)
    result[order] = np.arange(len(values)) - np.repeat(firsts, counts)
    return result
