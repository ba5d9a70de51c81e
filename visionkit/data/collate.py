"""From samples to batches: padding of the canvas, of the objects and of the masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionkit.ops.run_lengths import mask_window
from visionkit.preprocess import fill_value
from visionkit.structures import IGNORE_INDEX, LABEL_FIELDS, RLE, Batch, Geometry, Labels, Sample, Targets

_LEAST_ROWS = 8


@dataclass(frozen=True)
class Collate:
    """Makes a training batch of samples that are at most as large as the canvas.

    Attributes:
        canvas: (height, width) of the batch's images; samples lie at its top left.
        fill: the grey value of the padding, 0 to 255.
        fields: of `LABEL_FIELDS`, those that some head's loss reads. All of them are in the targets, also where no
            image of the batch knows them; the others are None.
        classes: the lengths of `known_classes` and of `class_scores`.
    """

    canvas: tuple[int, int]
    fill: int
    fields: frozenset[str]
    classes: tuple[int, int]

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Pad images and labels; nothing is normalised."""
        labels = [sample.labels for sample in samples]
        return Batch(
            images=padded_images([sample.image for sample in samples], self.canvas, self.fill),
            targets=self.targets(labels),
            image_ids=tuple(sample.image_id for sample in samples),
            file_names=tuple(sample.file_name for sample in samples),
        )

    def targets(self, labels: Sequence[Labels]) -> Targets:
        """Pad the labels of a batch, in canvas pixels; see `Targets` for the shapes."""
        fields = self.fields | {"boxes"} if "masks" in self.fields else self.fields
        known = {
            name: torch.tensor([getattr(item, name) is not None for item in labels])
            for name in LABEL_FIELDS
            if name in fields
        }
        tensors: dict[str, Any] = {}
        if "boxes" in fields:
            tensors.update(_objects(labels))
            if any(item.known_classes is not None for item in labels):
                every = np.ones(self.classes[0], np.bool_)
                lists = [every if item.known_classes is None else item.known_classes for item in labels]
                tensors["known_classes"] = torch.from_numpy(np.stack(lists))
        if "masks" in fields:
            tensors.update(_masks(labels, tensors["labels"].shape[1], self.canvas))
        if "class_scores" in fields:
            unknown = np.full(self.classes[1], -1.0, np.float32)
            rows = [unknown if item.class_scores is None else item.class_scores for item in labels]
            tensors["class_scores"] = torch.from_numpy(np.stack(rows))
        if "box" in fields:
            rows = [np.zeros(4) if item.box is None else item.box for item in labels]
            tensors["box"] = torch.from_numpy(np.stack(rows).astype(np.float32))
        if "semantic" in fields:
            tensors["semantic"] = _semantic(labels, self.canvas)
        sizes = torch.tensor([item.size for item in labels], dtype=torch.int64)
        return Targets(sizes=sizes, known=known, **tensors)


@dataclass(frozen=True)
class CollateEvaluation:
    """Makes an evaluation batch: padded images, their geometries, and the truth in original pixels."""

    canvas: tuple[int, int]
    fill: int

    def __call__(self, items: Sequence[tuple[Sample, Geometry, Labels]]) -> Batch:
        """items: as `EvaluationSet` gives them."""
        samples, geometries, labels = zip(*items, strict=True)
        sizes = torch.tensor([sample.labels.size for sample in samples], dtype=torch.int64)
        return Batch(
            images=padded_images([sample.image for sample in samples], self.canvas, self.fill),
            targets=Targets(sizes=sizes, known={}),
            geometries=geometries,
            image_ids=tuple(sample.image_id for sample in samples),
            file_names=tuple(sample.file_name for sample in samples),
            labels=labels,
        )


def padded_images(images: Sequence[np.ndarray], canvas: tuple[int, int], fill: int) -> Tensor:
    """Lay (h, w, C) images at the top left of one canvas each.

    Returns (B, C, H, W) of the images' dtype, in channels-last memory: the pixels are copied once and never reordered.
    """
    height, width = canvas
    batch = np.empty((len(images), height, width, images[0].shape[2]), images[0].dtype)
    value = fill_value(fill, batch.dtype)
    for canvas_pixels, image in zip(batch, images, strict=True):
        rows, columns = image.shape[:2]
        canvas_pixels[:rows, :columns] = image
        canvas_pixels[rows:] = value
        canvas_pixels[:rows, columns:] = value
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


def bucket(count: int) -> int:
    """Return the number of rows that `count` is padded to: 8, or the next power of two."""
    return max(_LEAST_ROWS, 1 << max(count - 1, 0).bit_length())


def _objects(labels: Sequence[Labels]) -> dict[str, Tensor]:
    counts = [0 if item.boxes is None else len(item.boxes) for item in labels]
    rows = bucket(max(counts))
    arrays: dict[str, np.ndarray] = {
        "boxes": np.zeros((len(labels), rows, 4), np.float32),
        "labels": np.full((len(labels), rows), -1, np.int64),
        "crowd": np.zeros((len(labels), rows), np.bool_),
        "ignore": np.zeros((len(labels), rows), np.bool_),
    }
    for number, (item, count) in enumerate(zip(labels, counts, strict=True)):
        if count:
            for name, array in arrays.items():
                array[number, :count] = getattr(item, name)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _masks(labels: Sequence[Labels], rows: int, canvas: tuple[int, int]) -> dict[str, Tensor]:
    height, width = canvas
    mask_row = np.full((len(labels), rows), -1, np.int64)
    total = sum(len(item.masks or ()) for item in labels)
    packed = np.zeros((bucket(total), -(-height * width // 8)), np.uint8)
    first = 0
    for number, item in enumerate(labels):
        count = len(item.masks or ())
        mask_row[number, :count] = np.arange(first, first + count)
        for row, mask in enumerate(item.masks or ()):
            _pack(mask, packed[first + row], canvas)
        first += count
    return {"masks": torch.from_numpy(packed), "mask_row": torch.from_numpy(mask_row)}


def _pack(mask: RLE, bits: np.ndarray, canvas: tuple[int, int]) -> None:
    """Write a mask of at most the canvas's size, at its top left, into the packed bits of an empty one."""
    window, left, top = mask_window(mask)
    height, width = window.shape
    if canvas[1] % 8:  # a row begins within a byte
        full = np.zeros(canvas, np.bool_)
        full[top : top + height, left : left + width] = window
        bits[:] = np.packbits(full)
        return
    shifted = np.zeros((height, left % 8 + width), np.bool_)
    shifted[:, left % 8 :] = window
    part = np.packbits(shifted, axis=1)
    bits.reshape(canvas[0], canvas[1] // 8)[top : top + height, left // 8 : left // 8 + part.shape[1]] = part


def _semantic(labels: Sequence[Labels], canvas: tuple[int, int]) -> Tensor:
    maps = np.full((len(labels), *canvas), IGNORE_INDEX, np.uint8)
    for values, item in zip(maps, labels, strict=True):
        if item.semantic is not None:
            values[: item.size[0], : item.size[1]] = item.semantic
    return torch.from_numpy(maps)
