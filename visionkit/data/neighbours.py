"""Whom a sample may be mixed with: images that some worker has just decoded, or is about to."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import count

import numpy as np

from visionkit.data.sampler import EpochSampler

GROUP = 64
"""How many positions of the order lie together.

A mosaic takes four images. Drawn from the whole set, each is decoded for it alone, unless all of the set is kept in
memory. Drawn from a group, they are kept for all workers (`RecentImages`) and each is decoded about once. Where each
worker kept its own, a group of 64 in batches of 16 cost 1.8 images a sample with two workers and 2.6 with four.

An order is drawn anew for each epoch, so all pairs of images meet, and meet equally often. A batch of 16 mosaics shows
about 42 images then, where it would be about 60; with groups of 16 it would be 16.
"""
_ENOUGH = GROUP // 2
_LARGEST = 1024


class Neighbours:
    """The batches of a sampler, each (epoch, index) followed by the images of its group: (epoch, index, *images).

    The endless order is cut into groups of `GROUP` positions. A sample's neighbours are the other images of its group,
    each once: they depend on the order alone, not on batches, ranks or workers. Of sets that are mixed, the same set's
    images count; where those are few, the group is twice as long, and so on. Without any near enough, in a set of a
    very small share or of one image, the place stays (epoch, index).
    """

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler
        self._sets = sampler.segments or ((0, sampler.count, 1.0),)
        self._group = lru_cache(maxsize=64)(self._group_of)

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        for step in count(self.sampler.start):
            positions = self.sampler.positions(step)
            places = self.sampler.places(positions)
            pairs = zip(positions, places, strict=True)
            yield [(*place, *self._near(position, place[1] % self.sampler.count)) for position, place in pairs]

    def _near(self, position: int, image: int) -> list[int]:
        own = next(k for k, (first, size, _) in enumerate(self._sets) if first <= image < first + size)
        length = GROUP
        while True:
            images = self._group(position // length, length)[own]
            if images:
                return [other for other in images if other != image]
            if length >= min(_LARGEST, self.sampler.count):
                return []
            length *= 2

    def _group_of(self, number: int, length: int) -> list[list[int]]:
        """The images of a group, each once, by set; none of a set of which there are too few."""
        places = self.sampler.places(range(number * length, (number + 1) * length))
        images = np.array([index for _, index in places], np.int64) % self.sampler.count
        parts = [images[(images >= first) & (images < first + size)] for first, size, _ in self._sets]
        return [np.unique(part).tolist() if len(part) >= _ENOUGH else [] for part in parts]
