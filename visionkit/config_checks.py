"""Does a value fit its key? Types by the schema, ranges by the tables here; every fault becomes a line of its own."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from visionkit.config_schema import TrainConfig
from visionkit.errors import CodedLine, did_you_mean, listed

_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "data.on_error": ("stop", "skip"),
    "data.cache": ("none", "ram", "disk"),
    "data.bit_depth": (8, 16, "float"),
    "data.reduced_decoding": ("auto", False),
    "data.box": ("largest", "first", None),
    "augment.backend": ("albumentations", "torchvision"),
    "loss": ("auto", "cross_entropy", "focal", "binary_cross_entropy"),
    "kind": ("linear", "knn"),
    "format": ("onnx", "torch"),
    "on_error": ("auto", "skip", "stop"),
    "precision": ("fp32", "bf16", "fp16"),
    "model.norm": ("auto", "live", "frozen", "sync"),
    "optim.name": ("adam", "adamw", "momentum", "muon", "rmsprop", "sgd"),
    "schedule.name": ("cosine", "flat_cosine"),
    "engine.precision": ("auto", "bf16", "fp16", "fp32"),
    "engine.channels_last": ("auto", True, False),
    "engine.cuda_graphs": ("auto", True, False),
}
_AT_LEAST: Mapping[str, int] = {
    "seed": 0,
    "batch_size": 1,
    "k": 1,
    "depth": 1,
    "data.seed": 0,
    "data.channels": 1,
    "optim.weight_decay": 0,
    "optim.l1": 0,
    "schedule.warmup_steps": 0,
    "schedule.epochs": 1,
    "schedule.least_steps": 0,
    "schedule.most_steps": 1,
    "engine.epochs": 1,
    "engine.max_steps": 1,
    "engine.save_steps": 0,
    "engine.accumulate": 1,
    "engine.evaluate_every": 1,
    "engine.log_steps": 1,
    "engine.train_slice": 0,
    "engine.patience": 1,
    "engine.min_delta": 0,
    "engine.max_bad_steps": 0,
    "engine.ema.warmup": 0,
    "augment.batch_mix.mixup": 0,
    "augment.batch_mix.cutmix": 0,
    "debug.images": 1,
}
_SAVED = ("drawings", "predictions", "csv", "crops", "features")
"""What tools/predict.py can save."""
_TAKEN_BY: Mapping[str, tuple[str, ...]] = {
    "betas": ("adamw", "adam", "muon"),
    "momentum": ("momentum", "muon", "rmsprop"),
    "alpha": ("rmsprop",),
}
"""The optimizers that take an argument."""
_POSITIVE = ("data.cache_gib", "optim.lr", "model.width", "engine.clip_norm", "engine.max_hours", "engine.timeout",
             "max_upload_mb", "max_megapixels")  # fmt: skip
_SHARES = (
    "data.max_skipped",
    "optim.momentum",
    "optim.alpha",
    "schedule.warmup",
    "schedule.final",
    "schedule.flat",
    "engine.ema.decay",
    "augment.mosaic.p",
    "augment.copy_paste.p",
    "augment.mixup.p",
    "augment.batch_mix.p",
    "data.repeat_factor",
)
_WANTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every value that is not a mapping with keys."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def fill(schema: DictConfig, values: Mapping[str, Any], path: str = "") -> list[CodedLine]:
    """Put `values` into the structured config `schema`, key by key; return one line per key that does not fit."""
    kinds = get_type_hints(OmegaConf.get_type(schema))
    faults: list[CodedLine] = []
    for key, value in values.items():
        if key not in kinds:
            faults.append(unknown_key(f"{path}{key}", kinds))
        elif is_dataclass(kinds[key]) and isinstance(value, Mapping):
            faults += fill(schema[key], value, f"{path}{key}.")
        else:
            try:
                schema[key] = value
            except OmegaConfBaseException:
                faults.append(CodedLine(f"{path}{key}={shown(value)}: {_wanted(kinds[key])} is wanted", "value-unfit"))
    return faults


def unknown_key(path: str, siblings: Collection[str]) -> CodedLine:
    """Say that `path` is no key, with the closest one: a sibling, or the same name elsewhere in a training config."""
    parent, _, name = path.rpartition(".")
    everywhere = [key for key, _ in leaves(OmegaConf.to_container(empty(TrainConfig)))]  # type: ignore[arg-type]
    elsewhere = {key.rpartition(".")[2]: key for key in reversed(everywhere)}
    if any(key == path or key.startswith(f"{path}.") for key in everywhere):
        return CodedLine(f"{path}: this is a key of training, not of this tool", "key-not-taken")
    if name in elsewhere:
        return CodedLine(f"{path}: there is no such key (did you mean '{elsewhere[name]}'?)", "key-unknown")
    close = get_close_matches(name, siblings, n=1)
    if not close:
        return CodedLine(f"{path}: there is no such key", "key-unknown")
    full = f"{parent}.{close[0]}".lstrip(".")
    return CodedLine(f"{path}: there is no such key (did you mean '{full}'?)", "key-unknown")


def empty(schema: type) -> DictConfig:
    """Return the structured config of a schema, nested ones made too, every value missing."""
    return copy.deepcopy(_made_empty(schema))


@functools.cache
def _made_empty(schema: type) -> DictConfig:
    """What `empty` returns, not to be changed: to make it takes ten times as long as to copy it."""
    node: DictConfig = OmegaConf.structured(schema)
    for key, kind in get_type_hints(schema).items():
        if isinstance(kind, type) and is_dataclass(kind):
            node[key] = empty(kind)
    return node


def without_missing(values: Any) -> dict[str, Any]:
    """Return the plain values of a structured config without those that are missing, and mappings of such alone."""
    parts = {key: without_missing(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in parts.items() if value != "???" and (value != {} or values[key] == {})}


def range_faults(cfg: Mapping[str, Any]) -> list[CodedLine]:
    """Return one line per value of a plain, rightly typed configuration that is out of its range."""
    values = {key: value for key, value in leaves(cfg) if value != "???"}
    faults: list[CodedLine] = []
    for key, known in _CHOICES.items():
        if key in values and values[key] not in known:
            words = [shown(choice) for choice in known]
            hint = did_you_mean(str(values[key]), words)
            faults.append(
                CodedLine(f"{key}={shown(values[key])}: one of {listed(words)} is wanted{hint}", "choice-unknown")
            )
    rules: list[tuple[str, Callable[[Any], bool], str]] = [
        *((key, lambda value, least=least: value >= least, f"{least} or more") for key, least in _AT_LEAST.items()),
        *((key, lambda value: 0 < value < float("inf"), "a number above 0") for key in _POSITIVE),
        *((key, lambda value: 0 <= value <= 1, "a share from 0 to 1") for key in _SHARES),
        *((key, _is_share, "a share from 0 to 1") for key in values if key.partition(".")[0] == "score"),
        ("save", lambda names: bool(names) and set(names) <= set(_SAVED), f"any of {listed(_SAVED)}"),
        ("optim.layer_decay", lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
        ("device", _is_device, "auto, cpu, mps, cuda or cuda:N"),
        ("data.workers", lambda value: value == "auto" or _is_count(value), "a whole number, 0 or more, or auto"),
        (
            "data.batch_size",
            lambda value: value == "auto" or (_is_count(value) and value > 0),
            "a whole number, 1 or more, or auto",
        ),
        ("data.objects", _is_object_count, "1 or more, or [least, most],"),
        ("image_size", _is_image_size, "a whole number above 0, or [height, width],"),
        (
            "optim.betas",
            lambda value: len(value) == 2 and all(0 <= b < 1 for b in value),
            "two numbers from 0 to below 1",
        ),
    ]
    for key, fits, wanted in rules:
        value = values.get(key)
        if value is not None and not fits(value):
            faults.append(CodedLine(f"{key}={shown(value)}: {wanted} is wanted", "value-unfit"))
    return faults + _weights_faults(cfg.get("weights")) + _wiring_faults(values)


def shown(value: Any) -> str:
    """Return a value as one would type it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return f"[{', '.join(shown(item) for item in value)}]" if isinstance(value, list) else str(value)


def _wanted(kind: Any) -> str:
    """Say in words what a type hint takes."""
    if is_dataclass(kind):
        return f"a mapping with the keys {listed(list(get_type_hints(kind)))}"
    if get_origin(kind) in (dict, list):
        values = _WANTED.get(get_args(kind)[-1])
        of_values = f" with {values} for every value" if values else ""
        return f"a mapping such as {{key: value}}{of_values}" if get_origin(kind) is dict else "a list such as [a, b]"
    if kind in _WANTED:
        return _WANTED[kind]
    return " or ".join(_wanted(one) for one in get_args(kind))


def _is_device(value: str) -> bool:
    return re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value) is not None


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_object_count(value: Any) -> bool:
    both = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(_is_count(one, 1) for one in both) and both[0] <= both[-1]


def _is_image_size(value: Any) -> bool:
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(_is_count(side, 1) for side in sides)


def _weights_faults(weights: Any) -> list[CodedLine]:
    if weights is None or isinstance(weights, str):
        return []
    if not isinstance(weights, Mapping) or not isinstance(weights.get("path"), str):
        told = f"weights={shown(weights)}: none, auto, a name, a file, or {{path: FILE, mean: […], std: […]}} is wanted"
        return [CodedLine(told, "value-unfit")]
    if weights["path"] in ("none", "auto"):
        told = f"weights.path={weights['path']}: a file, a run or a name is wanted; or weights={weights['path']} alone"
        return [CodedLine(told, "value-unfit")]
    known = ("path", "mean", "std")
    return [
        CodedLine(f"weights.{key}: there is no such key{did_you_mean(key, known)}", "key-unknown")
        for key in weights
        if key not in known
    ]


def _wiring_faults(values: Mapping[str, Any]) -> list[CodedLine]:
    faults: list[CodedLine] = []
    name = values.get("optim.name")
    for argument, takers in _TAKEN_BY.items():
        if name is not None and name not in takers and values.get(f"optim.{argument}") is not None:
            told = f"optim.{argument}: {name} takes no {argument}; use optim={', optim='.join(takers)}"
            faults.append(CodedLine(told, "key-not-taken"))
    if values.get("weights") in (None, "none"):
        for key, held in (("model.freeze", values.get("model.freeze") not in (None, "none")),
                          ("model.norm", values.get("model.norm") == "frozen")):  # fmt: skip
            if held:
                told = f"{key}={values[key]}: the weights are random; give weights=NAME, FILE or RUN, too"
                faults.append(CodedLine(told, "value-missing"))
    for key, epochs in values.items():
        if key.startswith("model.unfreeze.") and not 0 <= epochs < float("inf"):
            faults.append(CodedLine(f"{key}={shown(epochs)}: a number of epochs, 0 or more, is wanted", "value-unfit"))
    if values.get("schedule.name") == "cosine" and values.get("schedule.flat") is not None:
        faults.append(
            CodedLine("schedule.flat: cosine falls from the start; use schedule=flat_cosine", "key-not-taken")
        )
    return faults
