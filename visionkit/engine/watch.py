"""How the processes of a run learn that one of them failed, died or hangs.

Whoever waits for another process in a collective learns nothing of why it does not come; on GPUs not even that it never
will. So each process leaves a sign of life in a store that all of them reach, and reads those of the others.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

from visionkit.error_codes import mend_lines

_DIED = "died: it was killed, by hand or by a system out of memory, or it crashed and said so itself"
_PERIOD = 0.5
"""Seconds from one sign to the next."""
_GRACE = 8.0
"""Seconds that the work has to end by itself, once it is known that a process is lost; then it is ended."""


@dataclass(frozen=True)
class Ending:
    """Why the processes end.

    Attributes:
        message: of the error, naming the process that it came from.
        code: of the exit.
        speaker: the process that tells the user: the first one that is not lost.
        fault: the error's own code (`visionkit.error_codes`).
    """

    message: str
    code: int
    speaker: int
    fault: str = "process-lost"


@dataclass(frozen=True)
class _Sign:
    """What a process tells of itself.

    number: rises with each sign. meetings: how many times it has come to a collective. since: seconds that have passed
    since it last did. place, pid: where it runs, and as which process. error: the `Ending` that it knows of first.
    heard: it knows that the processes end, and whether it has to say so. done: it has left.
    """

    place: str
    pid: int
    number: int = 0
    meetings: int = 0
    since: float = 0.0
    error: tuple[str, int, int, str] | None = None
    heard: bool = False
    done: bool = False


class Watch:
    """Leaves this process's signs of life, and looks after those of the others, in a thread of its own.

    A process is lost when it told an error, when its machine knows it no more, when its signs have stopped for the
    time-out, or when another came to a collective that long ago to which it has not come. The work is to ask now and
    then (`ending`); where it cannot, as while a kernel of NCCL waits for ever, the process is ended.

    Args:
        store: a `torch.distributed.Store` that this thread has for itself.
        rank, world: this process among how many.
        timeout: seconds.
        period, grace: seconds between two signs, and from the loss of a process to the end of this one.

    Attributes:
        ending: why the processes end; None while they do not.
        raised: what the work was ended with, for whoever meets it again on its way up.
        kept: what stands at the end of a message: what is saved.
        last_words: called with the message before the process is ended.
    """

    def __init__(
        self, store: Any, rank: int, world: int, timeout: float, *, period: float = _PERIOD, grace: float = _GRACE
    ) -> None:
        self.store, self.rank, self.world, self.timeout = store, rank, world, timeout
        self.period, self.grace = period, grace
        self.ending: Ending | None = None
        self.raised: BaseException | None = None
        self.kept: Callable[[], str] = str
        self.last_words: Callable[[str], None] = _no_words
        self._own = _Sign(_place(), os.getpid())
        self._others = [other for other in range(world) if other != rank]
        self._signs: dict[int, _Sign] = {}
        self._fresh: dict[int, float] = {}
        self._came = time.monotonic()
        self._deadline = 0.0
        self._listens = self._store_is_gone = False
        self._meetings = 0
        self._stopped = threading.Event()
        self._telling = threading.Lock()
        self._thread = threading.Thread(target=self._look_after, name="visionkit watch", daemon=True)
        self._tell()

    def start(self) -> None:
        """Begin; every process must have made its watch by now."""
        self._thread.start()

    def stop(self) -> None:
        """Tell the others that this process leaves as it should, and look no more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(self.grace)
        with contextlib.suppress(RuntimeError):  # the store may be gone: nobody is left to read it
            self._tell(done=True)
        # They hold the run, and with it its loaders, whose processes end when nobody does.
        self.kept, self.last_words = str, _no_words

    def come(self) -> None:
        """Note that this process comes to a collective: from now on the others are waited for."""
        self._meetings += 1
        self._came = time.monotonic()

    def fail(self, message: str, code: int, fault: str = "unexpected") -> bool:
        """Tell the others that this process ends with an error; whether the first process will say so."""
        ending = Ending(f"process {self.rank}: {message}", code, speaker=0, fault=fault)
        with contextlib.suppress(RuntimeError):
            self._tell(error=astuple(ending))
        self._ends(ending, 2 * self.grace)
        self.until_heard()
        with contextlib.suppress(RuntimeError):
            self._tell(heard=True)
        first = self._signs.get(0)
        return first is not None and (first.heard or first.error is not None) and not first.done

    def until_heard(self) -> None:
        """Come back when all know that the processes end, or after the grace.

        The first process may hold the store: whoever told an error has to read in it that the first one will say it,
        and says it a second time where the store is gone before.
        """
        deadline = time.monotonic() + self.grace
        self._listens = True
        while time.monotonic() < deadline and not self._store_is_gone:
            signs = list(self._signs.values())
            if len(signs) == len(self._others) and all(self._needs_no_more(sign) for sign in signs):
                break
            time.sleep(self.period / 4)
        self._listens = False

    def _needs_no_more(self, sign: _Sign) -> bool:
        """Whether a process may be left alone; two that told an error each do not wait for each other."""
        knows = sign.heard or (self.rank != 0 and sign.error is not None)
        return knows or sign.done or _gone(sign)

    def cause(self) -> Ending | None:
        """Of a collective that failed, why; None where nobody knows within the grace."""
        deadline = time.monotonic() + self.grace
        while self.ending is None and time.monotonic() < deadline:
            time.sleep(self.period / 4)
        return self.ending

    def _look_after(self) -> None:
        while not self._stopped.wait(self.period):
            # Once the end is known the store may go away at any time, with whoever ends first.
            if (self.ending is None or self._listens) and not self._store_is_gone:
                try:
                    self._tell()
                    self._read()
                    found = self._found() if self.ending is None else None
                    if found is not None:
                        self._ends(found, self.grace)
                        self._tell(heard=True)
                except RuntimeError:
                    self._store_is_gone = True
                    if self.ending is None and not self._stopped.is_set():
                        self._ends(self._without_store(), self.grace)
            if self.ending is not None and time.monotonic() > self._deadline:
                self._end_hard(self.ending)

    def _ends(self, ending: Ending, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self.ending = ending

    def _tell(self, **changes: Any) -> None:
        with self._telling:
            number, since = self._own.number + 1, time.monotonic() - self._came
            self._own = replace(self._own, number=number, meetings=self._meetings, since=since, **changes)
            self.store.set(str(self.rank), json.dumps(asdict(self._own)))

    def _read(self) -> None:
        now = time.monotonic()
        told = self.store.multi_get([str(other) for other in self._others])
        for other, text in zip(self._others, told, strict=True):
            sign = _Sign(**json.loads(text))
            before = self._signs.get(other)
            if before is None or sign.number != before.number:
                self._fresh[other] = now
            self._signs[other] = sign

    def _found(self) -> Ending | None:
        """Who is lost, if anybody is."""
        told = [sign.error for _, sign in sorted(self._signs.items()) if sign.error is not None]
        if told:
            return Ending(*told[0])
        living = {other: sign for other, sign in self._signs.items() if not sign.done}
        gone = [other for other, sign in living.items() if _gone(sign)]
        if gone:
            return self._lost(gone, _DIED)
        now = time.monotonic()
        silent = [other for other in living if now - self._fresh[other] > self.timeout]
        if silent:
            why = "its machine, or the network to it, is gone"
            return self._lost(silent, f"gave no sign of life for {self.timeout:g} s (engine.timeout): {why}")
        return self._awaited()

    def _awaited(self) -> Ending | None:
        """Whoever keeps the others waiting, where they have waited for too long."""
        signs = {self.rank: self._own, **self._signs}
        last = max(sign.meetings for sign in signs.values())
        behind = [one for one, sign in signs.items() if sign.meetings < last]
        waited = max(sign.since for sign in signs.values() if sign.meetings == last)
        if not behind or waited <= self.timeout:
            return None
        mend = "it hangs; raise engine.timeout if it only has more to do than the others"
        return self._lost(behind, f"did not answer for {self.timeout:g} s (engine.timeout): {mend}")

    def _lost(self, which: Sequence[int], how: str) -> Ending:
        speaker = next((one for one in range(self.world) if one not in which), self.rank)
        names = ", ".join(map(str, sorted(which)))
        ending = Ending(f"process{'es' if len(which) > 1 else ''} {names} {how}", 1, speaker)
        if self.rank not in which:
            # The others may be about to lose this process, before they see for themselves who was lost first.
            self._tell(error=astuple(ending))
        return ending

    def _without_store(self) -> Ending:
        """The store lies with the first process, or with the launcher."""
        first = self._signs.get(0)
        if self.rank == 0 or (first is not None and first.place == _place() and not _gone(first)):
            return Ending("the launcher, which held what the processes tell each other, died", 1, speaker=0)
        return Ending(f"process 0 {_DIED}", 1, speaker=1)

    def _end_hard(self, ending: Ending) -> None:
        """The work does not come back to ask: end the process as it is; a checkpoint is whole or not there."""
        message = ending.message + self.kept()
        with contextlib.suppress(OSError):
            self.last_words(message)
        if self.rank == ending.speaker:
            print("\n".join([message, *mend_lines([ending.fault])]), file=sys.stderr, flush=True)
        os._exit(ending.code)


def _no_words(_message: str) -> None:
    """Nobody but the first process of a training run has any."""


@functools.cache
def _place() -> str:
    """What tells apart the machines, and the containers, in which a process has its number; empty: not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 (a name, not a path)
    except OSError:
        return ""


def _gone(sign: _Sign) -> bool:
    """Whether a process of this machine is no more, or waits only for its parent to take note of its end."""
    if not sign.place or sign.place != _place():
        return False
    try:
        state = Path(f"/proc/{sign.pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return True
    return state[0] in ("Z", "X")
