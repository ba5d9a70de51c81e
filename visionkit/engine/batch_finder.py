"""`data.batch_size=auto`: the largest batch that the device's memory holds with room to spare, found by trial."""

from __future__ import annotations

import copy
import itertools
import math
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from visionkit.data import EpochSampler, TrainingSet
from visionkit.engine.failures import is_out_of_memory
from visionkit.errors import ConfigError
from visionkit.model import VisionModel
from visionkit.structures import Batch, Sample

MOST = 256
MOST_ON_CPU = 64
LEAST_STEPS = 10
"""Steps that an epoch keeps: a set of 300 images is not learned from in batches of 128."""
SHARE = 0.85
"""Of the memory that is free; the rest is for images with more objects than those of the trial, and for evaluation."""
_SHARE_ON_CPU = 0.5
_SAMPLES = 16
"""Real images of the trial; larger batches repeat them."""


def find_batch_size(
    model: VisionModel,
    optimizer: Callable[[VisionModel], torch.optim.Optimizer],
    training: TrainingSet,
    device: torch.device,
    *,
    precision: torch.dtype,
    memory_format: torch.memory_format,
) -> int:
    """Return the largest power of two that fits: 2 or more, at most `MOST` (`MOST_ON_CPU`).

    Whole training steps of a copy of the model, on images of the set, are tried with twice the images each time, until
    the next one would take more than `SHARE` of the memory that was free (on a CPU half of what the system says is
    available), or less than `LEAST_STEPS` steps would make an epoch. The model and all random numbers stay as they are.

    Raises:
        ConfigError: not even two images fit.
    """
    most = min(MOST if device.type == "cuda" else MOST_ON_CPU, max(2, len(training) // LEAST_STEPS))
    samples = _samples(training, min(_SAMPLES, most))
    _empty_cache(device)
    free, before = _free_bytes(device), _taken_bytes(device)
    fits, peaks = 0, list[float]()
    with _random_numbers_kept(device):
        trial = copy.deepcopy(model).to(device).use_memory_format(memory_format).train()
        _leave_alone(trial)
        steps = _Trial(trial, optimizer(trial), device, precision, before)
        for power in range(1, int(math.log2(most)) + 1):
            images = list(itertools.islice(itertools.cycle(samples), 2**power))
            if len(peaks) > 1 and 2 * peaks[-1] - peaks[-2] * 0.5 > free:
                break  # twice the images take about twice the memory, less what the model itself takes
            try:
                peak = steps.peak(training.collate(images))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                break
            if peak > free:
                break
            peaks.append(peak)
            fits = 2**power
    del steps, trial
    _empty_cache(device)
    if not fits:
        height, width = model.preprocess.canvas
        raise ConfigError(
            f"data.batch_size=auto: not even two images of {height} x {width} pixels fit into the memory of {device}; "
            "lower image_size or model.width",
            code="out-of-memory",
        )
    return fits


class _Trial:
    """Training steps, and the memory that they and the model take beyond what was taken `before`."""

    def __init__(
        self,
        model: VisionModel,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        precision: torch.dtype,
        before: float,
    ) -> None:
        self.model, self.optimizer, self.device, self.precision = model, optimizer, device, precision
        self.before = before

    def peak(self, batch: Batch) -> float:
        """The most bytes while two steps on a batch are made."""
        _empty_cache(self.device)  # what smaller batches left is of other sizes, and would be counted beside
        for _ in range(2):  # the optimizer's state comes with the first step
            moved = batch.to(self.device)
            with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
                loss = self.model(moved.images, moved.targets)["total"]
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return _taken_bytes(self.device) - self.before


def _leave_alone(model: VisionModel) -> None:
    """Have no norm wait for other processes: their trials may end sooner."""
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.eval()


def _empty_cache(device: torch.device) -> None:
    """Give back what a GPU holds for later, and begin to count anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _samples(training: TrainingSet, count: int) -> list[Sample]:
    places = next(iter(EpochSampler(len(training), count, seed=training.seed)))
    return [training[place] for place in places]


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return SHARE * torch.cuda.mem_get_info(device)[0]
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return _SHARE_ON_CPU * _available_bytes()
    return float("inf")


def _available_bytes() -> float:
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return 1024.0 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _taken_bytes(device: torch.device) -> float:
    """The most that was ever taken: of a GPU since the last reset, of a process since its start."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


@contextmanager
def _random_numbers_kept(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
