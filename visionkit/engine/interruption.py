"""When a run is asked to end before its time: by a signal, or by `engine.max_hours`."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT) + ((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ())
_SAME_KEY = 1.0
"""Seconds within which a second Ctrl-C is the first one: torchrun passes on what the terminal has sent already."""
_HEARD = b"ends after this step, and is saved; Ctrl-C again quits at once\n"


class Preempted(Exception):
    """The run was asked to end; all that it needs to go on is saved."""


class Interruption:
    """Remembers that somebody wants the run to end; whoever works looks at `reason` between two pieces of work.

    As a context it takes over SIGTERM, SIGUSR1 and Ctrl-C, and gives them back. A second Ctrl-C ends the work at once.
    Where SIGUSR1 or SIGUSR2 had a handler (submitit's sends the job to the queue again), it is called at the end of the
    context if the run has ended for that signal, so with everything saved.

    Args:
        max_hours: after which the run is to end, counted from the start of this process's work; None: never.

    Attributes:
        obeyed: set by the run that has ended for `reason`.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self.max_hours = max_hours
        self.obeyed = False
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._signal: signal.Signals | None = None
        self._pressed: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> str | None:
        """What ended the run, in a word; None while it may go on."""
        if self._signal is None and self._deadline is not None and time.monotonic() > self._deadline:
            return f"engine.max_hours={self.max_hours:g}"
        return None if self._signal is None else self._signal.name

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            awaited = getattr(signal, "SIGUSR2", None)
            taken = (*SIGNALS, awaited) if awaited and callable(signal.getsignal(awaited)) else SIGNALS
            self._before = {one: signal.signal(one, self._note) for one in taken}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one, before in self._before.items():
            signal.signal(one, before)
        awaited = self._before.get(self._signal) if self._signal is not None else None
        if error is None and self.obeyed and self._signal not in (signal.SIGINT, signal.SIGTERM) and callable(awaited):
            awaited(self._signal, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._pressed is not None and time.monotonic() - self._pressed > _SAME_KEY:
                raise KeyboardInterrupt
            if self._pressed is None and os.environ.get("RANK", "0") == "0":
                os.write(2, _HEARD)  # print is not for signal handlers
            self._pressed = self._pressed or time.monotonic()
        self._signal = signal.Signals(number)
