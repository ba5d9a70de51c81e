"""`engine.find_lr=true`: a learning-rate range test (Smith 2017, Cyclical Learning Rates for Training Neural Networks).

The rate rises exponentially over 100 steps, from far too small to far too large; the curve of the loss shows between
which rates the model learns.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from visionkit.engine.trainer import NonFiniteError, Trainer
from visionkit.report.figure import BLACK, BLUE, NORMAL, add_axes, new_figure, save

LOGGER = logging.getLogger("visionkit")
STEPS = 100
LOWEST, HIGHEST = 1e-6, 1.0
_SMOOTHING = 0.9
_DIVERGED = 3.0
"""The smoothed loss, as a multiple of its lowest value, at which the curve ends."""


class _Range:
    """A schedule: `LOWEST` to `HIGHEST` in `STEPS` equal factors; the optimizer's own rates are 1."""

    def factor(self, step: int) -> float:
        return float(LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)))


def find_learning_rate(trainer: Trainer, folder: Path | None, usual: float) -> None:
    """Train over the range, draw plots/learning_rate.png, write learning_rate.json, and say what it suggests.

    Nothing is evaluated or saved, and the model is not fit for anything afterwards.

    Args:
        trainer: not begun yet.
        folder: of the run; None: this process writes and says nothing.
        usual: the recipe's `optim.lr`, to compare with.
    """
    for group in trainer.optimizer.param_groups:
        group["initial_lr"] /= usual  # lower rates of early layers stay in proportion
    trainer.schedule = _Range()  # type: ignore[assignment]
    trainer.total_steps, trainer.steps_per_epoch = STEPS, STEPS
    trainer.log_steps, trainer.save_steps, trainer.max_bad_steps = 1, 0, 0
    trainer.end_of_epoch = trainer.save = lambda _: None
    try:
        trainer.train()
    except NonFiniteError:
        LOGGER.info(f"the loss is no number any more after {trainer.step} of {STEPS} steps: the range ends there")
    if folder is not None:
        rates, losses = _read(folder / "metrics.jsonl")
        _tell(rates, losses, folder, usual)


def suggested(rates: Sequence[float], losses: Sequence[float]) -> tuple[float | None, list[float]]:
    """Return the suggested rate, and the smoothed losses up to where they diverge.

    It is a third of the rate at which the smoothed loss is lowest: the curve lags behind by about as much, and a rate
    that still learns for one step is too high for a whole run. None where the loss falls by no more than its scatter.
    """
    smoothed: list[float] = []
    mean = 0.0
    for number, loss in enumerate(losses, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        smoothed.append(mean / (1 - _SMOOTHING**number))
        if number > len(rates) // 5 and smoothed[-1] > _DIVERGED * min(smoothed):
            break
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    calm = max(2, len(rates) // 5)  # the first rates are too small to change anything
    if len(smoothed) <= calm:
        return None, smoothed
    scatter = statistics.stdev(losses[:calm])
    if lowest < calm or smoothed[lowest] > statistics.mean(losses[:calm]) - max(scatter, 1e-6):
        return None, smoothed
    return rates[lowest] / 3, smoothed


def _read(metrics: Path) -> tuple[list[float], list[float]]:
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    own = [(LOWEST * (HIGHEST / LOWEST) ** ((line["step"] - 1) / (STEPS - 1)), line["total"]) for line in lines]
    finite = [(rate, loss) for rate, loss in own if loss is not None and math.isfinite(loss)]
    return [rate for rate, _ in finite], [loss for _, loss in finite]


def _tell(rates: Sequence[float], losses: Sequence[float], folder: Path, usual: float) -> None:
    rate, smoothed = suggested(rates, losses)
    (folder / "learning_rate.json").write_text(
        json.dumps({"suggested": rate, "optim.lr": usual, "rates": rates, "losses": losses}, indent=1) + "\n"
    )
    picture = _drawn(rates, losses, smoothed, rate, usual, folder)
    if rate is None:
        LOGGER.warning(f"no rate from {LOWEST:g} to {HIGHEST:g} lets the loss fall: look at the labels; {picture}")
    else:
        LOGGER.info(f"suggested: optim.lr={rate:.2g} (the recipe has {usual:g}); the curve is in {picture}")


def _drawn(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    rate: float | None,
    usual: float,
    folder: Path,
) -> Path:
    (folder / "plots").mkdir(exist_ok=True)
    figure = new_figure(6.4, 4.0)
    axes = add_axes(figure, 0.8, 0.65, 5.3, 2.95)
    shown = len(smoothed)
    axes.plot(rates[:shown], losses[:shown], color="#c8c8c8", linewidth=1, label="loss of each step")
    axes.plot(rates[:shown], smoothed, color=BLUE, linewidth=2, label="smoothed")
    if rate is not None:
        axes.axvline(rate, color=BLACK, linewidth=1.5, label=f"suggested: {rate:.2g}")
    axes.axvline(usual, color=BLACK, linewidth=1, linestyle=":", label=f"the recipe's: {usual:g}")
    axes.set_xscale("log")
    low, high = min(smoothed, default=0.0), max(smoothed, default=1.0)
    axes.set_ylim(low - 0.1 * (high - low) - 1e-9, high + 0.3 * (high - low) + 1e-9)
    axes.set_xlabel("learning rate", fontsize=NORMAL)
    axes.set_ylabel("training loss", fontsize=NORMAL)
    axes.legend(loc="lower left", fontsize=NORMAL - 1, framealpha=0.9)
    return save(figure, folder / "plots" / "learning_rate.png")
