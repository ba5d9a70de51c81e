"""Sequences of strings and ids in flat buffers.

A list of 100,000 Python strings is written to whenever one is looked at (its reference count), so that every forked
worker ends with a copy of its own; numpy buffers stay shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np

from visionkit.structures import ImageId


class Strings(Sequence[str]):
    """An immutable sequence of strings, equal to a list of the same.

    Args:
        data: (total bytes,) uint8, the UTF-8 of all strings, one after the other.
        offsets: (N + 1,) int64; string i is data[offsets[i]:offsets[i + 1]].
    """

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none

    def __init__(self, data: np.ndarray, offsets: np.ndarray) -> None:
        self.data, self.offsets = data, offsets

    @classmethod
    def of(cls, texts: Iterable[str]) -> Strings:
        """Return the flat form of any strings."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets_of(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        part = self.data[self.offsets[index] : self.offsets[index + 1]]
        return part.tobytes().decode("utf-8", "surrogatepass")

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    def __repr__(self) -> str:
        return repr(list(self))


class Ids(Sequence[ImageId]):
    """An immutable sequence of ids, whole numbers or strings, equal to a list of the same.

    Args:
        numbers: (N,) int64; where an id is a string, its place among `texts`.
        is_text: (N,) bool.
        texts: the strings.
    """

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none

    def __init__(self, numbers: np.ndarray, is_text: np.ndarray, texts: Strings) -> None:
        self.numbers, self.is_text, self.texts = numbers, is_text, texts

    @classmethod
    def of(cls, ids: Sequence[ImageId]) -> Ids:
        """Return the flat form of any ids; a number beyond 64 bits raises OverflowError."""
        is_text = np.fromiter((isinstance(one, str) for one in ids), np.bool_, len(ids))
        places = np.cumsum(is_text) - 1
        pairs = zip(ids, places.tolist(), strict=True)
        numbers = [place if isinstance(one, str) else one for one, place in pairs]
        return cls(np.array(numbers, np.int64), is_text, Strings.of(one for one in ids if isinstance(one, str)))

    def take(self, rows: np.ndarray) -> Ids:
        """Return the ids at `rows`, (M,) int64."""
        return Ids(self.numbers[rows], self.is_text[rows], self.texts)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> ImageId: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageId]: ...
    def __getitem__(self, index: int | slice) -> ImageId | list[ImageId]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = int(self.numbers[index])
        return self.texts[number] if self.is_text[index] else number

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    def __repr__(self) -> str:
        return repr(list(self))


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """(N,) lengths -> (N + 1,) int64 offsets, from 0."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _equal(own: Sequence[Any], other: object) -> bool:
    if not isinstance(other, Sequence) or isinstance(other, str | bytes) or len(own) != len(other):
        return False
    return all(one == theirs for one, theirs in zip(own, other, strict=True))
