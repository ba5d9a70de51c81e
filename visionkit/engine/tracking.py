"""What a run writes down and says while it goes on."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOGGER = logging.getLogger("visionkit")


class Tracker:
    """metrics.jsonl (steps, losses, metrics: equal for equal runs), timing.jsonl (clocks and rates), the progress line.

    Args:
        folder: the run's.
        total_steps: of the run, for the time that is left.
        headline: the "head/metric" that the progress line shows.
    """

    def __init__(self, folder: Path, *, total_steps: int, headline: str) -> None:
        self.metrics, self.timing = folder / "metrics.jsonl", folder / "timing.jsonl"
        self.total_steps, self.headline = total_steps, headline
        self.start_step, self.training_seconds = 0, 0.0
        self._losses: dict[str, float] = {}
        self._reset()

    def begin(self, step: int) -> None:
        """Start the clock; cut lines past `step` off metrics.jsonl, which an interrupted run wrote in vain."""
        self.start_step = step
        if self.metrics.is_file():
            lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            self.metrics.write_text("".join(kept), encoding="utf-8")
        self._reset()

    def waited(self, seconds: float) -> None:
        """Count time spent on waiting for data."""
        self._waiting += seconds

    def trained(self, images: int) -> None:
        """Count images trained on."""
        self._images += images

    def log_step(self, step: int, losses: Mapping[str, float], *, lr: float) -> None:
        """A line for one logged step: mean losses since the last one."""
        self._losses = dict(losses)
        self._write(self.metrics, {"step": step, **{name: round(v, 6) for name, v in losses.items()}, "lr": lr})

    def training_pauses(self) -> None:
        """Stop the training clock: evaluation and saving are not training."""
        self._paused = time.perf_counter()

    def log_epoch(self, step: int, epoch: int, epochs: int, numbers: Mapping[str, float]) -> None:
        """A line for one epoch, the progress line, and the clock for the next one."""
        seconds = (self._paused or time.perf_counter()) - self._began
        self.training_seconds += seconds
        told = {name: None if math.isnan(value) else value for name, value in numbers.items()}
        self._write(self.metrics, {"step": step, "epoch": epoch, **told})
        rate = self._images / max(seconds, 1e-9)
        waiting = self._waiting / max(seconds, 1e-9)
        elapsed = time.perf_counter() - self._started
        left = elapsed / max(1, step - self.start_step) * (self.total_steps - step)
        self._write(
            self.timing,
            {"step": step, "epoch": epoch, "seconds": round(seconds, 3), "images_per_second": round(rate, 2),
             "waiting": round(waiting, 4), "elapsed": round(elapsed, 3)},
        )  # fmt: skip
        metric = numbers.get(self.headline)
        shown = f"{self.headline} {metric:.4f}" if metric is not None and not math.isnan(metric) else "not evaluated"
        LOGGER.info(
            f"epoch {epoch}/{epochs}  loss {self._losses.get('total', math.nan):.3f}  {shown}  {rate:.0f} images/s  "
            f"{left // 60:.0f}:{left % 60:02.0f} left  {waiting:.0%} waiting for data"
        )
        self._reset(keep_start=True)

    def _reset(self, *, keep_start: bool = False) -> None:
        self._began = time.perf_counter()
        if not keep_start:
            self._started = self._began
        self._images, self._waiting, self._paused = 0, 0.0, None

    @staticmethod
    def _write(path: Path, line: Mapping[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
