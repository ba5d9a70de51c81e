"""Early stopping (Prechelt 1998): a run ends when its number on the validation images has not risen for a while."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from visionkit.errors import ConfigError, did_you_mean, listed


class Patience:
    """Counts evaluations without a higher number.

    Args:
        evaluations: so many without one end the run; None: none do.
        name: of the number, "head/metric", higher being better.
        least: by which it has to be higher to count.
        known: the numbers that there are.

    Raises:
        ConfigError: there is no such number.
    """

    def __init__(self, evaluations: int | None, name: str, least: float, known: Collection[str]) -> None:
        if name not in known:
            said = f"no such number{did_you_mean(name, known)}; known are {listed(list(known))}"
            raise ConfigError(f"engine.stop_on={name}: {said}", code="choice-unknown")
        self.evaluations, self.name, self.least = evaluations, name, least
        self.best, self.without = -math.inf, 0

    @property
    def spent(self) -> bool:
        """Whether the run is to end."""
        return self.evaluations is not None and self.without >= self.evaluations

    def see(self, numbers: Mapping[str, float]) -> None:
        """Take note of an evaluation; a number that is nan has not risen."""
        value = numbers.get(self.name, math.nan)
        risen = value > self.best + self.least or (math.isinf(self.best) and not math.isnan(value))
        self.best, self.without = (value, 0) if risen else (self.best, self.without + 1)

    def state(self) -> dict[str, Any]:
        """What a run that goes on needs to know, as plain values."""
        return {"best": None if math.isinf(self.best) else self.best, "without": self.without}

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """Take up what `state` gave; None: begin anew."""
        self.best, self.without = -math.inf, 0
        if state is not None:
            self.best = -math.inf if state["best"] is None else float(state["best"])
            self.without = int(state["without"])
