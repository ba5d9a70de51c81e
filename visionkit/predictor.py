"""From a checkpoint or model to predictions in original pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from visionkit.data.bands import pillow_pixels
from visionkit.data.decode import USUAL, as_wanted, decode
from visionkit.engine.device import resolve_device
from visionkit.errors import UserError
from visionkit.features import batch_features, feature_spec
from visionkit.model import VisionModel
from visionkit.predictions import Prediction
from visionkit.preprocess import fill_value
from visionkit.structures import Decoding, Geometry

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
"""What `Predictor.predict` takes for an image."""


class Predictor:
    """Predicts whole photographs with a `VisionModel`, in original pixels.

    Args:
        model: with its own preprocessing and class names; it is moved to `device` and set to eval mode.
        device: "auto", "cpu", "cuda:0", "mps" and the like.

    Raises:
        ConfigError: the device is not there.
    """

    def __init__(self, model: VisionModel, device: str | torch.device = "auto") -> None:
        self.device = resolve_device(device)
        self.model = model.to(self.device).eval()

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The class names of each head and merge, in the order of its labels and scores."""
        return self.model.classes

    @property
    def decoding(self) -> Decoding:
        """The kind of images that the model takes."""
        return self.model.preprocess.decoding

    def predict(self, images: ImageLike | Sequence[ImageLike], *, batch_size: int = 16) -> list[dict[str, Prediction]]:
        """Return one prediction per head for each image, in the order given.

        Args:
            images: one image or a list of images, of any sizes: paths, PIL images, (H, W, 3) uint8 RGB arrays or
                (3, H, W) uint8 RGB tensors; for a model of other images (`data.channels`, `data.bit_depth`) those of
                its channels and dtype. EXIF orientation is applied to paths and PIL images.
            batch_size: images read and predicted at a time.

        Raises:
            UserError: something is no such image; says how to convert it.
            DataError: a file cannot be read.
        """
        if batch_size < 1:
            raise UserError(f"Predictor.predict: batch_size={batch_size}: at least 1 is wanted")
        several = list(images) if isinstance(images, list | tuple) else [images]
        predictions: list[dict[str, Prediction]] = []
        for first in range(0, len(several), batch_size):
            chunk = several[first : first + batch_size]
            arrays = [to_array(image, f"image {first + index}", self.decoding) for index, image in enumerate(chunk)]
            predictions += self._predict_batch(arrays)
        return predictions

    def features(
        self,
        images: ImageLike | Sequence[ImageLike],
        level: str | None = None,
        *,
        pooled: bool = True,
        batch_size: int = 16,
    ) -> np.ndarray:
        """Return what the network sees in each image, in the order given: for another classifier, a search or a plot.

        Args:
            images: as `predict` takes them.
            level: of the backbone or the neck, such as "c3" or "p4"; None: the backbone's coarsest.
            pooled: one vector an image, the mean over the cells that hold image, as `LinearClassification` takes it;
                else the whole map of the canvas, with what lies beside the image.
            batch_size: images read and passed at a time.

        Returns:
            (N, channels) float32, or (N, channels, h, w).

        Raises:
            UserError: there is no such level, or no image.
            DataError: a file cannot be read.
        """
        feature_spec(self.model, level)
        if batch_size < 1:
            raise UserError(f"Predictor.features: batch_size={batch_size}: at least 1 is wanted")
        several = list(images) if isinstance(images, list | tuple) else [images]
        parts = []
        for first in range(0, len(several), batch_size):
            chunk = several[first : first + batch_size]
            arrays = [to_array(image, f"image {first + index}", self.decoding) for index, image in enumerate(chunk)]
            canvases, sizes, _ = self._on_canvases(arrays)
            parts.append(batch_features(self.model, canvases, sizes, level, pooled=pooled))
        if not parts:
            raise UserError("Predictor.features: no image was given")
        return np.concatenate(parts)

    def _predict_batch(self, arrays: Sequence[np.ndarray]) -> list[dict[str, Prediction]]:
        images, sizes, geometries = self._on_canvases(arrays)
        return self.model.predict(images, sizes=sizes, geometries=geometries)

    def _on_canvases(self, arrays: Sequence[np.ndarray]) -> tuple[Tensor, Tensor, list[Geometry]]:
        """(B, C, H, W) canvases, (B, 2) the parts of them that hold image, and how the images were laid there."""
        preprocess = self.model.preprocess
        dtype = self.decoding.dtype
        shape = (len(arrays), *preprocess.canvas, self.decoding.channels)
        canvases = np.full(shape, fill_value(preprocess.fill, dtype), dtype)
        geometries: list[Geometry] = []
        for canvas, array in zip(canvases, arrays, strict=True):
            fitted, geometry = preprocess.fit(array)
            canvas[: fitted.shape[0], : fitted.shape[1]] = fitted
            geometries.append(geometry)
        images = torch.from_numpy(canvases).permute(0, 3, 1, 2).to(self.device)
        return images, torch.tensor([geometry.size for geometry in geometries], device=self.device), geometries


def load(checkpoint: str | Path, device: str | torch.device = "auto", allow: Sequence[str] = ()) -> Predictor:
    """Load a checkpoint, or a run folder's best one, ready to predict.

    Args:
        checkpoint: the folder. It is data: nothing in it is run, and of visionkit it may name the public backbones,
            necks, heads and preprocessing alone. Its numbers are not to be trusted further than whoever made them.
        device: "auto", "cpu", "cuda:0", "mps" and the like.
        allow: packages, or modules, of your own whose classes and functions the checkpoint may call, such as
            ["mypackage"]. They are imported and called with arguments from the file: name only what you trust with
            whatever the file holds. What they in turn import cannot be named.

    Raises:
        CheckpointError: it is missing, damaged, or asks for parts that are not allowed.
        UserError: `allow` is no list of names.
    """
    from visionkit.engine.checkpoint import load_model

    if isinstance(allow, str) or not all(isinstance(name, str) and name for name in allow):
        raise UserError(f"allow={allow!r}: a list of packages is wanted, such as ['mypackage']")
    return Predictor(load_model(checkpoint, allow=tuple(allow)), device)


def to_array(image: Any, name: str = "image", decoding: Decoding = USUAL) -> np.ndarray:
    """Return an image of any kind that `Predictor.predict` takes as (H, W, C) of `decoding`'s channels and dtype.

    Raises:
        UserError: it is no such image; the message calls it by `name` and says how to convert it.
    """
    if isinstance(image, str | Path):
        return decode(Path(image), decoding)
    if isinstance(image, Image.Image):
        return _from_pillow(image, name, decoding)
    channels, dtype = decoding.channels, decoding.dtype.name
    mend = _mend(image) if decoding == USUAL and isinstance(image, Tensor | np.ndarray) else ""
    rgb = " RGB" if channels == 3 else ""
    if isinstance(image, Tensor):
        if _dtype(image) != dtype or image.ndim != 3 or image.shape[0] != channels or 0 in image.shape:
            raise UserError(f"{name}: a ({channels}, H, W) {dtype} tensor is wanted, not {_described(image)}{mend}")
        return np.ascontiguousarray(image.detach().cpu().permute(1, 2, 0).numpy())
    if isinstance(image, np.ndarray):
        if image.dtype != dtype or image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
            wanted = f"an (H, W, {channels}) {dtype}{rgb} array"
            raise UserError(f"{name}: {wanted} is wanted, not {_described(image)}{mend}")
        return np.ascontiguousarray(image)
    kinds = "a path, a PIL image, an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor"
    raise UserError(f"{name}: {kinds} is wanted, not {type(image).__name__}")


def _from_pillow(image: Image.Image, name: str, decoding: Decoding) -> np.ndarray:
    """By the policy of `visionkit.data.decode`: upright, 16 bits cut to 8, transparency over white."""
    image = ImageOps.exif_transpose(image)
    if decoding != USUAL:
        return as_wanted(name, pillow_pixels(image), decoding)
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise UserError(f"{name}: PIL mode {image.mode} has no known range: scale it to 0..255 and convert it to L")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def _described(image: np.ndarray | Tensor) -> str:
    return f"{tuple(image.shape)} {_dtype(image)}"


def _dtype(image: np.ndarray | Tensor) -> str:
    return str(image.dtype).removeprefix("torch.")


def _mend(image: np.ndarray | Tensor) -> str:
    """How to make the nearest thing that is taken."""
    tensor = isinstance(image, Tensor)
    if 0 in image.shape:
        return ": it is empty"
    if image.ndim == 4:
        return ": give a list of images, as by list(images)"
    if "float" in _dtype(image) or _dtype(image) == "bool":
        convert = ".to(torch.uint8)" if tensor else ".astype(np.uint8)"
        return f": scale it to 0..255 and convert it, for values of 0..1 (image * 255).round(){convert}"
    if _dtype(image) != "uint8":
        return ": scale it to 0..255 and convert it to uint8"
    if image.ndim == 2:
        repeat = "image.expand(3, -1, -1)" if tensor else "np.stack([image] * 3, -1)"
        return f": repeat the grey channel, as by {repeat}"
    if image.ndim == 3 and 3 in (image.shape[0], image.shape[-1]):
        return ": move the channels, as by " + ("image.permute(2, 0, 1)" if tensor else "image.transpose(1, 2, 0)")
    if image.ndim == 3 and 1 in (image.shape[0], image.shape[-1]):
        return ": repeat the grey channel three times"
    return ": keep three channels, red, green and blue"
