"""Evaluation: every image once, in original pixels, against original labels."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from visionkit.interfaces import ClassTable, Metric
from visionkit.metrics.coco_numbers import NO_OBJECT
from visionkit.model import VisionModel
from visionkit.predictions import PanopticMap, Predictions, SemanticMap, encoded
from visionkit.structures import Batch, ImageId, Labels


@dataclass
class Evaluation:
    """Attributes:
    numbers: by "head/metric"; nan where a number cannot be.
    reasons: why a number is nan, by the same names.
    rows: COCO result rows by head name, with the source's own image and category ids.
    metrics: by head name, with the state that the numbers were computed from.
    kept: of the images asked for, predictions and truth by image id.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    kept: dict[ImageId, tuple[Predictions, Labels]] = field(default_factory=dict)

    def absent(self) -> dict[str, str]:
        """Of each number that is nan the reason; the numbers of single classes ("head/metric/class") are left out."""
        names = [name for name, value in self.numbers.items() if math.isnan(value) and name.count("/") == 1]
        return {name: self.reasons.get(name, "nothing to be judged by") for name in names}

    def class_tables(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Per head whose metric has a table of classes and per class: its numbers, None with a "reason" for nan."""
        tables = {name: metric.class_table() for name, metric in self.metrics.items() if isinstance(metric, ClassTable)}
        return {
            name: {label: _explained(row) for label, row in table.items()} for name, table in tables.items() if table
        }


def evaluate(
    model: VisionModel,
    batches: Iterable[Batch],
    metrics: Mapping[str, Metric],
    category_ids: Mapping[str, Sequence[int | str | None]],
    device: torch.device,
    *,
    maps: Path | None = None,
    keep: Collection[ImageId] = (),
) -> Evaluation:
    """Predict every batch in full precision and score it.

    Args:
        model: on `device`, in eval mode.
        batches: with geometries and labels (`EvaluationSet`).
        metrics: a fresh one for each head and merge to be scored.
        category_ids: per head and merge, the source's id of each of its classes; None where the source lacks the class,
            so that no row can tell of it.
        device: of the model.
        maps: where semantic and panoptic maps are written, as <head>/<image_id>.png; None: nowhere.
        keep: the ids of images whose predictions are wanted in the result.
    """
    result = Evaluation(rows={name: [] for name in metrics}, metrics=metrics)
    with ThreadPoolExecutor() as pool:
        for batch, i, prediction in _predicted(model, batches, device, pool):
            image_id = batch.image_ids[i]
            if image_id in keep:
                result.kept[image_id] = (prediction, batch.labels[i])
            for name, metric in metrics.items():
                answer = prediction[name]
                metric.update(image_id, answer, batch.labels[i])
                result.rows[name] += [
                    {**row, "file_name": batch.file_names[i]}
                    for row in answer.to_coco(image_id, category_ids[name])
                    if row.get("category_id", 0) is not None
                ]
                if maps is not None and isinstance(answer, SemanticMap | PanopticMap):
                    write_map(answer.to_png(), maps / name, image_id)
    for name, metric in metrics.items():
        result.numbers.update({f"{name}/{key}": value for key, value in metric.compute().items()})
        result.reasons.update({f"{name}/{key}": reason for key, reason in metric.reasons.items()})
    return result


def _predicted(
    model: VisionModel, batches: Iterable[Batch], device: torch.device, pool: Executor
) -> Iterator[tuple[Batch, int, Predictions]]:
    """Yield each batch, the number of an image in it, and the image's predictions, masks encoded by the workers."""
    for batch in batches:
        moved = batch.to(device)
        predictions = model.predict(moved.images, moved.targets.sizes, batch.geometries)
        for i, prediction in enumerate(pool.map(encoded, predictions)):
            yield batch, i, prediction


def _explained(row: Mapping[str, float]) -> dict[str, Any]:
    values: dict[str, Any] = {name: None if math.isnan(value) else value for name, value in row.items()}
    return values | {"reason": NO_OBJECT} if None in values.values() else values


def write_map(pixels: np.ndarray, folder: Path, image_id: ImageId) -> Path:
    """Write a map, (H, W) or (H, W, 3) RGB uint8, as folder/<image_id>.png; an id never leads out of the folder."""
    parts = [part if part.strip(".") else "_" * (len(part) + 1) for part in str(image_id).split("/")]
    file = folder / f"{'/'.join(parts)}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    done, encoded = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1])
    if not done:
        raise RuntimeError(f"{file}: the map of {pixels.shape} could not be encoded")
    file.write_bytes(encoded.tobytes())
    return file


def write_evaluation(result: Evaluation, folder: Path, *, split: str) -> None:
    """Write metrics.json and predictions.json into `folder`.

    A number that is nan is null in metrics.json, its reason under "reasons"; "per_class" is `Evaluation.class_tables`.
    """
    numbers = {name: None if math.isnan(value) else value for name, value in result.numbers.items()}
    told: dict[str, Any] = {"split": split, **numbers}
    if result.reasons:
        told["reasons"] = result.reasons
    if tables := result.class_tables():
        told["per_class"] = tables
    rows: Any = next(iter(result.rows.values())) if len(result.rows) == 1 else result.rows
    (folder / "predictions.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
