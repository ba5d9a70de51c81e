"""The data of a run: readers opened and checked, and the sets and loaders around them."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from visionkit.build import build_reader, head_levels, label_fields
from visionkit.config import build
from visionkit.data import EvaluationSet, TrainingSet, evaluation_loader
from visionkit.data.augmentation import Augmentation, build_augmentation, check_augmentation
from visionkit.data.cache import prepare
from visionkit.data.image_kinds import statistics_warning
from visionkit.data.loader import Judged
from visionkit.data.readers.first import First
from visionkit.data.readers.single import SingleObject
from visionkit.data.sampler import repeat_factors
from visionkit.data.validate import (
    check_skipped,
    class_warnings,
    errors_of,
    fast_check,
    report,
    warnings_of,
)
from visionkit.engine.device import loader_workers
from visionkit.engine.distributed import ALONE, Processes
from visionkit.errors import ConfigError, DataError, printable
from visionkit.interfaces import Reader
from visionkit.model import VisionModel

LOGGER = logging.getLogger("visionkit")
ROLES = ("train", "val", "test")


def given_batch_size(cfg: DictConfig) -> int:
    """`data.batch_size`, of a tool that takes no auto.

    Raises:
        ConfigError: it is auto.
    """
    if cfg.data.batch_size == "auto":
        raise ConfigError("data.batch_size=auto: is for training; give a number", code="key-not-taken")
    return int(cfg.data.batch_size)


def open_readers(cfg: DictConfig) -> dict[str, Reader]:
    """Open and check the lists of the roles that the data have.

    Raises:
        DataError: something is wrong with the data; said for each file.
    """
    readers = {}
    for role in ROLES:
        if cfg.data.splits[role] is not None:
            readers[role] = build_reader(cfg.data, role)
            problems = fast_check(readers[role])
            if problems:
                raise DataError(report(problems), problems)
            check_skipped(readers[role], cfg.data.max_skipped)
    return readers


def choose_heads(cfg: DictConfig, reader: Reader) -> None:
    """Settle heads=null in the configuration: every head whose labels the training data have.

    Raises:
        ConfigError: there is none.
    """
    if cfg.heads is None:
        cfg.heads = [name for name, node in cfg.head.items() if label_fields([node]) <= reader.fields]
        if not cfg.heads:
            raise ConfigError(
                f"heads: no head learns from {', '.join(sorted(reader.fields)) or 'no labels at all'}",
                code="labels-lacking",
            )
        if not any(level.startswith("p") for level in head_levels(build(cfg.head[name]) for name in cfg.heads)):
            cfg.model.neck = None  # none of them reads what a neck makes
    cfg.head = {name: cfg.head[name] for name in cfg.heads}
    needs = label_fields(cfg.head.values())
    lacking = sorted(needs - answered(reader, cfg.data, needs).fields)
    if lacking:
        has = ", ".join(sorted(reader.fields))
        raise ConfigError(
            f"task={cfg.task}: needs {', '.join(lacking)}, but the data has only {has}; choose another task",
            code="labels-lacking",
        )


def answered(reader: Reader, data: Mapping[str, Any], fields: frozenset[str]) -> Reader:
    """The reader with `box`, where it is among `fields` and the source has only boxes (`data.box` says which)."""
    if "box" in fields and "box" not in reader.fields and "boxes" in reader.fields:
        return SingleObject(reader, data.get("box"))
    return reader


def remarks(role: str, reader: Reader) -> list[str]:
    """What somebody should know of the data before they are trained on."""
    warnings = [*warnings_of(getattr(reader, "problems", ())), *class_warnings(reader)]
    notes = [printable(note) for note in getattr(reader, "notes", ())]
    return [*notes, *left_out(role, reader), *(f"{role}: {warning}" for warning in warnings)]


def left_out(role: str, reader: Reader) -> list[str]:
    """What `data.on_error=skip` has left out, if anything."""
    errors = errors_of(getattr(reader, "problems", ()))
    return [f"{role}: left out by data.on_error=skip: {report(errors)}"] if errors else []


def write_data_account(folder: Path, readers: Mapping[str, Reader]) -> None:
    """Write data.json: for each split the images used, and how much was left out or warned of, by rule."""
    account = {}
    for role, reader in readers.items():
        problems = getattr(reader, "problems", ())
        faults = Counter(problem.rule for problem in errors_of(problems))
        warnings = Counter(problem.rule for problem in [*warnings_of(problems), *class_warnings(reader)])
        account[role] = {"images": len(reader), "left_out": dict(faults), "warnings": dict(warnings)}
    (folder / "data.json").write_text(json.dumps(account, indent=1) + "\n", encoding="utf-8")


def first(reader: Reader, images: int | None) -> Reader:
    """The first `images` images (`debug.images`); None: all."""
    return reader if images is None else First(reader, images)


def training_set(cfg: DictConfig, model: VisionModel, reader: Reader, processes: int = 1) -> TrainingSet:
    """The augmented set of a run of so many processes.

    Raises:
        ConfigError: a mix of images that these data and heads cannot take part in.
    """
    _, total_steps = run_steps(cfg, len(reader), processes)
    parts = augmentation(cfg, model)
    check_augmentation(parts, reader.fields, model.needs)
    lists: Mapping[str, Any] = class_lists(model)
    prepare(reader)
    warning = statistics_warning(reader, model.preprocess)
    if warning is not None:
        LOGGER.warning(warning)
    return TrainingSet(
        reader,
        model.preprocess,
        **lists,
        fields=model.needs,
        epochs=total_steps * cfg.engine.accumulate * cfg.data.batch_size * processes / len(reader),
        seed=cfg.seed,
        augment=parts.transforms,
        mosaic=parts.mosaic,
        copy_paste=parts.copy_paste,
        mixup=parts.mixup,
        cache=cfg.data.cache,
        cache_bytes=None if cfg.data.cache_gib is None else round(cfg.data.cache_gib * (1 << 30)),
        reduced_decoding=cfg.data.reduced_decoding == "auto",
    )


def augmentation(cfg: DictConfig, model: VisionModel) -> Augmentation:
    """All that changes training images."""
    values: Any = OmegaConf.to_container(cfg.augment, resolve=True)
    return build_augmentation(**values, canvas=model.preprocess.canvas, fill=model.preprocess.fill, seed=cfg.seed)


def image_repeats(cfg: DictConfig, reader: Reader) -> np.ndarray | None:
    """How often each training image is drawn, relative to others (`repeat_factors`); None: all alike.

    Raises:
        ConfigError: classes are to be balanced, and there are none.
    """
    return None if cfg.data.repeat_factor is None else repeat_factors(reader, cfg.data.repeat_factor)


def judged_set(model: VisionModel, reader: Reader) -> EvaluationSet:
    """The set on which a model is judged."""
    return EvaluationSet(reader, model.preprocess, **class_lists(model), fields=model.needs)


def judging_loader(
    judged: Judged,
    data: Mapping[str, Any],
    device: torch.device,
    processes: Processes = ALONE,
    *,
    batch_size: int = 16,
    timeout: float = 0.0,
) -> DataLoader[Any]:
    """The loader of this process's share of an evaluation.

    Its batch has nothing to do with that of training: on a CPU the last bit of a score depends on it, and `evaluate`
    must repeat the run's number.
    """
    rank, world = processes.rank, processes.world
    workers = min(loader_workers(data["workers"], device), math.ceil(len(judged) / (batch_size * world)))
    return evaluation_loader(
        judged, batch_size=batch_size, workers=workers, device=device, timeout=timeout, rank=rank, world=world
    )


def class_lists(model: VisionModel) -> dict[str, tuple[str, ...]]:
    """The class lists that labels are mapped to: of objects, semantic maps and whole images.

    Raises:
        ConfigError: two heads that learn from the same labels have different lists.
    """
    lists: dict[str, dict[str, tuple[str, ...]]] = {"classes": {}, "semantic_classes": {}, "image_classes": {}}
    for name, head in model.named_heads():
        semantic, boxes = "semantic" in head.needs, "boxes" in head.needs
        lists["semantic_classes" if semantic else "classes" if boxes else "image_classes"][name] = head.classes
    for heads in lists.values():
        if len(set(heads.values())) > 1:
            raise ConfigError(
                f"the heads {', '.join(heads)} learn from the same labels, so head.<name>.classes must be one list",
                code="keys-contradict",
            )
    return {key: next(iter(heads.values()), ()) for key, heads in lists.items()}


def run_steps(cfg: DictConfig, images: int, processes: int = 1) -> tuple[int, int]:
    """Optimizer steps of an epoch and of the whole run, for a run of so many processes."""
    steps_per_epoch = math.ceil(images / (cfg.data.batch_size * cfg.engine.accumulate * processes))
    epochs = cfg.engine.epochs or budgeted_epochs(cfg.schedule, steps_per_epoch)
    total = steps_per_epoch * epochs
    return steps_per_epoch, total if cfg.engine.max_steps is None else min(total, cfg.engine.max_steps)


def settle_length(cfg: DictConfig, images: int, processes: int) -> None:
    """Write the number of epochs, and after how many a run evaluates, into `cfg` where they are left to `schedule`."""
    steps_per_epoch, _ = run_steps(cfg, images, processes)
    engine = cfg.engine
    engine.epochs = engine.epochs or budgeted_epochs(cfg.schedule, steps_per_epoch)
    engine.evaluate_every = engine.evaluate_every or max(1, engine.epochs // 100)


def budgeted_epochs(schedule: DictConfig, steps_per_epoch: int) -> int:
    """The whole epochs that the schedule's budget comes to: fifty images and fifty thousand both get enough steps."""
    least = math.ceil(schedule.least_steps / steps_per_epoch)
    most = max(1, schedule.most_steps // steps_per_epoch)
    return int(min(max(schedule.epochs, least), most))
