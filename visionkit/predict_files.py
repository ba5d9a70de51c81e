"""Predictions for files: drawn, written down, or as the features behind them; the run of tools/predict.py."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from visionkit.data.bands import Native
from visionkit.data.decode import IMAGE_SUFFIXES, as_wanted, decode
from visionkit.errors import DataError, UserError
from visionkit.features import save_features
from visionkit.predictions import Prediction
from visionkit.predictor import Predictor, load

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
"""The file names, by their lower-case ending, that are read as videos."""
_USUAL_RATE = 25.0
"""Frames per second of a video that does not tell its own."""


def predict_run(cfg: Any) -> int:
    """Save what `cfg.save` names for cfg.source into cfg.out; the run of tools/predict.py.

    drawings: the predictions, drawn. features: features.npz (`visionkit.features.FeatureFile`), of images alone.
    predictions: predictions.json, COCO result rows of all predictions, also those under `score`, with `file_name`
    relative to the source; of several heads {head: rows}. Images are numbered from 1 in the order of their names,
    frames from 1, categories from 1 in the order of the head's classes.

    Args:
        cfg: checkpoint, source, out, save, features, device, score and batch_size, as in configs/predict.yaml.

    Returns:
        the exit code: 1 if some of several images could not be read, else 0.

    Raises:
        UserError: nothing to predict, or a drawing would overwrite its source; before anything is written.
    """
    source, out = str(cfg.source), Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out}: is a file; give a folder")
    if Path(source).is_file() and Path(source).suffix.lower() in VIDEO_SUFFIXES:
        if "features" in cfg.save:
            raise UserError("save=[features]: this is for images; cut the video into frames, or leave features out")
        target = out / f"{Path(source).stem}.mp4"
        _check_targets({Path(source): target})
        predictor = load(cfg.checkpoint, cfg.device)
        _predict_video(predictor, Path(source), target, save=cfg.save, score=cfg.score, batch_size=cfg.batch_size)
        return 0
    files = find_images(source, out)
    if "drawings" in cfg.save:
        _check_targets({path: _target(out, name) for name, path in files.items()})
    predictor = load(cfg.checkpoint, cfg.device)
    faults: list[str] = []
    if "features" in cfg.save:
        faults = save_features(
            predictor, files, out, cfg.features.level, pool=cfg.features.pool, batch_size=cfg.batch_size
        )
    if set(cfg.save) - {"features"}:
        faults = _predict_images(predictor, files, out, save=cfg.save, score=cfg.score, batch_size=cfg.batch_size)
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
    predictor: Predictor, files: Mapping[str, Path], out: Path, *, save: Sequence[str], score: float, batch_size: int
) -> list[str]:
    """Predict and save, a batch at a time; returns what was wrong with each file that could not be read."""
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
            if "drawings" in save:
                target = _target(out, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(_drawn(image, prediction, predictor, score)).save(target, quality=92)
            _add_rows(rows, prediction, predictor, image_id, {"file_name": name})
        _progress(min(first + batch_size, len(numbered)), len(numbered), "images")
    if len(faults) < len(files) and "predictions" in save:
        _write_rows(rows, out)
    return faults


def _predict_video(
    predictor: Predictor, source: Path, target: Path, *, save: Sequence[str], score: float, batch_size: int
) -> None:
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
            _add_rows(rows, prediction, predictor, number, {"file_name": source.name, "frame": number})
            if "drawings" not in save:
                continue
            if writer is None:
                target.parent.mkdir(parents=True, exist_ok=True)
                size = (frame.shape[1], frame.shape[0])
                writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
                if not writer.isOpened():
                    raise RuntimeError(f"{target}: the video cannot be written; OpenCV has no MPEG-4 encoder here")
            writer.write(cv2.cvtColor(_drawn(frame, prediction, predictor, score), cv2.COLOR_RGB2BGR))
        _progress(number, max(total, number), "frames")
    capture.release()
    if not number:
        raise DataError(f"{source}: no frame can be read; save it again as MP4")
    if writer is not None:
        writer.release()
    if "predictions" in save:
        _write_rows(rows, target.parent)
    print(f"{number} frames predicted: {target.parent}")


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
    out.mkdir(parents=True, exist_ok=True)
    content: Any = next(iter(rows.values())) if len(rows) == 1 else rows
    temporary = out / f".predictions.json.{id(rows)}"
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(out / "predictions.json")


def _progress(done: int, total: int, unit: str) -> None:
    """One line that is written over, where somebody looks on."""
    if sys.stderr.isatty():
        print(f"\r{done}/{total} {unit}", end="\n" if done == total else "", file=sys.stderr, flush=True)
