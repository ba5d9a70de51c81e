"""Errors made for the person who has the problem: one line that says what, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any


class UserError(ValueError):
    """Something in what the user gave is wrong. The tools print the message, without a traceback, and exit with 2."""


class ConfigError(UserError):
    """A key, a value or a choice of the configuration is wrong; the message holds one line per fault."""


class DataError(UserError):
    """A data set cannot be used as it is; the message names the file, the fault and the mend.

    findings: the faults one by one (`visionkit.data.validate.Problem`), where whoever raises it has them.
    rule: else the code of the rule (`visionkit.data.rules.RULES`) that is broken.
    """

    def __init__(self, message: str, findings: Sequence[Any] = (), *, rule: str = "set-unusable") -> None:
        super().__init__(message)
        self.findings, self.rule = tuple(findings), rule

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep all of it on the way from a loader's worker."""
        return partial(type(self), rule=self.rule), (str(self), self.findings)


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or not allowed to be loaded."""


class RunError(RuntimeError):
    """A run that had begun failed, for a reason that can be told. The tools print the message and exit with 1."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the closest of `known`, or an empty string when nothing is close."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def listed(names: Sequence[object], most: int = 8) -> str:
    """Return `names` as a comma-separated line, cut after `most` with the count of the rest."""
    shown = ", ".join(str(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def printable(text: str) -> str:
    """Return `text` with all that could harm a terminal or a line made visible, as an escape: control and format
    characters, line ends, bytes that are no text. Other letters stay as they are.
    """
    return text if text.isprintable() else "".join(one if one.isprintable() else _escape(one) for one in text)


def _escape(character: str) -> str:
    code = ord(character)
    is_byte = 0xDC80 <= code <= 0xDCFF  # how Python holds the bytes of a file name that is not UTF-8
    return f"\\x{code - 0xDC00:02x}" if is_byte else repr(character)[1:-1]
