"""What a network sees in images, as plain arrays: for another classifier, a search or a plot."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from visionkit.data.decode import decode
from visionkit.errors import CodedLine, ConfigError, DataError, did_you_mean
from visionkit.interfaces import Backbone, Neck
from visionkit.model import VisionModel
from visionkit.ops.pooling import masked_mean, valid_cells
from visionkit.structures import FeatureSpec

if TYPE_CHECKING:
    from visionkit.predictor import Predictor


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """The content of a features.npz.

    Attributes:
        names: (N,) text, the images' file names.
        features: (N, C) float32 pooled features, or (N, C, h, w) maps of the canvases.
        level: of which they are.
        labels: (N,) int64, an index into `classes`; None where nobody said.
        classes: (K,) text.
    """

    names: np.ndarray
    features: np.ndarray
    level: str
    labels: np.ndarray | None = None
    classes: np.ndarray | None = None

    def write(self, file: Path) -> None:
        """Write it as NumPy's archive of arrays, in one step."""
        arrays = {"names": self.names, "features": self.features, "level": np.array(self.level)}
        if self.labels is not None and self.classes is not None:
            arrays |= {"labels": self.labels, "classes": self.classes}
        temporary = file.with_name(f".{file.stem}.{os.getpid()}.npz")
        np.savez(temporary, allow_pickle=False, **arrays)
        temporary.replace(file)


def read_features(file: Path) -> FeatureFile:
    """Read what `FeatureFile.write` wrote.

    Raises:
        DataError: it is missing, or something else.
    """
    mend = "write it with tools/predict.py save=[features]"
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; {mend}", code="source-missing")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            told = {key: arrays[key] for key in ("names", "features", "level", "labels", "classes") if key in arrays}
        found = FeatureFile(**{**told, "level": str(told["level"])})
        counts = {len(found.names), len(found.features), len(found.features if found.labels is None else found.labels)}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{file}: no file of features ({type(error).__name__}); {mend}", code="features-unusable"
        ) from error
    if len(counts) > 1 or found.features.dtype.kind != "f":
        raise DataError(f"{file}: names and features do not belong together; {mend}", code="features-unusable")
    return found


def feature_spec(model: VisionModel, level: str | None) -> tuple[str, FeatureSpec]:
    """The level that is meant, None: the backbone's coarsest, with its channels and stride.

    Raises:
        ConfigError: there is no such level, or the model is an exported one.
    """
    if not hasattr(model, "backbone"):
        raise ConfigError(
            "features: an exported file gives predictions alone; give the run or checkpoint itself",
            code="key-not-taken",
        )
    own = cast(Backbone, model.backbone).out_specs
    specs = {**own, **(cast(Neck, model.neck).out_specs if model.neck is not None else {})}
    name = list(own)[-1] if level is None else level
    if name not in specs:
        raise ConfigError(
            f"level={name}: the model has {', '.join(specs)}{did_you_mean(name, specs)}", code="choice-unknown"
        )
    return name, specs[name]


@torch.inference_mode()
def batch_features(
    model: VisionModel, images: Tensor, sizes: Tensor, level: str | None = None, *, pooled: bool = True
) -> np.ndarray:
    """The features of canvases, as `VisionModel.predict` takes them.

    Args:
        model: in eval mode.
        images: (B, C, H, W), not normalised, on the model's device.
        sizes: (B, 2) int64, the part of each canvas that holds image.
        level: see `feature_spec`.
        pooled: the mean over the cells that hold image; else the whole map, cells beside the image, too.

    Returns:
        (B, channels) or (B, channels, h, w) float32.
    """
    name, spec = feature_spec(model, level)
    features = model.features(images)[name].float()
    if pooled:
        height, width = features.shape[-2:]
        features = masked_mean(features, valid_cells(sizes, (height, width), spec.stride))
    result: np.ndarray = features.cpu().numpy()
    return result


def save_features(
    predictor: Predictor, files: Mapping[str, Path], out: Path, level: str | None, *, pool: bool, batch_size: int
) -> list[CodedLine]:
    """Write out/features.npz of the image files by name; returns what was wrong with each that could not be read.

    Raises:
        ConfigError: there is no such level; before anything is read.
    """
    name, _ = feature_spec(predictor.model, level)
    names: list[str] = []
    parts: list[np.ndarray] = []
    faults: list[CodedLine] = []
    waiting: list[tuple[str, np.ndarray]] = []
    for number, (file_name, path) in enumerate(files.items(), start=1):
        try:
            waiting.append((file_name, decode(path, predictor.decoding)))
        except DataError as error:
            faults.append(CodedLine(str(error), error.code))
        if waiting and (len(waiting) == batch_size or number == len(files)):
            images = [image for _, image in waiting]
            parts.append(predictor.features(images, name, pooled=pool, batch_size=batch_size))
            names += [one for one, _ in waiting]
            waiting = []
    if parts:
        out.mkdir(parents=True, exist_ok=True)
        FeatureFile(np.array(names), np.concatenate(parts), name).write(out / "features.npz")
    return faults
