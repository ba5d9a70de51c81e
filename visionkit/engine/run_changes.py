"""What differs between a run as it was and as it would be resumed: its configuration, its data, its processes."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from visionkit.config import compose
from visionkit.data.fingerprint import Fingerprints, differences
from visionkit.engine.checkpoint import Checkpoint
from visionkit.errors import ConfigError, did_you_mean, listed
from visionkit.targets import locate, parameters

FREE_TO_CHANGE = (
    "run_dir", "resume", "resume_allow", "device", "debug", "data.workers", "data.cache", "data.cache_gib",
    "engine.max_hours", "engine.timeout", "track",
)  # fmt: skip
"""Keys in which a resumed run may differ: they do not change what is computed."""
SETTLED_LATER = ("engine.epochs", "engine.evaluate_every")
"""Keys that are null until the batch size is known (`visionkit.engine.run_data.settle_length`)."""
PROCESSES = "processes"
ROLES = ("train", "val", "test")
_NOTHING = object()


class ChangedError(ConfigError):
    """A run cannot go on, since it was another one; `changes` are what differs."""

    usual_code = "run-changed"

    def __init__(self, message: str, changes: Sequence[str]) -> None:
        super().__init__(message)
        self.changes = changes


@dataclass(frozen=True)
class Changes:
    """What differs from a checkpoint.

    Attributes:
        told: by name, a line; names are configuration keys, `data.<role>` and `processes`.
        assumed: keys that the checkpoint's configuration did not have yet, and which have today's default.
        known: all names that `resume_allow` may hold: those that differ, and what could.
    """

    told: Mapping[str, str]
    assumed: Sequence[str]
    known: Collection[str]

    def refused(self, allow: Sequence[str]) -> list[str]:
        """The lines of changes that no name of `allow` covers; a name stands for all keys below it, too."""
        return [line for name, line in self.told.items() if not any(_below(name, one) for one in allow)]


def changes(checkpoint: Checkpoint, cfg: DictConfig, data: Fingerprints | None, processes: int) -> Changes:
    """Compare a run as it would go on with its checkpoint.

    A key that the checkpoint's configuration lacks, since an older version wrote it, counts as today's default.

    Args:
        checkpoint: from which the run would go on.
        cfg: the configuration to go on with, as it is written down: heads chosen, batch size settled.
        data: fingerprints by role; None: they are not compared.
        processes: of the run that would go on.
    """
    before = _flat(checkpoint.config())
    after = _flat(OmegaConf.to_container(cfg, resolve=True))
    told: dict[str, str] = {}
    assumed = []
    defaults = _Defaults(cfg)
    for key in sorted({*before, *after}):
        if any(_below(key, free) for free in FREE_TO_CHANGE):
            continue
        earlier, now = before.get(key, _NOTHING), after.get(key, _NOTHING)
        if now is None and key in SETTLED_LATER:
            continue
        if earlier is _NOTHING and now == defaults.of(key):
            assumed.append(key)
        elif earlier != now:
            told[key] = f"{key}: {_shown(earlier)} -> {_shown(now)}"
    recorded = checkpoint.state["data"]
    if data is not None and recorded is not None:
        for role in sorted({*recorded, *data}):
            found = differences(recorded.get(role), data.get(role))
            if found:
                told[f"data.{role}"] = f"data.{role}: {found}"
    if checkpoint.state["processes"] != processes:
        told[PROCESSES] = f"{PROCESSES}: {checkpoint.state['processes']} -> {processes}"
    return Changes(told, assumed, {*before, *known_names(cfg)})


def known_names(cfg: DictConfig) -> list[str]:
    """All names that `resume_allow` may hold."""
    keys = _flat(OmegaConf.to_container(cfg, resolve=True))
    return [*keys, *(f"data.{role}" for role in ROLES), PROCESSES]


def check_names(allow: Sequence[str], known: Collection[str]) -> None:
    """Refuse names in `resume_allow` that stand for nothing.

    Raises:
        ConfigError: naming the first.
    """
    for name in allow:
        if not any(_below(one, name) for one in known):
            hint = did_you_mean(name, known)
            wanted = "keys of the configuration, data.train, data.val, data.test and processes"
            raise ConfigError(
                f"resume_allow={name}: there is no such name{hint}; it holds {wanted}", code="choice-unknown"
            )


def refuse(found: Changes, allow: Sequence[str], folder: object) -> None:
    """Refuse to go on with changes that `allow` does not name.

    Raises:
        ChangedError: it tells them, and how to allow them.
        ConfigError: `allow` names something that is not there.
    """
    check_names(allow, found.known)
    refused = found.refused(allow)
    if refused:
        names = [name for name, line in found.told.items() if line in refused]
        mend = f"resume it as it was, start a new run, or allow it with resume_allow=[{','.join([*allow, *names])}]"
        raise ChangedError(f"resume: the run in {folder} was another ({listed(refused, 6)}); {mend}", refused)


class _Defaults:
    """Today's default of keys, looked up only where it is asked for."""

    def __init__(self, cfg: DictConfig) -> None:
        self._cfg = cfg
        self._composed: Mapping[str, Any] | None = None

    def of(self, key: str) -> Any:
        """What the configuration of the same task has under `key`, else the default of the argument of its target."""
        if self._composed is None:
            self._composed = _flat(OmegaConf.to_container(compose("train", [f"task={self._cfg.task}"]), resolve=True))
        if key in self._composed:
            return self._composed[key]
        parent, _, name = key.rpartition(".")
        node: Any = OmegaConf.select(self._cfg, parent) if parent else None
        if not OmegaConf.is_dict(node) or "_target_" not in node:
            return _NOTHING
        argument = parameters(locate(node["_target_"])).get(name)
        return _NOTHING if argument is None or argument.default is inspect.Parameter.empty else argument.default


def _below(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def _shown(value: Any) -> str:
    return "nothing" if value is _NOTHING else str(value)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted key; lists are values, and a mapping of nothing is none."""
    if not isinstance(node, dict):
        return {prefix: node}
    parts = [_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items()]
    return {key: value for part in parts for key, value in part.items()}
