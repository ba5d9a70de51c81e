"""The processes of a run: one, or as many as `torchrun` has started."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from visionkit.engine.device import resolve_device
from visionkit.errors import ConfigError, UserError


@dataclass(frozen=True)
class Processes:
    """This process among those of the run. With one process nothing is sent, and every value comes back as it is."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor, of one shape and dtype everywhere, over the processes; of all of them the same bits."""
        return self._reduced(tensor, distributed.ReduceOp.SUM)

    def largest(self, tensor: Tensor) -> Tensor:
        """The elementwise maximum over the processes."""
        return self._reduced(tensor, distributed.ReduceOp.MAX)

    def gathered(self, value: Any) -> list[Any]:
        """Every process's value, by rank, on every process. It is pickled."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values

    def gathered_on_first(self, value: Any) -> list[Any]:
        """Every process's value, by rank, on the first; elsewhere nothing."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world if self.first else []
        distributed.gather_object(value, values if self.first else None)
        return values

    def told(self, value: Any) -> Any:
        """The first process's value, on every process."""
        if self.world == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's buffers: each has seen other images, and keeps statistics of its own.

        They are what a checkpoint holds, and no training step reads them: so sharing them leaves a run as it was.
        """
        if self.world > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave the block together: an error in one process ends all of them, and the first says what it was.

        Raises:
            UserError, or what was raised: on the first process.
            SystemExit: on the others, with the exit code of the error.
        """
        if self.world == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        said = self.gathered(None if error is None else (isinstance(error, UserError), str(error), _kind(error)))
        faults = [(rank, *fault) for rank, fault in enumerate(said) if fault is not None]
        if not faults:
            return
        rank, is_user_error, message, kind = faults[0]
        if not self.first:
            raise SystemExit(2 if is_user_error else 1)
        if error is not None:
            raise error
        if is_user_error:
            raise UserError(f"process {rank}: {message}")
        raise RuntimeError(f"process {rank}: {kind}: {message}")

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        if self.world > 1:
            tensor = tensor.clone()
            distributed.all_reduce(tensor, operation)
        return tensor


ALONE = Processes()
"""A run of one process."""


@contextmanager
def joined(device: str, timeout: float) -> Iterator[tuple[Processes, torch.device]]:
    """Meet the other processes that torchrun has started, if any, and leave them at the end.

    Args:
        device: "auto", "cpu", "cuda", …; each process of a machine takes the GPU of its local rank.
        timeout: seconds after which a process that does not answer ends the others.

    Raises:
        ConfigError: there is no such device, or fewer GPUs than processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(), resolve_device(device)
        return
    own = _own_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    # gloo beside NCCL: what is no tensor of a GPU goes through the CPU.
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo", timeout=datetime.timedelta(seconds=timeout)
    )
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size()), own
    finally:
        distributed.destroy_process_group()


def _own_device(name: str, local_rank: int) -> torch.device:
    device = resolve_device(name)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise ConfigError(f"device={name}: under torchrun each process takes a GPU of its own; give device=cuda")
    if local_rank >= torch.cuda.device_count():
        there = f"this machine has {torch.cuda.device_count()} GPUs"
        raise ConfigError(f"torchrun: process {local_rank} finds no GPU, {there}; lower --nproc-per-node")
    return torch.device("cuda", local_rank)


def _kind(error: Exception) -> str:
    return type(error).__name__
