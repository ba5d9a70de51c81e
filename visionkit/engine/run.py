"""A whole training run, from a checked configuration to files in a folder."""

from __future__ import annotations

import contextlib
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
from torch import Tensor
from torch.utils.data import DataLoader

from visionkit.build import backbone_weights, build_metrics, build_model, describe_model, label_fields
from visionkit.data import EpochSampler, EvaluationSet, TrainingSet, training_loader
from visionkit.data.loader import batches
from visionkit.engine.checkpoint import load_state, open_checkpoint, save_checkpoint
from visionkit.engine.device import autocast_dtype, keep_freed_memory, loader_workers, memory_format, share_cores
from visionkit.engine.distributed import Processes, joined
from visionkit.engine.ema import EMA
from visionkit.engine.evaluate import Evaluation, write_evaluation
from visionkit.engine.failures import Circumstances, told_in_words
from visionkit.engine.faults import Fault, parse_fault
from visionkit.engine.interruption import Interruption, Preempted
from visionkit.engine.judging import add_mean, scored, write_result_report
from visionkit.engine.optim import Schedule, create_optimizer
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
from visionkit.engine.run_folder import choose_run_folder, start_logging, stop_logging, write_beginning, write_status
from visionkit.engine.select import Selector
from visionkit.engine.tracking import Tracker
from visionkit.engine.trainer import Trainer
from visionkit.errors import RunError, UserError, listed
from visionkit.model import VisionModel
from visionkit.structures import Batch

LOGGER = logging.getLogger("visionkit")
_LEARNED_NOTHING = 0.02
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
    ):
        with processes.together():
            run, model, beginning = _prepared(cfg, processes, device, interruption)
        with processes.together():
            chosen = choose_run_folder(cfg) if processes.first else None
        run.folder, continued = processes.told(chosen)
        if processes.first:
            start_logging(run.folder)
        try:
            with processes.together():
                if processes.first:
                    beginning(run.folder)
                trainer = run.trainer(model)
            if continued:
                run.resume(trainer)
            else:
                trainer.tracker.begin(0)
            run.announce(trainer)
            _train(run, trainer)
            run.write_status("finished", step=trainer.step)
        except Preempted as reason:
            LOGGER.info(f"ended by {reason} after step {trainer.step}; resume={run.folder} goes on from there")
            run.write_status("preempted", step=trainer.step, reason=str(reason))
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
    model = build_model(description, weights=backbone_weights(cfg.weights), allow=None)
    if not processes.first:
        torch.manual_seed(cfg.seed + processes.rank)  # equal weights everywhere, dropout of each process's own
    run = _Run(
        cfg=cfg,
        device=device,
        description=description,
        training=training_set(cfg, model, readers["train"], processes.world),
        judging={role: judged_set(model, reader) for role, reader in readers.items() if role != "train"},
        selector=Selector(cfg.engine.select, build_metrics(model, voc_ap=cfg.engine.voc_ap), cfg.engine.references),
        repeats=image_repeats(cfg, readers["train"]),
        processes=processes,
        interruption=interruption,
        fault=parse_fault(cfg.debug.fault),
    )

    def beginning(folder: Path) -> None:
        write_beginning(folder, cfg, device)
        write_data_account(folder, opened)
        for line in told:
            LOGGER.warning(line)

    return run, model, beginning


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
    training: TrainingSet
    judging: Mapping[str, EvaluationSet]
    selector: Selector
    repeats: np.ndarray | None
    processes: Processes
    interruption: Interruption
    fault: Fault
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
        optimizer = create_optimizer(
            cfg.optim.name,
            model,
            lr=cfg.optim.lr,
            weight_decay=cfg.optim.weight_decay,
            momentum=cfg.optim.momentum or 0.0,
            betas=tuple(cfg.optim.betas or (0.9, 0.999)),
        )
        steps_per_epoch, total_steps = run_steps(cfg, len(self.training), self.processes.world)
        ema = _ema(model, engine.ema.decay, engine.ema.warmup, total_steps)
        if engine.compile:
            model.compile()
        return Trainer(
            model=model,
            optimizer=optimizer,
            schedule=_schedule(cfg, total_steps),
            ema=ema,
            batches=self.batches(0),
            mix=augmentation(cfg, model).batch_mix,
            device=self.device,
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
            tracker=Tracker(
                self.folder if self.processes.first else None, total_steps=total_steps, headline=self.selector.name
            ),
            end_of_epoch=self.end_of_epoch,
            save=self.save_if_new,
            processes=self.processes,
            interruption=self.interruption,
            fault=self.fault,
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
        return batches(training_loader(self.training, sampler, workers=workers, device=self.device))

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

    def resume(self, trainer: Trainer) -> None:
        """Take up the last checkpoint; the first process reads it for all."""
        with self.processes.together():
            read = _read(self.folder, "last") if self.processes.first else None
        folder, step, state, weights, training = self.processes.told(read)
        load_state(trainer.model, weights["model"], folder)
        load_state(trainer.ema.model, weights["ema"], folder)
        trainer.load_state(training)
        trainer.step = self.saved_step = step
        trainer.batches = self.batches(step)
        self.best, self.best_step = (-math.inf if state["best"] is None else state["best"]), state["best_step"]
        LOGGER.info(f"resumed {folder}")
        due = state["evaluation_due"]
        trainer.tracker.begin(step, epoch_due=due)
        if due:
            self.end_of_epoch(trainer)

    def end_of_epoch(self, trainer: Trainer) -> None:
        epochs = math.ceil(trainer.total_steps / trainer.steps_per_epoch)
        epoch = math.ceil(trainer.step / trainer.steps_per_epoch)
        last = trainer.step == trainer.total_steps
        numbers: dict[str, float] = {}
        judged = "val" in self.judging
        is_best = not judged
        if judged and (last or epoch % self.cfg.engine.evaluate_every == 0):
            try:
                numbers = self.evaluated(trainer, "val").numbers
            except Preempted:
                self.save(trainer, evaluation_due=True)
                raise
            value = numbers[self.selector.name]
            # Without any number yet (val has nothing to find, say) the last is the best.
            is_best = value > self.best or (math.isnan(value) and math.isinf(self.best))
            self.best = value if value > self.best else self.best
        self.best_step = trainer.step if is_best else self.best_step
        # Before the checkpoint: a resumed run cuts off the lines past its checkpoint, and cannot add missing ones.
        trainer.tracker.log_epoch(trainer.step, epoch, epochs, numbers)
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
        judged, model = self.judging[role], cast(VisionModel, trainer.ema.model)
        self.processes.share_buffers(model)
        if role not in self.loaders:  # kept, so that its worker processes start once
            self.loaders[role] = judging_loader(judged, self.cfg.data, self.device, self.processes)
        metrics = build_metrics(model, voc_ap=self.cfg.engine.voc_ap)
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
            read = _read(self.folder, "best") if self.processes.first else None
        folder, _, _, weights, _ = self.processes.told(read)
        load_state(trainer.ema.model, weights["ema"], folder)
        role = next((role for role in ("test", "val") if role in self.judging), None)
        result = self.evaluated(trainer, role, folder=self.folder) if role else Evaluation()
        split = self.cfg.data.splits[role] if role else "none"
        if self.processes.first:
            write_evaluation(result, self.folder, split=split)
            judged = self.judging[role] if role else None
            write_result_report(self.folder, result, cast(VisionModel, trainer.ema.model), judged)
            self._say(result, split, trainer)

    def _say(self, result: Evaluation, split: str, trainer: Trainer) -> None:
        shown = "  ".join(
            f"{name} {value:.4f}"
            for name, value in result.numbers.items()
            if not math.isnan(value) and name.count("/") == 1  # those of single classes are in metrics.json
        )
        LOGGER.info(f"{split}: {shown}")
        absent = result.absent()
        for reason in dict.fromkeys(absent.values()):
            LOGGER.info(f"n/a ({reason}): {listed([name for name in absent if absent[name] == reason])}")
        LOGGER.info(f"{trainer.tracker.training_seconds:.1f} s of training; everything is in {self.folder}")
        low = [name for name in self.selector.references if result.numbers.get(name, 1.0) < _LEARNED_NOTHING]
        if low:
            LOGGER.warning(
                f"this run learned nothing ({listed(low)} under {_LEARNED_NOTHING}): look at the labels "
                "(tools/check_data.py), train longer (engine.epochs), or lower optim.lr"
            )


# ------------------------------------------------------------------------------------------------------------ the parts
def _read(folder: Path, link: str) -> tuple[Path, int, dict[str, Any], dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Of a run's checkpoint its folder, step, state, weights and training state."""
    checkpoint = open_checkpoint(folder, link)
    weights = {name: checkpoint.weights(name) for name in ("model", "ema")}
    return checkpoint.folder, checkpoint.step, checkpoint.state, weights, checkpoint.training_state()


def _schedule(cfg: DictConfig, total_steps: int) -> Schedule:
    given = cfg.schedule.warmup_steps
    warmup = math.ceil(cfg.schedule.warmup * total_steps) if given is None else given
    flat = {} if cfg.schedule.flat is None else {"flat": cfg.schedule.flat}
    return Schedule(cfg.schedule.name, total_steps=total_steps, warmup_steps=warmup, final=cfg.schedule.final, **flat)


def _ema(model: VisionModel, decay: float, warmup: float, total_steps: int) -> EMA:
    """A short run averages over less: a quarter of its steps at most, reached within its first tenth."""
    return EMA(model, decay=max(0.0, min(decay, 1 - 4 / total_steps)), warmup=max(1.0, min(warmup, total_steps / 10)))
