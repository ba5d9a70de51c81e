"""Errors made for the person who has the problem: one line that says what, where, and how to mend it.

Each has a code, too (`visionkit.error_codes`), which stays where the message's words change.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar, Self

from visionkit.error_codes import CODES, mend_of


class CodedLine(str):
    """One line about one of several things that are wrong, and its code."""

    code: str

    def __new__(cls, line: str, code: str) -> Self:
        fault = super().__new__(cls, line)
        fault.code = code
        return fault

    def __reduce__(self) -> tuple[Any, ...]:
        return CodedLine, (str(self), self.code)


class _Coded(Exception):
    """An error with a code.

    Attributes:
        codes: of all that is wrong, each once, in the order of the message.
    """

    usual_code: ClassVar[str]
    """Where whoever raises it says none."""

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        self.codes: tuple[str, ...] = (code or self.usual_code,)
        if (
            multiprocessing.parent_process() is not None
        ):  # torch passes a worker's error on as printed text (see `told`)
            self.add_note(f"[{self.code}]")

    @property
    def code(self) -> str:
        """What kind of fault it is; of several, the first."""
        return self.codes[0]

    @property
    def mend(self) -> str:
        """How a fault of this code is mended, in a line; empty where the code is not the toolkit's."""
        return mend_of(self.code)


class UserError(_Coded, ValueError):
    """Something in what the user gave is wrong. The tools print the message, without a traceback, and exit with 2."""

    usual_code = "value-unfit"


class ConfigError(UserError):
    """A key, a value or a choice of the configuration is wrong; the message holds one line per fault.

    Attributes:
        faults: these lines.
    """

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.faults: tuple[CodedLine, ...] = (CodedLine(message, self.code),)

    @classmethod
    def of(cls, faults: Iterable[CodedLine]) -> ConfigError:
        """Return one error for all `faults`, each of them once."""
        unlike = tuple(dict.fromkeys(faults))
        error = ConfigError("\n".join(unlike), code=unlike[0].code)
        error.faults, error.codes = unlike, tuple(dict.fromkeys(fault.code for fault in unlike))
        return error


class DataError(UserError):
    """A data set cannot be used as it is; the message names the file, the fault and the mend.

    findings: the faults one by one (`visionkit.data.validate.Problem`), where whoever raises it has them; the rules
        that they break are its codes.
    """

    usual_code = "set-unusable"

    def __init__(self, message: str = "", findings: Sequence[Any] = (), *, code: str | None = None) -> None:
        broken = dict.fromkeys(finding.rule for finding in findings if finding.rule and not finding.warning)
        super().__init__(message, code=code or next(iter(broken), None))
        self.codes, self.findings = (code,) if code else tuple(broken) or self.codes, tuple(findings)


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or not allowed to be loaded."""

    usual_code = "checkpoint-damaged"


class RunError(_Coded, RuntimeError):
    """A run that had begun failed, for a reason that can be told. The tools print the message and exit with 1."""

    usual_code = "run-failed"


def told(text: str) -> tuple[str, str | None]:
    """Return the message and the code of an error as it is printed in a process that loads data."""
    message, _, code = text.rstrip().rpartition("\n")
    found = re.fullmatch(r"\[([a-z-]+)\]", code)
    return (message, found[1]) if found and found[1] in CODES else (text.strip(), None)


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
