"""From what was typed to one checked configuration: every fault is found, and said in a line, before anything is built.

    cfg = compose("train", ["task=detect", "engine.epochs=3"])

Hydra composes the groups of `configs/`. Around it stand the fences: each override is read here first, so that all wrong
ones are reported and not the first alone; what was composed is filled into the schema key by key (`config_checks`,
`config_data`), since Hydra takes `+modle.x=1`; and each `_target_` must exist and have the arguments given (`targets`).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from visionkit.config_checks import empty, fill, leaves, range_faults, shown, without_missing
from visionkit.config_data import IMAGE_KEYS, READER_KEYS, SET_KEYS, data_faults, filled_sets
from visionkit.config_files import read_config
from visionkit.config_plain import class_faults, lay_plain_head
from visionkit.config_schema import DataConfig, TrainConfig
from visionkit.config_tools import SCHEMAS
from visionkit.errors import CodedLine, ConfigError, did_you_mean, listed
from visionkit.overrides import names_folder_alone, read_overrides, variant
from visionkit.own_parts import make_room
from visionkit.targets import build, check_fence, locate, parameters, target_faults

__all__ = [
    "build",
    "checked",
    "compose",
    "configs_folder",
    "evaluation_data",
    "groups",
    "reader_arguments",
]

TRAINING = ("train", "benchmark", "benchmark loader", "inspect_model", "probe")
"""The tools that take the whole configuration of a training run."""
_USUAL_TASK: Mapping[str, Mapping[str, str]] = {"probe": {"task": "classify"}}
"""Of tools whose usual task is another than that of a training run."""
_TUNED_BY_DATA = ("augment", "optim", "schedule", "preprocess")
"""Groups of which configs/data/<data>/<task>.yaml may change single keys."""


def _height_width(size: Any) -> list[Any]:
    return list(size) if OmegaConf.is_list(size) else [size, size]


def _backbone_weights(weights: Any) -> Any:
    """Return what a backbone takes: a name, a file, or None: `auto` and a run mean the whole model's weights."""
    path = weights.get("path") if OmegaConf.is_dict(weights) else weights
    return None if path in ("none", "auto") or Path(str(path)).is_dir() else path


def _from_weights(weights: Any, key: str, channels: int, default: Any, backbone: Any) -> Any:
    """Return what {path, mean, std} says under `key`, one number for all channels or one each, else what a checkpoint
    or published weights say, else the default.

    default: of red, green and blue; images of another number of channels have their mean in each.
    """
    path = weights.get("path") if OmegaConf.is_dict(weights) else weights
    if isinstance(path, str) and Path(path).is_dir():
        from visionkit.transfer import checkpoint_statistics  # only who takes the weights of a run waits for torch

        default = checkpoint_statistics(Path(path)).get(key, default)
    elif isinstance(path, str) and path not in ("none", "auto"):
        default = _published_statistics(backbone, path).get(key, default)
    usual = list(default) if channels == len(default) else [round(sum(default) / len(default), 3)] * channels
    value = weights.get(key, usual) if OmegaConf.is_dict(weights) else usual
    return [value] * channels if isinstance(value, int | float) else value


def _published_statistics(backbone: Any, weights: str) -> Mapping[str, list[float]]:
    """Return the mean and std of published weights, where the backbone knows them; nothing for files and others."""
    try:
        told = getattr(locate(backbone.get("_target_")), "statistics", None)
        return {} if told is None else told(str(backbone.get("name")), weights)
    except ConfigError:
        return {}  # what is wrong is told when targets are checked


# Used in configs/: ${height_width:${image_size}}
OmegaConf.register_new_resolver("height_width", _height_width, replace=True)
OmegaConf.register_new_resolver("height", lambda size: _height_width(size)[0], replace=True)
OmegaConf.register_new_resolver("width", lambda size: _height_width(size)[1], replace=True)
OmegaConf.register_new_resolver("backbone_weights", _backbone_weights, replace=True)
OmegaConf.register_new_resolver("from_weights", _from_weights, replace=True)


def configs_folder() -> Path:
    """Return the folder of the configuration groups: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(
        f"{package}: the folder configs is missing; install visionkit again (pip install -e .)",
        code="installation-broken",
    )


def groups() -> dict[str, list[str]]:
    """Return the choices of each configuration group, from the files in `configs/`."""
    folders = sorted(folder for folder in configs_folder().iterdir() if folder.is_dir())
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def compose(tool: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose and check the configuration of a tool, interpolations resolved.

    Args:
        tool: train, evaluate, predict or check_data.
        overrides: as typed, such as "task=detect" or "data.root=/my data"; paths need no quotes.

    Raises:
        ConfigError: one line for each fault.
    """
    tool = variant(tool, overrides)
    choices, values, faults = read_overrides(tool, overrides, groups())
    if tool in (*TRAINING, "check_data") and names_folder_alone(choices, values):
        choices["data"] = "auto"
    plain = _composed(tool, choices, values, faults)
    cfg, more = _filled(tool, plain)
    faults += more
    if tool in TRAINING:
        faults += _misplaced_heads(values, cfg) + class_faults(values, cfg)
    if faults:
        raise ConfigError.of(faults)
    return cfg


def checked(tool: str, cfg: DictConfig) -> DictConfig:
    """Check a configuration that Hydra has composed, and return it filled into the schema.

    Raises:
        ConfigError: one line for each fault.
    """
    filled, faults = _filled(tool, _plain(cfg))
    if faults:
        raise ConfigError.of(faults)
    return filled


def evaluation_data(trained: Mapping[str, Any], given: Mapping[str, Any], *, allow: Sequence[str] = ()) -> DictConfig:
    """Return the data configuration of an evaluation: `given` whole if it names a reader, else laid over `trained`.

    Args:
        trained: the `data` of a checkpoint's configuration, whose reader must pass the fence if it is used.
        given: what the user gave.
        allow: see `build`.

    Raises:
        ConfigError: one line for each key of `given` that the reader does not take.
        CheckpointError: the checkpoint names a reader outside the fence.
    """
    data: Any = OmegaConf.create(dict(given))
    if "_target_" not in given.get("reader", {}):
        own = OmegaConf.create(dict(trained))
        check_fence(own, allow)
        data = OmegaConf.merge(own, data)
    assert isinstance(data, DictConfig)
    # What images become belongs to the model, whichever data it is judged on.
    data.update({key: trained[key] for key in IMAGE_KEYS if key in trained})
    plain = _plain(data)
    faults = range_faults({"data": plain}) + data_faults(plain) + target_faults(plain, "data")
    if faults:
        raise ConfigError.of(faults)
    return data


def reader_arguments(data: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Return what to add to `data.reader` to open one split: build(data.reader)(**reader_arguments(data, "val")).

    split: a role (train, val, test), or one of the source's own lists.

    Raises:
        ConfigError: the role has no list.
    """
    plain = _plain(OmegaConf.create(dict(data)))
    own = plain["splits"].get(split, split)
    if own is None:
        raise ConfigError(
            f"data.splits.{split}=null: the data set has no such list; name one of its own lists", code="split-unknown"
        )
    taken = parameters(locate(plain["reader"]["_target_"]))
    arguments = {key: plain[key] for key in READER_KEYS if key in taken and key in plain}
    if "annotations" in arguments:
        arguments["annotations"] = plain["annotations"].get(own)
    counts = plain["reader"].get("count")
    if isinstance(counts, Mapping):
        if own not in counts:
            raise ConfigError(
                f"data.reader.count: nothing for the split '{own}'; it has {listed(list(counts))}", code="split-unknown"
            )
        arguments["count"] = counts[own]
    return {"split": own, **arguments}


# ---------------------------------------------------------------------------------------------------------- composing
def _composed(
    tool: str, choices: Mapping[str, str], values: Mapping[str, Any], faults: list[CodedLine]
) -> dict[str, Any]:
    """Return a tool's configuration as plain containers; data are composed as training composes them.

    Values that cannot be put in are left out and noted in `faults`.
    """
    values = dict(values)
    sets = values.pop("data.sets", {})
    if tool in TRAINING:
        chosen = {**_USUAL_TASK.get(tool, {}), **choices}
        return _laid(_with_sets(chosen, sets), {**_beside_training(tool), **values}, faults)
    about_data = {key: value for key, value in values.items() if key.startswith("data.") or key == "image_size"}
    own = {key: value for key, value in values.items() if key not in about_data or tool != "check_data"}
    known = get_type_hints(SCHEMAS[tool])
    files = _from_files(tool.partition(" ")[0], ())
    plain = _laid(OmegaConf.masked_copy(files, [str(key) for key in files if key in known]), own, faults)
    if tool == "check_data":
        trained = _laid(_with_sets(choices, sets), about_data, faults)
        plain |= {"task": choices.get("task", "detect"), "image_size": trained["image_size"], "data": trained["data"]}
    elif "data" in choices:
        chosen = {"task": _task_of(plain.get("checkpoint")), **choices}
        plain["data"] = _laid(_with_sets(chosen, sets), about_data, faults)["data"]
    return plain


def _beside_training(tool: str) -> dict[str, Any]:
    """The values of configs/<tool>.yaml for those of its keys that a training run does not have."""
    if tool not in ("inspect_model", "probe"):
        return {}
    own = get_type_hints(SCHEMAS[tool]).keys() - get_type_hints(TrainConfig).keys()
    files: Any = OmegaConf.to_container(_from_files(tool, ()))
    return {key: files[key] for key in own if key in files}


@functools.cache
def _from_files(name: str, choices: tuple[tuple[str, str], ...]) -> DictConfig:
    """Let Hydra compose configs/<name>.yaml with a choice for some groups; not to be changed by the caller."""
    typed = [f"{group}={choice}" for group, choice in choices]
    try:
        with hydra.initialize_config_dir(str(configs_folder()), version_base="1.3"):
            cfg = hydra.compose(name, typed)
            chosen = [group for group, _ in choices if group in _TUNED_BY_DATA and name == "train"]
            if chosen:  # what was typed wins over what the data set's own file changes in it
                untuned = hydra.compose(name, [*typed, "~data@_global_"])
                with open_dict(cfg):
                    cfg.update({group: untuned[group] for group in chosen})
            return cfg
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigError(
            f"{' '.join([f'{name}.yaml', *typed])}: this cannot be composed ({reason})", code="value-unresolved"
        ) from error


def _with_sets(choices: Mapping[str, str], sets: Iterable[str]) -> DictConfig:
    """Return the configuration of a training run, with those of `sets` under `data.sets`, as data=[a,b] asks for."""
    cfg = _from_files("train", tuple(choices.items()))
    if not sets:
        return cfg
    cfg = copy.deepcopy(cfg)
    for name in sets:
        one = OmegaConf.to_container(_from_files("train", tuple({**choices, "data": name}.items())).data)
        assert isinstance(one, dict)
        OmegaConf.update(cfg, f"data.sets.{name}", {key: one[key] for key in SET_KEYS}, force_add=True)
    return cfg


def _laid(base: DictConfig, values: Mapping[str, Any], faults: list[CodedLine]) -> dict[str, Any]:
    """Return `base` with `values` put in as Hydra does for `++key=value`, and every interpolation resolved."""
    base = copy.deepcopy(base)
    make_room(base, values)
    cfg = copy.deepcopy(base)
    for key, value in values.items():
        try:
            if "${" in str(value):
                alone = copy.deepcopy(base)
                _put(alone, key, value)
                _plain(alone)
            _put(cfg, key, value)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            told = f"{key}={shown(value)}: this does not fit the configuration ({reason})"
            faults.append(CodedLine(told, "value-unresolved"))
    try:
        return _plain(cfg)
    except OmegaConfBaseException as error:
        fault = CodedLine(f"a value cannot be resolved: {str(error).splitlines()[0]}", "value-unresolved")
        raise ConfigError.of([*faults, fault]) from error


def _put(cfg: DictConfig, key: str, value: Any) -> None:
    """Set a dotted key; mappings are merged where a mapping stands, and replace anything else."""
    both = isinstance(value, dict) and OmegaConf.is_dict(OmegaConf.select(cfg, key))
    OmegaConf.update(cfg, key, value, merge=both, force_add=True)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _task_of(checkpoint: Any) -> str:
    """Return the task that a checkpoint was trained for, which decides what `shapes` draws."""
    file = Path(str(checkpoint)).expanduser() / "config.yaml"
    task = read_config(file).get("task") if file.is_file() else None
    return task if task in groups()["task"] else "detect"


# ----------------------------------------------------------------------------------------------------------- checking
def _filled(tool: str, plain: Mapping[str, Any]) -> tuple[DictConfig, list[CodedLine]]:
    """Return the configuration in its schema, and a line for every fault that it has."""
    cfg = empty(SCHEMAS[tool])
    given = {key: value for key, value in plain.items() if key != "hydra"}
    faults = fill(cfg, given)
    values: Any = OmegaConf.to_container(cfg)
    if tool in ("evaluate", "probe checkpoint=") and isinstance(values["data"], Mapping):
        data = empty(DataConfig)
        faults += fill(data, values["data"], "data.")
        cfg.data = values["data"] = without_missing(OmegaConf.to_container(data))
    if values.get("data", {}).get("sets"):
        cfg.data.sets, more = filled_sets(values["data"]["sets"])
        values["data"]["sets"] = OmegaConf.to_container(cfg.data.sets)
        faults += more
    faults += [
        CodedLine(f"{key}: a value is missing; give {key}=…", "value-missing")
        for key, value in leaves(given)
        if value == "???"
    ]
    faults += range_faults(values)
    if tool in TRAINING:
        for key, group in (("heads", "head"), ("merges", "merge")):
            if isinstance(values[key], list):  # heads may be null: those that the data have labels for
                faults += _name_faults(key, group, values)
                cfg[group] = {name: node for name, node in values[group].items() if name in values[key]}
                values[group] = cfg[group]
        if values["data"]["splits"]["train"] is None:
            faults.append(CodedLine("data.splits.train=null: name the list to train on", "value-missing"))
        if not faults:
            faults += lay_plain_head(values)
            cfg.head = values["head"]
    if "data" in values:
        faults += data_faults(values["data"])
    faults += target_faults(values, "")
    if tool in TRAINING and not faults:
        faults += _augment_faults(values)
    return cfg, faults


def _name_faults(key: str, group: str, values: Mapping[str, Any]) -> list[CodedLine]:
    """Return a line per name of `heads` or `merges` that stands in no file of its group."""
    known = [name for name, node in values[group].items() if isinstance(node, Mapping) and "_target_" in node]
    if values[key] == [] and key == "heads":
        return [CodedLine(f"heads=[]: a model needs at least one of {listed(known)}", "heads-missing")]
    told = f"{key}={shown(values[key])}: there is no {group}"
    return [
        CodedLine(f"{told} '{name}'{did_you_mean(name, known)}; known: {listed(known)}", "choice-unknown")
        for name in values[key]
        if name not in known
    ]


def _misplaced_heads(keys: Iterable[str], cfg: DictConfig) -> list[CodedLine]:
    """Return a line per typed key `head.<name>.…` whose head the model does not have."""
    known = groups()["head"]
    heads = known if OmegaConf.is_missing(cfg, "heads") or cfg.heads is None else cfg.heads
    faults = []
    for key in keys:
        name = key.split(".")[1] if key.startswith("head.") else ""
        if name in known and name not in heads:
            faults.append(
                CodedLine(f"{key}: the model has no head '{name}' (heads={shown(list(heads))})", "key-not-taken")
            )
        elif name and name not in heads:
            told = f"{key}: there is no head '{name}'{did_you_mean(name, known)}; known: {listed(known)}"
            faults.append(CodedLine(told, "key-unknown"))
    return faults


def _augment_faults(values: Mapping[str, Any]) -> list[CodedLine]:
    """Return what the augmentations, which are short names and not targets, find wrong with their own arguments."""
    from visionkit.data.augmentation import build_augmentation
    from visionkit.data.image_kinds import unfit_transforms

    preprocess = build({"size": values["preprocess"]})["size"]
    try:
        build_augmentation(**values["augment"], canvas=preprocess.canvas, fill=preprocess.fill, seed=values["seed"])
    except ConfigError as error:
        return list(error.faults)
    augment = values["augment"]
    return unfit_transforms(augment["transforms"], augment["backend"], preprocess.decoding, preprocess.canvas)
