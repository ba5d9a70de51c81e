from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from visionkit.data.sampler import EpochSampler
from visionkit.errors import DataError


def drawn(steps, **arguments):
    return list(islice(EpochSampler(**arguments), steps))


@pytest.mark.parametrize(("count", "batch_size", "world"), [(10, 4, 1), (10, 4, 2), (7, 3, 4), (3, 8, 2), (1, 2, 1)])
def test_every_epoch_shows_every_image_once_over_all_ranks(count, batch_size, world):
    steps = 3 * count
    ranks = [drawn(steps, count=count, batch_size=batch_size, seed=5, rank=r, world=world) for r in range(world)]
    seen = [place for step in range(steps) for rank in ranks for place in rank[step]]
    assert seen == [
        place for batch in drawn(steps * world, count=count, batch_size=batch_size, seed=5) for place in batch
    ]
    counted = Counter(seen)
    complete = len(seen) // count
    assert {(epoch, index) for epoch in range(complete) for index in range(count)} <= set(counted)
    assert set(counted.values()) == {1}


def test_batches_straddle_epochs_and_are_always_full():
    batches = drawn(5, count=10, batch_size=4, seed=0)
    assert [len(batch) for batch in batches] == [4] * 5
    assert [epoch for epoch, _ in batches[2]] == [0, 0, 1, 1]


def test_resuming_continues_the_same_order():
    whole = drawn(20, count=10, batch_size=4, seed=3, rank=1, world=2)
    assert drawn(13, count=10, batch_size=4, seed=3, rank=1, world=2, start=7) == whole[7:]


def test_epochs_and_seeds_differ():
    batches = drawn(2, count=50, batch_size=50, seed=0)
    orders = [[index for _, index in batch] for batch in [*batches, *drawn(1, count=50, batch_size=50, seed=1)]]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert drawn(2, count=50, batch_size=50, seed=0) == batches


def test_epoch_lengths():
    sampler = EpochSampler(10, 4, seed=0, world=2)
    assert sampler.steps_per_epoch == 2
    assert sampler.passes(5) == 4.0


def test_an_empty_set_is_refused():
    with pytest.raises(DataError, match=r"no images; name another one with data\.splits"):
        EpochSampler(0, 4, seed=0)
