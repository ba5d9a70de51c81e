"""What a run writes down and says while it goes on."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from visionkit.engine.device import memory_taken
from visionkit.engine.recorders import Recorders
from visionkit.engine.waiting import Loading, advice, seconds_of_children
from visionkit.errors import CheckpointError

LOGGER = logging.getLogger("visionkit")
_CALM = 10.0
"""Seconds of training before a run is told that it waits: the beginning is slow for everybody."""


class Tracker:
    """metrics.jsonl (steps, losses, metrics: equal for equal runs), timing.jsonl (clocks, rates and memory), the
    progress line, and what to change where training waits for its data.

    Args:
        folder: the run's; None: nothing is written or said (a process that is not the first).
        total_steps: of the run, for the time that is left.
        headline: the "head/metric" that the progress line shows.
        track: names of recorders that are handed the same numbers (`visionkit.engine.recorders`).
        device: whose memory is told.
        loading: how batches are loaded; None: nothing is said of waiting.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        total_steps: int,
        headline: str,
        track: Sequence[str] = (),
        device: torch.device | None = None,
        loading: Loading | None = None,
    ) -> None:
        self.folder, self.track = folder, track
        self.device, self.loading = device or torch.device("cpu"), loading
        self.recorders: Recorders | None = None
        self.metrics = None if folder is None else folder / "metrics.jsonl"
        self.timing = None if folder is None else folder / "timing.jsonl"
        self.total_steps, self.headline = total_steps, headline
        self.start_step, self.training_seconds = 0, 0.0
        self._loss = math.nan
        self._epochs, self._advised = 0, False
        self._reset()
        self._start_clock()

    def begin(self, step: int, *, epoch_due: bool = False) -> None:
        """Start the clock; cut lines past `step` off both files, which an interrupted run wrote in vain.

        epoch_due: the line of the epoch that ends with `step` is still to come.
        """
        self.start_step = step
        if self.metrics is not None and self.metrics.is_file():
            kept = _kept(self.metrics, step, epoch_due)
            _replace(self.metrics, kept)
            self._loss = _last_loss(kept)
        if self.timing is not None and self.timing.is_file():
            _replace(self.timing, _kept(self.timing, step, epoch_due, strict=False))
        if self.folder is not None:
            self.recorders = Recorders(self.track, self.folder, step)
        self._reset()
        self._start_clock()

    def _start_clock(self) -> None:
        self._started = time.perf_counter()
        self.training_resumes()

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
        self._loading_seconds += (self._children() or 0.0) - (self._children_before or 0.0)

    def training_resumes(self) -> None:
        """Let the training clock go on."""
        self._began, self._children_before = time.perf_counter(), self._children()

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
        metric = numbers.get(self.headline)
        value = "n/a" if metric is None or math.isnan(metric) else f"{metric:.4f}"
        shown = f"{self.headline} {value}" if metric is not None else "not evaluated"
        said = f"epoch {epoch}/{epochs}  loss {self._loss:.3f}  {shown}"
        clocks: dict[str, float] = {}
        if seconds > 0:  # an epoch that was trained before, and is only scored now, has no clocks
            clocks = self._clocks(step, epoch, seconds)
            left = clocks["elapsed"] / max(1, step - self.start_step) * (self.total_steps - step)
            said += (
                f"  {clocks['images_per_second']:.0f} images/s  {left // 60:.0f}:{left % 60:02.0f} left  "
                f"{clocks['waiting']:.0%} waiting for data  {clocks['memory'] / 2**30:.1f} GiB memory"
            )
        timing = {f"timing/{name}": clocks[name] for name in ("images_per_second", "waiting") if clocks}
        self._record(step, {**numbers, **own, **timing})
        if self.metrics is not None:
            LOGGER.info(said)
            self._advise(clocks.get("waiting", 0.0))
        self._reset()

    def _clocks(self, step: int, epoch: int, seconds: float) -> dict[str, float]:
        """Write the line of timing.jsonl; its numbers."""
        told = {
            "step": step,
            "epoch": epoch,
            "seconds": round(seconds, 3),
            "images_per_second": round(self._images / seconds, 2),
            "waiting": round(self._waiting / seconds, 4),
            "elapsed": round(time.perf_counter() - self._started, 3),
            "memory": memory_taken(self.device),
        }
        self._write(self.timing, told)
        return told

    def _advise(self, waiting: float) -> None:
        """Say what to change where training waits; once a run."""
        self._epochs += 1
        if self.loading is None or self.training_seconds < _CALM or self._advised:
            return
        room = self.loading.workers * self._seconds
        busy = None if self._children_before is None or room == 0 else min(1.0, max(0.0, self._loading_seconds) / room)
        said = advice(waiting, busy, self.loading, first_epoch=self._epochs == 1)
        if said is not None:
            self._advised = True
            LOGGER.info(said)

    def end(self) -> None:
        """Nothing more comes."""
        if self.recorders is not None:
            self.recorders.close()

    def _record(self, step: int, numbers: Mapping[str, float]) -> None:
        if self.recorders is not None:
            self.recorders.record(step, {name: value for name, value in numbers.items() if math.isfinite(value)})

    def _reset(self) -> None:
        self._images, self._waiting, self._seconds, self._loading_seconds = 0, 0.0, 0.0, 0.0

    def _children(self) -> float | None:
        return None if self.loading is None or self.loading.workers == 0 else seconds_of_children()

    @staticmethod
    def _write(path: Path | None, line: Mapping[str, Any]) -> None:
        if path is None:
            return
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _kept(file: Path, step: int, epoch_due: bool, *, strict: bool = True) -> list[str]:
    """The lines up to `step`; one without an end was being written.

    Raises:
        CheckpointError: a line is none that a run writes; where it is not `strict`, such a line is left out.
    """
    kept = []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            if line.endswith("\n") and _belongs(json.loads(line), step, epoch_due):
                kept.append(line)
        except (ValueError, LookupError, TypeError, RecursionError):
            if not strict:
                continue
            fault = f"{file}: line {number} is none that a run writes"
            raise CheckpointError(
                f"{fault}; remove the line to resume the run without it", code="checkpoint-damaged"
            ) from None
    return kept


def _replace(file: Path, lines: Sequence[str]) -> None:
    shorter = file.with_name(f".{file.name}")
    shorter.write_text("".join(lines), encoding="utf-8")
    shorter.replace(file)


def _last_loss(lines: Sequence[str]) -> float:
    """The loss that was written down last; nan without one."""
    losses = [told["total"] for told in map(json.loads, lines) if told.get("total") is not None]
    return float(losses[-1]) if losses else math.nan


def _belongs(line: Mapping[str, Any], step: int, epoch_due: bool) -> bool:
    return line["step"] < step or (line["step"] == step and not (epoch_due and "epoch" in line))


def _without_nan(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no nan."""
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}
