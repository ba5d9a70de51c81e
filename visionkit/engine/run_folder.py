"""The folder of a run: made atomically, with what is needed to know later what ran."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import json
import logging
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from visionkit.config_files import read_config
from visionkit.data.fingerprint import Fingerprints
from visionkit.engine.checkpoint import Checkpoint, has_checkpoints, open_checkpoint
from visionkit.engine.run_changes import ChangedError, changes, check_names, known_names, refuse
from visionkit.engine.run_links import refuse_links_out
from visionkit.engine.run_lock import LOCK, refuse_if_running
from visionkit.errors import CheckpointError, ConfigError, UserError, listed
from visionkit.plain_files import Unreadable, read_json

LOGGER = logging.getLogger("visionkit")
_PACKAGES = ("torch", "torchvision", "numpy", "albumentations", "opencv-python-headless", "pycocotools", "hydra-core")


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        folder: of the run.
        checkpoint: from which it goes on; None: it begins anew.
        changed: the changes that `resume_allow` lets pass, by name (`visionkit.engine.run_changes`).
        said: lines that somebody should read.
    """

    folder: Path
    checkpoint: Checkpoint | None = None
    changed: Mapping[str, str] = field(default_factory=dict)
    said: Sequence[str] = ()


def choose_run_folder(cfg: DictConfig, data: Fingerprints | None = None, processes: int = 1) -> Start:
    """Make or find the folder of this run, and the checkpoint from which it goes on.

    resume=none makes a new folder; auto continues `run_dir` if it holds a run, else the unfinished `latest` of the same
    configuration, data and processes, else makes a new one; a folder continues that.

    Args:
        cfg: the configuration, with all that is settled as a run starts.
        data: of the run, to be compared (`visionkit.data.fingerprint`); None: they are not.
        processes: of the run.

    Raises:
        UserError: `run_dir` holds something already or cannot be made; or the run to go on with is going on already,
            differs in something that `cfg.resume_allow` does not name, or has no checkpoint that is whole.
    """
    root = Path("runs") / cfg.task
    if cfg.resume not in ("none", "auto"):
        folder = Path(cfg.resume)
        if cfg.run_dir and Path(cfg.run_dir).resolve() != folder.resolve():
            raise ConfigError(
                f"run_dir={cfg.run_dir}: the run goes on in its own folder, {folder}; leave run_dir out",
                code="keys-contradict",
            )
        if not has_checkpoints(folder):
            mend = "give the folder of a run, or resume=auto"
            raise CheckpointError(
                f"resume={folder}: no run with a checkpoint is there; {mend}", code="checkpoint-missing"
            )
        refuse_if_running(folder)
        return _continued(folder, cfg, data, processes)
    check_names(cfg.resume_allow, known_names(cfg))
    if cfg.run_dir:
        folder = Path(cfg.run_dir)
        refuse_if_running(folder)
        if cfg.resume == "auto" and has_checkpoints(folder):
            return _continued(folder, cfg, data, processes)
        if cfg.resume == "auto" and any((folder / name).is_file() for name in ("status.json", LOCK)):
            refuse_links_out(folder)
            return Start(folder)  # a run that ended before its first checkpoint: there is nothing to continue
        return Start(_made(folder))
    said: list[str] = []
    latest = _unfinished(root) if cfg.resume == "auto" else None
    if latest is not None:
        try:
            start = _continued(latest, cfg, data, processes)
            refuse_if_running(latest)
            return start
        except ChangedError as error:
            said.append(f"a new run begins, since the last one was another: {listed(error.changes, 6)}")
    folder = numbered_folder(root, cfg.name)
    link = root / f".latest.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name, target_is_directory=True)
    link.replace(root / "latest")
    return Start(folder, said=said)


def earlier_batch_size(cfg: DictConfig, processes: int) -> int | None:
    """The batch size of the run that `resume` goes on with, for `data.batch_size=auto`; None: a new run begins.

    Raises:
        CheckpointError: no checkpoint of that run is whole.
    """
    if cfg.resume == "none":
        return None
    given = cfg.run_dir if cfg.resume == "auto" else cfg.resume
    folder = Path(given) if given else _unfinished(Path("runs") / cfg.task)
    if folder is None or not has_checkpoints(folder):
        return None
    try:
        size = read_config(folder / "config.yaml")["data"]["batch_size"]
    except (CheckpointError, LookupError, TypeError):
        return None
    if not given:  # the latest goes on only if it was the same run
        same = copy.deepcopy(cfg)
        same.data.batch_size = size
        try:
            _continued(folder, same, None, processes)
        except ChangedError:
            return None
    return size if isinstance(size, int) else None


def numbered_folder(root: Path, name: str) -> Path:
    """Make the first free root/name-NNN; two processes never get the same one."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        ends = [path.name.removeprefix(f"{name}-") for path in root.iterdir()]
        number = max((int(end) for end in ends if end.isdecimal()), default=0)
        while True:
            number += 1
            try:
                (root / f"{name}-{number:03d}").mkdir()
            except FileExistsError:
                continue
            return root / f"{name}-{number:03d}"
    except OSError as error:
        raise UserError(
            f"{root}: cannot be written ({error.strerror}); give run_dir=DIR", code="not-writable"
        ) from error


def write_beginning(folder: Path, cfg: DictConfig, device: torch.device) -> None:
    """Write config.yaml, env.json and status.json of a run that starts."""
    write_settings(folder, cfg, device)
    write_status(folder, "running")


def write_settings(folder: Path, cfg: DictConfig, device: torch.device) -> None:
    """Write config.yaml and env.json: what a run or an evaluation was asked for, and where it ran."""
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    environment = {
        "visionkit": importlib.import_module("visionkit").__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "command": sys.argv,
    }
    (folder / "env.json").write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")


def write_status(folder: Path, status: str, **more: Any) -> None:
    """Write status.json in one step: running, finished, failed or interrupted."""
    temporary = folder / f".status.{os.getpid()}"
    temporary.write_text(json.dumps({"status": status, **more}) + "\n", encoding="utf-8")
    temporary.replace(folder / "status.json")


def start_logging(folder: Path) -> None:
    """Say what is logged on the terminal and in train.log."""
    stop_logging()
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    for handler in (logging.StreamHandler(sys.stdout), logging.FileHandler(folder / "train.log", encoding="utf-8")):
        handler.setFormatter(logging.Formatter("%(message)s"))
        LOGGER.addHandler(handler)


def stop_logging() -> None:
    """Close what `start_logging` opened."""
    LOGGER.propagate = True
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()


def made_folder(folder: Path) -> Path:
    """Make `folder`, and see that it can be written.

    Raises:
        UserError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(
            f"run_dir={folder}: cannot be written ({error.strerror}); give another folder", code="not-writable"
        ) from error
    return folder


def _made(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"run_dir={folder}: is not empty; resume=auto continues a run, else give another folder", code="place-taken"
        )
    return made_folder(folder)


def _continued(folder: Path, cfg: DictConfig, data: Fingerprints | None, processes: int) -> Start:
    """The run in `folder`, from its newest whole checkpoint on."""
    refuse_links_out(folder)
    said: list[str] = []
    checkpoint = open_checkpoint(folder, "last", warn=said.append)
    found = changes(checkpoint, cfg, data, processes)
    refuse(found, cfg.resume_allow, folder)
    if found.told:
        said.append(f"resumed with changes that resume_allow names: {listed(list(found.told.values()), 20)}")
    if found.assumed:
        keys = listed(found.assumed, 20)
        said.append(f"keys that the run's configuration did not have yet have today's defaults: {keys}")
    if data is not None and checkpoint.state["data"] is None:
        said.append("the version that wrote the checkpoint did not write down its data, so they are not compared")
    return Start(folder, checkpoint, found.told, said)


def _unfinished(root: Path) -> Path | None:
    """The last run of a task, where it has a checkpoint and did not come to its end."""
    latest = (root / "latest").resolve()
    return latest if has_checkpoints(latest) and _status(latest) not in ("finished", None) else None


def _status(folder: Path) -> Any:
    """What status.json says; None where it says nothing."""
    with contextlib.suppress(Unreadable):
        told = read_json(folder / "status.json")
        return told.get("status") if isinstance(told, dict) else None
    return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
