"""Receptive fields along one axis: which pixels of the image each cell of a map can see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Span = tuple[int, int]
"""First and last index, both inclusive."""


@dataclass(frozen=True)
class Reach:
    """The pixels that the cells of a map see, as if image and map had no ends, so that no border cuts a field off.

    Cell i sees the span `spans[i mod n]`, moved by `step` pixels for each of the n = len(spans) cells that come before
    it. n is 1 for whatever only shrinks; after an enlargement by 2, pairs of cells see the same, so n is 2.

    Windows are composed one after another and branches take the union of what they see, which for a chain is the
    formula of Araujo, Norris and Sim (2019, "Computing receptive fields of convolutional neural networks") and for
    branches the largest field over all paths, but with the places of the fields kept, so that it stays exact where maps
    are enlarged.
    """

    spans: tuple[Span, ...] = ((0, 0),)
    step: int = 1

    @property
    def stride(self) -> Fraction:
        """Pixels from one cell to the next, on the mean."""
        return Fraction(self.step, len(self.spans))

    @property
    def size(self) -> int:
        """Pixels of the largest field."""
        return max(last - first + 1 for first, last in self.spans)

    def cell(self, index: int) -> Span:
        """The first and the last pixel that cell `index` sees; both may lie outside of an image that ends."""
        turns, place = divmod(index, len(self.spans))
        first, last = self.spans[place]
        return first + turns * self.step, last + turns * self.step

    def through(self, windows: Sequence[Span], shift: int) -> Reach:
        """The reach of a map whose cell k sees the cells `windows[k mod m]` of this one, moved by `shift` for each m.

        A convolution has one window, from −padding on, and shifts by its stride.
        """
        count = len(windows)
        turns = len(self.spans) // math.gcd(len(self.spans), shift)
        spans = []
        for turn in range(turns):
            for first, last in windows:
                first, last = first + turn * shift, max(first, last) + turn * shift
                spans.append((self.cell(first)[0], self.cell(last)[1]))
        assert len(spans) == turns * count
        return Reach(tuple(spans), self.step * shift * turns // len(self.spans))

    def joined(self, other: Reach) -> Reach:
        """What cells see that take both maps' cells of their place; of maps with different strides, the larger one."""
        if self.stride != other.stride:
            return max(self, other, key=lambda reach: reach.size)
        count = math.lcm(len(self.spans), len(other.spans))
        pairs = [(self.cell(i), other.cell(i)) for i in range(count)]
        spans = tuple((min(a[0], b[0]), max(a[1], b[1])) for a, b in pairs)
        return Reach(spans, self.step * count // len(self.spans))


def convolution(kernel: int, stride: int, padding: int, dilation: int) -> tuple[list[Span], int]:
    """Windows and shift of a convolution, or of a pooling."""
    return [(-padding, (kernel - 1) * dilation - padding)], stride


def transposed_convolution(kernel: int, stride: int, padding: int, dilation: int) -> tuple[list[Span], int]:
    """Windows and shift of a transposed convolution: input j reaches the outputs from j * stride − padding on."""
    reaches = (kernel - 1) * dilation
    return [(-((reaches - k - padding) // stride), (k + padding) // stride) for k in range(stride)], 1


def bins(cells: int, wanted: int) -> tuple[list[Span], int]:
    """Windows and shift of an adaptive pooling from `cells` to `wanted`."""
    shared = math.gcd(cells, wanted)
    count = wanted // shared
    return [(k * cells // wanted, -(-(k + 1) * cells // wanted) - 1) for k in range(count)], cells // shared


def enlargement(cells: int, wanted: int, *, smooth: int = 0) -> tuple[list[Span], int]:
    """Windows and shift of a resizing from `cells` to `wanted`: each new cell sees the nearest old one.

    Where `wanted` is a multiple of `cells` but for what rounding up left over, the multiple is taken.
    smooth: 1 for bilinear, which sees the next cell on either side of the new one's centre; 2 for bicubic.
    """
    ratio = Fraction(wanted, cells)
    nearest = Fraction(round(ratio))
    if nearest >= 1 and abs(wanted - cells * nearest) < nearest:
        ratio = nearest
    count, shift = ratio.numerator, ratio.denominator
    windows = []
    for k in range(count):
        if smooth == 0:
            windows.append((k * shift // count,) * 2)
        else:
            place = Fraction(2 * k + 1) / (2 * ratio) - Fraction(1, 2)
            first = math.floor(place) - (smooth - 1)
            last = first + 2 * smooth - 1 if place.denominator > 1 or smooth > 1 else first
            windows.append((first, last))
    return windows, shift
