"""What is wrong with an element of a COCO file, before its place is said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionkit.data.validate import Problem

_REMOVE = "correct it, or remove the annotation"


@dataclass(frozen=True)
class Fault:
    """A fault: the key inside the element, the code of its rule, what is wrong, and how to mend it."""

    key: str
    rule: str
    what: str
    mend: str = _REMOVE

    def problem(self, file: Path, where: str) -> Problem:
        """The fault of the element `where` of `file`."""
        return Problem(str(file), f"{where}.{self.key}" if self.key else where, self.what, self.mend, rule=self.rule)


class FaultError(Exception):
    """Carries a fault out of the depth of an element."""

    def __init__(self, key: str, rule: str, what: str, mend: str = _REMOVE) -> None:
        super().__init__(what)
        self.fault = Fault(key, rule, what, mend)


def shown(value: Any) -> str:
    """Return a value as JSON writes it, cut where it is long."""
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"
