"""From a model to a file that predicts the same, and back."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visionkit.engine.device import resolve_device
from visionkit.errors import CheckpointError, ConfigError, RunError, UserError
from visionkit.export.card import card_of
from visionkit.export.model import ExportedModel
from visionkit.export.parity import BOUNDS, Disagreement, Parity
from visionkit.export.program import exported
from visionkit.model import VisionModel
from visionkit.predictions import Prediction
from visionkit.predictor import Predictor

SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "torch": ".pt2"}
"""By format, how its files are called."""


def export_model(
    model: VisionModel,
    out: str | Path,
    *,
    images: Mapping[str, np.ndarray],
    format: str = "onnx",
    precision: str = "fp32",
    image_size: int | Sequence[int] | None = None,
) -> Parity:
    """Write normalisation, network and decoding as one file, which has been held against the model.

    The file is written beside its place and renamed. Where it disagrees with the model nothing is left behind.

    Args:
        model: with its preprocessing and class names; it stays as it is, on its device and in its mode.
        out: the file, ending in .onnx or .pt2.
        images: by name, (H, W, C) of the model's kind, on which both must predict the same; none: nothing is compared.
        format: "onnx", or "torch" for a package of torch.export.
        precision: "fp32"; or, of ONNX, "fp16" for networks in half precision, all else in float32.
        image_size: another canvas than the model's, a number or (height, width).

    Returns:
        what was compared, and how much it differs.

    Raises:
        ConfigError: an argument cannot be, or a package is not installed.
        RunError: a part of the model cannot be exported, or the file disagrees with the model.
    """
    target = _target(Path(out), format, precision)
    model = copy.deepcopy(model).cpu().eval()
    model.use_memory_format(torch.contiguous_format)
    if image_size is not None:
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(sides) != 2 or min(sides) < 1:
            raise ConfigError(
                f"image_size={image_size}: a positive number, or [height, width], is wanted", code="value-unfit"
            )
        model.preprocess.canvas = (int(sides[0]), int(sides[1]))
    card = card_of(model, precision)
    followed = exported(model, card)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        if format == "onnx":
            from visionkit.export.onnx_file import write_onnx

            write_onnx(followed, card, temporary)
        else:
            from visionkit.export.torch_file import write_torch

            write_torch(followed, card, temporary)
        parity = Parity(BOUNDS[precision], thresholds={name: head.thresholds for name, head in card.heads.items()})
        _compare(model, load_exported(temporary, "cpu"), images, parity, target)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return parity


def load_exported(file: str | Path, device: str | torch.device = "auto") -> ExportedModel:
    """Open a file that `export_model` wrote.

    Args:
        file: ending in .onnx or .pt2.
        device: "auto", "cpu", "cuda:0" and the like; auto is the CPU where onnxruntime knows nothing else.

    Raises:
        CheckpointError: it is missing, damaged, or was not exported by visionkit.
        ConfigError: a package is not installed, or there is no such device.
    """
    file = Path(file)
    if not file.is_file():
        raise CheckpointError(
            f"checkpoint={file}: there is no such file; export one by tools/export.py", code="checkpoint-missing"
        )
    if file.suffix.lower() == ".onnx":
        from visionkit.export.onnx_file import has_cuda, load_onnx

        automatic = device == "auto" and not has_cuda()
        return load_onnx(file, torch.device("cpu") if automatic else resolve_device(device))
    if file.suffix.lower() == ".pt2":
        from visionkit.export.torch_file import load_torch

        return load_torch(file, resolve_device(device))
    raise CheckpointError(
        f"checkpoint={file}: a file is .onnx or .pt2; of a run, give the folder", code="checkpoint-missing"
    )


def _target(out: Path, format: str, precision: str) -> Path:
    if format not in SUFFIXES:
        raise ConfigError(f"format={format}: one of {', '.join(SUFFIXES)} is wanted", code="choice-unknown")
    if precision not in BOUNDS:
        raise ConfigError(f"precision={precision}: one of {', '.join(BOUNDS)} is wanted", code="choice-unknown")
    if (format, precision) == ("torch", "fp16"):
        raise ConfigError(
            "precision=fp16: is for format=onnx; a package of torch.export is fp32", code="keys-contradict"
        )
    if out.suffix.lower() != SUFFIXES[format]:
        raise UserError(
            f"out={out}: a file that ends in {SUFFIXES[format]} is wanted for format={format}", code="output-unfit"
        )
    if out.is_dir():
        raise UserError(f"out={out}: is a folder; give a file", code="output-unfit")
    return out


def _compare(
    model: VisionModel, found: ExportedModel, images: Mapping[str, np.ndarray], parity: Parity, target: Path
) -> None:
    """Predict by both: the first image alone, the others together, since a graph may have been made for one batch."""
    names = list(images)
    for batch in (names[:1], names[1:]):
        chosen = [images[name] for name in batch]
        pairs = zip(_predictions(model, chosen), _predictions(found, chosen), strict=True)
        for name, (wanted, given) in zip(batch, pairs, strict=True):
            scale = model.preprocess.place(images[name].shape[:2]).geometry.scale
            try:
                parity.add(wanted, given, max(1.0, 1 / min(scale)))
            except Disagreement as fault:
                raise RunError(
                    f"out={target}: not written, for it disagrees with the model on {name}: {fault}",
                    code="export-disagrees",
                ) from None


def _predictions(model: Any, images: Sequence[np.ndarray]) -> list[dict[str, Prediction]]:
    return Predictor(model, "cpu").predict(list(images), batch_size=4)
