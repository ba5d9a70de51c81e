"""What CUDA graphs ask for before they are recorded."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

_TIMES = 3


class WaitsError(Exception):
    """What is to be recorded waits for the device, which a graph cannot."""


def warm_up(call: Callable[[], object]) -> None:
    """Call what is to be recorded, since what only a first call does must not be.

    Raises:
        WaitsError
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        _warm_up(call, before)


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
