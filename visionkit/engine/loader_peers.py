"""Training loaders of other toolkits on the same images, set up as their users do. None of them is a dependency."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from visionkit.data.export_coco import export_coco
from visionkit.errors import ConfigError
from visionkit.interfaces import Reader

Counted = tuple[int, int]
"""The images and the objects of a batch."""
Makers = dict[str, Callable[[], Iterator[Counted]]]


def ultralytics(reader: Reader, canvas: tuple[int, int], batch_size: int, workers: int) -> Makers:
    """Ultralytics' training loader with its default augmentation (mosaic 1.0), no cache, on a YOLO copy of the set.

    Raises:
        ConfigError: it is not installed, or the canvas is not square.
    """
    if canvas[0] != canvas[1]:
        raise ConfigError("against=ultralytics: it has square images alone; give image_size=640", code="value-unfit")
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
    build, cfg, utils = (
        _imported(f"ultralytics.{name}", "ultralytics") for name in ("data.build", "cfg", "data.utils")
    )

    def batches() -> Iterator[Counted]:
        with tempfile.TemporaryDirectory(prefix="visionkit-yolo-") as folder:
            data = utils.check_det_dataset(str(_write_yolo(reader, Path(folder))), autodownload=False)
            settings = cfg.get_cfg(overrides={"imgsz": canvas[0], "task": "detect", "mode": "train", "cache": False})
            dataset = build.build_yolo_dataset(settings, data["train"], batch_size, data, mode="train", rect=False)
            loader = build.build_dataloader(dataset, batch_size, workers, shuffle=True, rank=-1, pin_memory=False)
            while True:
                for batch in loader:
                    yield len(batch["img"]), len(batch["cls"])

    return {"ultralytics": batches}


def torchvision(reader: Reader, canvas: tuple[int, int], batch_size: int, workers: int) -> Makers:
    """torchvision's detection reference pipeline on transforms v2, in its presets lsj (scale jitter, crop, flip) and
    ssd (colour distortion, zoom out, IoU crop, flip; then resized to the canvas), each image from its file.
    """
    return {
        f"torchvision {preset}": partial(_torchvision, reader, canvas, batch_size, workers, preset)
        for preset in ("lsj", "ssd")
    }


PEERS: Mapping[str, Callable[[Reader, tuple[int, int], int, int], Makers]] = {
    "ultralytics": ultralytics,
    "torchvision": torchvision,
}
"""What `against` may name."""


def _torchvision(
    reader: Reader, canvas: tuple[int, int], batch_size: int, workers: int, preset: str
) -> Iterator[Counted]:
    v2, datasets = importlib.import_module("torchvision.transforms.v2"), importlib.import_module("torchvision.datasets")
    fill = {"fill": (123.0, 117.0, 104.0)}
    steps = {
        "lsj": lambda: [
            v2.ScaleJitter(target_size=canvas, antialias=True),
            v2.RandomCrop(canvas, pad_if_needed=True, **fill),
            v2.RandomHorizontalFlip(0.5),
        ],
        "ssd": lambda: [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill={torch.Tensor: 0, object: (123, 117, 104)}),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(0.5),
            v2.Resize(canvas, antialias=True),
        ],
    }[preset]()
    transforms = v2.Compose([*steps, v2.PILToTensor(), v2.ToDtype(torch.float, scale=True), v2.SanitizeBoundingBoxes()])
    with tempfile.TemporaryDirectory(prefix="visionkit-coco-") as folder:
        file = Path(folder) / "instances.json"
        document = export_coco(reader)
        labelled = {row["image_id"] for row in document["annotations"]}  # the reference trains on no others
        document["images"] = [row for row in document["images"] if row["id"] in labelled]
        file.write_text(json.dumps(document), encoding="utf-8")
        root = str(getattr(reader, "root", "."))
        dataset = datasets.wrap_dataset_for_transforms_v2(
            datasets.CocoDetection(root, str(file), transforms=transforms), target_keys=("boxes", "labels")
        )
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size,
            shuffle=True,
            num_workers=workers,
            collate_fn=_pairs,
            persistent_workers=workers > 0,
            multiprocessing_context="fork" if workers and os.name == "posix" else None,
        )
        while True:
            for images, targets in loader:
                yield len(images), sum(len(target.get("labels", ())) for target in targets)


def _pairs(samples: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*samples, strict=True))


def _write_yolo(reader: Reader, folder: Path) -> Path:
    """Write links to the images, and labels as YOLO has them; return the file that says where."""
    root = Path(getattr(reader, "root", ".")).resolve()
    for name in ("images/train", "labels/train"):
        (folder / name).mkdir(parents=True)
    for index in range(len(reader)):
        source, labels = root / reader.file_names[index], reader.labels(index)
        (folder / f"images/train/{index:07}{source.suffix}").symlink_to(source)
        height, width = labels.size
        lines = []
        if labels.boxes is not None and labels.labels is not None:
            for (x1, y1, x2, y2), label in zip(labels.boxes.tolist(), labels.labels.tolist(), strict=True):
                centre = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
                shares = (*centre, (x2 - x1) / width, (y2 - y1) / height)
                lines.append(" ".join([str(label), *(f"{min(max(share, 0), 1):.6f}" for share in shares)]))
        (folder / f"labels/train/{index:07}.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
    told = {"path": str(folder), "train": "images/train", "val": "images/train", "names": list(reader.classes)}
    (folder / "data.yaml").write_text(json.dumps(told), encoding="utf-8")
    return folder / "data.yaml"


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"against={package}: it is not installed ({error}); install it, or leave it out", code="package-missing"
        ) from None
