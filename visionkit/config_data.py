"""The `data` of a configuration, of one set or of several: does the reader take what is given?"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

from omegaconf import OmegaConf

from visionkit.config_checks import empty, fill, range_faults, shown, without_missing
from visionkit.config_schema import DataConfig
from visionkit.errors import CodedLine, ConfigError, did_you_mean
from visionkit.targets import locate, parameters

IMAGE_KEYS = ("channels", "bit_depth")
"""Those of `READER_KEYS` that are one for all sets: what images become, on which the model hangs."""
READER_KEYS = ("root", "classes", "ignore_index", "seed", "objects", "on_error", "annotations", *IMAGE_KEYS)
"""The keys of `data` that a reader is given when its constructor takes them."""
SET_KEYS = ("reader", "splits", *(key for key in READER_KEYS if key not in IMAGE_KEYS))
"""The keys of `data` that each of several sets has for itself, under `data.sets.<name>`."""
_UNSET: Mapping[str, Any] = {"seed": 0, "annotations": {}, "on_error": "stop", "channels": 3, "bit_depth": 8}
_FORMATS = "data=auto, data=coco, data=voc, data=yolo, data=csv, data=masks or data=folder"


def filled_sets(sets: Mapping[str, Any]) -> tuple[dict[str, Any], list[CodedLine]]:
    """Return `data.sets` with every value in its type, and a line per key that is none or value that does not fit."""
    known = get_type_hints(DataConfig)
    filled: dict[str, Any] = {}
    faults: list[CodedLine] = []
    for name, one in sets.items():
        path = f"data.sets.{name}"
        if not isinstance(one, Mapping):
            faults.append(CodedLine(f"{path}={shown(one)}: a mapping such as {{key: value}} is wanted", "value-unfit"))
            continue
        common = [key for key in one if key in known and key not in SET_KEYS]
        faults += [
            CodedLine(f"{path}.{key}: this is said once for all sets; give data.{key}", "key-not-taken")
            for key in common
        ]
        node = empty(DataConfig)
        faults += fill(node, {key: value for key, value in one.items() if key not in common}, f"{path}.")
        filled[name] = without_missing(OmegaConf.to_container(node))
        unfit = range_faults({"data": filled[name]})
        faults += [CodedLine(fault.replace("data.", f"{path}.", 1), fault.code) for fault in unfit]
    return filled, faults


def data_faults(data: Mapping[str, Any]) -> list[CodedLine]:
    """Return a line per key that was given though the reader does not take it, per root that is missing, and per name
    of a set that is none. Data without a reader, which differ from those of a checkpoint, have no faults yet.
    """
    if "_target_" not in data.get("reader", {}):
        return []
    sets, shares, none = data.get("sets", {}), data.get("proportions", {}), []
    names = [name for name, one in sets.items() if "_target_" in one.get("reader", {})]
    none += [f"data.sets.{name}" for name in sets if name not in names]
    none += [f"data.proportions.{name}" for name in shares if isinstance(shares, Mapping) and name not in sets]
    mend = "choose the sets with data=[a, b]"
    faults = [
        CodedLine(f"{key}: there is no such set{did_you_mean(key.rpartition('.')[2], names)}; {mend}", "choice-unknown")
        for key in none
    ]
    for name in names:
        faults += _reader_faults(sets[name], f"data.sets.{name}")
    return faults + _reader_faults(data, "data")


def _reader_faults(data: Mapping[str, Any], path: str) -> list[CodedLine]:
    """Return the faults of what one reader is given, `data` and its keys below `path`."""
    try:
        target = locate(data["reader"]["_target_"])
    except ConfigError:
        return []  # target_faults says it
    taken, name = parameters(target), target.__name__
    faults: list[CodedLine] = []
    of_sets = "readers" in taken and "readers" not in data["reader"]
    if of_sets and not data.get("sets"):
        told = f"{path}: {name} is of several sets; name them, as in data=[bccd, camvid]"
        faults.append(CodedLine(told, "value-missing"))
    for key in READER_KEYS:
        is_given = data.get(key) not in (None, _UNSET.get(key))
        if key == "root" and is_given and name == "Shapes":
            faults.append(CodedLine(f"{path}.root={data[key]}: the format is missing; add {_FORMATS}", "value-missing"))
        elif is_given and of_sets and key not in IMAGE_KEYS:
            told = f"{path}.{key}={shown(data[key])}: each set has its own; give {path}.sets.<name>.{key}"
            faults.append(CodedLine(told, "key-not-taken"))
        elif is_given and not of_sets and key not in taken and key != "on_error":
            told = f"{path}.{key}={shown(data[key])}: {name} takes no {key}; leave it out, or choose another data="
            faults.append(CodedLine(told, "key-not-taken"))
    if "root" in taken and taken["root"].default is inspect.Parameter.empty and data.get("root") is None:
        told = f"{path}.root: the folder of the data set is missing; give {path}.root=DIR"
        faults.append(CodedLine(told, "value-missing"))
    return faults
