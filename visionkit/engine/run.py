"""Whole runs, from a checked configuration to files in a folder: training, and evaluation of a checkpoint."""

from __future__ import annotations

import contextlib
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

from visionkit.build import (
    backbone_weights,
    build_metrics,
    build_model,
    build_reader,
    category_ids,
    describe_model,
    label_fields,
)
from visionkit.config import evaluation_data
from visionkit.data import EpochSampler, EvaluationSet, TrainingSet, training_loader
from visionkit.data.loader import batches
from visionkit.engine.checkpoint import load_model, load_state, open_checkpoint, save_checkpoint
from visionkit.engine.device import (
    autocast_dtype,
    keep_freed_memory,
    loader_workers,
    memory_format,
    resolve_device,
    share_cores,
)
from visionkit.engine.ema import EMA
from visionkit.engine.evaluate import Evaluation, evaluate, write_evaluation
from visionkit.engine.optim import Schedule, create_optimizer
from visionkit.engine.run_data import (
    answered,
    augmentation,
    choose_heads,
    first,
    image_repeats,
    judged_set,
    judging_loader,
    left_out,
    open_readers,
    remarks,
    run_steps,
    training_set,
    write_data_account,
)
from visionkit.engine.run_folder import (
    choose_run_folder,
    made_folder,
    numbered_folder,
    start_logging,
    stop_logging,
    write_beginning,
    write_settings,
    write_status,
)
from visionkit.engine.select import Selector
from visionkit.engine.tracking import Tracker
from visionkit.engine.trainer import Trainer
from visionkit.errors import ConfigError, UserError, listed
from visionkit.interfaces import Metric
from visionkit.model import VisionModel
from visionkit.report import Shown, spread, write_report
from visionkit.structures import Batch

LOGGER = logging.getLogger("visionkit")
_LEARNED_NOTHING = 0.02
_SECONDS_BETWEEN_SAVES = 10.0
"""Epochs shorter than this share a checkpoint, unless the metric improved or `engine.save_steps` asks for one."""


def train_run(cfg: DictConfig) -> int:
    """Train, evaluate, and write everything into the run folder; return 0.

    Raises:
        UserError: anything wrong in what the user gave; raised before the run folder is made.
        NonFiniteError: the loss stopped being a number.
    """
    device = resolve_device(cfg.device)
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
    training, repeats = training_set(cfg, model, readers["train"]), image_repeats(cfg, readers["train"])
    judging = {role: judged_set(model, reader) for role, reader in readers.items() if role != "train"}
    selector = Selector(cfg.engine.select, build_metrics(model, voc_ap=cfg.engine.voc_ap), cfg.engine.references)

    folder, continued = choose_run_folder(cfg)
    start_logging(folder)
    try:
        write_beginning(folder, cfg, device)
        write_data_account(folder, opened)
        for line in told:
            LOGGER.warning(line)
        run = _Run(cfg, folder, device, description, training, judging, selector, repeats)
        trainer = run.trainer(model)
        if continued:
            run.resume(trainer)
        run.announce(trainer)
        trainer.tracker.begin(trainer.step)
        _train(run, trainer)
        write_status(folder, "finished", step=trainer.step)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        with contextlib.suppress(OSError):  # the disk may be full; what is told is why the run ended
            write_status(folder, "interrupted" if interrupted else "failed", error=str(error))
        raise
    finally:
        stop_logging()
    return 0


def evaluate_run(cfg: DictConfig) -> int:
    """Score a checkpoint on a split, write metrics.json and predictions.json, print the numbers; return 0."""
    device = resolve_device(cfg.device)
    checkpoint = open_checkpoint(cfg.checkpoint)
    model = load_model(checkpoint.folder).to(device)
    trained = cast(DictConfig, OmegaConf.load(checkpoint.folder / "config.yaml"))
    data = evaluation_data(trained.data, cfg.data)
    share_cores(loader_workers(data.workers, device), device)
    role = data.split or ("test" if data.splits.test is not None else "val")
    # A reader named by the checkpoint is data and passes the fence; one that the user names is code of the user's.
    reader = build_reader(data, role, allow=None if "reader" in cfg.data else ())
    judged = judged_set(model, answered(first(reader, cfg.debug.images), data, model.needs))
    own = cfg.engine.voc_ap
    voc_ap = bool(trained.engine.get("voc_ap", False)) if own is None else own
    metrics = build_metrics(model, voc_ap=voc_ap)
    selector = Selector(trained.engine.select, metrics, trained.engine.references)
    folder = _evaluation_folder(cfg.run_dir, trained.name)
    model.use_memory_format(memory_format(trained.engine.channels_last, device))
    trained.data = data
    write_settings(folder, trained, device)
    write_data_account(folder, {role: reader})
    for line in left_out(role, reader):
        print(line)
    result = _evaluated(model, judging_loader(judged, data, device), judged, device, metrics, folder=folder)
    _add_mean(result, selector)
    write_evaluation(result, folder, split=data.splits.get(role, role))
    _write_report(folder, result, model, judged)
    absent = result.absent()
    for name, value in result.numbers.items():
        print(f"{name:<32} {value:.4f}" if name not in absent else f"{name:<32} n/a ({absent[name]})")
    print(f"written to {folder}")
    return 0


def _train(run: _Run, trainer: Trainer) -> None:
    """Train and finish; after the first step even a UserError is a failure of the run, with another exit code."""
    begun = trainer.step
    try:
        trainer.train()
        run.finish(trainer)
    except UserError as error:
        if trainer.step == begun:
            raise
        raise RuntimeError(str(error)) from error


@dataclass
class _Run:
    """What the end of an epoch and the end of a run need to know."""

    cfg: DictConfig
    folder: Path
    device: torch.device
    description: Mapping[str, Any]
    training: TrainingSet
    judging: Mapping[str, EvaluationSet]
    selector: Selector
    repeats: np.ndarray | None
    best: float = -math.inf
    best_step: int = 0
    saved_at: float = -math.inf
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
        steps_per_epoch, total_steps = run_steps(cfg, len(self.training))
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
            tracker=Tracker(self.folder, total_steps=total_steps, headline=self.selector.name),
            end_of_epoch=self.end_of_epoch,
            save=self.save,
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
            start=start,
            segments=segments,
            repeats=self.repeats,
        )
        workers = loader_workers(cfg.data.workers, self.device)
        return batches(training_loader(self.training, sampler, workers=workers, device=self.device))

    def announce(self, trainer: Trainer) -> None:
        parameters = sum(p.numel() for p in trainer.model.parameters())
        judged = ", ".join(f"{len(judged)} {role}" for role, judged in self.judging.items())
        LOGGER.info(f"run {self.folder}: {len(self.training)} training images, {judged or 'none to evaluate on'}")
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
        trainer.batches = self.batches(trainer.step)
        best = checkpoint.state["best"]
        self.best, self.best_step = (-math.inf if best is None else best), checkpoint.state["best_step"]
        LOGGER.info(f"resumed {checkpoint.folder}")

    def end_of_epoch(self, trainer: Trainer) -> None:
        epochs = math.ceil(trainer.total_steps / trainer.steps_per_epoch)
        epoch = math.ceil(trainer.step / trainer.steps_per_epoch)
        last = trainer.step == trainer.total_steps
        numbers: dict[str, float] = {}
        judged = "val" in self.judging
        is_best = not judged
        if judged and (last or epoch % self.cfg.engine.evaluate_every == 0):
            numbers = self.evaluated(trainer, "val").numbers
            value = numbers[self.selector.name]
            # Without any number yet (val has nothing to find, say) the last is the best.
            is_best = value > self.best or (math.isnan(value) and math.isinf(self.best))
            self.best = value if value > self.best else self.best
        self.best_step = trainer.step if is_best else self.best_step
        # Before the checkpoint: a resumed run cuts off the lines past its checkpoint, and cannot add missing ones.
        trainer.tracker.log_epoch(trainer.step, epoch, epochs, numbers)
        if last or (judged and is_best) or time.monotonic() - self.saved_at > _SECONDS_BETWEEN_SAVES:
            self.save(trainer, best=is_best)

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
        self.saved_at = time.monotonic()

    def evaluated(self, trainer: Trainer, role: str, *, folder: Path | None = None) -> Evaluation:
        """Score the EMA weights on a role's split."""
        judged, model = self.judging[role], cast(VisionModel, trainer.ema.model)
        if role not in self.loaders:  # kept, so that its worker processes start once
            self.loaders[role] = judging_loader(judged, self.cfg.data, self.device)
        metrics = build_metrics(model, voc_ap=self.cfg.engine.voc_ap)
        result = _evaluated(model, self.loaders[role], judged, self.device, metrics, folder=folder)
        _add_mean(result, self.selector)
        return result

    def finish(self, trainer: Trainer) -> None:
        """Score the EMA weights of the best checkpoint, write the final numbers, and say them."""
        checkpoint = open_checkpoint(self.folder, "best")
        load_state(trainer.ema.model, checkpoint.weights("ema"), checkpoint.folder)
        role = next((role for role in ("test", "val") if role in self.judging), None)
        result = self.evaluated(trainer, role, folder=self.folder) if role else Evaluation()
        split = self.cfg.data.splits[role] if role else "none"
        write_evaluation(result, self.folder, split=split)
        _write_report(self.folder, result, cast(VisionModel, trainer.ema.model), self.judging[role] if role else None)
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
def _evaluation_folder(run_dir: str | None, name: str) -> Path:
    if run_dir is None:
        return numbered_folder(Path("runs") / "evaluate", name)
    if (Path(run_dir) / "checkpoints").exists():
        raise ConfigError(f"run_dir={run_dir}: is the folder of a run, whose metrics.json stays; give another folder")
    return made_folder(Path(run_dir))


def _evaluated(
    model: VisionModel,
    loader: DataLoader[Batch],
    judged: EvaluationSet,
    device: torch.device,
    metrics: Mapping[str, Metric],
    *,
    folder: Path | None,
) -> Evaluation:
    """Score a model; with the folder of the results, also write its maps there and keep what its report shows."""
    ids = category_ids(model, judged.reader)
    maps = None if folder is None else folder / "predictions"
    keep = () if folder is None else [judged.reader.image_ids[place] for place in spread(len(judged))]
    return evaluate(model.eval(), batches(loader), metrics, ids, device, maps=maps, keep=keep)


def _add_mean(result: Evaluation, selector: Selector) -> None:
    """Add the number that chooses the best checkpoint, where it is a mean of several."""
    result.numbers = selector.added(result.numbers)
    if math.isnan(result.numbers[selector.name]):
        result.reasons.setdefault(selector.name, "none of the numbers that it is the mean of")


def _write_report(folder: Path, result: Evaluation, model: VisionModel, judged: EvaluationSet | None) -> None:
    samples = []
    for place in spread(len(judged)) if judged is not None else ():
        assert judged is not None
        reader = judged.reader
        predictions, truth = result.kept[reader.image_ids[place]]
        samples.append(Shown(reader.read(place).image, reader.file_names[place], truth, predictions))
    write_report(folder, metrics=result.metrics, classes=model.classes, samples=samples)


def _schedule(cfg: DictConfig, total_steps: int) -> Schedule:
    given = cfg.schedule.warmup_steps
    warmup = math.ceil(cfg.schedule.warmup * total_steps) if given is None else given
    flat = {} if cfg.schedule.flat is None else {"flat": cfg.schedule.flat}
    return Schedule(cfg.schedule.name, total_steps=total_steps, warmup_steps=warmup, final=cfg.schedule.final, **flat)


def _ema(model: VisionModel, decay: float, warmup: float, total_steps: int) -> EMA:
    """A short run averages over less: a quarter of its steps at most, reached within its first tenth."""
    return EMA(model, decay=max(0.0, min(decay, 1 - 4 / total_steps)), warmup=max(1.0, min(warmup, total_steps / 10)))
