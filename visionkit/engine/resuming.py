"""What a run takes up when it goes on."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from visionkit.engine.checkpoint import load_state, open_checkpoint
from visionkit.engine.run_folder import Start
from visionkit.engine.trainer import Trainer
from visionkit.errors import CheckpointError

LOGGER = logging.getLogger("visionkit")
_OTHER_OPTIMIZER = ("optim.name",)
_OTHER_JUDGE = ("data.val", "engine.select", "engine.references")
"""Changes after which a number of before is not comparable any more."""


@dataclass(frozen=True)
class Resumed:
    """Attributes:
    folder, step: of the checkpoint.
    model, ema: state dicts.
    training: optimizer, scaler, random numbers, sums (`Trainer.state`).
    with_optimizer: whether the optimizer's state fits, being of the same kind.
    best: the number to beat; −inf: whatever comes is the best.
    best_step: its step.
    evaluation_due: an epoch ended with `step`, and is still to be scored.
    patience: see `visionkit.engine.patience`.
    """

    folder: Path
    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    training: dict[str, Any]
    with_optimizer: bool
    best: float
    best_step: int
    evaluation_due: bool
    patience: dict[str, Any] | None


def read_start(start: Start, run_folder: Path) -> Resumed:
    """Read the checkpoint that a run goes on from.

    Raises:
        CheckpointError: it cannot be read.
    """
    checkpoint = start.checkpoint
    assert checkpoint is not None
    state = checkpoint.state
    best = -math.inf if state["best"] is None else float(state["best"])
    judged_otherwise = any(_changed(start, name) for name in _OTHER_JUDGE)
    if best > -math.inf and judged_otherwise:
        LOGGER.warning(f"the best so far, {best:.4f}, was judged otherwise: the best of what follows will be kept")
        best = -math.inf
    elif best > -math.inf:
        best = best if _best_is_whole(run_folder) else -math.inf
    with_optimizer = not any(_changed(start, name) for name in _OTHER_OPTIMIZER)
    if not with_optimizer:
        LOGGER.warning("the optimizer begins anew, being another one")
    return Resumed(
        folder=checkpoint.folder,
        step=checkpoint.step,
        model=checkpoint.weights("model"),
        ema=checkpoint.weights("ema"),
        training=checkpoint.training_state(),
        with_optimizer=with_optimizer,
        best=best,
        best_step=state["best_step"],
        evaluation_due=state["evaluation_due"],
        patience=None if judged_otherwise else state.get("patience"),
    )


def take_up(trainer: Trainer, resumed: Resumed) -> None:
    """Give a trainer the weights, the optimizer's state and the rest.

    Raises:
        CheckpointError: they are of another model or run.
    """
    load_state(trainer.model, resumed.model, resumed.folder)
    load_state(trainer.ema.model, resumed.ema, resumed.folder)
    try:
        trainer.load_state(resumed.training, with_optimizer=resumed.with_optimizer)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:  # what torch meets in it
        fault = f"{resumed.folder / 'training.pt'}: not the state of such a run ({type(error).__name__})"
        raise CheckpointError(f"{fault}; use another checkpoint of the run", code="checkpoint-damaged") from error


def _changed(start: Start, name: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for key in start.changed)


def _best_is_whole(run_folder: Path) -> bool:
    try:
        open_checkpoint(run_folder / "checkpoints" / "best")
    except CheckpointError as error:
        LOGGER.warning(f"{error.__cause__ or error}; the best so far is lost: the best of what follows will be kept")
        return False
    return True
