"""Whom samples are mixed with: near in the order, the same for all batches and ranks, everybody in the long run."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from visionkit.data import loader as loader_module
from visionkit.data.copy_paste import CopyPaste
from visionkit.data.loader import TrainingSet, batch_places, batches, training_loader
from visionkit.data.mixes import MixUp, Mosaic
from visionkit.data.neighbours import GROUP, Neighbours
from visionkit.data.recent import RecentImages
from visionkit.data.sampler import EpochSampler
from visionkit.preprocess import Preprocess
from visionkit.structures import LABEL_FIELDS


def drawn(steps, count, batch_size, **arguments):
    return list(islice(Neighbours(EpochSampler(count, batch_size, **({"seed": 5} | arguments))), steps))


def test_neighbours_are_the_other_images_of_the_group():
    """80 images: the second group of 64 holds the last 16 of an epoch and the first 48 of the next."""
    plain = [place for batch in islice(EpochSampler(80, 16, seed=5), 8) for place in batch]
    places = [place for batch in drawn(8, 80, 16) for place in batch]
    assert [place[:2] for place in places] == plain
    for group in (range(64), range(64, 128)):
        images = {plain[position][1] for position in group}
        for position in group:
            _, index, *near = places[position]
            assert set(near) == images - {index} and len(near) == len(set(near))


def test_neither_batches_nor_ranks_nor_resuming_change_them():
    wanted = [place for batch in drawn(20, 90, 12) for place in batch]
    assert [place for batch in drawn(13, 90, 12, start=7) for place in batch] == wanted[84:]
    assert [place for batch in drawn(8, 90, 30) for place in batch] == wanted
    ranks = [drawn(5, 90, 16, rank=rank, world=3) for rank in range(3)]
    assert [place for step in range(5) for rank in ranks for place in rank[step]] == wanted


def test_all_pairs_meet_equally_often_in_the_long_run():
    """An image is in a group of 64 of 256 with each other one in 63 of 255 draws; 200 epochs, 5 standard deviations."""
    meetings = np.zeros((256, 256), np.int64)
    for batch in drawn(800, 256, 64):
        for _, index, *near in batch:
            meetings[index, near] += 1
    others = meetings[~np.eye(256, dtype=bool)]
    assert others.mean() == pytest.approx(200 * 63 / 255)
    assert np.abs(others - others.mean()).max() < 5 * others.mean() ** 0.5
    assert not np.diagonal(meetings).any()


def test_rare_images_are_met_as_often_as_they_are_drawn():
    repeats = np.array([1.0] * 600 + [4.0] * 200)
    meetings = np.zeros(800)
    for batch in drawn(400, 800, 16, repeats=repeats):
        for _, _, *near in batch:
            meetings[near] += 1
    assert 3.4 < meetings[600:].mean() / meetings[:600].mean() < 4  # twice in a group counts once


def test_sets_that_are_mixed_stay_apart():
    segments = [(0, 700, 0.5), (700, 200, 0.4), (900, 100, 0.1)]
    for batch in drawn(60, 1000, 10, segments=segments):
        for _, index, *near in batch:
            first, size, _ = next(one for one in segments if one[0] <= index % 1000 < one[0] + one[1])
            assert all(first <= other < first + size and other != index % 1000 for other in near)
            assert len(near) >= 15


def test_without_any_near_enough_there_are_none():
    assert {len(place) for batch in drawn(4, 1, 3) for place in batch} == {2}
    segments = [(0, 2000, 0.995), (2000, 2000, 0.005)]
    places = [place for batch in drawn(1000, 4000, 8, segments=segments) for place in batch]
    assert {len(place) for place in places if place[1] % 4000 >= 2000} == {2}
    assert all(len(place) > 10 for place in places if place[1] % 4000 < 2000)


# -------------------------------------------------------------------------------------------------------- in training
@pytest.fixture
def mixing_set(make_reader, monkeypatch):
    """128 images, of which one group fits into memory, taken for a large set."""
    monkeypatch.setattr(loader_module, "_MIXED_AS_A_WHOLE", 0)

    def make(reader=None, **mixes):
        reader = reader or make_reader(128)
        preprocess = Preprocess(64)
        mixes = mixes or {"mosaic": Mosaic(preprocess.canvas)}
        fields = frozenset(LABEL_FIELDS)
        lists = {"classes": reader.classes, "semantic_classes": reader.classes}
        dataset = TrainingSet(reader, preprocess, **lists, fields=fields, epochs=9, seed=3, **mixes)
        if dataset.mixes:
            most = GROUP * max(sample.image.nbytes for sample in reader.samples)
            dataset._source = RecentImages(reader, reader, most)
        return dataset

    return make


def test_each_image_is_decoded_once_an_epoch(mixing_set):
    dataset = mixing_set(mosaic=Mosaic((64, 64)), copy_paste=CopyPaste(), mixup=MixUp())
    places = iter(batch_places(dataset, EpochSampler(128, 16, seed=1)))
    for epoch in range(2):
        for _ in range(8):
            for place in next(places):
                dataset[place]
        assert 128 - GROUP < dataset.reader.reads - 128 * epoch <= 128  # some are left from the epoch before


def test_workers_decode_for_each_other(mixing_set, make_reader):
    """Four workers share each group of 64 in batches of 16; alone, each would decode 2.6 images a sample."""
    reader = make_reader(256, objects=1)
    dataset = mixing_set(reader)
    size = sum(sample.image.nbytes for sample in reader.samples) / 256
    dataset._source = source = RecentImages(reader, reader, round(3 * GROUP * size))
    sampler = EpochSampler(256, 16, seed=1)
    loader = training_loader(dataset, sampler, workers=4, device=torch.device("cpu"))
    assert len(list(islice(batches(loader), 16))) == 16
    decoded = (int(source._table[-1, 0]) - len(source._ring)) / size
    made = 256 + 2 * 4 * 16  # and at most so many ahead
    assert 256 <= decoded < 1.25 * made


def test_partners_are_four_different_images_of_the_group(mixing_set, monkeypatch):
    dataset = mixing_set()
    met = Counter()
    call = Mosaic.__call__

    def noted(self, samples, rng):
        met[tuple(sample.image_id - 1 for sample in samples)] += 1
        return call(self, samples, rng)

    monkeypatch.setattr(Mosaic, "__call__", noted)
    for batch in islice(batch_places(dataset, EpochSampler(128, GROUP, seed=1)), 2):
        met.clear()
        for place in batch:
            dataset[place]
        images = {place[1] for place in batch}
        assert all(len(set(four)) == 4 and set(four) <= images for four in met)
        assert {four[0] for four in met} == images


def test_two_images_make_a_mosaic_and_one_does(mixing_set, make_reader):
    for count in (1, 2):
        dataset = mixing_set(make_reader(count))
        for place in next(iter(batch_places(dataset, EpochSampler(count, 4, seed=1)))):
            assert dataset[place].image.shape == (64, 64, 3)


def test_places_stay_pairs_where_nothing_is_mixed(mixing_set):
    dataset = mixing_set(mosaic=None)
    assert {len(place) for place in next(iter(batch_places(dataset, EpochSampler(128, 16, seed=1))))} == {2}


def test_in_a_small_set_any_image_may_be_met(mixing_set, monkeypatch):
    dataset = mixing_set()
    monkeypatch.setattr(loader_module, "_MIXED_AS_A_WHOLE", 128)
    assert {len(place) for place in next(iter(batch_places(dataset, EpochSampler(128, 16, seed=1))))} == {2}
