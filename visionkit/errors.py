"""Errors made for the person who has the problem: one line that says what, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(ValueError):
    """Something in what the user gave is wrong. The tools print the message, without a traceback, and exit with 2."""


class ConfigError(UserError):
    """A key, a value or a choice of the configuration is wrong; the message holds one line per fault."""


class DataError(UserError):
    """A data set cannot be used as it is; the message names the file, the fault and the mend."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or not allowed to be loaded."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the closest of `known`, or an empty string when nothing is close."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def listed(names: Sequence[object], most: int = 8) -> str:
    """Return `names` as a comma-separated line, cut after `most` with the count of the rest."""
    shown = ", ".join(str(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
