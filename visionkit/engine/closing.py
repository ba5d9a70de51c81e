"""What a run says at its end: its numbers, what is n/a and why, and whether it has learned."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

from visionkit.engine.evaluate import Evaluation
from visionkit.engine.select import MEAN, Selector
from visionkit.engine.verdict import NOTHING, Verdict, causes, near_chance
from visionkit.errors import listed

LOGGER = logging.getLogger("visionkit")


def chance(name: str, selector: Selector, classes: Mapping[str, tuple[str, ...]]) -> float:
    """The value of a "head/metric" for a blind guess: of top1 one class in so many, of a mean that of its parts."""
    if name == MEAN:
        parts = [chance(one, selector, classes) / reference for one, reference in selector.references.items()]
        return sum(parts) / len(parts)
    head, _, metric = name.partition("/")
    return 1 / max(1, len(classes.get(head, ()))) if metric == "top1" else 0.0


def say_result(
    result: Evaluation,
    split: str,
    folder: Path,
    *,
    seconds: float,
    verdict: Verdict | None,
    selector: Selector,
    classes: Mapping[str, tuple[str, ...]],
    bad_steps: int,
) -> None:
    """Log the numbers of a split, the reasons of those that are n/a, the verdict, and why nothing was learned."""
    shown = "  ".join(
        f"{name} {value:.4f}"
        for name, value in result.numbers.items()
        if not math.isnan(value) and name.count("/") == 1  # those of single classes are in metrics.json
    )
    LOGGER.info(f"{split}: {shown}")
    absent = result.absent()
    for reason in dict.fromkeys(absent.values()):
        LOGGER.info(f"n/a ({reason}): {listed([name for name in absent if absent[name] == reason])}")
    if verdict is not None and verdict.kind != NOTHING:
        LOGGER.info(verdict.words)
    LOGGER.info(f"{seconds:.1f} s of training; everything is in {folder}")
    low = [
        name
        for name in selector.references
        if near_chance(result.numbers.get(name, math.nan), chance(name, selector, classes))
    ]
    if low:
        head = low[0].partition("/")[0]
        rows = result.rows.get(head)
        why = causes(
            losses=_losses(folder / "metrics.jsonl"),
            train=math.nan if verdict is None else verdict.train,
            chance=chance(selector.name, selector, classes),
            predicted_classes=None if rows is None else len({row.get("category_id") for row in rows}),
            bad_steps=bad_steps,
        )
        LOGGER.warning(f"this run learned nothing ({listed(low)} no better than a guess): {'; '.join(why)}")


def _losses(metrics: Path) -> list[float]:
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return [line["total"] for line in lines if line.get("total") is not None]
