"""What a run writes down and says while it goes on."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visionkit.engine.recorders import Recorders
from visionkit.errors import CheckpointError

LOGGER = logging.getLogger("visionkit")


class Tracker:
    """metrics.jsonl (steps, losses, metrics: equal for equal runs), timing.jsonl (clocks and rates), the progress line.

    Args:
        folder: the run's; None: nothing is written or said (a process that is not the first).
        total_steps: of the run, for the time that is left.
        headline: the "head/metric" that the progress line shows.
        track: names of recorders that are handed the same numbers (`visionkit.engine.recorders`).
    """

    def __init__(self, folder: Path | None, *, total_steps: int, headline: str, track: Sequence[str] = ()) -> None:
        self.folder, self.track = folder, track
        self.recorders: Recorders | None = None
        self.metrics = None if folder is None else folder / "metrics.jsonl"
        self.timing = None if folder is None else folder / "timing.jsonl"
        self.total_steps, self.headline = total_steps, headline
        self.start_step, self.training_seconds = 0, 0.0
        self._loss = math.nan
        self._started = self._began = time.perf_counter()
        self._reset()

    def begin(self, step: int, *, epoch_due: bool = False) -> None:
        """Start the clock; cut lines past `step` off metrics.jsonl, which an interrupted run wrote in vain.

        epoch_due: the line of the epoch that ends with `step` is still to come.
        """
        self.start_step = step
        if self.metrics is not None and self.metrics.is_file():
            kept = _kept(self.metrics, step, epoch_due)
            shorter = self.metrics.with_name(f".{self.metrics.name}")
            shorter.write_text("".join(kept), encoding="utf-8")
            shorter.replace(self.metrics)
        if self.folder is not None:
            self.recorders = Recorders(self.track, self.folder, step)
        self._started = self._began = time.perf_counter()
        self._reset()

    def waited(self, seconds: float) -> None:
        """Count time spent on waiting for data."""
        self._waiting += seconds

    def trained(self, images: int) -> None:
        """Count images trained on."""
        self._images += images

    def log_step(self, step: int, losses: Mapping[str, float], *, lr: float) -> None:
        """A line for one logged step: mean losses since the last one."""
        self._loss = losses["total"]
        rounded = {name: round(value, 6) for name, value in losses.items()}
        self._write(self.metrics, {"step": step, **_without_nan(rounded), "lr": lr})
        self._record(step, {**{f"loss/{name}": value for name, value in losses.items()}, "lr": lr})

    def training_pauses(self) -> None:
        """Stop the training clock: evaluation and saving are not training."""
        self._seconds += time.perf_counter() - self._began

    def training_resumes(self) -> None:
        """Let the training clock go on."""
        self._began = time.perf_counter()

    def log_epoch(
        self, step: int, epoch: int, epochs: int, numbers: Mapping[str, float], train: Mapping[str, float] | None = None
    ) -> None:
        """A line for one epoch, and the progress line; the training clock must have been stopped.

        train: numbers of training images without augmentation, written as "train/head/metric".
        """
        own = {f"train/{name}": value for name, value in (train or {}).items()}
        seconds = self._seconds
        self.training_seconds += seconds
        self._write(self.metrics, {"step": step, "epoch": epoch, **_without_nan(numbers), **_without_nan(own)})
        rate = self._images / max(seconds, 1e-9)
        waiting = self._waiting / max(seconds, 1e-9)
        elapsed = time.perf_counter() - self._started
        left = elapsed / max(1, step - self.start_step) * (self.total_steps - step)
        self._write(
            self.timing,
            {"step": step, "epoch": epoch, "seconds": round(seconds, 3), "images_per_second": round(rate, 2),
             "waiting": round(waiting, 4), "elapsed": round(elapsed, 3)},
        )  # fmt: skip
        self._record(step, {**numbers, **own, "timing/images_per_second": rate, "timing/waiting": waiting})
        metric = numbers.get(self.headline)
        value = "n/a" if metric is None or math.isnan(metric) else f"{metric:.4f}"
        shown = f"{self.headline} {value}" if metric is not None else "not evaluated"
        if self.metrics is not None:
            LOGGER.info(
                f"epoch {epoch}/{epochs}  loss {self._loss:.3f}  {shown}  {rate:.0f} images/s  "
                f"{left // 60:.0f}:{left % 60:02.0f} left  {waiting:.0%} waiting for data"
            )
        self._reset()

    def end(self) -> None:
        """Nothing more comes."""
        if self.recorders is not None:
            self.recorders.close()

    def _record(self, step: int, numbers: Mapping[str, float]) -> None:
        if self.recorders is not None:
            self.recorders.record(step, {name: value for name, value in numbers.items() if math.isfinite(value)})

    def _reset(self) -> None:
        self._images, self._waiting, self._seconds = 0, 0.0, 0.0

    @staticmethod
    def _write(path: Path | None, line: Mapping[str, Any]) -> None:
        if path is None:
            return
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _kept(file: Path, step: int, epoch_due: bool) -> list[str]:
    """The lines of metrics.jsonl up to `step`; one without an end was being written.

    Raises:
        CheckpointError: a line is none that a run writes.
    """
    kept = []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            if line.endswith("\n") and _belongs(json.loads(line), step, epoch_due):
                kept.append(line)
        except (ValueError, LookupError, TypeError, RecursionError):
            fault = f"{file}: line {number} is none that a run writes"
            raise CheckpointError(f"{fault}; remove the line to resume the run without it") from None
    return kept


def _belongs(line: Mapping[str, Any], step: int, epoch_due: bool) -> bool:
    return line["step"] < step or (line["step"] == step and not (epoch_due and "epoch" in line))


def _without_nan(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no nan."""
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}
