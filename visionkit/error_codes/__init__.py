"""The codes of errors: what each means and how it is mended. `python -m visionkit.error_codes` writes docs/errors.md.

An error's message says what is wrong this time, and where; its code says what kind of fault it is, for whoever looks it
up or acts on it in code. The message may change from version to version, the code does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from visionkit.error_codes.code import Code
from visionkit.error_codes.configuration import CONFIGURATION, MODEL
from visionkit.error_codes.data import DATA
from visionkit.error_codes.runs import CHECKPOINTS, EXPORT, PREDICTION, RUNS

__all__ = ["CODES", "GROUPS", "Code", "mend_lines", "mend_of"]

GROUPS: Mapping[str, Mapping[str, Code]] = {
    "Configuration": CONFIGURATION,
    "Model": MODEL,
    "Data": DATA,
    "Checkpoints and weights": CHECKPOINTS,
    "Runs": RUNS,
    "Prediction": PREDICTION,
    "Export": EXPORT,
}
"""The codes by where their faults come from."""

CODES: Mapping[str, Code] = {name: code for group in GROUPS.values() for name, code in group.items()}
"""All codes."""


def mend_of(code: str) -> str:
    """Return how a fault is mended; an empty string for a code that is not the toolkit's."""
    return CODES[code].mend if code in CODES else ""


def mend_lines(codes: Iterable[str]) -> list[str]:
    """Return the lines that follow a message: a known code each, and how it is mended."""
    return [f"  [{code}] {CODES[code].mend}" for code in dict.fromkeys(codes) if code in CODES]
