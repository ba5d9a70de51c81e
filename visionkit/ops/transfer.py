"""From the device to the host: copies that are under way while the device does other work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def host_buffer(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty tensor on the host, into which `device` can copy without anybody's waiting: pinned for a CUDA device.

    Torch keeps pinned memory and gives it out again, so that copying into it costs neither a second copy nor new pages.
    """
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=device.type == "cuda")


def arrival(device: torch.device) -> Callable[[], None]:
    """What waits until `device` has done all that it was asked for so far, copies to the host included."""
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.current_stream(device).record_event()
    return lambda: event.synchronize()


def start_host_arrays(tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, np.ndarray]]:
    """Begin to copy tensors of one device to the host; what is returned waits for them. Those on a CPU are shared."""
    copied = {}
    for name, value in tensors.items():
        if value.device.type == "cuda":
            copied[name] = host_buffer(value.shape, value.dtype, value.device).copy_(value, non_blocking=True)
        else:
            copied[name] = value.cpu()
    waits = [arrival(device) for device in {value.device for value in tensors.values()}]

    def arrays() -> dict[str, np.ndarray]:
        for wait in waits:
            wait()
        return {name: value.numpy() for name, value in copied.items()}

    return arrays
