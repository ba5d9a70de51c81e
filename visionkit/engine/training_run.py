"""What a run does around its training steps: its batches and trainer, ends of epochs, checkpoints, its last numbers."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from visionkit.build import build_metrics
from visionkit.data import EpochSampler, EvaluationSet, TrainingSet, training_loader
from visionkit.data.fingerprint import Fingerprints
from visionkit.data.loader import Judged, batches
from visionkit.engine.checkpoint import load_state, open_checkpoint
from visionkit.engine.checkpoint_saving import flush, save_checkpoint
from visionkit.engine.closing import chance, say_result
from visionkit.engine.device import autocast_dtype, cores, loader_workers, memory_format
from visionkit.engine.distributed import Processes
from visionkit.engine.ema import EMA
from visionkit.engine.evaluate import Evaluation, write_evaluation
from visionkit.engine.faults import Fault
from visionkit.engine.freezing import Freezing
from visionkit.engine.graphs import can_record
from visionkit.engine.interruption import Interruption, Preempted
from visionkit.engine.judging import add_mean, scored
from visionkit.engine.optim import Schedule
from visionkit.engine.patience import Patience
from visionkit.engine.reporting import first_batches, write_result_report
from visionkit.engine.resuming import Resumed, read_start, take_up
from visionkit.engine.run_data import augmentation, judging_loader, run_steps
from visionkit.engine.run_folder import Start, write_status
from visionkit.engine.run_model import optimizer, said_of_norms
from visionkit.engine.select import Selector
from visionkit.engine.tracking import Tracker
from visionkit.engine.trainer import Trainer
from visionkit.engine.verdict import Verdict, verdict
from visionkit.engine.waiting import Loading
from visionkit.interfaces import Metric
from visionkit.model import VisionModel
from visionkit.stages import Stage
from visionkit.structures import Batch

LOGGER = logging.getLogger("visionkit")
CLEAN, AUGMENTED = "train slice", "augmented train slice"
"""Keys of `TrainingRun.slices`."""
_SECONDS_BETWEEN_SAVES = 10.0
"""Epochs shorter than this share a checkpoint, unless the metric improved or `engine.save_steps` asks for one."""


@dataclass(kw_only=True)
class TrainingRun:
    """What happens around the training steps, and what it takes; built by `visionkit.engine.run`.

    Attributes:
        description: of the model (`visionkit.build.describe_model`).
        data: fingerprints by role; of the first process alone.
        judging: the set of each role that is scored: "val", "test".
        slices: training images that are scored beside them, as `CLEAN` and `AUGMENTED`; none where nobody asks.
        repeats: see `visionkit.engine.run_data.image_repeats`.
        folder: set once the run has one.
        best: the highest number of the evaluations so far, and best_step its step.
        saved_at: when the last checkpoint was written, by the monotonic clock, and saved_step its step.
        saved: how many were written.
        loaders: of what is scored, by name; kept, so that their processes start once.
    """

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
        """The loop with all that it works with, at step 0; moves the model to the device."""
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
                device=self.device,
                loading=Loading(
                    workers=loader_workers(cfg.data.workers, self.device),
                    cores=cores(),
                    cache=cfg.data.cache,
                    reduced_decoding=cfg.data.reduced_decoding == "auto",
                ),
            ),
            end_of_epoch=self.end_of_epoch,
            save=self.save_if_new,
            graphs=not engine.compile and can_record(engine.cuda_graphs, model, self.device),
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
        sampler = self.sampler(step * self.cfg.engine.accumulate)
        workers = loader_workers(self.cfg.data.workers, self.device)
        loader = training_loader(
            self.training, sampler, workers=workers, device=self.device, timeout=self.cfg.engine.timeout
        )
        return batches(loader)

    def sampler(self, start: int) -> EpochSampler:
        """The places of this process's batches, from batch `start` on."""
        return EpochSampler(
            len(self.training),
            self.cfg.data.batch_size,
            seed=self.cfg.seed,
            rank=self.processes.rank,
            world=self.processes.world,
            start=start,
            segments=getattr(self.training.reader, "segments", None),
            repeats=self.repeats,
        )

    def announce(self, trainer: Trainer) -> None:
        """Say what is about to be trained, and how."""
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
        """Evaluate if it is time, write the epoch's line, and save if that is worth it."""
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
                train = self.main_numbers(trainer, CLEAN)
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
        if role not in self.loaders:
            self.loaders[role] = judging_loader(
                judged, self.cfg.data, self.device, self.processes, timeout=self.cfg.engine.timeout
            )
        metrics = run_metrics(self.cfg, model)
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
        judged = self.judging[role] if role else None
        first = functools.partial(first_batches, self.training, self.sampler(0), trainer.mix)
        write_result_report(self.folder, result, model, judged, role, self.training, first)
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
        train, augmented = (self.main_numbers(trainer, part)[name] for part in (CLEAN, AUGMENTED))
        guess = chance(name, self.selector, trainer.model.classes)
        return verdict(name, train=train, augmented=augmented, val=self.best, chance=guess)


def run_metrics(cfg: DictConfig, model: VisionModel) -> dict[str, Metric]:
    """The metrics of all heads, as a run asks for them; fresh ones each time."""
    return build_metrics(model, voc_ap=cfg.engine.voc_ap, class_numbers=cfg.metrics, own=cfg.metric)


def _schedule(cfg: DictConfig, total_steps: int) -> Schedule:
    given = cfg.schedule.warmup_steps
    warmup = math.ceil(cfg.schedule.warmup * total_steps) if given is None else given
    flat = {} if cfg.schedule.flat is None else {"flat": cfg.schedule.flat}
    return Schedule(cfg.schedule.name, total_steps=total_steps, warmup_steps=warmup, final=cfg.schedule.final, **flat)


def _ema(model: VisionModel, decay: float, warmup: float, total_steps: int) -> EMA:
    """A short run averages over less: a quarter of its steps at most, reached within its first tenth."""
    return EMA(model, decay=max(0.0, min(decay, 1 - 4 / total_steps)), warmup=max(1.0, min(warmup, total_steps / 10)))
