"""Scoring a model on a split: of a training run, or of a checkpoint by itself (`tools/evaluate.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from visionkit.build import build_metrics, build_reader, category_ids
from visionkit.config import evaluation_data
from visionkit.config_files import read_trained_config
from visionkit.data.loader import Judged, batches
from visionkit.engine.checkpoint import load_model, open_checkpoint
from visionkit.engine.device import loader_workers, memory_format, share_cores
from visionkit.engine.distributed import ALONE, Processes
from visionkit.engine.evaluate import Evaluation, evaluate, write_evaluation
from visionkit.engine.failures import Circumstances, told_in_words
from visionkit.engine.joining import joined
from visionkit.engine.reporting import write_result_report
from visionkit.engine.run_data import answered, first, judged_set, judging_loader, left_out, write_data_account
from visionkit.engine.run_folder import made_folder, numbered_folder, write_settings
from visionkit.engine.select import Selector
from visionkit.errors import ConfigError, DataError, printable
from visionkit.interfaces import Metric
from visionkit.model import VisionModel
from visionkit.report import spread
from visionkit.structures import Batch


def evaluate_run(cfg: DictConfig) -> int:
    """Score a checkpoint on a split, write metrics.json and predictions.json, print the numbers; return 0."""
    with joined(cfg.device, cfg.engine.timeout) as (processes, device):
        return _evaluate_checkpoint(cfg, processes, device)


def _evaluate_checkpoint(cfg: DictConfig, processes: Processes, device: torch.device) -> int:
    with processes.together():
        checkpoint = open_checkpoint(cfg.checkpoint)
        allow = tuple(cfg.allow)
        model = load_model(checkpoint.folder, allow).to(device)
        trained = read_trained_config(checkpoint.folder / "config.yaml")
        data = evaluation_data(trained.data, cfg.data, allow=allow)
        share_cores(loader_workers(data.workers, device), device)
        role = data.split or ("test" if data.splits.test is not None else "val")
        # A reader named by the checkpoint is data and passes the fence; one that the user names is code of the user's.
        reader = build_reader(data, role, allow=None if "reader" in cfg.data else allow)
        if not len(reader):
            raise DataError(
                f"data.split={role}: holds no usable image; choose another data.split or data.root", code="split-empty"
            )
        judged = judged_set(model, answered(first(reader, cfg.debug.images), data, model.needs))
        own = cfg.engine.voc_ap
        metrics = build_metrics(
            model,
            voc_ap=bool(trained.engine.get("voc_ap", False)) if own is None else own,
            class_numbers=trained.get("metrics") if cfg.metrics is None else cfg.metrics,
            own=cfg.metric or trained.get("metric", {}),
            allow=None if cfg.metric else allow,
        )
        # Chosen anew, the numbers may lack the one by which training selected, and a reference's.
        as_trained = cfg.metrics is None and not cfg.metric
        chosen_by = (trained.engine.select, trained.engine.references) if as_trained else ("mean", {})
        selector = Selector(chosen_by[0], metrics, chosen_by[1])
        model.use_memory_format(memory_format(trained.engine.channels_last, device))
        folder = _evaluation_folder(cfg.run_dir, trained.name) if processes.first else None
        if folder is not None:
            trained.data = data
            write_settings(folder, trained, device)
            write_data_account(folder, {role: reader})
            for line in left_out(role, reader):
                print(line)
    folder = processes.told(folder)
    loader = judging_loader(judged, data, device, processes, batch_size=cfg.batch_size, timeout=cfg.engine.timeout)
    where = Circumstances(
        device, cfg.batch_size, model.preprocess.canvas, loader.num_workers, levers="lower batch_size"
    )
    with told_in_words(where):
        result = scored(model, loader, judged, device, metrics, folder=folder, processes=processes)
    add_mean(result, selector)
    if processes.first:
        write_evaluation(result, folder, split=data.splits.get(role, role))
        write_result_report(folder, result, model, judged, role)
        absent = result.absent()
        for name, value in result.numbers.items():
            told = f"{value:.4f}" if name not in absent else f"n/a ({absent[name]})"
            print(printable(f"{name:<32} {told}"))
        print(f"written to {folder}")
    return 0


def scored(
    model: VisionModel,
    loader: DataLoader[Batch],
    judged: Judged,
    device: torch.device,
    metrics: Mapping[str, Metric],
    *,
    folder: Path | None,
    processes: Processes = ALONE,
    stop: Callable[[], str | None] | None = None,
) -> Evaluation:
    """Score a model; with the folder of the results, also write its maps there and keep what its report shows."""
    ids = category_ids(model, judged.reader)
    maps = None if folder is None else folder / "predictions"
    keep = () if folder is None else [judged.reader.image_ids[place] for place in spread(len(judged))]
    return evaluate(
        model.eval(), batches(loader), metrics, ids, device, maps=maps, keep=keep, processes=processes, stop=stop
    )


def add_mean(result: Evaluation, selector: Selector) -> None:
    """Add the number that chooses the best checkpoint, where it is a mean of several."""
    result.numbers = selector.added(result.numbers)
    if math.isnan(result.numbers[selector.name]):
        result.reasons.setdefault(selector.name, "none of the numbers that it is the mean of")


def _evaluation_folder(run_dir: str | None, name: str) -> Path:
    if run_dir is None:
        return numbered_folder(Path("runs") / "evaluate", name)
    if (Path(run_dir) / "checkpoints").exists():
        raise ConfigError(
            f"run_dir={run_dir}: is the folder of a run, whose metrics.json stays; give another folder",
            code="place-taken",
        )
    return made_folder(Path(run_dir))
