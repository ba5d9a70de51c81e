"""Checkpoints as they are read: verified to the last bit, and running no code. `checkpoint_saving` writes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from visionkit.config_files import read_config
from visionkit.engine.checkpoint_manifest import MANIFEST, DamagedError, read_part, set_aside, verify
from visionkit.engine.checkpoint_versions import migrated_state, migrated_training
from visionkit.errors import CheckpointError, printable
from visionkit.model import VisionModel
from visionkit.plain_files import Unreadable
from visionkit.tensor_files import read_safetensors, read_saved

LOGGER = logging.getLogger("visionkit")
_MEND = "use another checkpoint of the run"
_STATE: Mapping[str, tuple[type, ...]] = {
    "step": (int,), "best": (int, float, type(None)), "best_step": (int,), "evaluation_due": (bool,),
    "processes": (int,), "data": (dict, type(None)),
}  # fmt: skip
"""What a state must tell, and the types of it."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint folder; what an older version wrote is told as the present one would tell it.

    Attributes:
        folder: where it lies.
        step: optimizer steps behind it.
        description: what `visionkit.build.build_model` needs to rebuild the model, with class names and preprocessing.
        state: plain values of the run: epoch, best metric, processes, data (`visionkit.data.fingerprint`) and the like.
        schema: of its files (`visionkit.engine.checkpoint_versions`).
    """

    folder: Path
    step: int
    description: dict[str, Any]
    state: dict[str, Any]
    schema: int

    def weights(self, name: str = "ema") -> dict[str, Tensor]:
        """The state dict "ema" or "model", on the CPU."""
        file = self.folder / f"{name}.safetensors"
        try:
            return read_safetensors(file)
        except Unreadable as error:
            raise CheckpointError(
                printable(f"{file}: not readable ({error}); {_MEND}"), code="checkpoint-damaged"
            ) from None

    def training_state(self) -> dict[str, Any]:
        """Optimizer, scaler and random-number states."""
        file = self.folder / "training.pt"
        try:
            return migrated_training(read_saved(file), self.schema)
        except Unreadable as error:
            raise CheckpointError(
                printable(f"{file}: not readable ({error}); {_MEND}"), code="checkpoint-damaged"
            ) from None
        except (KeyError, TypeError):
            raise CheckpointError(f"{file}: not what a run saves; {_MEND}", code="checkpoint-damaged") from None

    def config(self) -> dict[str, Any]:
        """The configuration of the run, as plain containers."""
        return read_config(self.folder / "config.yaml")


def find_checkpoint(path: str | Path, link: str = "best") -> Path:
    """The checkpoint folder meant by `path`: itself, or the `link` of a run folder. It is not looked into.

    Raises:
        CheckpointError: when there is none.
    """
    path = Path(path)
    for folder in (path, path / "checkpoints" / link, path / link):
        if (folder / MANIFEST).is_file():
            return folder.resolve()
    if not path.exists():
        mend = "give a run folder or one of its checkpoints"
        raise CheckpointError(f"checkpoint={path}: there is no such folder; {mend}", code="checkpoint-missing")
    raise CheckpointError(
        f"checkpoint={path}: neither a checkpoint ({MANIFEST} lacks) nor a run folder that has one",
        code="checkpoint-missing",
    )


def has_checkpoints(run_folder: Path) -> bool:
    """Whether there is a checkpoint in a run folder, be it damaged."""
    root = run_folder / "checkpoints"
    return (root / "last").is_symlink() or bool(_steps(root))


def open_checkpoint(
    path: str | Path, link: str = "best", *, warn: Callable[[str], object] = LOGGER.warning
) -> Checkpoint:
    """Find a checkpoint and verify size and sha256 of every file of its manifest.

    Where `path` is a run folder and what `link` points to is damaged, another one is used, which `warn` is told: for
    "last" the newest whole one before it, for "best" the last, or the newest whole one.

    Args:
        path: a checkpoint, or a run folder.
        link: of a run folder, "best" or "last".
        warn: is given a line that names the damaged file and the checkpoint used instead.

    Raises:
        CheckpointError: there is none, or none that is whole; naming the file that lacks or is damaged.
    """
    path = Path(path)
    root = next((folder for folder in (path / "checkpoints", path) if _is_run(folder)), None)
    if (path / MANIFEST).is_file() or root is None:
        try:
            return _opened(find_checkpoint(path, link))
        except DamagedError as fault:
            raise CheckpointError(f"{fault}; {_MEND}", code="checkpoint-damaged") from fault
    faults: list[DamagedError] = []
    for folder in _candidates(root, link):
        try:
            found = _opened(folder)
        except DamagedError as fault:
            faults.append(fault)
            continue
        for one in faults:
            warn(f"{one}; {found.folder} is used instead")
        return found
    raise CheckpointError(
        f"{faults[0]}; no other checkpoint of {path} is whole: start a new run", code="checkpoint-damaged"
    ) from faults[0]


def load_model(path: str | Path, allow: tuple[str, ...] = ()) -> VisionModel:
    """Rebuild the model of a checkpoint with its EMA weights, in eval mode, on the CPU.

    Args:
        path: a checkpoint, or a run folder (its best; see `open_checkpoint`).
        allow: packages beside visionkit whose parts may be built.

    Raises:
        CheckpointError: when it lacks, is damaged, or asks for parts that are not allowed.
    """
    from visionkit.build import build_model

    checkpoint = open_checkpoint(path)
    try:
        model = build_model(checkpoint.description, allow=allow)
    except CheckpointError:
        raise
    except Exception as error:  # what parts meet in arguments that they do not take
        fault = f"cannot be built ({type(error).__name__}: {str(error)[:300]})"
        said = f"{checkpoint.folder / 'model.json'}: {fault}; use the version that wrote it"
        raise CheckpointError(printable(said), code="checkpoint-version") from error
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
        raise CheckpointError(
            f"{folder}: the weights do not fit the model described beside them ({first})", code="weights-do-not-fit"
        ) from error


def _opened(folder: Path) -> Checkpoint:
    """Verify a checkpoint and read what is not tensors.

    Raises:
        DamagedError: it is not whole.
        CheckpointError: a later version wrote it.
    """
    if not folder.is_dir():
        raise DamagedError(f"{folder}: leads nowhere" if folder.is_symlink() else f"{folder}: is missing")
    folder = folder.resolve()
    schema = verify(folder)
    state = migrated_state(read_part(folder / "state.json"), schema)
    for key, kinds in _STATE.items():
        if key not in state or not isinstance(state[key], kinds):
            raise DamagedError(f"{folder / 'state.json'}: damaged (no {key})")
    return Checkpoint(folder, state["step"], read_part(folder / "model.json"), state, schema)


def _is_run(root: Path) -> bool:
    return any((root / link).is_symlink() or (root / link).is_dir() for link in ("last", "best")) or bool(_steps(root))


def _steps(root: Path) -> dict[int, Path]:
    """The checkpoints below `root` by their step, newest first."""
    found = {int(path.name[5:]): path for path in root.glob("step-*") if path.name[5:].isdecimal()}
    return dict(sorted(found.items(), reverse=True))


def _candidates(root: Path, link: str) -> list[Path]:
    """What a link of a run leads to, and then what may take its place, in this order, each once."""
    order: list[Path] = []
    steps = _steps(root)
    newest = max(steps, default=0)
    for name in dict.fromkeys((link, "last")):
        if (root / name).is_symlink():
            target = (root / name).readlink().name
            order.append(root / name)
            order += [path for path in [set_aside(root / target)] if target and path.is_dir()]
            newest = int(target[5:]) if link == "last" and target[5:].isdecimal() else newest
        elif (root / name).is_dir():
            order.append(root / name)  # of a run that was copied without its links
    order += [path for step, path in steps.items() if step <= newest]
    order += [path for step, path in steps.items() if step > newest]
    unique: dict[Path, Path] = {}
    for path in order:
        unique.setdefault(path.resolve(), path)
    return list(unique.values())
