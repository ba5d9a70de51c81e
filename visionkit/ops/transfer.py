"""From the device to the host: copies that are under way while the device does other work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor


def host_buffer(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty tensor on the host, into which `device` can copy without anybody's waiting: pinned for a CUDA device.

    Torch keeps pinned memory and gives it out again, so that copying into it costs neither a second copy nor new pages.
    """
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=device.type == "cuda")


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`, for which the host does not wait."""
    if device.type != "cuda":
        return value.to(device)
    return host_buffer(value.shape, value.dtype, device).copy_(value).to(device, non_blocking=True)


def start_copies(pairs: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Callable[[], None]:
    """Begin to copy the second of each pair, on `device`, into the first, on the host; what is returned waits for them.

    A CUDA device does it beside what it is asked for next.
    """
    if device.type != "cuda":
        for target, value in pairs:
            target.copy_(value)
        return lambda: None
    beside = _copying(device)
    beside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(beside):
        for target, value in pairs:
            target.copy_(value, non_blocking=True)
            value.record_stream(beside)  # its memory must not be given out again before
    event = beside.record_event()
    return lambda: event.synchronize()


@cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def start_host_arrays(tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, np.ndarray]]:
    """Begin to copy tensors of one device to the host; what is returned waits for them. Those on a CPU are shared."""
    devices = {value.device for value in tensors.values() if value.device.type == "cuda"}
    copied = {
        name: host_buffer(value.shape, value.dtype, value.device) if value.device in devices else value.cpu()
        for name, value in tensors.items()
    }
    waits = [
        start_copies([(copied[name], value) for name, value in tensors.items() if value.device == device], device)
        for device in devices
    ]

    def arrays() -> dict[str, np.ndarray]:
        for wait in waits:
            wait()
        return {name: value.numpy() for name, value in copied.items()}

    return arrays
