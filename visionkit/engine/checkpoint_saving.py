"""Checkpoints as they are written: complete or not there, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from visionkit.engine.checkpoint_manifest import ASIDE, set_aside, write_json, write_manifest
from visionkit.engine.checkpoint_versions import SCHEMA
from visionkit.errors import CheckpointError

_KEPT = 2
"""Checkpoints that stay beside the best: should the newest be damaged, there is one before it."""


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
    whatever happens meanwhile. The two newest and the best stay; later ones than this, of a run that was then resumed
    from an earlier one, do not. `half_written` is called when some of its files are there.

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
        write_json(temporary / "model.json", description)
        write_json(temporary / "state.json", {"schema": SCHEMA, "step": step, **state})
        (temporary / "config.yaml").write_text(config, encoding="utf-8")
        write_manifest(temporary)
        for path in [*temporary.iterdir(), temporary]:
            flush(path)
        _put_in_place(temporary, target)
        # `last` comes second: a run killed between the two is resumed before this step, and makes it again.
        if best or not (root / "best").is_dir():
            _link(root / "best", target.name)
        _link(root / "last", target.name)
        for path in (root, run_folder):
            flush(path)
        _drop_old(root, step)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            set_aside(target).rename(target)  # refused where the target is there
        mend = "free space or give another run_dir"
        raise CheckpointError(
            f"{target}: not written ({error.strerror}); {mend}", code="checkpoint-not-written"
        ) from error
    return target


def flush(path: Path) -> None:
    """Have a file or folder written to the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _contiguous(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}


def _pickled(values: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(values), buffer)
    return buffer.getvalue()


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename; one of the same step is kept aside, where `open_checkpoint` finds it, until the new one is linked."""
    if target.exists():
        _remove(set_aside(target))
        target.rename(set_aside(target))
    temporary.rename(target)
    flush(target.parent)


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.new")
    temporary.symlink_to(target, target_is_directory=True)
    temporary.replace(link)


def _clear(root: Path) -> None:
    """Remove what a save that was killed has left: its names begin with a dot. It may need what was kept aside."""
    for path in root.glob(".*"):
        if not path.name.endswith(ASIDE):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _drop(checkpoint: Path) -> None:
    """Remove a checkpoint; killed half-way, it leaves nothing that looks like one."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.old")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _drop_old(root: Path, step: int) -> None:
    steps = {int(path.name[5:]): path for path in root.glob("step-*") if path.name[5:].isdecimal()}
    newest = sorted((number for number in steps if number <= step), reverse=True)[:_KEPT]
    linked = {(root / link).resolve() for link in ("best", "last")}
    for number, path in steps.items():
        if number not in newest and path.resolve() not in linked:
            _drop(path)
    for path in root.glob(f".*{ASIDE}"):
        _remove(path)
