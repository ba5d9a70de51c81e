"""Predictions for files: drawn, written down, or as the features behind them; the run of tools/predict.py."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionkit.data.decode import IMAGE_SUFFIXES
from visionkit.errors import CodedLine, DataError, UserError, listed, printable
from visionkit.features import save_features
from visionkit.manner import Manner
from visionkit.predictor import Predictor, load
from visionkit.progress import Progress
from visionkit.read_ahead import THREADS, Behind, ahead
from visionkit.result_files import Results, drawn
from visionkit.selection import Selection
from visionkit.video import VIDEO_SUFFIXES, Video, VideoFile


def predict_run(cfg: Any) -> int:
    """Save what `cfg.save` names for cfg.source into cfg.out; the run of tools/predict.py.

    drawings: the predictions, drawn; of a video, a video. predictions, csv, crops: see `visionkit.result_files`.
    features: features.npz (`visionkit.features.FeatureFile`), of images alone. Images are numbered from 1 in the order
    of their names, frames from 1, categories from 1 in the order of the head's classes.

    Args:
        cfg: the keys of configs/predict.yaml.

    Returns:
        the exit code.

    Raises:
        UserError: nothing to predict, a wrong class, or a drawing would overwrite its source; before anything is
            written.
        DataError: the only file cannot be read, or one of several and cfg.on_error is "stop".
    """
    source, out = str(cfg.source), Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out}: is a file; give a folder", code="output-unfit")
    is_video = Path(source).is_file() and Path(source).suffix.lower() in VIDEO_SUFFIXES
    if is_video:
        if "features" in cfg.save:
            raise UserError(
                "save=[features]: this is for images; cut the video into frames, or leave features out",
                code="keys-contradict",
            )
        files = {Path(source).name: Path(source)}
        targets = {Path(source).name: out / f"{Path(source).stem}.mp4"}
    else:
        files = find_images(source, out)
        targets = drawing_files(out, list(files))
    if "drawings" in cfg.save:
        _check_targets(files, targets)
    predictor = load(cfg.checkpoint, cfg.device, cfg.allow, precision=cfg.precision, compile=cfg.compile)
    manner = Manner(cfg.batch_size, cfg.tile, cfg.overlap, cfg.tta, cfg.classes)
    manner.check(predictor.model)
    shown = Selection(predictor.classes, cfg.classes, cfg.score, usual=0.3)
    results = Results(out, predictor.classes, cfg.save, shown)
    begun = time.monotonic()
    if is_video:
        count, faults = _predict_video(predictor, Video(Path(source)), manner, results, targets)
        total = count + len(faults)
    else:
        total = len(files)
        stop = cfg.on_error == "stop" or (cfg.on_error == "auto" and total == 1)
        faults = _predict_images(predictor, files, manner, results, targets, cfg, stop=stop)
        count = total - len(faults)
    _tell(count, total, "frames" if is_video else "images", time.monotonic() - begun, out, results.written(cfg.save))
    for fault in faults:
        print(f"not predicted: {printable(fault)}", file=sys.stderr)
    return 0


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
        raise UserError(f"source={source}: no such file, folder or pattern", code="source-missing")
    if out.resolve() == base.resolve():
        raise UserError(f"out={out}: the drawings would overwrite the source; give another folder", code="place-taken")
    images = [
        file
        for file in found
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    names = {file.relative_to(base).as_posix(): file for file in images if out.resolve() not in file.resolve().parents}
    if not names:
        raise UserError(
            f"source={source}: no images there; known are {', '.join(sorted(IMAGE_SUFFIXES))}", code="source-missing"
        )
    return dict(sorted(names.items()))


def drawing_files(out: Path, names: Sequence[str]) -> dict[str, Path]:
    """Where each image is drawn: by its own name, with .png behind it where no picture can have that; each its own."""
    targets: dict[str, Path] = {}
    taken: set[Path] = set()
    for name in names:
        target = out / name
        if target.suffix.lower() not in IMAGE_SUFFIXES - {".npy"}:
            target = target.with_name(f"{target.name}.png")
            while target in taken or target.relative_to(out).as_posix() in names:
                target = target.with_name(f"{target.stem}-drawn.png")
        targets[name] = target
        taken.add(target)
    return targets


def _is_pattern(path: Path) -> bool:
    return any(sign in str(path) for sign in "*?[")


def _check_targets(files: Mapping[str, Path], targets: Mapping[str, Path]) -> None:
    sources = {source.resolve() for source in files.values()}
    for target in targets.values():
        if target.resolve() in sources:
            raise UserError(
                f"out={target.parent}: {target.name} would overwrite the source; give another folder",
                code="place-taken",
            )


def _predict_images(
    predictor: Predictor,
    files: Mapping[str, Path],
    manner: Manner,
    results: Results,
    targets: Mapping[str, Path],
    cfg: Any,
    *,
    stop: bool,
) -> Sequence[CodedLine]:
    """Predict and save; returns what was wrong with each file that could not be read."""
    faults: dict[int, CodedLine] = {}
    if "features" in cfg.save:
        told = save_features(
            predictor, files, results.out, cfg.features.level, pool=cfg.features.pool, batch_size=cfg.batch_size
        )
        faults = dict(enumerate(told))
        if told and stop:
            raise DataError(told[0], code=told[0].code)
    if set(cfg.save) == {"features"}:
        return list(faults.values())
    faults = {}
    names, needs_image = list(files), bool({"drawings", "crops"} & set(cfg.save))

    def noted(index: int, fault: DataError) -> None:
        faults[index] = CodedLine(str(fault), fault.code)

    with Progress(len(files), "images") as progress, Behind(most=2 * THREADS) as behind, results:
        seen = predictor.stream(files.values(), manner, keep_images=needs_image, on_fault=None if stop else noted)
        for one in seen:
            name = names[one.index]
            results.add(name, one.index + 1, one.predictions)
            behind(results.save_pictures, name, one.image, one.predictions, targets[name])
            progress(one.index + 1)
    return list(faults.values())


def _predict_video(
    predictor: Predictor, video: Video, manner: Manner, results: Results, targets: Mapping[str, Path]
) -> tuple[int, Sequence[str]]:
    """Predict and save frame by frame; returns how many there were, and what was wrong."""
    name = video.source.name
    stem, count = Path(name).stem, 0
    writer = VideoFile(targets[name], video.rate) if "drawings" in results.save else None

    def frames() -> Iterator[np.ndarray]:
        for number, frame in video.frames(most=manner.batch_size):
            numbers.append(number)
            yield video.as_taken(frame, predictor.decoding)

    def painted(seen: Any) -> tuple[Any, np.ndarray | None]:
        picture = drawn(seen.image, seen.predictions, predictor.classes, results.shown) if writer is not None else None
        return seen, picture

    numbers: list[int] = []
    with Progress(video.total, "frames") as progress, results:
        for seen, picture in ahead(painted, predictor.stream(frames(), manner), most=2 * THREADS):
            number = numbers[seen.index]
            results.add(name, number, seen.predictions, frame=number)
            if writer is not None and picture is not None:
                writer.write(picture)
            if "crops" in results.save:
                results.save_crops(f"{stem}-{number}", seen.image, seen.predictions)
            count = seen.index + 1
            progress(count)
        if not count:
            raise DataError(f"{video.source}: no frame can be read; save it again as MP4", code="video-unusable")
    if writer is not None:
        writer.close()
    return count, [f"{video.source}: frame {number} cannot be read" for number in video.unreadable]


def _tell(count: int, total: int, unit: str, seconds: float, out: Path, written: Sequence[str]) -> None:
    rate = f"{count / max(seconds, 1e-9):.1f} {unit}/s"
    print(f"{count} of {total} {unit} predicted in {seconds:.1f} s ({rate}); {out}: {listed(written, 20)}")
