"""Do the parts fit images of other channels and depths than three and eight? Transforms and statistics are tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from visionkit.data.augmentation import BACKENDS
from visionkit.errors import CodedLine, ConfigError
from visionkit.interfaces import Reader
from visionkit.preprocess import Preprocess
from visionkit.structures import Decoding, Labels, Sample

_TRIES = 4
_LOOKED_AT = 8
_FAR, _FLAT, _WIDE = 3.0, 0.2, 5.0
"""Normalised values should lie about 0 with a deviation about 1; beyond these, training starts badly."""


def unfit_transforms(
    transforms: Sequence[Mapping[str, Any]], backend: str, decoding: Decoding, canvas: tuple[int, int]
) -> list[CodedLine]:
    """Return a line for each transform that fails with images of `decoding`, or takes them for others.

    Args:
        transforms: as of `visionkit.data.augmentation.build_augmentation`, free of other faults.
        backend: as there, too.
        decoding: of the images; those of three channels and eight bits suit every transform.
        canvas: (height, width) of what they are tried on.
    """
    return [] if decoding == Decoding() else _faults(transforms, "augment.transforms", backend, decoding, canvas)


def statistics_warning(reader: Reader, preprocess: Preprocess) -> str | None:
    """Say what mean and standard deviation fit better, where those of `preprocess` are far from the images'.

    Images of eight bits are left alone. Eight images of the reader, evenly spread, are read.
    """
    if preprocess.decoding.bit_depth == 8 or not len(reader):
        return None
    places = np.linspace(0, len(reader) - 1, min(len(reader), _LOOKED_AT)).astype(int).tolist()
    channels = preprocess.decoding.channels
    pixels = np.concatenate([reader.read(place).image.reshape(-1, channels) for place in places]).astype(np.float64)
    pixels /= 65535 if preprocess.decoding.bit_depth == 16 else 1
    mean, std = torch.from_numpy(pixels.mean(axis=0)), torch.from_numpy(pixels.std(axis=0))
    own_mean, own_std = preprocess.mean.flatten().cpu(), preprocess.std.flatten().cpu()
    offset, spread = (mean - own_mean).abs() / own_std, std / own_std
    if bool(((offset <= _FAR) & (spread >= _FLAT) & (spread <= _WIDE)).all()):
        return None
    better = [f"preprocess.{name}=[{', '.join(f'{one:.4g}' for one in values.tolist())}]"
              for name, values in (("mean", mean), ("std", std.clamp(min=1e-6)))]  # fmt: skip
    return f"preprocess.mean and preprocess.std are far from those of the first images; {' '.join(better)} would fit"


def _faults(
    transforms: Sequence[Mapping[str, Any]], where: str, backend: str, decoding: Decoding, canvas: tuple[int, int]
) -> list[CodedLine]:
    faults: list[CodedLine] = []
    for number, entry in enumerate(transforms):
        ((name, arguments),) = entry.items()
        place = f"{where}[{number}]"
        inner = arguments.get("transforms") if isinstance(arguments, Mapping) else arguments
        if isinstance(inner, Sequence):
            faults += _faults(inner, f"{place}.{name}", backend, decoding, canvas)
            continue
        reason = _reason({name: arguments}, backend, decoding, canvas)
        if reason:
            kind = f"{decoding.dtype.name} images of {decoding.channels} channels"
            told = f"{place}: {name} cannot take {kind} ({reason}); leave it out, or choose augment=none"
            faults.append(CodedLine(told, "augmentation-unfit"))
    return faults


def _reason(entry: Mapping[str, Any], backend: str, decoding: Decoding, canvas: tuple[int, int]) -> str:
    """Say why a transform is not for such images; an empty string: it is."""
    ((name, arguments),) = entry.items()
    try:
        augment = BACKENDS[backend]([{name: {**(arguments or {}), "p": 1.0}}])
    except ConfigError:
        augment = BACKENDS[backend]([entry])  # it takes no p: it is always applied
    probe = _probe(decoding, canvas)
    for seed in range(_TRIES):
        try:
            image = augment(probe, np.random.default_rng(seed)).image
        except ConfigError as error:
            return str(error).rpartition(": ")[2] if "cannot be applied" in str(error) else str(error)
        if decoding.bit_depth == "float" and image.min() >= 0 and image.max() <= 1:
            return "it cuts values to 0..1"
        if decoding.bit_depth == 16 and image.max() < 256:
            return "it takes them for 8 bits"
    return ""


def _probe(decoding: Decoding, canvas: tuple[int, int]) -> Sample:
    """A slanted image whose values fill the range of 16 bits, or reach beyond 0..1 to both sides."""
    height, width = canvas
    slope = np.add.outer(np.linspace(0, 0.5, height), np.linspace(0, 0.5, width))[..., None]
    values = np.repeat(slope, decoding.channels, axis=2)
    largest = {"uint8": 255, "uint16": 65535}.get(decoding.dtype.name)
    image = values * 5 - 2 if largest is None else values * largest
    return Sample(image.astype(decoding.dtype), Labels(size=canvas), 0, "an image of such a kind")
