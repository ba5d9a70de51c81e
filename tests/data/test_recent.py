from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np

from visionkit.data.readers.first import First
from visionkit.data.recent import RecentImages, narrowed


def test_images_that_came_last_are_kept(make_reader):
    reader = make_reader(4)
    size = max(sample.image.nbytes for sample in reader.samples)
    source = RecentImages(reader, reader, most_bytes=2 * size)
    for index, reads in ((0, 1), (0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):
        sample = source.read(index)
        assert reader.reads == reads
        wanted = reader.samples[index]
        np.testing.assert_array_equal(sample.image, wanted.image)
        assert not sample.image.flags.writeable and sample.labels is wanted.labels
        assert (sample.image_id, sample.file_name) == (wanted.image_id, wanted.file_name)
    assert len(pickle.loads(pickle.dumps(source))._kept) == 0


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
