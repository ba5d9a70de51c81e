"""How far a piece of work has come: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_EVERY = 10.0
"""Seconds between two plain lines."""


class Progress:
    """A context that is told what is done: `with Progress(1000, "images") as progress: progress(16)`.

    Args:
        total: how much there is; 0: nobody knows.
        unit: of what.
    """

    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit = total, unit
        self.begun = self.told = time.monotonic()
        self.bar: Bar | None = None
        if sys.stderr.isatty():
            rate = TextColumn("{task.fields[rate]}")
            columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
            self.bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(unit, total=total or None, rate="")

    def __call__(self, done: int) -> None:
        """Say that `done` of all are done."""
        now = time.monotonic()
        rate = f"{done / max(now - self.begun, 1e-9):.1f}/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=done, rate=rate)
        elif now - self.told >= _EVERY:
            self.told = now
            of = f" of {self.total}" if self.total else ""
            print(f"{done}{of} {self.unit} ({rate})", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
