"""The one number of an evaluation that chooses the best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping

from visionkit.errors import ConfigError, did_you_mean, listed
from visionkit.interfaces import Metric

MEAN = "multitask/mean"


class Selector:
    """Chooses a number, or makes one of several: the mean of each metric's headline over its reference.

    Args:
        select: mean, or the "head/metric" that alone decides.
        metrics: by head and merge; of a single one the mean is its headline itself.
        references: by "head/metric", what a headline is divided by; 1 where none is given.

    Raises:
        ConfigError: `select` or `references` names a number that no metric gives, or a reference is not above 0.
    """

    def __init__(self, select: str, metrics: Mapping[str, Metric], references: Mapping[str, float]) -> None:
        headlines = [f"{name}/{metric.headline}" for name, metric in metrics.items()]
        known = [f"{name}/{key}" for name, metric in metrics.items() for key in metric.compute()]
        if select != "mean" and select not in known:
            hint = did_you_mean(select, known)
            raise ConfigError(
                f"engine.select={select}: no such number{hint}; mean, or one such as {listed(headlines)}",
                code="choice-unknown",
            )
        for name, reference in references.items():
            if name not in headlines:
                said = f"no main number of a head{did_you_mean(name, headlines)}; known: {listed(headlines)}"
                raise ConfigError(f"engine.references.{name}: {said}", code="key-not-taken")
            if not reference > 0:
                raise ConfigError(
                    f"engine.references.{name}={reference}: a number above 0 is wanted", code="value-unfit"
                )
        self.known = tuple(known)
        self.references = {name: float(references.get(name, 1.0)) for name in headlines}
        several = len(headlines) > 1 or bool(references)
        self.name = select if select != "mean" else MEAN if several else headlines[0]

    def added(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The numbers with the mean among them, where it is what is looked at.

        Headlines that are nan have no part in it; nan where all are.
        """
        if self.name != MEAN:
            return dict(numbers)
        shares = [numbers[name] / reference for name, reference in self.references.items()]
        there = [share for share in shares if not math.isnan(share)]
        return {MEAN: sum(there) / len(there) if there else math.nan, **numbers}
