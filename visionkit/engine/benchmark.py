"""What inference costs: all heads in one model, beside one model a head."""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from visionkit.acceleration import PRECISIONS, accelerated
from visionkit.build import build_model, describe_model, head_levels
from visionkit.config import build
from visionkit.data.collate import padded_images
from visionkit.engine.checkpoint import load_state, open_checkpoint
from visionkit.engine.device import autocast_dtype, memory_format, resolve_device
from visionkit.engine.run_data import choose_heads, first, given_batch_size, open_readers
from visionkit.engine.run_folder import made_folder
from visionkit.errors import ConfigError
from visionkit.interfaces import Reader
from visionkit.model import VisionModel
from visionkit.structures import Geometry

_WARM_UP, _ROUNDS, _SECONDS = 3, 5, 0.5


@dataclass(frozen=True)
class _Images:
    """A batch on its device: (B, C, H, W) uint8 canvases, (B, 2) sizes, and how the images lie on them."""

    canvases: torch.Tensor
    sizes: torch.Tensor
    geometries: tuple[Geometry, ...]


def benchmark_run(cfg: DictConfig) -> int:
    """Time the model of `cfg` and each of its heads in a model of its own; print a table, and return 0.

    The models are as `visionkit.load` gives them at `engine.precision`: for bf16 and fp16, which auto is on GPUs,
    copies that answer faster (`visionkit.acceleration.accelerated`); for fp32 as they are trained. Timed are normalise,
    forward and decode ("network"), and the way to predictions in original pixels ("predict"), of `data.batch_size`
    images of the training split already on the device. The models take turns, and the median round counts.
    `resume=RUN` takes the weights of a run of the same configuration; random ones, the default, make decoding meet more
    candidates than any trained model does. With `run_dir` the table is benchmark.json there.

    Raises:
        CheckpointError: the run's weights are not those of these heads.
    """
    device = resolve_device(cfg.device)
    weights = _trained(cfg.resume)
    readers = open_readers(cfg)
    reader = first(readers["train"], given_batch_size(cfg))
    choose_heads(cfg, readers["train"])
    together = "+".join(cfg.heads)
    models = {together: _model(cfg, readers["train"], weights, device)}
    if len(cfg.heads) > 1:
        models |= {name: _model(_only(cfg, name), readers["train"], weights, device) for name in cfg.heads}
    images = _images(models[together], reader, device)
    dtype = autocast_dtype(cfg.engine.precision, device)
    loaded = {name: _as_loaded(model, dtype) for name, model in models.items()}
    timed = {
        kind: _timed({name: _call(model, images, kind) for name, model in loaded.items()}, device)
        for kind in ("network", "predict")
    }
    rows = [
        {"model": name, "parameters": sum(p.numel() for p in model.parameters())}
        | {f"{kind}_ms": round(1000 * seconds[name], 3) for kind, seconds in timed.items()}
        for name, model in models.items()
    ]
    shares = {kind: _share(seconds, together) for kind, seconds in timed.items()}
    _say(rows, shares, len(images.canvases), models[together].preprocess.canvas, device, dtype)
    if cfg.run_dir is not None:
        told = {"batch_size": len(images.canvases), "device": str(device), "dtype": str(dtype), "rows": rows}
        text = json.dumps(told | {"together_to_separate": shares}, indent=1)
        (made_folder(Path(cfg.run_dir)) / "benchmark.json").write_text(text + "\n", encoding="utf-8")
    return 0


def _only(cfg: DictConfig, head: str) -> DictConfig:
    alone = copy.deepcopy(cfg)
    alone.heads, alone.merges, alone.merge, alone.head = [head], [], {}, {head: cfg.head[head]}
    levels = head_levels([build(cfg.head[head])])
    if set(levels) <= set(build(cfg.model.backbone).out_specs):
        alone.model.neck = None
    return alone


def _trained(run: str) -> dict[str, torch.Tensor]:
    if run == "none":
        return {}
    if run == "auto":
        raise ConfigError(
            "resume=auto: name the run whose weights are timed, or resume=none for random ones", code="value-missing"
        )
    return open_checkpoint(run).weights()


def _model(cfg: DictConfig, reader: Reader, weights: Mapping[str, torch.Tensor], device: torch.device) -> VisionModel:
    torch.manual_seed(cfg.seed)
    model = build_model(describe_model(cfg, reader), allow=None).to(device).eval()
    if weights:
        own = model.state_dict()
        load_state(model, {name: value for name, value in weights.items() if name in own}, Path(cfg.resume))
    return model.use_memory_format(memory_format(cfg.engine.channels_last, device))


def _images(model: VisionModel, reader: Reader, device: torch.device) -> _Images:
    fitted = [model.preprocess.fit(reader.read(index).image) for index in range(len(reader))]
    canvases = padded_images([image for image, _ in fitted], model.preprocess.canvas, model.preprocess.fill)
    sizes = torch.from_numpy(np.array([geometry.size for _, geometry in fitted]))
    return _Images(canvases.to(device), sizes.to(device), tuple(geometry for _, geometry in fitted))


def _as_loaded(model: VisionModel, dtype: torch.dtype) -> VisionModel:
    (precision,) = (name for name, value in PRECISIONS.items() if value == dtype)
    return model if precision == "fp32" else accelerated(model, precision)


def _call(model: VisionModel, images: _Images, kind: str) -> Callable[[], Any]:
    if kind == "predict":
        return lambda: model.predict(images.canvases, images.sizes, images.geometries)
    return lambda: model.decoded(images.canvases, images.sizes)


def _timed(calls: Mapping[str, Callable[[], Any]], device: torch.device) -> dict[str, float]:
    """Seconds of one call each: the median of rounds in which the calls take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    once = {name: _clocked(call, _WARM_UP, device) for name, call in calls.items()}
    repeats = {name: max(1, round(_SECONDS / max(value, 1e-6))) for name, value in once.items()}
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            seconds[name].append(_clocked(call, repeats[name], device))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _clocked(call: Callable[[], Any], times: int, device: torch.device) -> float:
    call()
    _wait(device)
    began = time.perf_counter()
    for _ in range(times):
        call()
    _wait(device)
    return (time.perf_counter() - began) / times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _share(seconds: Mapping[str, float], together: str) -> float | None:
    """The time of the joint model over that of the separate ones; None where there is one head."""
    separate = sum(value for name, value in seconds.items() if name != together)
    return round(seconds[together] / separate, 4) if separate else None


def _say(
    rows: list[dict[str, Any]],
    shares: Mapping[str, float | None],
    batch_size: int,
    canvas: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    width = max(len(row["model"]) for row in rows)
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    precision = str(dtype).removeprefix("torch.")
    how = "as trained" if dtype == torch.float32 else "accelerated as by visionkit.load"
    print(f"{batch_size} images of {canvas[1]} x {canvas[0]} on {named}, {precision}, {how}")
    print(f"{'model':<{width}}  parameters  network ms  predict ms  images/s")
    for row in rows:
        rate = 1000 * batch_size / row["predict_ms"]
        print(
            f"{row['model']:<{width}}  {row['parameters'] / 1e6:>8.2f} M  {row['network_ms']:>10.2f}  "
            f"{row['predict_ms']:>10.2f}  {rate:>8.0f}"
        )
    if shares["predict"] is not None:
        print(
            f"together / separately: network {shares['network']:.2f}, predict {shares['predict']:.2f} of the time of "
            "one model a head"
        )
