"""Which image comes when: an endless order that is a pure function of the seed, so that a run resumes at any step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from visionkit.errors import DataError


class EpochSampler:
    """Yields the batches of one rank, without end, as lists of (epoch, index).

    Position p of the endless order is image `permutation(seed, epoch)[p % count]` of epoch `p // count`. Batch s of
    rank r among W ranks with B images each takes the positions from (s·W + r)·B to (s·W + r + 1)·B. So a batch may hold
    the end of an epoch and the beginning of the next; no image is left out of an epoch or shown twice in it, whatever
    the batch size and the number of ranks, and the batch s is the same whether or not the ones before it were drawn.

    A set smaller than a batch wraps. `passes` says how many epochs a number of steps really is: `steps_per_epoch`
    rounds up, so that a run of E times that many steps makes E passes or somewhat more.

    Args:
        count: images in the set.
        batch_size: images in a batch of one rank.
        seed: of the order.
        rank, world: this process among how many.
        start: the first batch that is yielded, counted from 0; the number already trained on when a run resumes.

    Raises:
        DataError: the set is empty.
    """

    def __init__(
        self, count: int, batch_size: int, *, seed: int, rank: int = 0, world: int = 1, start: int = 0
    ) -> None:
        if count < 1:
            raise DataError("the training split holds no images; name another one with data.splits.train=…")
        if batch_size < 1 or not 0 <= rank < world or start < 0:
            raise ValueError(f"EpochSampler: batch_size {batch_size}, rank {rank} of {world}, start {start}")
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.start = start

    @property
    def steps_per_epoch(self) -> int:
        """Batches of each rank until every image has been seen at least once: ceil(count / (batch_size · world))."""
        return -(-self.count // (self.batch_size * self.world))

    def passes(self, steps: int) -> float:
        """Epochs of the order that `steps` batches of every rank cover."""
        return steps * self.batch_size * self.world / self.count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = lru_cache(maxsize=2)(self._order)
        step = self.start
        while True:
            first = (step * self.world + self.rank) * self.batch_size
            batch = []
            for position in range(first, first + self.batch_size):
                epoch, place = divmod(position, self.count)
                batch.append((epoch, int(order(epoch)[place])))
            yield batch
            step += 1

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)
