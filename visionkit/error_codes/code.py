"""What is told of an error beside its message."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """One kind of fault.

    Attributes:
        meaning: what it is; of data, the rule that is broken, which `visionkit.data.rules` gives to reports, too.
        mend: what to do about it, in one line.
    """

    meaning: str
    mend: str
