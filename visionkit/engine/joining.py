"""How a run's processes come together: one, or as many as `torchrun` has started."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from visionkit.engine.device import resolve_device
from visionkit.engine.distributed import Processes, first_line
from visionkit.engine.watch import Watch
from visionkit.errors import ConfigError, RunError

LOGGER = logging.getLogger("visionkit")
_NCCL_MARGIN = 60.0
"""Seconds past the time-out after which NCCL itself ends a process, should the watch not have done so."""


@contextmanager
def joined(device: str, timeout: float) -> Iterator[tuple[Processes, torch.device]]:
    """Meet the other processes that torchrun has started, if any, and leave them at the end.

    Args:
        device: "auto", "cpu", "cuda", …; each process of a machine takes the GPU of its local rank.
        timeout: seconds after which a process that does not answer ends the others.

    Raises:
        ConfigError: there is no such device, or fewer GPUs than processes; or what torchrun sets is there in part, or
            names no port.
        RunError: not all processes have come.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(), resolve_device(device)
        return
    store, rank, world = _meeting_point(timeout)
    own = _agreed_device(store, rank, world, device)
    on_gpu = own.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(own)
    # gloo beside NCCL: what is no tensor of a GPU goes through the CPU.
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=PrefixStore("collectives", store),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=timeout + _NCCL_MARGIN if on_gpu else timeout),
    )
    watch = Watch(PrefixStore("watch", store.clone()), rank, world, timeout)
    processes = Processes(rank, world, watch)
    try:
        with _silent(processes), processes.as_one():
            processes.gathered(None)
            watch.start()
            yield processes, own
            processes.gathered(None)  # nobody leaves while another one still writes
    finally:
        if watch.ending is None:
            watch.stop()
        if watch.ending is None or not on_gpu:  # NCCL would wait for those that are lost
            distributed.destroy_process_group()


def _meeting_point(timeout: float) -> tuple[Any, int, int]:
    """The store through which the processes find each other, this one's rank, and their number."""
    where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if os.environ.get("MASTER_PORT") == "0":  # each process would wait at a port of its own
        raise ConfigError(
            "MASTER_PORT=0: is no port to meet at; start with torchrun --standalone, or name a free port",
            code="value-unfit",
        )
    try:
        store, rank, world = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
    except ValueError as error:
        mend = "start with torchrun, or unset WORLD_SIZE for a run of one process"
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}: {first_line(error)}; {mend}", code="value-unfit"
        ) from error
    except RuntimeError as error:
        count, waited = os.environ["WORLD_SIZE"], f"within {timeout:g} s (engine.timeout)"
        raise RunError(
            f"not all of {count} processes came to {where} {waited}: {first_line(error)}", code="process-lost"
        ) from error
    return store, rank, world


def _agreed_device(store: Any, rank: int, world: int, name: str) -> torch.device:
    """This process's device, once all have found one of the same kind.

    Raises:
        ConfigError: one of them has not; raised by the first process, and SystemExit by the others.
    """
    try:
        own, fault = _own_device(name, int(os.environ.get("LOCAL_RANK", "0"))), None
    except ConfigError as error:
        own, fault = torch.device("cpu"), str(error)
    store.set(f"device/{rank}", json.dumps([own.type, fault]))
    told = [json.loads(text) for text in store.multi_get([f"device/{other}" for other in range(world)])]
    faults = [f"process {other}: {fault}" for other, (_, fault) in enumerate(told) if fault is not None]
    if len(faults) == world:
        faults = [told[0][1]]
    kinds = [kind for kind, _ in told]
    if not faults and len(set(kinds)) > 1:
        faults = [f"device={name}: is {', '.join(kinds)} for the processes from 0 on; name one that all have"]
    if not faults:
        return own
    if rank:
        store.set(f"device/{rank}/heard", "")
        raise SystemExit(2)
    store.multi_get([f"device/{other}/heard" for other in range(1, world)])
    raise ConfigError(faults[0], code="device-missing")


@contextmanager
def _silent(processes: Processes) -> Iterator[None]:
    """Let the first process alone speak."""
    if processes.first:
        yield
        return
    was, LOGGER.disabled = LOGGER.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        LOGGER.disabled = was


def _own_device(name: str, local_rank: int) -> torch.device:
    device = resolve_device(name)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise ConfigError(
            f"device={name}: under torchrun each process takes a GPU of its own; give device=cuda",
            code="keys-contradict",
        )
    if local_rank >= torch.cuda.device_count():
        there = f"this machine has {torch.cuda.device_count()} GPUs"
        raise ConfigError(
            f"torchrun: process {local_rank} finds no GPU, {there}; lower --nproc-per-node", code="device-missing"
        )
    return torch.device("cuda", local_rank)
