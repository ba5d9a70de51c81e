from __future__ import annotations

import multiprocessing
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest

from visionkit.data.readers.first import First
from visionkit.data.recent import RecentImages, narrowed
from visionkit.structures import Labels, Sample


def filled(number: int, side: int = 8, dtype: type = np.uint8) -> Sample:
    image = np.full((side, side, 3), number, dtype)
    return Sample(image, Labels(size=(side, side)), number, f"{number}.png")


class Numbered:
    """Image n is of the value n; counts what is read."""

    def __init__(self, count: int, side: int = 8, dtype: type = np.uint8) -> None:
        self.samples = [filled(number, side, dtype) for number in range(count)]
        self.image_ids, self.file_names = list(range(count)), [f"{number}.png" for number in range(count)]
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.samples)

    def labels(self, index: int) -> Labels:
        return self.samples[index].labels

    def read(self, index: int) -> Sample:
        self.reads.append(index)
        return self.samples[index]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_images_that_were_decoded_last_are_kept(dtype):
    reader = Numbered(4, dtype=dtype)
    source = RecentImages(reader, reader, most_bytes=2 * reader.samples[0].image.nbytes)
    for index in (0, 0, 1, 0, 2, 1, 2, 0, 2):
        sample = source.read(index)
        wanted = reader.samples[index]
        np.testing.assert_array_equal(sample.image, wanted.image)
        assert sample.image.dtype == dtype and sample.labels is wanted.labels
        assert (sample.image_id, sample.file_name) == (wanted.image_id, wanted.file_name)
    assert reader.reads == [0, 1, 2, 0]  # 2 was written over 0, then 0 over 1


def test_images_of_other_sizes_share_the_ring():
    """100 bytes hold 75 and 12 (at 80), then 48 from the beginning again, which writes over 75 alone."""
    reader = Numbered(3)
    for index, side in enumerate((5, 2, 4)):
        reader.samples[index] = filled(index, side)
    source = RecentImages(reader, reader, most_bytes=100)
    for index in (0, 1, 0, 1, 2, 1, 2, 0):
        assert (source.read(index).image == index).all()
    assert reader.reads == [0, 1, 2, 0]


def test_what_is_overwritten_while_it_is_copied_is_read_again(monkeypatch):
    """Another process writes over the image between the look into the table and the end of the copy."""
    reader = Numbered(3)
    source = RecentImages(reader, reader, most_bytes=reader.samples[0].image.nbytes)
    source.read(0)
    is_there, asked = RecentImages._is_there, []

    def then_overwrite(self, index):
        found = is_there(self, index)
        asked.append(index)
        if len(asked) == 1:
            self._ring[:] = 2
            self._table[-1, 0] += len(self._ring)
        return found

    monkeypatch.setattr(RecentImages, "_is_there", then_overwrite)
    assert (source.read(0).image == 0).all() and reader.reads == [0, 0]


def test_processes_find_what_others_decoded():
    reader = Numbered(40)
    source = RecentImages(reader, reader, most_bytes=40 * 192)
    context = multiprocessing.get_context("fork")

    def read(first: int) -> None:
        for index in range(first, 40, 4):
            source.read(index)

    workers = [context.Process(target=read, args=(first,)) for first in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert all((source.read(index).image == index).all() for index in range(40))
    assert reader.reads == []  # not in this process


def test_many_processes_never_see_a_wrong_pixel():
    """Six processes read at random through a ring that holds a fifth of the images."""
    reader = Numbered(50, side=40)
    source = RecentImages(reader, reader, most_bytes=10 * 4800)
    context = multiprocessing.get_context("fork")

    def read(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(50, size=600).tolist():
            image = source.read(index).image
            if not (image == index).all():
                os._exit(3)

    workers = [context.Process(target=read, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 6


def test_another_process_begins_with_nothing_kept():
    reader = Numbered(2)
    source = RecentImages(reader, reader, most_bytes=1000)
    source.read(0)
    again = pickle.loads(pickle.dumps(source))
    again.read(0)
    assert again._reader.reads == [0, 0]


def test_an_image_larger_than_all_room_is_not_kept(make_reader):
    reader = make_reader(2)
    source = RecentImages(reader, reader, most_bytes=10)
    source.read(0)
    source.read(0)
    assert reader.reads == 2


def test_narrowed_asks_readers_that_can(make_reader):
    reader = make_reader(3)
    assert narrowed(reader, frozenset({"boxes"})) is reader
    reader.narrowed = lambda fields: replace(reader, fields=fields)
    assert narrowed(reader, frozenset({"boxes"})).fields == {"boxes"}
    assert narrowed(reader, reader.fields) is reader
    first = narrowed(First(reader, 2), frozenset({"boxes"}))
    assert first.fields == {"boxes"} and len(first) == 2
