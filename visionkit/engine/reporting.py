"""What a report is made from: images with their predictions, the first training batches, and the labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from visionkit.data import EpochSampler, EvaluationSet, TrainingSet
from visionkit.data.class_map import ClassMap
from visionkit.data.loader import batch_places
from visionkit.engine.evaluate import Evaluation
from visionkit.engine.run_data import class_lists
from visionkit.interfaces import Reader
from visionkit.model import VisionModel
from visionkit.report import Shown, Sources, spread, write_report
from visionkit.report.first_batches import ClassLists
from visionkit.report.label_statistics import LabelSource
from visionkit.structures import Batch, ImageId, Labels

_BATCHES, _OF_BATCH = 2, 6
"""How many training batches are shown, and how many images of each."""


def write_result_report(
    folder: Path,
    result: Evaluation,
    model: VisionModel,
    judged: EvaluationSet | None,
    role: str | None = None,
    training: TrainingSet | None = None,
    first: Callable[[], Iterator[Batch]] | None = None,
) -> None:
    """Write the plots and the report of an evaluation that was `scored` with its folder.

    Args:
        folder: of the run or the evaluation.
        result: of the split.
        model: that was scored, on its device.
        judged: the split; None: of nothing.
        role: of the split.
        training: the training set, where there is one.
        first: makes its first batches (`first_batches`).
    """
    lists = class_lists(model)
    named = ClassLists(lists["classes"], lists["image_classes"], lists["semantic_classes"])
    labels: dict[str, LabelSource] = {}
    if training is not None:
        labels["train"] = _labels(training.reader, training.map_labels, named)
    shown: Sequence[ImageId] = ()
    if judged is not None:
        labels[role or "split"] = _labels(judged.reader, judged.map_labels, named)
        shown = [judged.reader.image_ids[place] for place in spread(len(judged))]
    write_report(
        folder,
        metrics=result.metrics,
        classes=model.classes,
        sources=Sources(
            shown=shown,
            look=None if judged is None else lambda ids: looked_at(ids, result, model, judged),
            training=first,
            lists=named,
            labels=labels,
        ),
    )


def looked_at(
    image_ids: Sequence[ImageId], result: Evaluation, model: VisionModel, judged: EvaluationSet
) -> Iterator[tuple[ImageId, Shown]]:
    """Yield images with what each head says of them: what the evaluation kept, and else predicted anew, one by one."""
    places: Mapping[ImageId, int] = {image_id: place for place, image_id in enumerate(judged.reader.image_ids)}
    device = next(iter(model.parameters())).device
    model.eval()
    for image_id in image_ids:
        sample = judged.reader.read(places[image_id])
        if image_id in result.kept:
            predictions, truth = result.kept[image_id]
        else:
            image, geometry = judged.preprocess.fit(sample.image)
            truth = judged.map_labels(sample.labels)
            canvas = replace(sample, image=image, labels=Labels(size=geometry.size))
            batch = judged.collate([(canvas, geometry, truth)]).to(device)
            predictions = model.predict(batch.images, batch.targets.sizes, batch.geometries)[0]
        yield image_id, Shown(sample.image, sample.file_name, truth, predictions)


def first_batches(
    training: TrainingSet, sampler: EpochSampler, mix: Callable[[Batch, int], Batch] | None = None
) -> Iterator[Batch]:
    """Yield the first images of the first training batches, as the network sees them: each is made anew, and the same.

    Args:
        training: the set.
        sampler: of its batches, from the first one on.
        mix: what mixes the images of a batch on the device (`BatchMix`).
    """
    for number, places in enumerate(itertools.islice(batch_places(training, sampler), _BATCHES)):
        batch = training.collate([training[place] for place in places[:_OF_BATCH]])
        # Each image is mixed with the one before it, and the first with the last of the whole batch.
        whole = len(places) <= _OF_BATCH
        yield batch if mix is None else mix(batch, number) if whole else _without_first(mix(batch, number))


def _without_first(batch: Batch) -> Batch:
    rest = torch.arange(1, len(batch.images))
    targets = batch.targets
    known = {name: rows[rest] for name, rows in targets.known.items()}
    kept = replace(targets, sizes=targets.sizes[rest], known=known)
    if targets.class_scores is not None:
        kept = replace(kept, class_scores=targets.class_scores[rest])
    return replace(batch, images=batch.images[rest], targets=kept, file_names=batch.file_names[1:])


def _labels(reader: Reader, mapped: ClassMap, lists: ClassLists) -> LabelSource:
    return LabelSource(
        len(reader),
        lambda index: mapped(reader.labels(index)),
        classes=lists.objects,
        image_classes=lists.images,
        semantic_classes=lists.pixels,
    )
