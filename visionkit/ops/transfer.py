"""From the device to the host, with one wait for all that is copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def host_buffer(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty tensor on the host, into which `device` can copy without anybody's waiting: pinned for a CUDA device.

    Torch keeps pinned memory and gives it out again, so that copying into it costs neither a second copy nor new pages.
    """
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=device.type == "cuda")


def wait(device: torch.device) -> None:
    """Wait until what was copied to the host from `device` is there."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def host_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The tensors, which lie on one device, as arrays; those on a CPU share their memory."""
    copied = {}
    for name, value in tensors.items():
        if value.device.type == "cuda":
            copied[name] = host_buffer(value.shape, value.dtype, value.device).copy_(value, non_blocking=True)
        else:
            copied[name] = value.cpu()
    for device in {value.device for value in tensors.values()}:
        wait(device)
    return {name: value.numpy() for name, value in copied.items()}
