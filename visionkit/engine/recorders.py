"""Where a run's numbers also go (`track=[tensorboard]`): TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from visionkit.errors import ConfigError, did_you_mean

LOGGER = logging.getLogger("visionkit")


class Recorder(Protocol):
    """Takes numbers, and shows them somewhere."""

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers by name, such as "loss/total" or "detection/AP", of optimizer step `step`."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class TensorBoard:
    """Event files in <run>/tensorboard; a resumed run's curves go on where its checkpoint lies."""

    def __init__(self, folder: Path, step: int) -> None:
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb, on this machine alone (<run>/wandb) unless WANDB_MODE says otherwise."""

    def __init__(self, folder: Path, step: int) -> None:
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            dir=str(folder), name=folder.name, id=folder.name, resume="allow" if step else None, mode=mode
        )

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish(quiet=True)


class MLflow:
    """A run of MLflow, in <run>/mlflow unless MLFLOW_TRACKING_URI says otherwise."""

    def __init__(self, folder: Path, step: int) -> None:
        mlflow = importlib.import_module("mlflow")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a database would need more than mlflow-skinny
            mlflow.set_tracking_uri((folder.resolve() / "mlflow").as_uri())
        self._mlflow = mlflow
        self._run = mlflow.start_run(run_name=f"{folder.name} from step {step}" if step else folder.name)

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        self._mlflow.log_metrics({name.replace("@", " at "): value for name, value in numbers.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


_KINDS: Mapping[str, tuple[Callable[[Path, int], Recorder], str]] = {
    "tensorboard": (TensorBoard, "tensorboard"),
    "wandb": (WeightsAndBiases, "wandb"),
    "mlflow": (MLflow, "mlflow"),
}
"""By name the recorder, and the package that it needs."""


def check_recorders(names: Sequence[str]) -> None:
    """See that the recorders are known and can be made.

    Raises:
        ConfigError: one is not known, or its package is not installed.
    """
    for name in names:
        if name not in _KINDS:
            hint = did_you_mean(name, _KINDS)
            raise ConfigError(
                f"track=[{name}]: no such tracker{hint}; known are {', '.join(_KINDS)}", code="choice-unknown"
            )
        package = _KINDS[name][1]
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"track=[{name}]: the package {package} is not installed; pip install {package}", code="package-missing"
            )


class Recorders:
    """Several recorders as one. One that fails is said and left out from then on: no run ends for its sake.

    Args:
        names: of `check_recorders`.
        folder: the run's.
        step: from which it goes on; 0 for a new run.
    """

    def __init__(self, names: Sequence[str], folder: Path, step: int) -> None:
        self._open: dict[str, Recorder] = {}
        for name in names:
            made = self._tried(name, lambda name=name: _KINDS[name][0](folder, step))  # type: ignore[misc]
            if made is not None:
                self._open[name] = made

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        """Hand numbers to all that are left."""
        for name, recorder in list(self._open.items()):
            self._tried(name, lambda recorder=recorder: recorder.record(step, numbers))  # type: ignore[misc]

    def close(self) -> None:
        """Close all that are left."""
        for name, recorder in list(self._open.items()):
            self._tried(name, recorder.close)
        self._open.clear()

    def _tried(self, name: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:
            self._open.pop(name, None)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            LOGGER.warning(f"track={name}: left out from here on, it failed ({reason}); metrics.jsonl has every number")
            return None
