"""From a checkpoint or model to predictions in original pixels, for images in memory and for files."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from visionkit.data.bands import Native, pillow_pixels
from visionkit.data.decode import IMAGE_SUFFIXES, USUAL, as_wanted, decode
from visionkit.engine.device import resolve_device
from visionkit.errors import DataError, UserError
from visionkit.model import VisionModel
from visionkit.predictions import Prediction
from visionkit.preprocess import fill_value
from visionkit.structures import Decoding, Geometry

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
"""What `Predictor.predict` takes for an image."""
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
"""The file names, by their lower-case ending, that are read as videos."""
_USUAL_RATE = 25.0
"""Frames per second of a video that does not tell its own."""


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

    def _predict_batch(self, arrays: Sequence[np.ndarray]) -> list[dict[str, Prediction]]:
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
        sizes = torch.tensor([geometry.size for geometry in geometries], device=self.device)
        return self.model.predict(images, sizes=sizes, geometries=geometries)


def load(checkpoint: str | Path, device: str | torch.device = "auto", allow: Sequence[str] = ()) -> Predictor:
    """Load a checkpoint, or a run folder's best one, ready to predict.

    Args:
        checkpoint: the folder.
        device: "auto", "cpu", "cuda:0", "mps" and the like.
        allow: packages beside visionkit whose parts the checkpoint may build.

    Raises:
        CheckpointError: it is missing, damaged, or asks for parts that are not allowed.
    """
    from visionkit.engine.checkpoint import load_model

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


# ---------------------------------------------------------------------------------------------------- tools/predict.py
def predict_run(cfg: Any) -> int:
    """Draw the predictions for cfg.source into cfg.out and write predictions.json there; the run of tools/predict.py.

    predictions.json holds COCO result rows of all predictions, also those under `score`, with `file_name` relative to
    the source; of several heads {head: rows}. Images are numbered from 1 in the order of their names, frames from 1,
    categories from 1 in the order of the head's classes.

    Args:
        cfg: checkpoint, source, out, device, score and batch_size, as in configs/predict.yaml.

    Returns:
        the exit code: 1 if some of several images could not be read, else 0.

    Raises:
        UserError: nothing to predict, or a drawing would overwrite its source; before anything is written.
    """
    source, out = str(cfg.source), Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out}: is a file; give a folder")
    if Path(source).is_file() and Path(source).suffix.lower() in VIDEO_SUFFIXES:
        target = out / f"{Path(source).stem}.mp4"
        _check_targets({Path(source): target})
        predictor = load(cfg.checkpoint, cfg.device)
        _predict_video(predictor, Path(source), target, score=cfg.score, batch_size=cfg.batch_size)
        return 0
    files = find_images(source, out)
    _check_targets({path: _target(out, name) for name, path in files.items()})
    predictor = load(cfg.checkpoint, cfg.device)
    faults = _predict_images(predictor, files, out, score=cfg.score, batch_size=cfg.batch_size)
    if len(faults) == len(files) == 1:
        raise DataError(faults[0])
    print(f"{len(files) - len(faults)} of {len(files)} images predicted: {out}")
    for fault in faults:
        print(f"not predicted: {fault}", file=sys.stderr)
    return 1 if faults else 0


def find_images(source: str, out: Path) -> dict[str, Path]:
    """The image files meant by `source`, by their names relative to it, in order.

    A folder stands for the images in it and in its folders, hidden ones and those inside `out` left out.

    Raises:
        UserError: there is none.
    """
    path = Path(source)
    if path.is_file():
        return {path.name: path}
    if path.is_dir():
        base, found = path, list(path.rglob("*"))
    elif _is_pattern(path):
        base = next(folder for folder in path.parents if not _is_pattern(folder))
        found = list(base.glob(str(path.relative_to(base))))
    else:
        raise UserError(f"source={source}: no such file, folder or pattern")
    if out.resolve() == base.resolve():
        raise UserError(f"out={out}: the drawings would overwrite the source; give another folder")
    images = [
        file
        for file in found
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    names = {file.relative_to(base).as_posix(): file for file in images if out.resolve() not in file.resolve().parents}
    if not names:
        raise UserError(f"source={source}: no images there; known are {', '.join(sorted(IMAGE_SUFFIXES))}")
    return dict(sorted(names.items()))


def _is_pattern(path: Path) -> bool:
    return any(sign in str(path) for sign in "*?[")


def _check_targets(targets: Mapping[Path, Path]) -> None:
    sources = {source.resolve() for source in targets}
    for target in targets.values():
        if target.resolve() in sources:
            raise UserError(f"out={target.parent}: {target.name} would overwrite the source; give another folder")


def _target(out: Path, name: str) -> Path:
    target = out / name
    drawable = target.suffix.lower() in IMAGE_SUFFIXES - {".npy"}
    return target if drawable else target.with_name(f"{target.name}.png")


def _predict_images(
    predictor: Predictor, files: Mapping[str, Path], out: Path, *, score: float, batch_size: int
) -> list[str]:
    """Predict and draw, a batch at a time; returns what was wrong with each file that could not be read."""
    rows: dict[str, list[dict[str, Any]]] = {head: [] for head in predictor.classes}
    faults: list[str] = []
    numbered = list(enumerate(files.items(), start=1))
    for first in range(0, len(numbered), batch_size):
        readable = []
        for image_id, (name, path) in numbered[first : first + batch_size]:
            try:
                readable.append((image_id, name, decode(path, predictor.decoding)))
            except DataError as error:
                faults.append(str(error))
        predictions = predictor.predict([image for _, _, image in readable], batch_size=batch_size)
        for (image_id, name, image), prediction in zip(readable, predictions, strict=True):
            target = _target(out, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_drawn(image, prediction, predictor, score)).save(target, quality=92)
            _add_rows(rows, prediction, predictor, image_id, {"file_name": name})
        _progress(min(first + batch_size, len(numbered)), len(numbered), "images")
    if len(faults) < len(files):
        _write_rows(rows, out)
    return faults


def _predict_video(predictor: Predictor, source: Path, target: Path, *, score: float, batch_size: int) -> None:
    capture = cv2.VideoCapture(str(source))
    rate, total = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else _USUAL_RATE
    rows: dict[str, list[dict[str, Any]]] = {head: [] for head in predictor.classes}
    writer: cv2.VideoWriter | None = None
    number = 0
    for frames in _frames(capture, batch_size):
        images = [as_wanted(source, Native(frame), predictor.decoding) for frame in frames]
        for frame, prediction in zip(frames, predictor.predict(images, batch_size=batch_size), strict=True):
            number += 1
            if writer is None:
                target.parent.mkdir(parents=True, exist_ok=True)
                size = (frame.shape[1], frame.shape[0])
                writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
                if not writer.isOpened():
                    raise RuntimeError(f"{target}: the video cannot be written; OpenCV has no MPEG-4 encoder here")
            writer.write(cv2.cvtColor(_drawn(frame, prediction, predictor, score), cv2.COLOR_RGB2BGR))
            _add_rows(rows, prediction, predictor, number, {"file_name": source.name, "frame": number})
        _progress(number, max(total, number), "frames")
    capture.release()
    if writer is None:
        raise DataError(f"{source}: no frame can be read; save it again as MP4")
    writer.release()
    _write_rows(rows, target.parent)
    print(f"{number} frames predicted: {target}")


def _frames(capture: cv2.VideoCapture, batch_size: int) -> Iterator[list[np.ndarray]]:
    """The frames as (H, W, 3) uint8 RGB, `batch_size` at a time."""
    frames: list[np.ndarray] = []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
        if len(frames) == batch_size:
            yield frames
            frames = []
    if frames:
        yield frames


def _drawn(image: np.ndarray, prediction: Mapping[str, Prediction], predictor: Predictor, score: float) -> np.ndarray:
    from visionkit.report.draw import draw_all  # only who draws pays for matplotlib
    from visionkit.report.sheet import displayable

    return draw_all(displayable(image), prediction, predictor.classes, score_threshold=score)


def _add_rows(
    rows: Mapping[str, list[dict[str, Any]]],
    prediction: Mapping[str, Prediction],
    predictor: Predictor,
    image_id: int,
    extra: Mapping[str, Any],
) -> None:
    for head, one in prediction.items():
        numbers: Sequence[int] = range(1, len(predictor.classes[head]) + 1)
        rows[head] += [{**row, **extra} for row in one.to_coco(image_id, numbers)]


def _write_rows(rows: Mapping[str, list[dict[str, Any]]], out: Path) -> None:
    content: Any = next(iter(rows.values())) if len(rows) == 1 else rows
    temporary = out / f".predictions.json.{id(rows)}"
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(out / "predictions.json")


def _progress(done: int, total: int, unit: str) -> None:
    """One line that is written over, where somebody looks on."""
    if sys.stderr.isatty():
        print(f"\r{done}/{total} {unit}", end="\n" if done == total else "", file=sys.stderr, flush=True)
