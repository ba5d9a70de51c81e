"""The shapes that flow through the toolkit. Every shape, dtype and coordinate format is stated here, once.

Conventions: boxes are (x1, y1, x2, y2) in pixels, x to the right, y down, the origin at the outer corner of the first
pixel; sizes are (height, width). The labels' side (`Labels`, `Sample`, predictions) is numpy; the network's side
(`Targets`, `Batch`) is torch. In `Labels`, None means "not known" and an empty array "known to be empty".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from visionkit.errors import ConfigError

ImageId = int | str
RLE = Mapping[str, Any]
"""COCO's compressed run-length encoding: {"size": [height, width], "counts": bytes}."""

Features = Mapping[str, Tensor]
"""Feature maps by level name, fine to coarse: {"c3": (B, C, H / 8, W / 8), …}."""
RawOutput = Tensor | Mapping[str, Tensor]
"""What a head's forward gives: a tensor or named tensors, always the same kind for one head."""
Decoded = Mapping[str, Tensor]
"""What a head's decode gives: padded batch tensors in network pixels; rows that count are marked by "valid"."""

LABEL_FIELDS = ("boxes", "masks", "class_scores", "box", "semantic")
"""The fields of which an image may know some and not others; heads name those that they need."""
_DTYPES: Mapping[int | str, type] = {8: np.uint8, 16: np.uint16, "float": np.float32}
IGNORE_INDEX = 255
"""The value of a semantic map's pixels that have no label, inside the toolkit; readers map their own value to it."""
_ROW_DTYPES = {"labels": np.int64, "crowd": np.bool_, "ignore": np.bool_, "areas": np.float64}


@dataclass(frozen=True)
class FeatureSpec:
    """A feature level: its number of channels and its stride in input pixels."""

    channels: int
    stride: int


# ------------------------------------------------------------------------------------------------ labels and samples
@dataclass(frozen=True, eq=False, kw_only=True)
class Labels:
    """What is known of one image, in that image's own pixels.

    Attributes:
        size: (height, width) of the image.
        boxes: (N, 4) float64 xyxy; float64 so that a source's numbers survive into COCO's metric unchanged.
        labels: (N,) int64, an index into the class list of the reader (or of whoever mapped it).
        crowd: (N,) bool, COCO's `iscrowd`: a region of many objects. Never a positive; what it covers is ignored.
        ignore: (N,) bool, VOC's `difficult`: neither positive nor background.
        areas: (N,) float64, pixels; the source's own `area` where it has one, since COCO sorts sizes by it.
        masks: N run-length encodings of the image's size, row by row the objects of `boxes`.
        class_scores: (C,) float32 over the class list: one-hot, or several ones for a multi-label image.
        box: (4,) float64 xyxy, the one object of a localization image.
        semantic: (H, W) uint8, an index into the semantic class list, `IGNORE_INDEX` where nothing is known.
        known_classes: (C,) bool over the class list of `boxes`: those that the image's set labels; None: all of them.
    """

    size: tuple[int, int]
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    crowd: np.ndarray | None = None
    ignore: np.ndarray | None = None
    areas: np.ndarray | None = None
    masks: tuple[RLE, ...] | None = None
    class_scores: np.ndarray | None = None
    box: np.ndarray | None = None
    semantic: np.ndarray | None = None
    known_classes: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.boxes is None:
            if self.labels is not None or self.masks is not None:
                raise ValueError("Labels: labels and masks need boxes, row by row")
        else:
            self._check_rows()
        if self.class_scores is not None and (self.class_scores.ndim != 1 or self.class_scores.dtype != np.float32):
            raise ValueError(f"Labels.class_scores: (C,) float32 is wanted, not {_describe(self.class_scores)}")
        if self.box is not None and (self.box.shape != (4,) or self.box.dtype != np.float64):
            raise ValueError(f"Labels.box: (4,) float64 is wanted, not {_describe(self.box)}")
        if self.semantic is not None and (self.semantic.shape != self.size or self.semantic.dtype != np.uint8):
            raise ValueError(f"Labels.semantic: {self.size} uint8 is wanted, not {_describe(self.semantic)}")

    def _check_rows(self) -> None:
        boxes = self.boxes
        assert boxes is not None
        if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype != np.float64:
            raise ValueError(f"Labels.boxes: (N, 4) float64 is wanted, not {_describe(boxes)}")
        count = len(boxes)
        for name in ("crowd", "ignore"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.zeros(count, np.bool_))
        if self.areas is None:
            object.__setattr__(self, "areas", (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        for name, dtype in _ROW_DTYPES.items():
            value = getattr(self, name)
            if value is None or value.shape != (count,) or value.dtype != dtype:
                wanted = np.dtype(dtype).name
                raise ValueError(f"Labels.{name}: ({count},) {wanted} is wanted beside boxes, not {_describe(value)}")
        if self.masks is not None and len(self.masks) != count:
            raise ValueError(f"Labels.masks: {len(self.masks)} masks beside {count} boxes")

    @property
    def known(self) -> frozenset[str]:
        """The names of the fields that this image knows, a subset of `LABEL_FIELDS`."""
        return frozenset(name for name in LABEL_FIELDS if getattr(self, name) is not None)

    def keep(self, wanted: frozenset[str]) -> Labels:
        """Return these labels with every field of `LABEL_FIELDS` outside `wanted` made unknown."""
        gone: dict[str, Any] = {name: None for name in LABEL_FIELDS if name not in wanted}
        if "boxes" in gone:
            gone.update(labels=None, crowd=None, ignore=None, areas=None, masks=None)
        return replace(self, **gone)

    def select(self, rows: np.ndarray) -> Labels:
        """Return these labels with the objects `rows` (int64 indices or a bool mask); the other fields stay."""
        if self.boxes is None:
            return self
        index = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        per_object = {name: getattr(self, name)[index] for name in ("boxes", "labels", "crowd", "ignore", "areas")}
        masks = None if self.masks is None else tuple(self.masks[i] for i in index)
        return replace(self, **per_object, masks=masks)

    def bitmaps(self) -> np.ndarray:
        """Return the masks as (N, H, W) uint8 of 0 and 1."""
        if not self.masks:
            return np.zeros((0, *self.size), np.uint8)
        return np.ascontiguousarray(coco_mask.decode(list(self.masks)).transpose(2, 0, 1))


@dataclass(frozen=True)
class Decoding:
    """What every image of a data set becomes.

    Attributes:
        channels: 3 (RGB), 1 (luma), or as many as the files hold.
        bit_depth: 8 (uint8), 16 (uint16) or "float" (float32).
        recorded: (height, width) as labels tell it. Where that is the size before EXIF orientation swaps the sides, the
            labels were drawn on the image as it is stored, and so it is left.

    Raises:
        ConfigError: a value cannot be.
    """

    channels: int = 3
    bit_depth: int | str = 8
    recorded: tuple[int, int] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ConfigError(f"data.channels={self.channels}: 1 or more is wanted", code="value-unfit")
        if self.bit_depth not in _DTYPES:
            raise ConfigError(f"data.bit_depth={self.bit_depth}: one of 8, 16, float is wanted", code="value-unfit")

    @property
    def dtype(self) -> np.dtype:
        """Of the decoded pixels."""
        return np.dtype(_DTYPES[self.bit_depth])


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its labels, both in the same pixels: the file's own, or those of a canvas after augmentation.

    Attributes:
        image: (H, W, C) uint8, uint16 or float32; RGB when C is 3.
        labels: what is known of it; `labels.size` is the image's.
        image_id: the source's own id, or the reader's number from 1.
        file_name: relative to the data root, with forward slashes.
        reduction: 1, or 2, 4 or 8 where the image was decoded at that part of its size for training: its sides are
            those of `labels.size` divided by it and rounded up, until it is laid on a canvas (`Placement`).
    """

    image: np.ndarray
    labels: Labels
    image_id: ImageId
    file_name: str
    reduction: int = 1

    def __post_init__(self) -> None:
        sides = tuple(-(-side // self.reduction) for side in self.labels.size)
        if self.image.ndim != 3 or self.image.shape[:2] != sides:
            sizes = f"image {_describe(self.image)} beside labels of size {self.labels.size}"
            raise ValueError(f"{self.file_name}: {sizes}")


@dataclass(frozen=True)
class Geometry:
    """How an image was laid on its canvas: canvas = original * scale + offset, per axis as (y, x).

    Attributes:
        original: (height, width) of the image.
        size: (height, width) of the part of the canvas, from its top left corner, that holds image.
        scale: (y, x) factors.
        offset: (y, x) pixels of the canvas; negative where the image was cropped.
    """

    original: tuple[int, int]
    size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)

    def to_canvas(self, boxes: np.ndarray) -> np.ndarray:
        """Map (N, 4) xyxy boxes from the original image to the canvas, unclipped."""
        mapped: np.ndarray = boxes * np.array([*self.scale[::-1]] * 2) + np.array([*self.offset[::-1]] * 2)
        return mapped

    def to_original(self, boxes: np.ndarray) -> np.ndarray:
        """Map (N, 4) xyxy boxes from the canvas to the original image, clipped to it."""
        original: np.ndarray = boxes_to_original(boxes[None], [self])[0]
        return original


def boxes_to_original(boxes: np.ndarray, geometries: Sequence[Geometry]) -> np.ndarray:
    """Map (B, N, 4) xyxy boxes, N of each image, from its canvas to the original image, clipped to it: float64."""
    offset = np.array([one.offset[::-1] * 2 for one in geometries], float).reshape(-1, 4, 1)
    scale = np.array([one.scale[::-1] * 2 for one in geometries], float).reshape(-1, 4, 1)
    limit = np.array([one.original[::-1] * 2 for one in geometries]).reshape(-1, 4, 1)
    # Edge by edge: numpy repeats an image's four numbers over its boxes several times slower than one over N edges.
    edges = boxes.transpose(0, 2, 1).astype(np.float64, order="C")
    edges -= offset
    edges /= scale
    np.clip(edges, 0.0, limit.astype(np.float64), out=edges)
    return np.ascontiguousarray(edges.transpose(0, 2, 1))


# ------------------------------------------------------------------------------------------------------------ batches
@dataclass(frozen=True, eq=False, kw_only=True)
class Targets:
    """The labels of a batch of B canvases. Fields that no image of the batch knows, or no head needs, are None.

    Attributes:
        sizes: (B, 2) int64, (height, width) of the part of each canvas that holds image, from the top left corner.
        known: per field of `LABEL_FIELDS` that is not None, (B,) bool: does the image know it? Left out: all images do.
        boxes: (B, M, 4) float32 xyxy canvas pixels; M comes from a few buckets.
        labels: (B, M) int64, −1 where the row is padding.
        crowd: (B, M) bool; never positive, what it covers is ignored. Left out beside boxes: none.
        ignore: (B, M) bool; neither positive nor background. Left out beside boxes: none.
        masks: (K, ceil(H * W / 8)) uint8, bits packed along the flattened canvas, most significant first.
        mask_row: (B, M) int64, the row of `masks` that belongs to a box, −1 where there is none.
        class_scores: (B, C) float32: one-hot, smoothed, mixed or multi-label; −1 = unknown.
        box: (B, 4) float32 xyxy, the one object of a localization image.
        semantic: (B, H, W) uint8 with `IGNORE_INDEX`; padding of the canvas is `IGNORE_INDEX`.
        known_classes: (B, C) bool where sets with different class lists are mixed: is the class labelled in the image?
        totals: per field, the scalar float32 count by which a loss over that field is divided (see `counts`).
    """

    sizes: Tensor
    known: Mapping[str, Tensor] = field(default_factory=dict)
    boxes: Tensor | None = None
    labels: Tensor | None = None
    crowd: Tensor | None = None
    ignore: Tensor | None = None
    masks: Tensor | None = None
    mask_row: Tensor | None = None
    class_scores: Tensor | None = None
    box: Tensor | None = None
    semantic: Tensor | None = None
    known_classes: Tensor | None = None
    totals: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [name for name in LABEL_FIELDS if getattr(self, name) is not None and name not in self.known]
        if given:
            every = torch.ones(len(self.sizes), dtype=torch.bool, device=self.sizes.device)
            object.__setattr__(self, "known", {**self.known, **dict.fromkeys(given, every)})
        if self.boxes is not None:
            if self.labels is None:
                raise ValueError("Targets: boxes need labels, row by row")
            for name in ("crowd", "ignore"):
                if getattr(self, name) is None:
                    object.__setattr__(self, name, torch.zeros_like(self.labels, dtype=torch.bool))

    def counts(self) -> dict[str, Tensor]:
        """Count what each loss is divided by, from the labels alone: scalar float32 tensors on the labels' device.

        boxes, masks: objects that are neither padding, crowd nor ignored, of images that know the field;
        class_scores, box: images that know the field; semantic: labelled pixels.
        """
        result: dict[str, Tensor] = {}
        for name, rows in self.known.items():
            if name in ("boxes", "masks"):
                result[name] = (self.positive_rows() & rows[:, None]).sum(dtype=torch.float32)
            elif name == "semantic":
                assert self.semantic is not None
                labelled = self.semantic != IGNORE_INDEX
                result[name] = (labelled & rows[:, None, None]).sum(dtype=torch.float32)
            else:
                result[name] = rows.sum(dtype=torch.float32)
        return result

    def positive_rows(self) -> Tensor:
        """(B, M) bool: the rows that a prediction may answer for."""
        assert self.labels is not None and self.crowd is not None and self.ignore is not None
        return (self.labels >= 0) & ~self.crowd & ~self.ignore

    def total(self, name: str) -> Tensor:
        """The divisor of losses over field `name`: the engine's total, or this batch's own count; at least 1."""
        total = self.totals[name] if name in self.totals else self.counts()[name]
        return total.clamp(min=1.0)

    def to(self, device: torch.device | str) -> Targets:
        """Return the same targets on `device` (asynchronously where the memory is pinned)."""
        return replace(self, **{f.name: _moved(getattr(self, f.name), device) for f in fields(self)})

    def pin_memory(self) -> Targets:
        """Called by torch's DataLoader: return the same targets in pinned memory."""
        return replace(self, **{f.name: _pinned(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """B images on canvases of one size.

    Attributes:
        images: (B, C, H, W) uint8 (or the reader's own dtype), not normalised; padding right and below.
        targets: labels in canvas pixels; at evaluation only `sizes` is filled.
        geometries: how each image was laid on its canvas; empty in training.
        image_ids, file_names: whose images these are.
        labels: at evaluation, the truth in original pixels, image by image; empty in training.
    """

    images: Tensor
    targets: Targets
    geometries: tuple[Geometry, ...] = ()
    image_ids: tuple[ImageId, ...] = ()
    file_names: tuple[str, ...] = ()
    labels: tuple[Labels, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch on `device` (asynchronously where the memory is pinned)."""
        return replace(self, images=_moved(self.images, device), targets=self.targets.to(device))

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader: return the same batch in pinned memory."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())


def _describe(value: np.ndarray | None) -> str:
    return "nothing" if value is None else f"{value.shape} {value.dtype}"


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    return value


def _pinned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, Mapping):
        return {key: _pinned(item) for key, item in value.items()}
    return value
