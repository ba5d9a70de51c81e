"""The config.yaml of a run or a checkpoint, which is data: nothing in it is resolved, looked up or called here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from visionkit.config_checks import empty, fill, without_missing
from visionkit.config_schema import TrainConfig
from visionkit.errors import CheckpointError, listed, printable
from visionkit.plain_files import Unreadable, read_yaml

_READ_LATER = (
    "name", "data.reader", "data.splits.val", "data.splits.test", "data.split", "data.workers", "engine.channels_last",
)  # fmt: skip
"""What an evaluation reads of the configuration that a checkpoint was trained with."""
_ADDED_LATER = {"engine.select": "mean", "engine.references": {}}
"""What else it reads, and how it was before there were such keys."""
_PLAIN = (bool, int, float, str, type(None))
_MEND = "use another checkpoint of the run"


def read_config(file: Path) -> dict[str, Any]:
    """Return a config.yaml as plain containers.

    Raises:
        CheckpointError: it is missing or no such file, or holds anything but plain values: a date, say, or an
            interpolation, which would be filled in with what this machine knows.
    """
    try:
        values = read_yaml(file)
    except Unreadable as error:
        raise CheckpointError(
            printable(f"{file}: not readable ({error}); {_MEND}"), code="checkpoint-damaged"
        ) from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: damaged (no mapping); {_MEND}", code="checkpoint-damaged")
    for key, fault in _strange(values, ""):
        raise CheckpointError(
            printable(f"{file}: {key}: {fault}; write the value itself, or {_MEND}"), code="checkpoint-damaged"
        )
    return values


def read_trained_config(file: Path) -> DictConfig:
    """Return what an evaluation reads of the configuration that a checkpoint was trained with, each value of its type.

    Keys that this version does not know are left out.

    Raises:
        CheckpointError: see `read_config`; or a value is missing or of another type; or `name`, after which folders are
            called, is no name of one.
    """
    values = read_config(file)
    node = empty(TrainConfig)
    faults: list[str] = [*fill(node, _known(values, TrainConfig))]
    for key, value in _ADDED_LATER.items():
        if OmegaConf.select(node, key, default="???") == "???":
            OmegaConf.update(node, key, value)
    if not faults:
        missing = [key for key in _READ_LATER if OmegaConf.select(node, key, default="???") == "???"]
        faults = [f"{key}: a value is missing" for key in missing]
    name = values.get("name")
    is_plain = isinstance(name, str) and Path(name).name == name and name.strip(".") and name.isprintable()
    if not faults and not is_plain:
        faults = [f"name={name}: is no name of a folder"]
    if faults:
        raise CheckpointError(
            printable(f"{file}: {listed(faults, 3)}; use the version that wrote it, or {_MEND}"),
            code="checkpoint-version",
        )
    return OmegaConf.create(without_missing(OmegaConf.to_container(node)))


def _known(values: Mapping[str, Any], schema: type) -> dict[str, Any]:
    """The values of the keys that a schema has."""
    kinds = get_type_hints(schema)
    return {
        key: _known(value, kinds[key]) if is_dataclass(kinds[key]) and isinstance(value, dict) else value
        for key, value in values.items()
        if key in kinds
    }


def _strange(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the key of each value that is not plain, and why."""
    items: Any = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        where = f"{path}.{key}".lstrip(".")[:100]
        if not isinstance(key, str | int) or "${" in str(key):
            yield where, "is no name of a key"
        elif isinstance(value, str) and "${" in value:
            yield where, "holds an interpolation ${…}"
        elif isinstance(value, dict | list):
            yield from _strange(value, where)
        elif not isinstance(value, _PLAIN):
            yield where, f"is a {type(value).__name__}, no plain value"
