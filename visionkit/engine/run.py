"""Whole runs, from a checked configuration to files in a folder: training, and evaluation of a checkpoint."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from visionkit.build import backbone_weights, build_metrics, build_model, build_reader, category_ids, describe_model
from visionkit.config import evaluation_data
from visionkit.data import Augment, EpochSampler, EvaluationSet, Mosaic, TrainingSet, evaluation_loader, training_loader
from visionkit.data.loader import batches
from visionkit.data.readers.first import First
from visionkit.data.validate import class_warnings, fast_check, report
from visionkit.engine.checkpoint import load_model, load_state, open_checkpoint, save_checkpoint
from visionkit.engine.device import autocast_dtype, channels_last_pays, resolve_device
from visionkit.engine.ema import EMA
from visionkit.engine.evaluate import Evaluation, evaluate, write_evaluation
from visionkit.engine.optim import Schedule, create_optimizer
from visionkit.engine.run_folder import (
    choose_run_folder,
    numbered_folder,
    start_logging,
    write_beginning,
    write_status,
)
from visionkit.engine.tracking import Tracker
from visionkit.engine.trainer import Trainer
from visionkit.errors import ConfigError, DataError
from visionkit.interfaces import Reader
from visionkit.model import VisionModel
from visionkit.report.plots import plot_curves

LOGGER = logging.getLogger("visionkit")
_LEARNED_NOTHING = 0.02


def train_run(cfg: DictConfig) -> int:
    """Train, evaluate, and write everything into the run folder; return 0.

    Raises:
        UserError: anything wrong in what the user gave; raised before the run folder is made.
        NonFiniteError: the loss stopped being a number.
    """
    device = resolve_device(cfg.device)
    readers = {role: _open(cfg, role) for role in ("train", "val", "test") if cfg.data.splits[role] is not None}
    description = describe_model(cfg, readers["train"])
    torch.manual_seed(cfg.seed)
    if cfg.engine.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    model = build_model(description, weights=backbone_weights(cfg.weights), allow=None)
    training, judging = _data_sets(cfg, model, readers)

    folder, continued = choose_run_folder(cfg)
    start_logging(folder)
    try:
        write_beginning(folder, cfg, device)
        run = _Run(cfg, folder, device, description, judging, category_ids(model, readers["train"]))
        trainer = run.trainer(model, training)
        if continued:
            run.resume(trainer)
        run.announce(trainer, training)
        trainer.tracker.begin(trainer.step)
        trainer.train()
        run.finish(trainer)
    except KeyboardInterrupt:
        write_status(folder, "interrupted")
        raise
    except Exception as error:
        write_status(folder, "failed", error=str(error))
        raise
    write_status(folder, "finished", step=trainer.step)
    return 0


def evaluate_run(cfg: DictConfig) -> int:
    """Score a checkpoint on a split, write metrics.json and predictions.json, print the numbers; return 0."""
    device = resolve_device(cfg.device)
    checkpoint = open_checkpoint(cfg.checkpoint)
    model = load_model(checkpoint.folder).to(device)
    trained = OmegaConf.load(checkpoint.folder / "config.yaml")
    data = evaluation_data(trained.data, cfg.data)
    role = data.split or ("test" if data.splits.test is not None else "val")
    # A reader named by the checkpoint is data and passes the fence; one that the user names is code of the user's.
    reader = build_reader(data, role, allow=None if "reader" in cfg.data else ())
    reader = reader if cfg.debug.images is None else First(reader, cfg.debug.images)
    judged = _judged(model, reader)
    folder = Path(cfg.run_dir) if cfg.run_dir else numbered_folder(Path("runs") / "evaluate", trained.name)
    folder.mkdir(parents=True, exist_ok=True)
    model.use_memory_format(_memory_format(trained.engine.channels_last, model, device))
    result = _evaluated(model, judged, data, device, category_ids(model, reader))
    write_evaluation(result, folder, split=data.splits.get(role, role))
    for name, value in result.numbers.items():
        print(f"{name:<32} {value:.4f}" if not math.isnan(value) else f"{name:<32} n/a ({result.reasons.get(name)})")
    print(f"written to {folder}")
    return 0


@dataclass
class _Run:
    """What the end of an epoch and the end of a run need to know."""

    cfg: DictConfig
    folder: Path
    device: torch.device
    description: Mapping[str, Any]
    judging: Mapping[str, EvaluationSet]
    category_ids: Mapping[str, list[int | str]]
    best: float = -math.inf
    best_step: int = 0

    def trainer(self, model: VisionModel, training: TrainingSet) -> Trainer:
        cfg = self.cfg
        engine = cfg.engine
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = not engine.deterministic
        model.to(self.device).use_memory_format(_memory_format(engine.channels_last, model, self.device))
        optimizer = create_optimizer(
            cfg.optim.name,
            model,
            lr=cfg.optim.lr,
            weight_decay=cfg.optim.weight_decay,
            momentum=cfg.optim.momentum or 0.0,
            betas=tuple(cfg.optim.betas or (0.9, 0.999)),
        )
        steps_per_epoch, total_steps = _steps(cfg, len(training))
        self._loading = {"dataset": training, "workers": _workers(cfg.data.workers, self.device), "device": self.device}
        ema = EMA(model, decay=engine.ema.decay, warmup=engine.ema.warmup)
        if engine.compile:
            model.compile()
        return Trainer(
            model=model,
            optimizer=optimizer,
            schedule=_schedule(cfg, total_steps),
            ema=ema,
            batches=self._batches(0),
            device=self.device,
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
            tracker=Tracker(self.folder, total_steps=total_steps, headline=self.headline(model)),
            end_of_epoch=self.end_of_epoch,
            save=self.save,
            accumulate=engine.accumulate,
            clip_norm=engine.clip_norm or 0.0,
            precision=autocast_dtype(engine.precision, self.device),
            save_steps=engine.save_steps,
            log_steps=engine.log_steps,
            max_bad_steps=engine.max_bad_steps,
        )

    def _batches(self, step: int) -> Iterator:
        cfg = self.cfg
        sampler = EpochSampler(
            len(self._loading["dataset"]),
            cfg.data.batch_size,
            seed=cfg.seed,
            start=step * cfg.engine.accumulate,
        )
        return batches(training_loader(self._loading["dataset"], sampler, **{k: self._loading[k] for k in ("workers", "device")}))

    def headline(self, model: VisionModel) -> str:
        """The "head/metric" that selects the best checkpoint; of several heads the first one's."""
        name, metric = next(iter(build_metrics(model).items()))
        return f"{name}/{metric.headline}"

    def announce(self, trainer: Trainer, training: TrainingSet) -> None:
        parameters = sum(p.numel() for p in trainer.model.parameters())
        judged = ", ".join(f"{len(judged)} {role}" for role, judged in self.judging.items())
        LOGGER.info(f"run {self.folder}: {len(training)} training images, {judged or 'none to evaluate on'}")
        LOGGER.info(
            f"{parameters / 1e6:.2f} M parameters on {self.device} in {str(trainer.precision).removeprefix('torch.')}, "
            f"steps {trainer.step} to {trainer.total_steps}, {trainer.steps_per_epoch} an epoch, batch "
            f"{self.cfg.data.batch_size * trainer.accumulate}"
        )

    def resume(self, trainer: Trainer) -> None:
        checkpoint = open_checkpoint(self.folder, "last")
        load_state(trainer.model, checkpoint.weights("model"), checkpoint.folder)
        load_state(trainer.ema.model, checkpoint.weights("ema"), checkpoint.folder)
        trainer.load_state(checkpoint.training_state())
        trainer.step = checkpoint.step
        trainer.batches = self._batches(trainer.step)
        best = checkpoint.state["best"]
        self.best, self.best_step = (-math.inf if best is None else best), checkpoint.state["best_step"]
        LOGGER.info(f"resumed {checkpoint.folder}")

    def end_of_epoch(self, trainer: Trainer) -> None:
        trainer.tracker.training_pauses()
        epochs = math.ceil(trainer.total_steps / trainer.steps_per_epoch)
        epoch = math.ceil(trainer.step / trainer.steps_per_epoch)
        last = trainer.step == trainer.total_steps
        numbers: dict[str, float] = {}
        is_best = "val" not in self.judging
        if not is_best and (last or epoch % self.cfg.engine.evaluate_every == 0):
            numbers = self.evaluated(trainer.ema.model, "val").numbers
            value = numbers[trainer.tracker.headline]
            is_best = value > self.best
            self.best = value if is_best else self.best
        self.best_step = trainer.step if is_best else self.best_step
        self.save(trainer, best=is_best)
        trainer.tracker.log_epoch(trainer.step, epoch, epochs, numbers)

    def save(self, trainer: Trainer, *, best: bool = False) -> None:
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
            },
            training=trainer.state(),
            config=OmegaConf.to_yaml(self.cfg, resolve=True),
            best=best,
        )

    def evaluated(self, model: VisionModel, role: str) -> Evaluation:
        return _evaluated(model, self.judging[role], self.cfg.data, self.device, self.category_ids)

    def finish(self, trainer: Trainer) -> None:
        """Score the EMA weights of the best checkpoint, write the final numbers, and say them."""
        checkpoint = open_checkpoint(self.folder, "best")
        load_state(trainer.ema.model, checkpoint.weights("ema"), checkpoint.folder)
        role = next((role for role in ("test", "val") if role in self.judging), None)
        result = self.evaluated(trainer.ema.model, role) if role else Evaluation()
        split = self.cfg.data.splits[role] if role else "none"
        write_evaluation(result, self.folder, split=split)
        plot_curves(self.folder / "metrics.jsonl", self.folder / "plots")
        shown = "  ".join(f"{name} {value:.4f}" for name, value in result.numbers.items() if not math.isnan(value))
        LOGGER.info(f"{split}: {shown}")
        LOGGER.info(f"{trainer.tracker.training_seconds:.1f} s of training; everything is in {self.folder}")
        if result.numbers.get("detection/AP", 1.0) < _LEARNED_NOTHING:
            LOGGER.warning(
                "this run learned nothing (AP under 0.02): look at the labels (tools/check_data.py), train longer "
                "(engine.epochs), or lower optim.lr"
            )


# ------------------------------------------------------------------------------------------------------------ the parts
def _open(cfg: DictConfig, role: str) -> Reader:
    reader = build_reader(cfg.data, role)
    problems = fast_check(reader)
    if problems:
        raise DataError(report(problems))
    for problem in getattr(reader, "problems", ()):
        LOGGER.warning(f"left out: {problem}")
    if role == "train":
        for warning in class_warnings(reader):
            LOGGER.warning(warning)
    return reader if cfg.debug.images is None else First(reader, cfg.debug.images)


def _data_sets(
    cfg: DictConfig, model: VisionModel, readers: Mapping[str, Reader]
) -> tuple[TrainingSet, dict[str, EvaluationSet]]:
    source = readers["train"]
    lacking = sorted(model.needs - source.fields)
    if lacking:
        raise ConfigError(f"task={cfg.task}: needs {', '.join(lacking)}, but the data knows only {', '.join(sorted(source.fields))}")
    _, total_steps = _steps(cfg, len(source))
    mosaic = Mosaic(model.preprocess.canvas, **cfg.augment.mosaic, fill=model.preprocess.fill)
    training = TrainingSet(
        source,
        model.preprocess,
        classes=_classes(model),
        fields=model.needs,
        epochs=total_steps * cfg.engine.accumulate * cfg.data.batch_size / len(source),
        seed=cfg.seed,
        augment=Augment(OmegaConf.to_container(cfg.augment.transforms, resolve=True)),
        mosaic=mosaic if mosaic.p > 0 else None,
        cache=cfg.data.cache,
    )
    judging = {role: _judged(model, reader) for role, reader in readers.items() if role != "train"}
    return training, judging


def _judged(model: VisionModel, reader: Reader) -> EvaluationSet:
    return EvaluationSet(reader, model.preprocess, classes=_classes(model), fields=model.needs)


def _classes(model: VisionModel) -> tuple[str, ...]:
    """The class list that labels are mapped to; heads that share a field share it."""
    lists = {head.classes for head in model.heads.values()}
    if len(lists) != 1:
        raise ConfigError("head.<name>.classes: the heads must have one class list")
    (classes,) = lists
    return classes


def _evaluated(
    model: VisionModel, judged: EvaluationSet, data: DictConfig, device: torch.device, ids: Mapping[str, list[int | str]]
) -> Evaluation:
    # Batches of a fixed size: on a CPU the last bit of a score depends on it, and `evaluate` must repeat the run's number.
    loader = evaluation_loader(judged, batch_size=16, workers=_workers(data.workers, device), device=device)
    return evaluate(model.eval(), batches(loader), build_metrics(model), ids, device)


def _steps(cfg: DictConfig, images: int) -> tuple[int, int]:
    """Optimizer steps of an epoch and of the whole run."""
    steps_per_epoch = math.ceil(images / (cfg.data.batch_size * cfg.engine.accumulate))
    total = steps_per_epoch * cfg.engine.epochs
    return steps_per_epoch, total if cfg.engine.max_steps is None else min(total, cfg.engine.max_steps)


def _schedule(cfg: DictConfig, total_steps: int) -> Schedule:
    given = cfg.schedule.warmup_steps
    warmup = math.ceil(cfg.schedule.warmup * total_steps) if given is None else given
    flat = {} if cfg.schedule.flat is None else {"flat": cfg.schedule.flat}
    return Schedule(cfg.schedule.name, total_steps=total_steps, warmup_steps=warmup, final=cfg.schedule.final, **flat)


def _workers(wanted: int | str, device: torch.device) -> int:
    """auto: on a GPU a process a core but one, at most 16; on a CPU none, since they would take the cores of training."""
    if wanted != "auto":
        return int(wanted)
    return min(16, max(1, len(os.sched_getaffinity(0)) - 1)) if device.type == "cuda" else 0


def _memory_format(wanted: bool | str, model: VisionModel, device: torch.device) -> torch.memory_format:
    pays = channels_last_pays(model.backbone, device) if wanted == "auto" else bool(wanted)
    return torch.channels_last if pays else torch.contiguous_format
