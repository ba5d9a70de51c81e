"""Packages of torch.export (.pt2): the program as torch's own operators, for torch, with the description inside."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

import visionkit.ops.suppression  # noqa: F401  defines the operator that packages call
from visionkit.errors import CheckpointError, RunError, printable
from visionkit.export.card import KEY, Card, Unfit, read_card
from visionkit.export.model import ExportedModel, Run
from visionkit.export.torch_fence import check_package
from visionkit.plain_files import Unreadable

_CARD_FILE = f"{KEY}.json"
_MEND = "export the model again"


def write_torch(followed: ExportedProgram, card: Card, file: Path) -> None:
    """Write a program with its card; `file` ends in .pt2, as torch wants it."""
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(followed, file, extra_files={_CARD_FILE: card.text()})


def load_torch(file: Path, device: torch.device) -> ExportedModel:
    """Open a package that `write_torch` wrote.

    Torch would run code from a package of somebody else's making: so what is in it is looked at first, and all that
    tensors and operators do not need is refused (`torch_fence`).

    Raises:
        CheckpointError: it is damaged, holds what is refused, or was not exported by visionkit.
    """
    try:
        check_package(file)
    except Unreadable as fault:
        raise CheckpointError(printable(f"{file}: {fault}; {_MEND}"), code="checkpoint-refused") from None
    extra = {_CARD_FILE: ""}
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.export.load(file, extra_files=extra)
    except Exception as error:  # what torch meets in what it did not write
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise CheckpointError(
            printable(f"{file}: torch cannot read it ({reason}); {_MEND}"), code="checkpoint-version"
        ) from None
    finally:
        logger.setLevel(level)
    text = extra[_CARD_FILE]
    try:
        card = read_card(text if isinstance(text, str) else bytes(text).decode())
    except (Unfit, UnicodeDecodeError) as fault:
        raise CheckpointError(printable(f"{file}: {fault}; {_MEND}"), code="checkpoint-refused") from None
    if device.type != "cpu":
        program = move_to_device_pass(program, str(device))
    return ExportedModel(card, _runner(program, str(file)), device, str(file))


def _runner(program: ExportedProgram, source: str) -> Run:
    module = program.module()

    def run(images: Tensor, sizes: Tensor) -> Mapping[str, Tensor]:
        try:
            outputs: Mapping[str, Tensor] = module(images.contiguous(), sizes)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0][:300]
            raise RunError(
                printable(f"{source}: the program failed ({reason})"), code="exported-model-failed"
            ) from error
        return outputs

    return run
