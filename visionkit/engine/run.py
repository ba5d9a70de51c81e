"""A whole training run, from a checked configuration to files in a folder."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig

from visionkit.build import describe_model, label_fields
from visionkit.data.fingerprint import fingerprint
from visionkit.data.train_slice import AugmentedSlice, Picked, slice_places
from visionkit.engine.batch_finder import find_batch_size
from visionkit.engine.device import autocast_dtype, keep_freed_memory, loader_workers, memory_format, share_cores
from visionkit.engine.distributed import Processes
from visionkit.engine.failures import Circumstances, kept, told_in_words
from visionkit.engine.faults import parse_fault
from visionkit.engine.interruption import Interruption, Preempted
from visionkit.engine.joining import joined
from visionkit.engine.patience import Patience
from visionkit.engine.rate_finder import find_learning_rate
from visionkit.engine.recorders import check_recorders
from visionkit.engine.run_data import (
    answered,
    choose_heads,
    first,
    image_repeats,
    judged_set,
    open_readers,
    remarks,
    settle_length,
    training_set,
    write_data_account,
)
from visionkit.engine.run_folder import (
    Start,
    choose_run_folder,
    earlier_batch_size,
    start_logging,
    stop_logging,
    write_beginning,
)
from visionkit.engine.run_lock import run_lock
from visionkit.engine.run_model import begun_model, freezing, learning_stages, optimizer
from visionkit.engine.select import Selector
from visionkit.engine.trainer import Trainer
from visionkit.engine.training_run import AUGMENTED, CLEAN, TrainingRun, run_metrics
from visionkit.errors import ConfigError, RunError, UserError
from visionkit.interfaces import Reader
from visionkit.model import VisionModel
from visionkit.transfer import report_weights

LOGGER = logging.getLogger("visionkit")


def train_run(cfg: DictConfig) -> int:
    """Train, evaluate, and write everything into the run folder; return 0, also where a signal ended it early.

    Raises:
        UserError: anything wrong in what the user gave; raised before the run folder is made.
        NonFiniteError: the loss stopped being a number.
    """
    with (
        Interruption(cfg.engine.max_hours) as interruption,
        joined(cfg.device, cfg.engine.timeout) as (processes, device),
        contextlib.ExitStack() as held,
    ):
        with processes.together():
            run, model, beginning = _prepared(cfg, processes, device, interruption)
        start, said = Start(Path()), []
        with processes.together():
            if processes.first:
                start = choose_run_folder(cfg, run.data, processes.world)
                left = held.enter_context(run_lock(start.folder))
                said = [*start.said, *([left] if left else [])]
        run.folder, continued = processes.told((start.folder, start.checkpoint is not None))
        if processes.first:
            start_logging(run.folder)
            for line in said:
                LOGGER.warning(line)
        processes.tell_with(
            functools.partial(kept, run.folder), lambda message: run.write_status("failed", error=message)
        )
        try:
            with processes.as_one():
                with processes.together():
                    if processes.first:
                        beginning(run.folder)
                    trainer = run.trainer(model)
                held.callback(trainer.tracker.end)
                if continued:
                    run.resume(trainer, start)
                else:
                    trainer.tracker.begin(0)
                run.announce(trainer)
                _train(run, trainer)
                run.write_status("finished", step=trainer.step)
        except Preempted as reason:
            LOGGER.info(f"ended by {reason} after step {trainer.step}; resume={run.folder} goes on from there")
            run.write_status("preempted", step=trainer.step, reason=str(reason))
            interruption.obeyed = True
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            with contextlib.suppress(OSError):  # the disk may be full; what is told is why the run ended
                run.write_status("interrupted" if interrupted else "failed", error=str(error))
            raise
        finally:
            stop_logging()
    return 0


def _prepared(
    cfg: DictConfig, processes: Processes, device: torch.device, interruption: Interruption
) -> tuple[TrainingRun, VisionModel, Callable[[Path], None]]:
    """Everything that can be refused, before anything is written: the run, its model, and what writes its beginning."""
    check_recorders(cfg.track)
    if cfg.engine.find_lr and cfg.resume != "none":
        raise ConfigError(
            f"engine.find_lr=true: tries rates on a new model; leave resume={cfg.resume} out", code="keys-contradict"
        )
    share_cores(loader_workers(cfg.data.workers, device), device)
    keep_freed_memory(device)
    opened = open_readers(cfg)
    choose_heads(cfg, opened["train"])
    told = [line for role, reader in opened.items() for line in remarks(role, reader)]
    needs = label_fields(cfg.head.values())
    readers = {role: answered(first(reader, cfg.debug.images), cfg.data, needs) for role, reader in opened.items()}
    description = describe_model(cfg, readers["train"])
    _begin_random_numbers(cfg.seed, deterministic=cfg.engine.deterministic)
    model, taken = begun_model(cfg, description, processes, device)
    stages = learning_stages(cfg, model)
    if cfg.data.batch_size == "auto":
        cfg.data.batch_size = _fitting_batch(cfg, model, readers["train"], device, processes)
        told.append(
            f"data.batch_size=auto: {cfg.data.batch_size} images; the recipe's optim.lr is of another batch size"
        )
    settle_length(cfg, len(readers["train"]), processes.world)
    if not processes.first:
        torch.manual_seed(cfg.seed + processes.rank)  # equal weights everywhere, dropout of each process's own
    selector = Selector(cfg.engine.select, run_metrics(cfg, model), cfg.engine.references)
    run = TrainingRun(
        cfg=cfg,
        device=device,
        description=description,
        data={role: fingerprint(one, needs) for role, one in readers.items()} if processes.first else {},
        training=training_set(cfg, model, readers["train"], processes.world),
        judging={role: judged_set(model, reader) for role, reader in readers.items() if role != "train"},
        slices={},
        selector=selector,
        patience=_patience(cfg, selector),
        repeats=image_repeats(cfg, readers["train"]),
        processes=processes,
        interruption=interruption,
        fault=parse_fault(cfg.debug.fault),
        stages=stages,
        freezing=freezing(cfg, stages),
    )
    if cfg.engine.train_slice and "val" in readers:
        places = slice_places(len(readers["train"]), cfg.engine.train_slice, cfg.seed)
        picked = Picked(readers["train"], places)
        run.slices |= {CLEAN: judged_set(model, picked), AUGMENTED: AugmentedSlice(run.training, picked, places)}

    def beginning(folder: Path) -> None:
        write_beginning(folder, cfg, device)
        write_data_account(folder, opened)
        report_weights(taken, cfg.weights, folder)
        for line in told:
            LOGGER.warning(line)

    return run, model, beginning


def _begin_random_numbers(seed: int, *, deterministic: bool) -> None:
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def _fitting_batch(
    cfg: DictConfig,
    model: VisionModel,
    reader: Reader,
    device: torch.device,
    processes: Processes,
) -> int:
    """The batch of `data.batch_size=auto`: that of the run which goes on, or the largest that fits everywhere."""
    earlier = earlier_batch_size(cfg, processes.world)
    if earlier is not None:
        return earlier
    provisional = copy.deepcopy(cfg)
    provisional.data.batch_size = 16
    size = find_batch_size(
        model,
        lambda trial: optimizer(cfg, trial, learning_stages(cfg, trial)),
        training_set(provisional, model, reader),
        device,
        precision=autocast_dtype(cfg.engine.precision, device),
        memory_format=memory_format(cfg.engine.channels_last, device),
    )
    return int(min(processes.gathered(size)))


def _train(run: TrainingRun, trainer: Trainer) -> None:
    """Train and finish, or try rates; after the first step even a UserError is a failure, with another exit code."""
    begun, data = trainer.step, run.cfg.data
    where = Circumstances(
        device=run.device,
        batch_size=data.batch_size,
        canvas=trainer.model.preprocess.canvas,
        workers=loader_workers(data.workers, run.device),
        run_folder=run.folder,
    )
    try:
        with told_in_words(where):
            if run.cfg.engine.find_lr:
                find_learning_rate(trainer, run.folder if run.processes.first else None, run.cfg.optim.lr)
            else:
                trainer.train()
                run.finish(trainer)
    except UserError as error:
        if trainer.step == begun:
            raise
        raise RunError(str(error), code=error.code) from error


def _patience(cfg: DictConfig, selector: Selector) -> Patience:
    engine = cfg.engine
    known = {selector.name, *selector.known}
    if engine.patience is not None and cfg.data.splits.val is None:
        raise ConfigError(
            "engine.patience: nothing is evaluated without data.splits.val; name a split, or leave it out",
            code="keys-contradict",
        )
    return Patience(engine.patience, engine.stop_on or selector.name, engine.min_delta, known)
