from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from visionkit.data.sampler import EpochSampler, repeat_factors
from visionkit.errors import ConfigError, DataError
from visionkit.structures import Labels


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


# ------------------------------------------------------------------------------------------------------ repeat factors
def test_repeat_factors_by_hand():
    """Of 8 images all show class a, 2 show b, one c; a crowd region is no example."""

    def labels(*classes, crowd=False):
        count = len(classes)
        return Labels(size=(4, 4), boxes=np.tile([0.0, 0, 4, 4], (count, 1)), labels=np.array(classes, np.int64),
                      crowd=np.full(count, crowd))  # fmt: skip

    every = [labels(0, 0), labels(0, 1), labels(0, 1, 2), *(labels(0) for _ in range(4)), labels(0)]
    reader = Counted(every, ("a", "b", "c", "d"))
    assert np.allclose(repeat_factors(reader, 0.5), [1, 2**0.5, 2, 1, 1, 1, 1, 1])
    assert repeat_factors(reader, 0.1).tolist() == [1.0] * 8
    crowded = Counted([*every[:7], labels(1, crowd=True)], reader.classes)
    assert np.allclose(repeat_factors(crowded, 0.5), [1, 2**0.5, 2, 1, 1, 1, 1, 1])


def test_repeat_factors_of_whole_images():
    every = [Labels(size=(1, 1), class_scores=np.array([k < 3, k == 3], np.float32)) for k in range(4)]
    assert np.allclose(repeat_factors(Counted(every, ("a", "b"), {"class_scores"}), 1.0), [*[(4 / 3) ** 0.5] * 3, 2])
    with pytest.raises(ConfigError, match=r"data\.repeat_factor: counts classes of objects or of images"):
        repeat_factors(Counted(every, (), {"semantic"}), 0.1)


class Counted:
    def __init__(self, every, classes, fields=("boxes",)):
        self.every, self.classes, self.fields = every, classes, frozenset(fields)

    def __len__(self):
        return len(self.every)

    def labels(self, index):
        return self.every[index]


REPEATS = np.array([1.0] * 16 + [2.0, 2, 4, 8])  # a mean of 1.6


def test_images_are_drawn_by_their_repeat_factors_and_epochs_keep_their_length():
    places = [place for batch in drawn(400, count=20, batch_size=10, seed=0, repeats=REPEATS) for place in batch]
    assert len(places) == len(set(places)) == 4000  # 200 epochs
    for epoch in range(200):
        own = Counter(index % 20 for number, index in places if number == epoch)
        assert own.total() == 20
        for index in range(20):
            assert abs(own[index] - REPEATS[index] / 1.6) < 1
    counts = Counter(index % 20 for _, index in places)
    assert all(abs(counts[index] - 200 * REPEATS[index] / 1.6) < 3 for index in range(20))
    orders = [[index for number, index in places if number == epoch] for epoch in range(200)]
    assert len({tuple(order) for order in orders}) == 200


def test_repeats_resume_and_split_over_ranks():
    arguments = {"count": 20, "batch_size": 3, "seed": 3, "repeats": REPEATS}
    whole = drawn(60, **arguments, rank=1, world=2)
    assert drawn(23, **arguments, rank=1, world=2, start=37) == whole[37:]
    single = drawn(120, **arguments)
    assert single[1::2] == whole


def test_repeats_count_within_a_segment():
    """The shares of the sets stay, and within each its rare images come more often."""
    arguments = {"count": 20, "batch_size": 10, "seed": 1, "repeats": REPEATS}
    segments = [(0, 10, 0.25), (10, 10, 0.75)]
    places = [place for batch in drawn(400, **arguments, segments=segments) for place in batch]
    assert len(places) == len(set(places))
    counts = Counter(index % 20 for _, index in places)
    assert sum(counts[index] for index in range(10)) == 1000
    share = 3000 / REPEATS[10:].sum()
    assert all(abs(counts[index] - 100) < 3 for index in range(10))
    assert all(abs(counts[10 + index] - share * REPEATS[10 + index]) < 8 for index in range(10))


def test_equal_repeats_show_every_image_once():
    repeats = np.full(7, 3.0)
    places = [place for batch in drawn(7, count=7, batch_size=7, seed=0, repeats=repeats) for place in batch]
    assert set(places) == {(epoch, index) for epoch in range(7) for index in range(7)}
    with pytest.raises(ValueError, match="repeats of shape"):
        EpochSampler(8, 2, seed=0, repeats=repeats)
