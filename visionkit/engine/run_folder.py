"""The folder of a run: made atomically, with what is needed to know later what ran."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from visionkit.engine.checkpoint import MANIFEST
from visionkit.errors import CheckpointError, ConfigError, UserError, listed

LOGGER = logging.getLogger("visionkit")
FREE_TO_CHANGE = ("run_dir", "resume", "device", "debug", "data.workers")
"""Keys in which a resumed run may differ: they do not change what is computed."""
_PACKAGES = ("torch", "torchvision", "numpy", "albumentations", "opencv-python-headless", "pycocotools", "hydra-core")


def choose_run_folder(cfg: DictConfig) -> tuple[Path, bool]:
    """Make or find the folder of this run; and say whether it continues one.

    resume=none makes a new folder; auto continues `run_dir` if it holds a run, else the unfinished `latest` of the same
    configuration, else makes a new one; a folder continues that.

    Raises:
        UserError: `run_dir` holds something already, cannot be made, or the configuration to resume with differs.
    """
    root = Path("runs") / cfg.task
    if cfg.resume not in ("none", "auto"):
        folder = Path(cfg.resume)
        if cfg.run_dir and Path(cfg.run_dir).resolve() != folder.resolve():
            raise ConfigError(f"run_dir={cfg.run_dir}: the run goes on in its own folder, {folder}; leave run_dir out")
        if not _has_checkpoint(folder):
            mend = "give the folder of a run, or resume=auto"
            raise CheckpointError(f"resume={folder}: no run with a checkpoint is there; {mend}")
        _refuse_changes(folder, cfg)
        return folder, True
    candidates = [Path(cfg.run_dir)] if cfg.run_dir else [root / "latest"]
    if cfg.resume == "auto":
        for folder in candidates:
            if _has_checkpoint(folder) and (cfg.run_dir or _unfinished(folder, cfg)):
                _refuse_changes(folder, cfg)
                return folder.resolve(), True
    if cfg.run_dir:
        folder = Path(cfg.run_dir)
        if cfg.resume == "auto" and (folder / "status.json").is_file():
            return folder, False  # a run that ended before its first checkpoint: there is nothing to continue
        return _made(folder), False
    folder = numbered_folder(root, cfg.name)
    link = root / f".latest.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name, target_is_directory=True)
    link.replace(root / "latest")
    return folder, False


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
        raise UserError(f"{root}: cannot be written ({error.strerror}); give run_dir=DIR") from error


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
        raise UserError(f"run_dir={folder}: cannot be written ({error.strerror}); give another folder") from error
    return folder


def _made(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"run_dir={folder}: is not empty; resume=auto continues a run, else give another folder")
    return made_folder(folder)


def _has_checkpoint(folder: Path) -> bool:
    return (folder / "checkpoints" / "last" / MANIFEST).is_file()


def _unfinished(folder: Path, cfg: DictConfig) -> bool:
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError):
        return False
    return status != "finished" and not _changes(folder, cfg)


def _changes(folder: Path, cfg: DictConfig) -> list[str]:
    file = folder / "config.yaml"
    if not file.is_file():
        mend = "start a new one with another run_dir"
        raise CheckpointError(f"{file}: is missing, so this run cannot be resumed; {mend}")
    before = _flat(OmegaConf.to_container(OmegaConf.load(file)))
    after = _flat(OmegaConf.to_container(cfg, resolve=True))
    keys = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in keys
        if not any(key == free or key.startswith(free + ".") for free in FREE_TO_CHANGE)
    ]


def _refuse_changes(folder: Path, cfg: DictConfig) -> None:
    changes = _changes(folder, cfg)
    if changes:
        raise ConfigError(
            f"resume: the run in {folder} was started with another configuration ({listed(changes, 4)}); resume it "
            f"with the same keys, or start a new run"
        )


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    parts = [_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items()]
    return {key: value for part in parts for key, value in part.items()}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
