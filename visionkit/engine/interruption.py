"""When a run is asked to end before its time: by a signal, or by `engine.max_hours`."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT) + ((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ())


class Preempted(Exception):
    """The run was asked to end; all that it needs to go on is saved."""


class Interruption:
    """Remembers that somebody wants the run to end; whoever works looks at `reason` between two pieces of work.

    As a context it takes over SIGTERM, SIGUSR1 and Ctrl-C, and gives them back. A second Ctrl-C ends the work at once.

    Args:
        max_hours: after which the run is to end, counted from the start of this process's work; None: never.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self.max_hours = max_hours
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._signal: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> str | None:
        """What ended the run, in a word; None while it may go on."""
        if self._signal is None and self._deadline is not None and time.monotonic() > self._deadline:
            return f"engine.max_hours={self.max_hours:g}"
        return self._signal

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {one: signal.signal(one, self._note) for one in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for one, before in self._before.items():
            signal.signal(one, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal == "SIGINT":
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
