"""Checkpoints: folders that are complete or not there, carry all that is needed to use them, and run no code."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from visionkit.errors import CheckpointError, ConfigError
from visionkit.model import VisionModel

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint folder.

    Attributes:
        folder: where it lies.
        step: optimizer steps behind it.
        description: what `visionkit.build.build_model` needs to rebuild the model, with class names and preprocessing.
        state: plain values of the run: epoch, best metric, updates of the EMA.
    """

    folder: Path
    step: int
    description: dict[str, Any]
    state: dict[str, Any]

    def weights(self, name: str = "ema") -> dict[str, Tensor]:
        """The state dict "ema" or "model", on the CPU."""
        return load_file(self.folder / f"{name}.safetensors")

    def training_state(self) -> dict[str, Any]:
        """Optimizer, scaler and random-number states."""
        state: dict[str, Any] = torch.load(self.folder / "training.pt", "cpu", weights_only=True)
        return state


def save_checkpoint(
    run_folder: Path,
    *,
    step: int,
    model: nn.Module,
    ema: nn.Module,
    description: Mapping[str, Any],
    state: Mapping[str, Any],
    training: Mapping[str, Any],
    config: str,
    best: bool,
    half_written: Callable[[], None] = lambda: None,
) -> Path:
    """Write checkpoints/step-N beside the others, point `last` (and `best`) at it, then drop what is neither.

    Files are written into a folder of another name, flushed to the disk and renamed, so a checkpoint is whole or absent
    whatever happens meanwhile. The two newest and the best stay. `half_written` is called when some of its files are
    there.

    Raises:
        CheckpointError: when the disk is full or the folder cannot be written; the checkpoints before it are untouched.
    """
    root = run_folder / "checkpoints"
    target = root / f"step-{step}"
    temporary = root / f".step-{step}.new"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _clear(root)
        temporary.mkdir()
        # As bytes: on a full disk the writers of torch and safetensors raise no OSError; safetensors' sets mode 600.
        (temporary / "model.safetensors").write_bytes(save(_contiguous(model)))
        (temporary / "ema.safetensors").write_bytes(save(_contiguous(ema)))
        half_written()
        (temporary / "training.pt").write_bytes(_pickled(training))
        _write_json(temporary / "model.json", description)
        _write_json(temporary / "state.json", {"schema": SCHEMA, "step": step, **state})
        (temporary / "config.yaml").write_text(config, encoding="utf-8")
        files = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir())}
        _write_json(temporary / MANIFEST, {"schema": SCHEMA, "files": files})
        for path in [*temporary.iterdir(), temporary]:
            _flush(path)
        if target.exists():
            _drop(target)
        temporary.rename(target)
        _flush(root)
        # `last` comes second: a run killed between the two is resumed before this step, and makes it again.
        if best or not (root / "best").is_dir():
            _link(root / "best", target.name)
        _link(root / "last", target.name)
        _drop_old(root)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        mend = "free space or give another run_dir"
        raise CheckpointError(f"{target}: not written ({error.strerror}); {mend}") from error
    return target


def find_checkpoint(path: str | Path, link: str = "best") -> Path:
    """The checkpoint folder meant by `path`: itself, or the `link` of a run folder.

    Raises:
        CheckpointError: when there is none.
    """
    path = Path(path)
    for folder in (path, path / "checkpoints" / link, path / link):
        if (folder / MANIFEST).is_file():
            return folder.resolve()
    if not path.exists():
        mend = "give a run folder or one of its checkpoints"
        raise CheckpointError(f"checkpoint={path}: there is no such folder; {mend}")
    raise CheckpointError(f"checkpoint={path}: neither a checkpoint ({MANIFEST} lacks) nor a run folder that has one")


def open_checkpoint(path: str | Path, link: str = "best") -> Checkpoint:
    """Find a checkpoint and verify size and sha256 of every file of its manifest.

    Raises:
        CheckpointError: naming the file that lacks or is damaged.
    """
    folder = find_checkpoint(path, link)
    manifest = _read_json(folder / MANIFEST)
    schema = manifest.get("schema")
    if schema != SCHEMA:
        known = f"this version knows {SCHEMA}"
        raise CheckpointError(f"{folder / MANIFEST}: schema {schema} is not known ({known}); update visionkit")
    files = manifest.get("files")
    if not isinstance(files, dict) or not {"ema.safetensors", "model.json", "state.json"} <= set(files):
        raise CheckpointError(f"{folder / MANIFEST}: damaged; use another checkpoint of the run")
    for name, expected in files.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(f"{file}: is in the manifest but not there; use another checkpoint of the run")
        if _fingerprint(file) != expected:
            raise CheckpointError(f"{file}: damaged (size or sha256 is not the manifest's); use another checkpoint")
    state = _read_json(folder / "state.json")
    if not isinstance(state.get("step"), int):
        raise CheckpointError(f"{folder / 'state.json'}: names no step; use another checkpoint of the run")
    return Checkpoint(folder, state["step"], _read_json(folder / "model.json"), state)


def load_model(path: str | Path, allow: tuple[str, ...] = ()) -> VisionModel:
    """Rebuild the model of a checkpoint with its EMA weights, in eval mode, on the CPU.

    Args:
        path: a checkpoint, or a run folder (its best).
        allow: packages beside visionkit whose parts may be built.

    Raises:
        CheckpointError: when it lacks, is damaged, or asks for parts that are not allowed.
    """
    from visionkit.build import build_model

    checkpoint = open_checkpoint(path)
    try:
        model = build_model(checkpoint.description, allow=allow)
    except (ConfigError, AttributeError, KeyError, TypeError) as error:
        file, reason = checkpoint.folder / "model.json", f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{file}: cannot be built ({reason}); use the version that wrote it") from error
    load_state(model, checkpoint.weights("ema"), checkpoint.folder)
    return model.eval()


def load_state(model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        CheckpointError: when it does not.
    """
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{folder}: the weights do not fit the model described beside them ({first})") from error


def _contiguous(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _pickled(values: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(values), buffer)
    return buffer.getvalue()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.new")
    temporary.symlink_to(target, target_is_directory=True)
    temporary.replace(link)


def _clear(root: Path) -> None:
    """Remove what a save that was killed has left: its names begin with a dot."""
    for path in root.glob(".*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _drop(checkpoint: Path) -> None:
    """Remove a checkpoint; killed half-way, it leaves nothing that looks like one."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.old")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _drop_old(root: Path) -> None:
    steps = sorted((int(path.name[5:]), path) for path in root.glob("step-*") if path.name[5:].isdigit())
    linked = {(root / link).resolve() for link in ("best", "last")}
    for _, path in steps[:-2]:
        if path.resolve() not in linked:
            _drop(path)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable ({error}); use another checkpoint of the run") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: damaged; use another checkpoint of the run")
    return value
