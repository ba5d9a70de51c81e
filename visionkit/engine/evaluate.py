"""Evaluation: every image once, in original pixels, against original labels."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from visionkit.engine.distributed import ALONE, Processes
from visionkit.engine.interruption import Preempted
from visionkit.engine.verdict import Verdict
from visionkit.interfaces import ClassTable, Metric
from visionkit.metrics.classification import NO_IMAGE
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
    processes: Processes = ALONE,
    stop: Callable[[], str | None] | None = None,
) -> Evaluation:
    """Predict every batch in full precision and score it.

    Args:
        model: on `device`, in eval mode.
        batches: this process's share of the images, with geometries and labels (`evaluation_loader`).
        metrics: a fresh one for each head and merge to be scored.
        category_ids: per head and merge, the source's id of each of its classes; None where the source lacks the class,
            so that no row can tell of it.
        device: of the model.
        maps: where semantic and panoptic maps are written, as <head>/<image_id>.png; None: nowhere.
        keep: the ids of images whose predictions are wanted in the result.
        processes: those among which the images are dealt out; the first one's result is of all images, the others'
            hold the numbers alone.
        stop: asked before each batch; a reason ends the evaluation.

    Raises:
        Preempted: `stop` gave a reason in one of the processes; in all of them.
    """
    own, reason = _Share({name: [] for name in metrics}), None
    whole = copy.deepcopy(dict(metrics))
    with ThreadPoolExecutor() as pool:
        for batch in batches:
            processes.check()
            reason = None if stop is None else stop()
            if reason is not None:
                break
            moved = batch.to(device)
            predictions = model.predict(moved.images, moved.targets.sizes, batch.geometries)
            for i, prediction in enumerate(pool.map(encoded, predictions)):
                own.add(batch, i, prediction, metrics, category_ids, keep=keep, maps=maps)
    reasons = [one for one in processes.gathered(reason) if one is not None]
    if reasons:
        raise Preempted(reasons[0])
    return _merged(own, metrics, whole, processes)


@dataclass
class _Share:
    """What one process has found, image by image in its order.

    Attributes:
        rows: by head name, the result rows of each image.
        kept: as of `Evaluation`.
    """

    rows: dict[str, list[list[dict[str, Any]]]]
    kept: dict[ImageId, tuple[Predictions, Labels]] = field(default_factory=dict)

    def add(
        self,
        batch: Batch,
        i: int,
        prediction: Predictions,
        metrics: Mapping[str, Metric],
        category_ids: Mapping[str, Sequence[int | str | None]],
        *,
        keep: Collection[ImageId],
        maps: Path | None,
    ) -> None:
        """Take in the prediction of image `i` of a batch."""
        image_id = batch.image_ids[i]
        if image_id in keep:
            self.kept[image_id] = (prediction, batch.labels[i])
        for name, metric in metrics.items():
            answer = prediction[name]
            metric.update(image_id, answer, batch.labels[i])
            self.rows[name].append(
                [
                    {**row, "file_name": batch.file_names[i]}
                    for row in answer.to_coco(image_id, category_ids[name])
                    if row.get("category_id", 0) is not None
                ]
            )
            if maps is not None and isinstance(answer, SemanticMap | PanopticMap):
                write_map(answer.to_png(), maps / name, image_id)


def _merged(
    own: _Share, metrics: Mapping[str, Metric], whole: Mapping[str, Metric], processes: Processes
) -> Evaluation:
    """All shares as one, in the order of the images: so that sums come out the same, however many took part."""
    if processes.world > 1:
        shares = processes.gathered_on_first((own, {name: metric.state() for name, metric in metrics.items()}))
        if processes.first:
            for name, metric in whole.items():
                metric.merge([dict(_in_turn([list(states[name].items()) for _, states in shares]))])
            own = _Share(
                rows={name: _in_turn([share.rows[name] for share, _ in shares]) for name in own.rows},
                kept={key: value for share, _ in shares for key, value in share.kept.items()},
            )
        metrics = whole
    result = Evaluation(metrics=metrics, kept=own.kept)
    if processes.first:
        result.rows = {name: [row for rows in images for row in rows] for name, images in own.rows.items()}
        for name, metric in metrics.items():
            result.numbers.update({f"{name}/{key}": value for key, value in metric.compute().items()})
            result.reasons.update({f"{name}/{key}": reason for key, reason in metric.reasons.items()})
    result.numbers, result.reasons = processes.told((result.numbers, result.reasons))
    return result


def _in_turn(shares: Sequence[Sequence[Any]]) -> list[Any]:
    """One list of several that were dealt out in turn."""
    longest = max(map(len, shares))
    return [share[place] for place in range(longest) for share in shares if place < len(share)]


def _explained(row: Mapping[str, float]) -> dict[str, Any]:
    values: dict[str, Any] = {name: None if math.isnan(value) else value for name, value in row.items()}
    reason = NO_IMAGE if "images" in row else NO_OBJECT
    return values | {"reason": reason} if None in values.values() else values


def write_map(pixels: np.ndarray, folder: Path, image_id: ImageId) -> Path:
    """Write a map, (H, W) or (H, W, 3) RGB uint8, as folder/<image_id>.png; an id never leads out of the folder, and of
    one that no file can be called by (control characters, too long) the hash is taken.
    """
    file = folder / f"{'/'.join(map(_part_of_path, str(image_id).split('/')))}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    done, encoded = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1])
    if not done:
        raise RuntimeError(f"{file}: the map of {pixels.shape} could not be encoded")
    file.write_bytes(encoded.tobytes())
    return file


def _part_of_path(text: str) -> str:
    if not text.strip("."):
        return "_" * (len(text) + 1)
    content = text.encode("utf-8", "surrogatepass")
    return text if text.isprintable() and len(content) <= 200 else hashlib.sha256(content).hexdigest()[:32]


def write_evaluation(result: Evaluation, folder: Path, *, split: str, verdict: Verdict | None = None) -> None:
    """Write metrics.json and predictions.json into `folder`.

    A number that is nan is null in metrics.json, its reason under "reasons"; "per_class" is `Evaluation.class_tables`,
    "verdict" what a training run's three numbers say.
    """
    numbers = {name: None if math.isnan(value) else value for name, value in result.numbers.items()}
    told: dict[str, Any] = {"split": split, **numbers}
    if result.reasons:
        told["reasons"] = result.reasons
    if tables := result.class_tables():
        told["per_class"] = tables
    if verdict is not None:
        told["verdict"] = asdict(verdict)
    rows: Any = next(iter(result.rows.values())) if len(result.rows) == 1 else result.rows
    (folder / "predictions.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
