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


SEGMENTS = [(0, 90, 0.25), (90, 7, 0.6), (97, 3, 0.15)]


def test_the_golden_order_of_one_set_stands():
    expected = [[(0, 4), (0, 6), (0, 2), (0, 7)], [(0, 3), (0, 5), (0, 9), (0, 0)]]
    assert drawn(2, count=10, batch_size=4, seed=0) == expected
    assert drawn(2, count=10, batch_size=4, seed=0, segments=[(0, 10, 1.0)]) == expected


def test_each_segment_gets_its_share_and_goes_through_its_images_in_turn():
    places = [place for batch in drawn(500, count=100, batch_size=10, seed=1, segments=SEGMENTS) for place in batch]
    indices = [index % 100 for _, index in places]
    for first, size, share in SEGMENTS:
        own = [index for index in indices if first <= index < first + size]
        assert abs(len(own) - 5000 * share) < 2  # 50 epochs
        counts = Counter(own)
        assert len(counts) == size and max(counts.values()) - min(counts.values()) <= 2
    for epoch in range(50):
        drawn_here = [index for index in indices[100 * epoch : 100 * epoch + 100]]
        for first, size, share in SEGMENTS:
            number = sum(first <= index < first + size for index in drawn_here)
            assert abs(number - 100 * share) < 1


def test_no_image_of_a_segment_comes_again_before_all_have_come():
    segments = [(0, 5, 0.5), (5, 5, 0.5)]
    places = [place for batch in drawn(40, count=10, batch_size=5, seed=2, segments=segments) for place in batch]
    for first in (0, 5):
        # Within an epoch the places are mixed; each epoch holds one pass of either half.
        for epoch in range(20):
            own = [index for e, index in places if e == epoch and first <= index < first + 5]
            assert sorted(own) == list(range(first, first + 5))


def test_repetitions_within_an_epoch_have_indices_of_their_own():
    places = [place for batch in drawn(100, count=100, batch_size=10, seed=1, segments=SEGMENTS) for place in batch]
    assert len(set(places)) == len(places)
    assert max(index for _, index in places) >= 8 * 100  # 60 draws an epoch from 7 images
    small = Counter(index // 100 for epoch, index in places if epoch == 0 and index % 100 >= 97)
    assert small == {0: 3, 1: 3, 2: 3, 3: 3, 4: 3}


def test_a_share_too_small_for_an_epoch_is_drawn_in_some():
    segments = [(0, 15, 0.97), (15, 5, 0.03)]  # 0.6 draws an epoch
    places = [place for batch in drawn(100, count=20, batch_size=20, seed=0, segments=segments) for place in batch]
    assert abs(sum(index % 20 >= 15 for _, index in places) - 60) <= 1


def test_segments_resume_and_split_over_ranks_like_one_set():
    arguments = {"count": 100, "batch_size": 8, "seed": 3, "segments": SEGMENTS}
    whole = drawn(60, **arguments, rank=1, world=2)
    assert drawn(23, **arguments, rank=1, world=2, start=37) == whole[37:]
    single = drawn(4, **arguments)
    assert [single[1], single[3]] == whole[:2]


def test_an_empty_segment_is_refused():
    with pytest.raises(DataError, match="one of the training sets holds no images"):
        EpochSampler(5, 2, seed=0, segments=[(0, 5, 0.5), (5, 0, 0.5)])
