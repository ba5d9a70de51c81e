"""What checks find, and how it is told."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from visionkit.errors import printable

STATES = ("ok", "warning", "fault")
_COLOURS = {"ok": "32", "warning": "33", "fault": "31"}
_WIDTH = 110


@dataclass(frozen=True)
class Finding:
    """state: ok; warning: it works, but not well; or fault: something does not work. mend: what to do about it."""

    name: str
    state: str
    said: str
    mend: str = ""


Check = Callable[[], Iterable[Finding]]


def run_checks(checks: Mapping[str, Check]) -> Iterator[Finding]:
    """Yield what each check finds; a check that fails itself is a finding, too."""
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            yield Finding(name, "warning", f"could not be looked at ({type(error).__name__}: {reason})")


def lines(findings: Sequence[Finding], *, colour: bool) -> list[str]:
    """Findings as aligned lines, each with its mend below it."""
    width = max((len(one.name) for one in findings), default=0)
    shown = []
    for one in findings:
        state = f"{one.state:<7}"
        state = f"\x1b[{_COLOURS[one.state]}m{state}\x1b[0m" if colour else state
        told = _wrapped(printable(one.said)) or [""]
        shown.append(f"  {state}  {one.name:<{width}}  {told[0]}")
        shown += [f"{'':<{width + 13}}{line}" for line in told[1:]]
        if one.mend:
            first, *rest = _wrapped(printable(one.mend))
            shown += [f"{'':<{width + 13}}mend: {first}", *(f"{'':<{width + 19}}{line}" for line in rest)]
    return shown


def wants_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH - 30, break_on_hyphens=False, break_long_words=False)
