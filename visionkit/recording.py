"""What CUDA graphs ask for before they are recorded."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import torch

_TIMES = 3
_ALONE = threading.Lock()
"""Held while torch's mode, which is one for all threads, is another than before."""


class WaitsError(Exception):
    """What is to be recorded waits for the device, which a graph cannot."""


def warm_up(call: Callable[[], object]) -> None:
    """Call what is to be recorded, since what only a first call does must not be.

    For some milliseconds torch refuses to wait for a device, in all threads: one that waits meanwhile has an error.

    Raises:
        WaitsError
    """
    with _ALONE, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        _warm_up(call, torch.cuda.get_sync_debug_mode())


def _warm_up(call: Callable[[], object], before: int) -> None:
    for number in range(_TIMES):
        torch.cuda.set_sync_debug_mode("error" if number else before)
        try:
            call()
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            raise WaitsError(str(error).splitlines()[0]) from error
        finally:
            torch.cuda.set_sync_debug_mode(before)
