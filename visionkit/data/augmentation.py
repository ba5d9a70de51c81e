"""All that changes training images, built from plain values: mixes of samples, transforms, mixes of batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visionkit.data.batch_mixes import BatchMix
from visionkit.data.copy_paste import CopyPaste
from visionkit.data.mixes import MixUp, Mosaic
from visionkit.data.transforms import Augment
from visionkit.data.transforms_v2 import TorchvisionAugment
from visionkit.errors import CodedLine, ConfigError

BACKENDS: Mapping[str, type[Augment] | type[TorchvisionAugment]] = {
    "albumentations": Augment,
    "torchvision": TorchvisionAugment,
}


@dataclass(frozen=True)
class Augmentation:
    """In the order in which they are applied; None is a mix that no sample, or no batch, takes part in."""

    mosaic: Mosaic | None
    copy_paste: CopyPaste | None
    mixup: MixUp | None
    transforms: Augment | TorchvisionAugment
    batch_mix: BatchMix | None


def build_augmentation(
    *,
    mosaic: Mapping[str, Any],
    copy_paste: Mapping[str, Any],
    mixup: Mapping[str, Any],
    backend: str,
    transforms: Sequence[Mapping[str, Any]],
    batch_mix: Mapping[str, Any],
    canvas: tuple[int, int],
    fill: int,
    seed: int,
) -> Augmentation:
    """Build the parts.

    Args:
        mosaic: arguments of `Mosaic`.
        copy_paste: arguments of `CopyPaste`.
        mixup: arguments of `MixUp`.
        backend: one of `BACKENDS`.
        transforms: its list.
        batch_mix: arguments of `BatchMix`.
        canvas: (height, width) of mosaics.
        fill: the grey value where no image lies, 0 to 255.
        seed: of the mixes of batches; samples bring their own random numbers.

    Raises:
        ConfigError: the faults of all parts, one line each.
    """
    faults: list[CodedLine] = []
    parts: list[Any] = []
    builders: tuple[Callable[[], Any], ...] = (
        lambda: Mosaic(canvas, **mosaic, fill=fill),
        lambda: CopyPaste(**copy_paste),
        lambda: MixUp(**mixup, fill=fill),
        lambda: BACKENDS[backend](transforms),
        lambda: BatchMix(**batch_mix, seed=seed),
    )
    for build in builders:
        try:
            part = build()
        except ConfigError as error:
            faults += error.faults
            continue
        parts.append(part if getattr(part, "turns", None) is None or part.turns.p > 0 else None)
    if faults:
        raise ConfigError.of(faults)
    return Augmentation(*parts)


def check_augmentation(augmentation: Augmentation, known: frozenset[str], needs: frozenset[str]) -> None:
    """Check that data and model can take part in the mixes.

    Args:
        augmentation: what is to be done.
        known: the fields of `LABEL_FIELDS` that the training data can know.
        needs: those that the model's heads learn from.

    Raises:
        ConfigError: one line for each mix that cannot be.
    """
    faults: list[CodedLine] = []
    if augmentation.copy_paste is not None:
        off = "set augment.copy_paste.p=0"
        if "masks" not in known:
            has = ", ".join(sorted(known)) or "no labels"
            told = f"augment.copy_paste: cuts objects out by their masks, but the data has only {has}; {off}"
            faults.append(CodedLine(told, "labels-lacking"))
        if not needs & {"boxes", "masks"}:
            told = f"augment.copy_paste: no head learns from the objects that it pastes; {off}"
            faults.append(CodedLine(told, "keys-contradict"))
    if augmentation.batch_mix is not None and needs != {"class_scores"}:
        others = ", ".join(sorted(needs - {"class_scores"}))
        told = (
            f"augment.batch_mix: mixes the classes of whole images, but the heads learn from {others}, too; "
            "set augment.batch_mix.p=0, or take augment.mixup"
        )
        faults.append(CodedLine(told, "keys-contradict"))
    if faults:
        raise ConfigError.of(faults)
