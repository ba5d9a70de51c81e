"""Augmentation of single samples by albumentations: the one place that knows that library.

Facts about albumentations 2.0.8 that shape this adapter: its own seeding repeats in every forked worker and gives the
children of a pipeline one stream, so each call sets generators derived from the sample's; wrong arguments only warn; a
crop that drops a box keeps its mask, so rows are followed by number; integer label fields come back as floats; boxes
are held as float32 shares of the image, which costs about 1e-4 pixels.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import albumentations
import cv2
import numpy as np

from visionkit.data.fast_colour import HueSaturationValue
from visionkit.data.moved_labels import moved_labels, numbered_boxes
from visionkit.data.placement import Painted, clip_boxes, paint
from visionkit.data.transform_lists import NORMALISES, Library, check_kind, one_line, scaled_fill
from visionkit.errors import CodedLine, ConfigError
from visionkit.structures import Labels, Sample

_GROUPS = ("Compose", "OneOf", "SomeOf", "OneOrOther", "RandomOrder", "Sequential", "SelectiveChannelTransform")
_PRESET = {"fill_mask": "unlabelled pixels", "mask_interpolation": "nearest", "strict": "true", "seed": "per sample"}
_REFUSED = {
    "Normalize": NORMALISES,
    "ToFloat": NORMALISES,
    "FromFloat": NORMALISES,
    "ToTensorV2": NORMALISES,
    "ToTensor3D": NORMALISES,
    "Mosaic": "augment.mosaic makes mosaics, with masks",
    "Lambda": "a function cannot be named in a configuration",
}


class Augment:
    """A list of albumentations transforms, applied to image, boxes, masks and semantic map alike.

    Args:
        transforms: one mapping {name: arguments or None} a transform, in order, by albumentations' names:
            [{"HorizontalFlip": {"p": 0.5}}, {"OneOf": {"p": 0.3, "transforms": [{"Blur": None}, …]}}].
            `fill` is a grey value from 0 to 255, whatever the dtype of the images (`fill_value`).

    Raises:
        ConfigError: a name, an argument or a value is wrong; all faults of the list, one line each.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any]]) -> None:
        self._transforms = transforms
        self._composed = {"uint8": self._compose(np.dtype(np.uint8))}
        self.names = tuple(name for entry in transforms for name in entry)

    def _compose(self, dtype: np.dtype) -> albumentations.Compose:
        """Build the list for images of `dtype`."""
        faults: list[CodedLine] = []
        settled = partial(scaled_fill, dtype=dtype)
        library = Library("albumentations", _known(), _REFUSED, _PRESET, settled)
        built = library.built(self._transforms, "augment.transforms", faults)
        if faults:
            raise ConfigError.of(faults)
        compose = albumentations.Compose(
            # A list of colour transforms alone would warn that nothing uses the boxes.
            [*built, albumentations.NoOp()],
            bbox_params=albumentations.BboxParams(format="albumentations"),
            mask_interpolation=cv2.INTER_NEAREST,
            strict=True,
        )
        # The library's own filter knows no crowd regions; ours is the rule of every other step of training. Its checks
        # and conversions, twice a sample, would cost more than all else that is done to boxes.
        boxes = compose.processors["bboxes"]
        boxes.filter, boxes.check_and_convert = _Visible(), _as_they_are
        return compose

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the transformed sample: (H, W, C) of the same C and dtype, the sizes as the transforms make them.

        Objects follow the rule of `placement.clip_boxes`. Where masks are known, a box that moved becomes the extent of
        its mask, and an object without a visible pixel is dropped. `box` becomes unknown when its object is lost.

        Raises:
            ConfigError: the transforms cannot be applied, or leave something else than an image of the same kind.
        """
        if not self.names:
            return sample
        seeds = rng.integers(2**63, size=2)
        dtype = sample.image.dtype
        if dtype.name not in self._composed:
            self._composed[dtype.name] = self._compose(dtype)
        compose = self._composed[dtype.name]
        compose.set_random_state(np.random.default_rng(seeds[0]), random.Random(int(seeds[1])))
        labels = sample.labels
        painted = None if labels.masks is None else paint(labels.masks, labels.size)
        try:
            result = compose(**_data(sample, painted))
        except Exception as error:
            where = f"augment.transforms ({', '.join(self.names)}) cannot be applied to {sample.file_name}"
            raise ConfigError(f"{where}: {one_line(error)}", code="augmentation-unfit") from error
        image = result["image"]
        check_kind(sample.image, image, self.names)
        return replace(sample, image=np.ascontiguousarray(image), labels=_labels(labels, result, painted))


def _known() -> dict[str, type]:
    library = {
        name: item
        for name, item in vars(albumentations).items()
        if name in _GROUPS or getattr(item, "__module__", "").startswith("albumentations.augmentations.")
        if isinstance(item, type) and issubclass(item, (albumentations.BasicTransform, albumentations.BaseCompose))
    }
    return library | {"HueSaturationValue": HueSaturationValue}


def _data(sample: Sample, painted: Painted | None) -> dict[str, Any]:
    """Return the sample's known fields as albumentations' targets."""
    boxes, crowd, rows = numbered_boxes(sample.labels)
    height, width = sample.labels.size
    shares = np.empty((len(boxes), 6), np.float32)  # x1 y1 x2 y2 as shares of the image, row number, crowd
    np.clip(boxes / (width, height, width, height), 0, 1, out=shares[:, :4])
    shares[:, 4], shares[:, 5] = rows, crowd
    has_area = (shares[:, 2:4] > shares[:, :2]).all(axis=1)
    data: dict[str, Any] = {"image": sample.image, "bboxes": shares if has_area.all() else shares[has_area]}
    if sample.labels.semantic is not None:
        # Transforms fill masks with 0, and unlabelled is 255: one step up, 255 wraps to 0.
        data["mask"] = sample.labels.semantic + np.uint8(1)
    if painted is not None and len(painted.maps):
        data["masks"] = painted.maps
    return data


def _labels(before: Labels, result: Mapping[str, Any], painted: Painted | None) -> Labels:
    """Read the transformed labels back, row by row."""
    height, width = result["image"].shape[:2]
    if painted is not None:
        maps = result["masks"] if "masks" in result else np.zeros((0, height, width), np.uint8)
        painted = replace(painted, maps=np.asarray(maps))
    shares = np.asarray(result["bboxes"]).reshape(-1, 6)
    return moved_labels(
        before,
        size=(height, width),
        boxes=shares[:, :4] * np.array((width, height, width, height), np.float64),
        rows=shares[:, 4].astype(np.int64),
        semantic=None if before.semantic is None else result["mask"] - np.uint8(1),
        painted=painted,
    )


class _Visible:
    """Filters boxes for albumentations, which asks after each transform: also after those that move no boxes."""

    def __init__(self) -> None:
        self._seen: np.ndarray | None = None
        self._size = (0, 0)

    def __call__(self, boxes: np.ndarray, shape: Mapping[str, int]) -> np.ndarray:
        """boxes: (N, 6), x1 y1 x2 y2 as shares of the image, row number, crowd."""
        width, height = shape["width"], shape["height"]
        if boxes is self._seen and self._size == (height, width):
            return boxes
        boxes = np.asarray(boxes, np.float32).reshape(-1, 6)
        pixels = np.array((width, height, width, height), np.float64)
        window = (0.0, 0.0, float(width), float(height))
        clipped, kept = clip_boxes(boxes[:, :4] * pixels, window, boxes[:, 5] > 0)
        self._seen = np.concatenate([(clipped / pixels).astype(np.float32), boxes[:, 4:]], axis=1)[kept]
        self._size = (height, width)
        return self._seen


def _as_they_are(boxes: np.ndarray, _shape: Mapping[str, int], **_: str) -> np.ndarray:
    return boxes
