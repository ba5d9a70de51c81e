"""What loading costs: images a second, where the time goes, memory of the workers; other loaders beside ours."""

from __future__ import annotations

import copy
import json
import multiprocessing
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import ImageFile

from visionkit.build import build_model, describe_model
from visionkit.data import EpochSampler, TrainingSet, training_loader
from visionkit.data.freed_memory import keep_freed_memory
from visionkit.data.loader import batch_places
from visionkit.engine.device import loader_workers
from visionkit.engine.index_benchmark import index_benchmark
from visionkit.engine.loader_peers import PEERS, Counted
from visionkit.engine.processes import cpu_seconds, own_memory
from visionkit.engine.run_data import (
    choose_heads,
    first,
    given_batch_size,
    image_repeats,
    open_readers,
    training_set,
)
from visionkit.engine.run_folder import made_folder
from visionkit.errors import ConfigError, did_you_mean, listed
from visionkit.interfaces import Reader

_ROUNDS, _BATCHES, _PROFILED = 3, 16, 6
_PAUSE, _IDLE = 0.3, 0.03
_PREFETCHED = 4
"""The most batches that a worker of any of the loaders makes ahead."""


def loader_benchmark_run(cfg: DictConfig) -> int:
    """Time the training loader of `cfg`, and those of `against` beside it; print what was found, and return 0.

    The loaders take turns, each with its own workers; the batches that they made ahead while others were timed are not
    counted, and the median round is. `index=true` measures the index of a generated annotation file of COCO's size,
    too. With `run_dir` all is loader.json there.

    Raises:
        ConfigError: `against` names what is not known or not installed.
    """
    names = _optional(cfg, "against", [])
    for name in names:
        if name not in PEERS:
            raise ConfigError(
                f"against={name}: there is no such loader{did_you_mean(name, PEERS)}; {listed([*PEERS])}",
                code="choice-unknown",
            )
    batch_size = given_batch_size(cfg)
    readers = open_readers(cfg)
    choose_heads(cfg, readers["train"])
    reader = first(readers["train"], cfg.debug.images)
    dataset = _dataset(cfg, reader)
    workers = loader_workers(cfg.data.workers, torch.device("cpu"))
    told: dict[str, Any] = {
        "workers": workers,
        "batch_size": batch_size,
        "image_size": list(dataset.preprocess.canvas),
    }
    told["ms_per_image"] = stage_times(dataset, _sampler(cfg, dataset))
    makers: dict[str, Callable[[], Iterator[Counted]]] = {"visionkit": lambda: _ours(cfg, dataset, workers)}
    for name in names:
        makers |= PEERS[name](reader, dataset.preprocess.canvas, cfg.data.batch_size, workers)
    told |= compare(makers, workers)
    _say(told)
    if _optional(cfg, "index", False):
        told["index"] = index_benchmark(workers=4)
    if cfg.run_dir is not None:
        text = json.dumps(told, indent=1) + "\n"
        (made_folder(Path(cfg.run_dir)) / "loader.json").write_text(text, encoding="utf-8")
    return 0


def _optional(cfg: DictConfig, key: str, default: Any) -> Any:
    return default if OmegaConf.is_missing(cfg, key) else cfg[key]


def _dataset(cfg: DictConfig, reader: Reader) -> TrainingSet:
    return training_set(cfg, build_model(describe_model(cfg, reader), allow=None), reader)


def _sampler(cfg: DictConfig, dataset: TrainingSet) -> EpochSampler:
    return EpochSampler(
        len(dataset),
        cfg.data.batch_size,
        seed=cfg.seed,
        segments=getattr(dataset.reader, "segments", None),
        repeats=image_repeats(cfg, dataset.reader),
    )


def _ours(cfg: DictConfig, dataset: TrainingSet, workers: int) -> Iterator[Counted]:
    for batch in training_loader(dataset, _sampler(cfg, dataset), workers=workers, device=torch.device("cpu")):
        labels = batch.targets.labels
        yield len(batch.images), 0 if labels is None else int((labels >= 0).sum())


# ---------------------------------------------------------------------------------------------------------- comparing
def compare(makers: Mapping[str, Callable[[], Iterator[Counted]]], workers: int) -> dict[str, Any]:
    """Return for each loader its images a second, objects a sample, and the growth of its workers' own memory in MB."""
    running: dict[str, Iterator[Counted]] = {}
    pids: dict[str, list[int]] = {}
    for name, make in makers.items():
        before = {one.pid for one in multiprocessing.active_children()}
        running[name] = iter(make())
        next(running[name])
        pids[name] = [one.pid for one in multiprocessing.active_children() if one.pid and one.pid not in before]
    rates: dict[str, list[float]] = {name: [] for name in running}
    objects: dict[str, list[float]] = {name: [] for name in running}
    cpu: dict[str, list[float]] = {name: [] for name in running}
    own: dict[str, list[float]] = {}
    for _ in range(_ROUNDS):
        for name, batches in running.items():
            _wait_until_idle([pid for one in pids.values() for pid in one])
            for _ in range(_PREFETCHED * workers):
                next(batches)
            own.setdefault(name, [own_memory(pid) for pid in pids[name]])
            began, worked = time.perf_counter(), sum(map(cpu_seconds, pids[name]))
            counts = [next(batches) for _ in range(_BATCHES)]
            images = sum(count for count, _ in counts)
            rates[name].append(images / (time.perf_counter() - began))
            cpu[name].append(1000 * (sum(map(cpu_seconds, pids[name])) - worked) / images)
            objects[name].append(sum(count for _, count in counts) / images)
    return {
        "images_per_second": {name: round(statistics.median(values), 2) for name, values in rates.items()},
        "worker_cpu_ms_per_image": {name: round(statistics.median(values), 2) for name, values in cpu.items()},
        "objects_per_sample": {name: round(statistics.mean(values), 2) for name, values in objects.items()},
        "worker_growth_mb": {
            name: [round(own_memory(pid) - start, 1) for pid, start in zip(pids[name], own[name], strict=True)]
            for name in running
        },
    }


def _wait_until_idle(pids: list[int]) -> None:
    """Wait until no worker makes batches ahead any more, which would slow the loader whose turn it is."""
    before, now = -1.0, sum(map(cpu_seconds, pids))
    while now - before > _IDLE:  # false for nan
        time.sleep(_PAUSE)
        before, now = now, sum(map(cpu_seconds, pids))


# ------------------------------------------------------------------------------------------------------------- stages
class _Timed:
    """Stands before a part of the data set and counts the seconds spent in it."""

    def __init__(self, part: Any, name: str, seconds: Counter[str]) -> None:
        self._part, self._name, self._seconds = part, name, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def __call__(self, *arguments: Any) -> Any:
        with _clock(self._name, self._seconds):
            return self._part(*arguments)

    def read(self, index: int) -> Any:
        with _clock(self._name, self._seconds):
            return self._part.read(index)


@contextmanager
def _clock(name: str, seconds: Counter[str]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - began  # type: ignore[assignment]


def stage_times(dataset: TrainingSet, sampler: EpochSampler) -> dict[str, float]:
    """Return the milliseconds an image that one process spends reading, decoding, mixing, augmenting and collating.

    read: files and labels; decode: from compressed bytes to pixels; mix: resizing and placing too.
    """
    seconds: Counter[str] = Counter()
    timed = copy.copy(dataset)
    timed._source = _Timed(dataset._source, "source", seconds)
    if dataset.augment is not None:
        timed.augment = _Timed(dataset.augment, "augment", seconds)  # type: ignore[assignment]
    imdecode = _Timed(cv2.imdecode, "decode", seconds)
    load = ImageFile.ImageFile.load

    def timed_load(image: Any) -> Any:
        with _clock("decode", seconds):
            return load(image)

    places = iter(batch_places(dataset, sampler))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # as in a worker
    keep_freed_memory()
    try:
        for warm in (True, False):
            seconds.clear()
            with (
                mock.patch.object(cv2, "imdecode", imdecode),
                mock.patch.object(ImageFile.ImageFile, "load", timed_load),
                _clock("total", seconds),
            ):
                for _ in range(1 if warm else _PROFILED):
                    samples = [timed[place] for place in next(places)]
                    with _clock("collate", seconds):
                        dataset.collate(samples)
    finally:
        cv2.setNumThreads(threads)
    read = seconds["source"] - seconds["decode"]
    mix = seconds["total"] - seconds["source"] - seconds["augment"] - seconds["collate"]
    parts = {"read": read, "decode": seconds["decode"], "mix": mix}
    parts |= {name: seconds[name] for name in ("augment", "collate", "total")}
    return {name: round(1000 * value / (_PROFILED * sampler.batch_size), 3) for name, value in parts.items()}


def _say(told: Mapping[str, Any]) -> None:
    height, width = told["image_size"]
    print(f"{told['workers']} workers, batches of {told['batch_size']} at {width} x {height}")
    parts = dict(told["ms_per_image"])
    total = parts.pop("total")
    shown = ", ".join(f"{name} {value:.2f} ({value / total:.0%})" for name, value in parts.items())
    print(f"one process, ms an image: {total:.2f} = {shown}")
    rates = told["images_per_second"]
    wide = max(map(len, rates))
    print(f"{'loader':<{wide}}  images/s  ours is  worker CPU ms/image  objects/sample  growth of a worker MB")
    for name, rate in rates.items():
        growth = max(told["worker_growth_mb"][name], default=float("nan"))
        objects, worked = told["objects_per_sample"][name], told["worker_cpu_ms_per_image"][name]
        ratio = f"{rates['visionkit'] / rate:.2f}x"
        print(f"{name:<{wide}}  {rate:>8.1f}  {ratio:>7}  {worked:>19.2f}  {objects:>14.1f}  {growth:>21.1f}")
