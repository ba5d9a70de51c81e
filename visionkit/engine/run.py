"""A whole training run, from a checked configuration to files in a folder."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from visionkit.build import build_metrics, describe_model, label_fields
from visionkit.data import EpochSampler, EvaluationSet, TrainingSet, training_loader
from visionkit.data.fingerprint import Fingerprints, fingerprint
from visionkit.data.loader import Judged, batches
from visionkit.data.train_slice import AugmentedSlice, Picked, slice_places
from visionkit.engine.batch_finder import batch_size_of_run, find_batch_size
from visionkit.engine.checkpoint import load_state, open_checkpoint
from visionkit.engine.checkpoint_saving import flush, save_checkpoint
from visionkit.engine.closing import chance, say_result
from visionkit.engine.device import autocast_dtype, keep_freed_memory, loader_workers, memory_format, share_cores
from visionkit.engine.distributed import Processes
from visionkit.engine.ema import EMA
from visionkit.engine.evaluate import Evaluation, write_evaluation
from visionkit.engine.failures import Circumstances, kept, told_in_words
from visionkit.engine.faults import Fault, parse_fault
from visionkit.engine.freezing import Freezing
from visionkit.engine.interruption import Interruption, Preempted
from visionkit.engine.joining import joined
from visionkit.engine.judging import add_mean, scored, write_result_report
from visionkit.engine.optim import Schedule
from visionkit.engine.patience import Patience
from visionkit.engine.rate_finder import find_learning_rate
from visionkit.engine.recorders import check_recorders
from visionkit.engine.resuming import Resumed, read_start, take_up
from visionkit.engine.run_data import (
    answered,
    augmentation,
    choose_heads,
    first,
    image_repeats,
    judged_set,
    judging_loader,
    open_readers,
    remarks,
    run_steps,
    training_set,
    write_data_account,
)
from visionkit.engine.run_folder import (
    Start,
    choose_run_folder,
    start_logging,
    stop_logging,
    write_beginning,
    write_status,
)
from visionkit.engine.run_lock import run_lock
from visionkit.engine.run_model import begun_model, freezing, learning_stages, optimizer, said_of_norms
from visionkit.engine.select import Selector
from visionkit.engine.tracking import Tracker
from visionkit.engine.trainer import Trainer
from visionkit.engine.verdict import Verdict, verdict
from visionkit.errors import ConfigError, RunError, UserError
from visionkit.interfaces import Metric, Reader
from visionkit.model import VisionModel
from visionkit.stages import Stage
from visionkit.structures import Batch
from visionkit.transfer import report_weights

LOGGER = logging.getLogger("visionkit")
_CLEAN, _AUGMENTED = "train slice", "augmented train slice"
_SECONDS_BETWEEN_SAVES = 10.0
"""Epochs shorter than this share a checkpoint, unless the metric improved or `engine.save_steps` asks for one."""


def train_run(cfg: DictConfig) -> int:
    """Train, evaluate, and write everything into the run folder; return 0, also where a signal ended it early.

    Raises:
        UserError: anything wrong in what the user gave; raised before the run folder is made.
        NonFiniteError: the loss stopped being a number.
    """
    with (
        Interruption(cfg.engine.max_hours) as interruption,
        joined(cfg.device, cfg.engine.timeout) as (
            processes,
            device,
        ),
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
                if cfg.engine.find_lr:
                    find_learning_rate(trainer, run.folder if processes.first else None, cfg.optim.lr)
                else:
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
) -> tuple[_Run, VisionModel, Callable[[Path], None]]:
    """Everything that can be refused, before anything is written: the run, its model, and what writes its beginning."""
    check_recorders(cfg.track)
    share_cores(loader_workers(cfg.data.workers, device), device)
    keep_freed_memory(device)
    opened = open_readers(cfg)
    choose_heads(cfg, opened["train"])
    told = [line for role, reader in opened.items() for line in remarks(role, reader)]
    needs = label_fields(cfg.head.values())
    readers = {role: answered(first(reader, cfg.debug.images), cfg.data, needs) for role, reader in opened.items()}
    description = describe_model(cfg, readers["train"])
    torch.manual_seed(cfg.seed)
    torch.use_deterministic_algorithms(cfg.engine.deterministic, warn_only=True)
    model, fates = begun_model(cfg, description, processes, device)
    stages = learning_stages(cfg, model)
    if cfg.data.batch_size == "auto":
        cfg.data.batch_size = _fitting_batch(cfg, model, readers["train"], device, processes)
        told.append(
            f"data.batch_size=auto: {cfg.data.batch_size} images; the recipe's optim.lr is of another batch size"
        )
    if not processes.first:
        torch.manual_seed(cfg.seed + processes.rank)  # equal weights everywhere, dropout of each process's own
    selector = Selector(cfg.engine.select, _metrics(cfg, model), cfg.engine.references)
    run = _Run(
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
        run.slices |= {_CLEAN: judged_set(model, picked), _AUGMENTED: AugmentedSlice(run.training, picked, places)}

    def beginning(folder: Path) -> None:
        write_beginning(folder, cfg, device)
        write_data_account(folder, opened)
        report_weights(fates, cfg.weights, folder)
        for line in told:
            LOGGER.warning(line)

    return run, model, beginning


def _fitting_batch(
    cfg: DictConfig,
    model: VisionModel,
    reader: Reader,
    device: torch.device,
    processes: Processes,
) -> int:
    """The batch of `data.batch_size=auto`: that of the run which goes on, or the largest that fits everywhere."""
    if cfg.resume != "none":
        earlier = batch_size_of_run(cfg.run_dir if cfg.resume == "auto" else cfg.resume)
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


def _train(run: _Run, trainer: Trainer) -> None:
    """Train and finish; after the first step even a UserError is a failure of the run, with another exit code."""
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
            trainer.train()
            run.finish(trainer)
    except UserError as error:
        if trainer.step == begun:
            raise
        raise RunError(str(error)) from error


@dataclass(kw_only=True)
class _Run:
    """What the end of an epoch and the end of a run need to know."""

    cfg: DictConfig
    device: torch.device
    description: Mapping[str, Any]
    data: Fingerprints
    training: TrainingSet
    judging: Mapping[str, EvaluationSet]
    slices: dict[str, Judged]
    selector: Selector
    patience: Patience
    repeats: np.ndarray | None
    processes: Processes
    interruption: Interruption
    fault: Fault
    stages: Mapping[str, Stage]
    freezing: Freezing
    folder: Path = Path()
    best: float = -math.inf
    best_step: int = 0
    saved_at: float = -math.inf
    saved: int = 0
    saved_step: int | None = None
    loaders: dict[str, DataLoader[Batch]] = field(default_factory=dict)

    def trainer(self, model: VisionModel) -> Trainer:
        cfg = self.cfg
        engine = cfg.engine
        if self.device.type == "cuda":
            # Trying out every convolution took 10 s longer than it saved in a run of 1,000 steps on an H200.
            torch.backends.cudnn.benchmark = False
        model.to(self.device).use_memory_format(memory_format(engine.channels_last, self.device))
        steps_per_epoch, total_steps = run_steps(cfg, len(self.training), self.processes.world)
        ema = _ema(model, engine.ema.decay, engine.ema.warmup, total_steps)
        if engine.compile:
            model.compile()
        return Trainer(
            model=model,
            optimizer=optimizer(cfg, model, self.stages),
            schedule=_schedule(cfg, total_steps),
            ema=ema,
            batches=self.batches(0),
            mix=augmentation(cfg, model).batch_mix,
            device=self.device,
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
            tracker=Tracker(
                self.folder if self.processes.first else None,
                total_steps=total_steps,
                headline=self.selector.name,
                track=cfg.track,
            ),
            end_of_epoch=self.end_of_epoch,
            save=self.save_if_new,
            processes=self.processes,
            interruption=self.interruption,
            fault=self.fault,
            freezing=self.freezing,
            accumulate=engine.accumulate,
            clip_norm=engine.clip_norm or 0.0,
            precision=autocast_dtype(engine.precision, self.device),
            save_steps=engine.save_steps,
            log_steps=engine.log_steps,
            max_bad_steps=engine.max_bad_steps,
        )

    def batches(self, step: int) -> Iterator[Batch]:
        """The endless batches from optimizer step `step` on."""
        cfg = self.cfg
        start = step * cfg.engine.accumulate
        segments = getattr(self.training.reader, "segments", None)
        sampler = EpochSampler(
            len(self.training),
            cfg.data.batch_size,
            seed=cfg.seed,
            rank=self.processes.rank,
            world=self.processes.world,
            start=start,
            segments=segments,
            repeats=self.repeats,
        )
        workers = loader_workers(cfg.data.workers, self.device)
        loader = training_loader(
            self.training, sampler, workers=workers, device=self.device, timeout=cfg.engine.timeout
        )
        return batches(loader)

    def announce(self, trainer: Trainer) -> None:
        parameters, world = sum(p.numel() for p in trainer.model.parameters()), self.processes.world
        judged = ", ".join(f"{len(judged)} {role}" for role, judged in self.judging.items())
        LOGGER.info(f"run {self.folder}: {len(self.training)} training images, {judged or 'none to evaluate on'}")
        batch, each = self.cfg.data.batch_size, f"batch {self.cfg.data.batch_size * trainer.accumulate * world}"
        if trainer.accumulate > 1 or world > 1:
            each += f" ({batch} images x {trainer.accumulate} accumulated x {world} processes)"
        LOGGER.info(
            f"{parameters / 1e6:.2f} M parameters on {self.device} in {str(trainer.precision).removeprefix('torch.')}, "
            f"steps {trainer.step} to {trainer.total_steps}, {trainer.steps_per_epoch} an epoch, {each}, "
            f"highest rate {self.cfg.optim.lr:g}"
        )
        said = said_of_norms(trainer.model, batch, self.processes)
        if said is not None:
            LOGGER.info(said)

    def resume(self, trainer: Trainer, start: Start) -> None:
        """Take up a checkpoint; the first process reads it for all.

        Raises:
            CheckpointError: what was saved does not fit what was changed.
        """
        with self.processes.together():
            read = read_start(start, self.folder) if self.processes.first else None
        resumed: Resumed = self.processes.told(read)
        take_up(trainer, resumed)
        trainer.step = self.saved_step = resumed.step
        trainer.batches = self.batches(resumed.step)
        self.best, self.best_step = resumed.best, resumed.best_step
        LOGGER.info(f"resumed {resumed.folder}")
        trainer.tracker.begin(resumed.step, epoch_due=resumed.evaluation_due)
        self.patience.load_state(resumed.patience)
        if resumed.evaluation_due:
            self.end_of_epoch(trainer)
        elif self.patience.spent:
            trainer.total_steps = trainer.step

    def end_of_epoch(self, trainer: Trainer) -> None:
        epochs = math.ceil(trainer.total_steps / trainer.steps_per_epoch)
        epoch = math.ceil(trainer.step / trainer.steps_per_epoch)
        last = trainer.step == trainer.total_steps
        numbers: dict[str, float] = {}
        train: dict[str, float] = {}
        judged = "val" in self.judging
        is_best = not judged
        if judged and (last or epoch % self.cfg.engine.evaluate_every == 0):
            try:
                numbers = self.evaluated(trainer, "val").numbers
                train = self.main_numbers(trainer, _CLEAN)
            except Preempted:
                self.save(trainer, evaluation_due=True)
                raise
            value = numbers[self.selector.name]
            # Without any number yet (val has nothing to find, say) the last is the best.
            is_best = value > self.best or (math.isnan(value) and math.isinf(self.best))
            self.best = value if value > self.best else self.best
            self.patience.see(numbers)
        self.best_step = trainer.step if is_best else self.best_step
        # Before the checkpoint: a resumed run cuts off the lines past its checkpoint, and cannot add missing ones.
        trainer.tracker.log_epoch(trainer.step, epoch, epochs, numbers, train)
        if self.patience.spent and not last:
            LOGGER.info(
                f"{self.patience.name} has not risen for {self.patience.without} evaluations: the run ends here"
            )
            trainer.total_steps, last = trainer.step, True
        long_ago = time.monotonic() - self.saved_at > _SECONDS_BETWEEN_SAVES
        if self.processes.told(last or (judged and is_best) or long_ago):
            self.save(trainer, best=is_best)

    def save_if_new(self, trainer: Trainer) -> None:
        """Save, unless the checkpoint of this step is there."""
        if self.saved_step != trainer.step:
            self.save(trainer)

    def save(self, trainer: Trainer, *, best: bool = False, evaluation_due: bool = False) -> None:
        """Write a checkpoint.

        evaluation_due: an epoch ends with this step, and whoever goes on from here has to score it first.
        """
        for model in (trainer.model, trainer.ema.model):
            self.processes.share_buffers(model)
        training = trainer.state()
        with self.processes.together():
            if self.processes.first:
                self._write_checkpoint(trainer, training, best=best, evaluation_due=evaluation_due)
        self.saved_at, self.saved_step = time.monotonic(), trainer.step
        self.saved += 1

    def _write_checkpoint(
        self, trainer: Trainer, training: Mapping[str, Any], *, best: bool, evaluation_due: bool
    ) -> None:
        if (self.folder / "metrics.jsonl").is_file():
            flush(self.folder / "metrics.jsonl")  # a checkpoint without its lines could not be gone on from exactly
        save_checkpoint(
            self.folder,
            step=trainer.step,
            model=trainer.model,
            ema=trainer.ema.model,
            description=self.description,
            state={
                "epoch": trainer.epoch,
                "best": None if math.isinf(self.best) else self.best,
                "best_step": self.best_step,
                "evaluation_due": evaluation_due,
                "processes": self.processes.world,
                "patience": self.patience.state(),
                "data": self.data,
            },
            training=training,
            config=OmegaConf.to_yaml(self.cfg, resolve=True),
            best=best,
            half_written=functools.partial(self.fault.on_checkpoint, self.saved),
        )

    def evaluated(self, trainer: Trainer, role: str, *, folder: Path | None = None) -> Evaluation:
        """Score the EMA weights on a role's split.

        Raises:
            Preempted: the run was asked to end.
        """
        judged, model = {**self.judging, **self.slices}[role], cast(VisionModel, trainer.ema.model)
        self.processes.share_buffers(model)
        if role not in self.loaders:  # kept, so that its worker processes start once
            self.loaders[role] = judging_loader(
                judged, self.cfg.data, self.device, self.processes, timeout=self.cfg.engine.timeout
            )
        metrics = _metrics(self.cfg, model)
        result = scored(
            model,
            self.loaders[role],
            judged,
            self.device,
            metrics,
            folder=folder,
            processes=self.processes,
            stop=self._stop_evaluation,
        )
        add_mean(result, self.selector)
        return result

    def main_numbers(self, trainer: Trainer, part: str) -> dict[str, float]:
        """The headlines, and the number that chooses the best checkpoint, on a slice of the training images."""
        if part not in self.slices:
            return {}
        numbers = self.evaluated(trainer, part).numbers
        return {name: numbers[name] for name in dict.fromkeys([self.selector.name, *self.selector.references])}

    def _stop_evaluation(self) -> str | None:
        self.fault.on_evaluation()
        return self.interruption.reason

    def write_status(self, status: str, **more: Any) -> None:
        """Write status.json, where this process speaks for the run."""
        if self.processes.first:
            write_status(self.folder, status, **more)

    def finish(self, trainer: Trainer) -> None:
        """Score the EMA weights of the best checkpoint, write the final numbers, and say them."""
        with self.processes.together():
            best = open_checkpoint(self.folder, "best") if self.processes.first else None
            read = None if best is None else (best.weights("ema"), best.folder)
        load_state(trainer.ema.model, *self.processes.told(read))
        role = next((role for role in ("test", "val") if role in self.judging), None)
        result = self.evaluated(trainer, role, folder=self.folder) if role else Evaluation()
        judgement = self.judgement(trainer)
        split = self.cfg.data.splits[role] if role else "none"
        if not self.processes.first:
            return
        write_evaluation(result, self.folder, split=split, verdict=judgement)
        model = cast(VisionModel, trainer.ema.model)
        write_result_report(self.folder, result, model, self.judging[role] if role else None)
        say_result(
            result,
            split,
            self.folder,
            seconds=trainer.tracker.training_seconds,
            verdict=judgement,
            selector=self.selector,
            classes=model.classes,
            bad_steps=trainer.bad_steps,
        )

    def judgement(self, trainer: Trainer) -> Verdict | None:
        """Whether the EMA weights, those of the best checkpoint, underfit or overfit; None where that is not known."""
        if not self.slices or math.isinf(self.best):
            return None
        name = self.selector.name
        train, augmented = (self.main_numbers(trainer, part)[name] for part in (_CLEAN, _AUGMENTED))
        guess = chance(name, self.selector, trainer.model.classes)
        return verdict(name, train=train, augmented=augmented, val=self.best, chance=guess)


# ------------------------------------------------------------------------------------------------------------ the parts
def _patience(cfg: DictConfig, selector: Selector) -> Patience:
    engine = cfg.engine
    known = {selector.name, *selector.known}
    if engine.patience is not None and cfg.data.splits.val is None:
        raise ConfigError(
            "engine.patience: nothing is evaluated without data.splits.val; name a split, or leave it out"
        )
    return Patience(engine.patience, engine.stop_on or selector.name, engine.min_delta, known)


def _schedule(cfg: DictConfig, total_steps: int) -> Schedule:
    given = cfg.schedule.warmup_steps
    warmup = math.ceil(cfg.schedule.warmup * total_steps) if given is None else given
    flat = {} if cfg.schedule.flat is None else {"flat": cfg.schedule.flat}
    return Schedule(cfg.schedule.name, total_steps=total_steps, warmup_steps=warmup, final=cfg.schedule.final, **flat)


def _metrics(cfg: DictConfig, model: VisionModel) -> dict[str, Metric]:
    return build_metrics(model, voc_ap=cfg.engine.voc_ap, class_numbers=cfg.metrics)


def _ema(model: VisionModel, decay: float, warmup: float, total_steps: int) -> EMA:
    """A short run averages over less: a quarter of its steps at most, reached within its first tenth."""
    return EMA(model, decay=max(0.0, min(decay, 1 - 4 / total_steps)), warmup=max(1.0, min(warmup, total_steps / 10)))
