"""Work done ahead in threads, in order and within bounds."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = min(8, os.cpu_count() or 1)
"""Decoding, resizing and drawing let go of Python's lock for most of their time."""


def ahead(function: Callable[[T], R], items: Iterable[T], *, most: int, threads: int = THREADS) -> Iterator[R]:
    """Yield function(item) in the items' order, computed in threads while the caller works on earlier ones.

    Args:
        function: what it raises is raised where its result would be yielded.
        items: taken as they are needed.
        most: results that are under way or waiting at a time; 1 or more.
        threads: at most.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(min(threads, most)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


class Behind:
    """Calls done in threads behind the caller's back, at most `most` at a time: a further one waits for the first.

    As a context it waits for all of them at its end. What a call raises is raised by a later call, or at the end.
    """

    def __init__(self, most: int, threads: int = THREADS) -> None:
        self.most = most
        self.pool = ThreadPoolExecutor(threads)
        self.waiting: deque[Future[None]] = deque()

    def __call__(self, function: Callable[..., None], *arguments: object) -> None:
        """Call function(*arguments) some time."""
        while len(self.waiting) >= self.most or (self.waiting and self.waiting[0].done()):
            self.waiting.popleft().result()
        self.waiting.append(self.pool.submit(function, *arguments))

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.pool.shutdown(cancel_futures=True)
            return
        try:
            while self.waiting:
                self.waiting.popleft().result()
        finally:
            self.pool.shutdown(cancel_futures=True)
