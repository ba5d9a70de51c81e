"""From a checkpoint or model to predictions in original pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from visionkit.data.bands import pillow_pixels
from visionkit.data.decode import USUAL, as_wanted, decode
from visionkit.engine.device import resolve_device
from visionkit.errors import DataError, UserError
from visionkit.features import batch_features, feature_spec
from visionkit.manner import Manner, finished, network_answers, scaled
from visionkit.model import VisionModel
from visionkit.parts import Answers
from visionkit.predictions import Prediction
from visionkit.preprocess import Preprocess, fill_value
from visionkit.read_ahead import THREADS, ahead
from visionkit.selection import Score, Selection
from visionkit.structures import Decoding, Geometry

T = TypeVar("T")

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
"""What `Predictor.predict` takes for an image."""


@dataclass(frozen=True, eq=False)
class Seen:
    """An image and what was said of it.

    Attributes:
        index: its place among the images, from 0.
        image: (H, W, C) as the model takes it; None where images are not kept.
        predictions: by head name.
    """

    index: int
    image: np.ndarray | None
    predictions: dict[str, Prediction]


_Read = Callable[[tuple[int, ImageLike]], tuple[int, np.ndarray | DataError]]
_Told = tuple[int, np.ndarray | DataError, dict[str, Prediction]]


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

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        batch_size: int = 16,
        tile: int | None = None,
        overlap: float = 0.2,
        tta: bool = False,
        classes: Sequence[str] | None = None,
        score: Score = None,
    ) -> list[dict[str, Prediction]]:
        """Return one prediction per head for each image, in the order given.

        Args:
            images: one image or a list of images, of any sizes: paths, PIL images, (H, W, 3) uint8 RGB arrays or
                (3, H, W) uint8 RGB tensors; for a model of other images (`data.channels`, `data.bit_depth`) those of
                its channels and dtype. EXIF orientation is applied to paths and PIL images.
            batch_size: images read and predicted at a time.
            tile: look at images larger than this in tiles of so many pixels a side, too; for objects that are small in
                large images, and for fine maps. Heads that tell of the whole image look at that alone.
            overlap: the least share of a tile that the next one shows, too: objects of that size are seen whole.
            tta: look several times, mirrored and larger, and take the mean (`visionkit.views`); about four times as
                long.
            classes: those that are wanted; see `visionkit.selection.Selection`.
            score: the least score of an object, for all classes or by class; None: what the head gives.

        Raises:
            UserError: something is no such image, and how to convert it; or another argument cannot be.
            DataError: a file cannot be read.
        """
        several: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
        manner = Manner(batch_size, tile, overlap, tta, tuple(classes) if isinstance(classes, list) else classes, score)
        return [one.predictions for one in self.stream(several, manner, keep_images=False)]

    def stream(
        self,
        images: Iterable[ImageLike],
        manner: Manner,
        *,
        keep_images: bool = True,
        on_fault: Callable[[int, DataError], None] | None = None,
    ) -> Iterator[Seen]:
        """Yield what `predict` gives, image by image in order; also of endless sources.

        Images are read, and laid on canvases, while the network works on those before; about two batches are held.

        Args:
            images: as `predict` takes them.
            manner: the other arguments of `predict`.
            keep_images: where they are not wanted, memory is saved.
            on_fault: told of a file that cannot be read, by its place among the images, from 0; the file is left out.
                None: the fault is raised.
        """
        manner.check(self.model)
        selection = Selection(self.classes, manner.classes, manner.score)

        def read(item: tuple[int, ImageLike]) -> tuple[int, np.ndarray | DataError]:
            try:
                return item[0], to_array(item[1], f"image {item[0]}", self.decoding)
            except DataError as error:
                if on_fault is None:
                    raise
                return item[0], error

        batches = self._looked_at(images, manner, read) if manner.looks_again else self._fitted(images, manner, read)
        for batch in batches:
            for index, array, one in batch:
                if isinstance(array, DataError):
                    assert on_fault is not None
                    on_fault(index, array)
                else:
                    yield Seen(index, array if keep_images else None, selection(self._named(one)))

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
            raise UserError(f"Predictor.features: batch_size={batch_size}: at least 1 is wanted", code="value-unfit")
        several: Sequence[Any] = images if isinstance(images, list | tuple) else [images]

        def laid(item: tuple[int, ImageLike]) -> tuple[np.ndarray, Geometry]:
            return on_canvas(self.model.preprocess, to_array(item[1], f"image {item[0]}", self.decoding))

        parts = []
        for batch in batched(ahead(laid, enumerate(several), most=batch_size + 2 * THREADS), batch_size):
            tensor, sizes = self._sent(*zip(*batch, strict=True))
            parts.append(batch_features(self.model, tensor, sizes, level, pooled=pooled))
        if not parts:
            raise UserError("Predictor.features: no image was given", code="source-missing")
        return np.concatenate(parts)

    def _fitted(self, images: Iterable[ImageLike], manner: Manner, read: _Read) -> Iterator[list[_Told]]:
        """Batch after batch, each image seen once, as a whole."""

        def laid(item: tuple[int, ImageLike]) -> tuple[int, np.ndarray | DataError, Any]:
            index, array = read(item)
            canvas = None if isinstance(array, DataError) else on_canvas(self.model.preprocess, array)
            return index, array, canvas

        def sent(batch: Sequence[tuple[int, np.ndarray | DataError, Any]]) -> tuple[Any, ...]:
            canvases = [canvas for _, _, canvas in batch if canvas is not None]
            geometries = [geometry for _, geometry in canvases]
            return batch, self._sent([canvas for canvas, _ in canvases], geometries) if canvases else None, geometries

        size = manner.batch_size
        ready = ahead(laid, enumerate(images), most=size + 2 * THREADS)
        for batch, tensors, geometries in ahead(sent, batched(ready, size), most=2, threads=1):
            told = iter(() if tensors is None else self.model.predict(tensors[0], tensors[1], geometries))
            yield [(index, array, {} if canvas is None else next(told)) for index, array, canvas in batch]

    def _looked_at(self, images: Iterable[ImageLike], manner: Manner, read: _Read) -> Iterator[list[_Told]]:
        """The same of images that are seen in tiles, or several times."""

        def run(arrays: Sequence[np.ndarray], scale: float) -> list[Answers]:
            preprocess = scaled(self.model.preprocess, scale)
            answers: list[Answers] = []
            for chunk in batched(arrays, manner.batch_size):
                canvases, geometries = zip(*(on_canvas(preprocess, array) for array in chunk), strict=True)
                answers += network_answers(self.model, *self._sent(canvases, geometries), geometries)
            return answers

        at_a_time = 1 if manner.tile is not None else manner.batch_size
        for batch in batched(ahead(read, enumerate(images), most=at_a_time + 1), at_a_time):
            arrays = [array for _, array in batch if not isinstance(array, DataError)]
            told = iter(manner.look(run, arrays, self.model) if arrays else ())
            yield [
                (index, array, {} if isinstance(array, DataError) else finished(next(told), self.model.merges))
                for index, array in batch
            ]

    def _named(self, predictions: Mapping[str, Prediction]) -> dict[str, Prediction]:
        return {name: replace(one, names=tuple(self.classes[name])) for name, one in predictions.items()}

    def _sent(self, canvases: Sequence[np.ndarray], geometries: Sequence[Geometry]) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) canvases, and (B, 2) the parts of them that hold image, on the device."""
        images, sizes = torch.from_numpy(np.stack(canvases)), torch.tensor([one.size for one in geometries])
        if self.device.type == "cuda":
            images, sizes = images.pin_memory(), sizes.pin_memory()
        images, sizes = (one.to(self.device, non_blocking=True) for one in (images, sizes))
        return images.permute(0, 3, 1, 2), sizes


def load(
    checkpoint: str | Path,
    device: str | torch.device = "auto",
    allow: Sequence[str] = (),
    *,
    precision: str = "fp32",
    compile: bool = False,
) -> Predictor:
    """Load a checkpoint, a run folder's best one, or what was exported of one (.onnx, .pt2), ready to predict.

    Args:
        checkpoint: the folder or file. It is data: nothing in it is run, and of visionkit it may name the public
            backbones, necks, heads and preprocessing alone. Its numbers are not to be trusted further than whoever made
            them.
        device: "auto", "cpu", "cuda:0", "mps" and the like.
        allow: packages, or modules, of your own whose classes and functions the checkpoint may call, such as
            ["mypackage"]. They are imported and called with arguments from the file: name only what you trust with
            whatever the file holds. What they in turn import cannot be named.
        precision: of a checkpoint: fp32; fp16 and bf16 are faster on a GPU and differ by rounding
            (`visionkit.acceleration.accelerated`).
        compile: fuse the network of a checkpoint at the first batch of each shape; faster still.

    Raises:
        CheckpointError: it is missing, damaged, or asks for parts that are not allowed.
        UserError: `allow` is no list of names; there is no such precision, or an exported file has its own.
    """
    from visionkit.engine.checkpoint import load_model

    if isinstance(allow, str) or not all(isinstance(name, str) and name for name in allow):
        raise UserError(f"allow={allow!r}: a list of packages is wanted, such as ['mypackage']", code="value-unfit")
    if Path(checkpoint).suffix.lower() in (".onnx", ".pt2") and not Path(checkpoint).is_dir():
        if precision != "fp32" or compile:
            raise UserError(
                f"{checkpoint}: an exported file has the precision that it was exported with; leave precision and "
                "compile out, or load the checkpoint",
                code="value-unfit",
            )
        from visionkit.export import load_exported  # only who has such a file needs what runs it

        exported: Any = load_exported(checkpoint, device)
        return Predictor(exported, exported.device)
    predictor = Predictor(load_model(checkpoint, allow=tuple(allow)), device)
    if precision != "fp32" or compile:
        from visionkit.acceleration import accelerated

        predictor.model = accelerated(predictor.model, precision, compile=compile)
    return predictor


def on_canvas(preprocess: Preprocess, image: np.ndarray) -> tuple[np.ndarray, Geometry]:
    """An (H, W, C) image on a canvas of its own, (h, w, C), filled beside it, and how it lies there."""
    fitted, geometry = preprocess.fit(image)
    if fitted.shape[:2] == preprocess.canvas:
        return fitted, geometry
    value = fill_value(preprocess.fill, image.dtype)
    canvas = np.full((*preprocess.canvas, image.shape[2]), value, image.dtype)
    canvas[: fitted.shape[0], : fitted.shape[1]] = fitted
    return canvas, geometry


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    several = iter(items)
    while batch := list(islice(several, size)):
        yield batch


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
            raise UserError(
                f"{name}: a ({channels}, H, W) {dtype} tensor is wanted, not {_described(image)}{mend}",
                code="image-form",
            )
        return np.ascontiguousarray(image.detach().cpu().permute(1, 2, 0).numpy())
    if isinstance(image, np.ndarray):
        if image.dtype != dtype or image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
            wanted = f"an (H, W, {channels}) {dtype}{rgb} array"
            raise UserError(f"{name}: {wanted} is wanted, not {_described(image)}{mend}", code="image-form")
        return np.ascontiguousarray(image)
    kinds = "a path, a PIL image, an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor"
    raise UserError(f"{name}: {kinds} is wanted, not {type(image).__name__}", code="image-form")


def _from_pillow(image: Image.Image, name: str, decoding: Decoding) -> np.ndarray:
    """By the policy of `visionkit.data.decode`: upright, 16 bits cut to 8, transparency over white."""
    image = ImageOps.exif_transpose(image)
    if decoding != USUAL:
        return as_wanted(name, pillow_pixels(image), decoding)
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise UserError(
            f"{name}: PIL mode {image.mode} has no known range: scale it to 0..255 and convert it to L",
            code="image-form",
        )
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
