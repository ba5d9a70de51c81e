"""Evaluation: every image once, in original pixels, against original labels."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from visionkit.interfaces import Metric
from visionkit.model import VisionModel
from visionkit.structures import Batch


@dataclass
class Evaluation:
    """Attributes:
    numbers: by "head/metric"; nan where a number cannot be.
    reasons: why a number is nan, by the same names.
    rows: COCO result rows by head name, with the source's own image and category ids.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def evaluate(
    model: VisionModel,
    batches: Iterable[Batch],
    metrics: Mapping[str, Metric],
    category_ids: Mapping[str, Sequence[int | str | None]],
    device: torch.device,
) -> Evaluation:
    """Predict every batch in full precision and score it.

    Args:
        model: on `device`, in eval mode.
        batches: with geometries and labels (`EvaluationSet`).
        metrics: a fresh one for each head to be scored.
        category_ids: per head, the source's id of each of the head's classes; None where the source lacks the class,
            so that no row can tell of it.
        device: of the model.
    """
    result = Evaluation(rows={name: [] for name in metrics})
    for batch in batches:
        moved = batch.to(device)
        predictions = model.predict(moved.images, moved.targets.sizes, batch.geometries)
        for i, prediction in enumerate(predictions):
            image_id = batch.image_ids[i]
            for name, metric in metrics.items():
                metric.update(image_id, prediction[name], batch.labels[i])
                ids = category_ids[name]
                for row in prediction[name].to_coco(image_id, range(len(ids))):
                    category_id = ids[row["category_id"]]
                    if category_id is not None:
                        row |= {"category_id": category_id, "file_name": batch.file_names[i]}
                        result.rows[name].append(row)
    for name, metric in metrics.items():
        result.numbers.update({f"{name}/{key}": value for key, value in metric.compute().items()})
        result.reasons.update({f"{name}/{key}": reason for key, reason in metric.reasons.items()})
    return result


def write_evaluation(result: Evaluation, folder: Path, *, split: str) -> None:
    """Write metrics.json (numbers; null where there is none, with its reason) and predictions.json into `folder`."""
    numbers = {name: None if math.isnan(value) else value for name, value in result.numbers.items()}
    told: dict[str, Any] = {"split": split, **numbers}
    if result.reasons:
        told["reasons"] = result.reasons
    rows: Any = next(iter(result.rows.values())) if len(result.rows) == 1 else result.rows
    (folder / "predictions.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
