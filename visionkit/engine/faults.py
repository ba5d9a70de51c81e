"""Faults on demand (`debug.fault`): anybody can see what becomes of their own run when something dies."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from visionkit.errors import ConfigError, did_you_mean

_FORMS = {
    "kill@step": True, "kill@checkpoint": False, "kill@evaluation": False, "term@step": True, "hang@rank": True,
    "enospc": False, "nan@step": True, "oom@step": True, "worker@step": True,
}  # fmt: skip
"""Each fault, and whether a number follows it."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, once.

    kill@stepN: SIGKILL before step N is made. kill@checkpoint: SIGKILL in the midst of writing the second checkpoint.
    kill@evaluation: SIGKILL in the midst of the first evaluation. term@stepN: SIGTERM during step N. hang@rankN:
    process N stops for good before its second step. enospc: the disk is full when the second checkpoint is written.
    nan@stepN: the loss of step N is not a number. oom@stepN: memory is used up in step N. worker@stepN: a process that
    loads data is killed before step N.

    kind: as above, without its number; None: nothing goes wrong. number: the step, counted from 1, or the process.
    """

    kind: str | None = None
    number: int = 0

    def before_step(self, step: int, rank: int) -> None:
        """Step number `step` is about to be made."""
        if self.kind == "hang@rank" and self.number == rank and step == 2:
            time.sleep(1e6)
        if step != self.number:
            return
        if self.kind == "kill@step":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "term@step":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.kind == "worker@step":
            for child in multiprocessing.active_children()[:1]:
                pid = child.pid or 0
                os.kill(pid, signal.SIGKILL)
                if hasattr(os, "waitid"):  # it ends in this step, but `join` might hide its end from torch's handler
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    def on_losses(self, step: int, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses of step number `step`, as they should come."""
        here = step == self.number
        if here and self.kind == "oom@step":
            raise torch.OutOfMemoryError("out of memory (debug.fault)")
        if here and self.kind == "nan@step":
            return {**losses, "total": losses["total"] * float("nan")}
        return dict(losses)

    def on_checkpoint(self, written_before: int) -> None:
        """A checkpoint is half written, the first one or a later one."""
        if self.kind == "kill@checkpoint" and written_before:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "enospc" and written_before:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def on_evaluation(self) -> None:
        """Some images of an evaluation are behind us."""
        if self.kind == "kill@evaluation":
            os.kill(os.getpid(), signal.SIGKILL)


NO_FAULT = Fault()


def parse_fault(text: str | None) -> Fault:
    """A fault as it stands in `debug.fault`; None or "none": none.

    Raises:
        ConfigError: there is no such fault.
    """
    if text in (None, "none"):
        return NO_FAULT
    kind, number = re.fullmatch(r"(.*?)(\d*)", str(text)).groups()  # type: ignore[union-attr]
    if _FORMS.get(kind) != bool(number):
        forms = [f"{form}<N>" if numbered else form for form, numbered in _FORMS.items()]
        hint = did_you_mean(kind, _FORMS)
        raise ConfigError(
            f"debug.fault={text}: no such fault{hint}; known are {', '.join(forms)}", code="choice-unknown"
        )
    return Fault(kind, int(number or 0))
