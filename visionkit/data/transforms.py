"""Augmentation of single samples by albumentations: the one place that knows that library.

Facts about albumentations 2.0.8 that shape this adapter: its own seeding repeats in every forked worker and gives the
children of a pipeline one stream, so each call sets generators derived from the sample's; wrong arguments only warn; a
crop that drops a box keeps its mask, so rows are followed by number; integer label fields come back as floats; boxes
are held as float32 shares of the image, which costs about 1e-4 pixels.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import albumentations
import cv2
import numpy as np

from visionkit.data.placement import Painted, box_areas, clip_boxes, paint, tie_to_masks
from visionkit.errors import ConfigError, did_you_mean
from visionkit.structures import Labels, Sample

_GROUPS = ("Compose", "OneOf", "SomeOf", "OneOrOther", "RandomOrder", "Sequential", "SelectiveChannelTransform")
_PRESET = {"fill_mask": "unlabelled pixels", "mask_interpolation": "nearest", "strict": "true", "seed": "per sample"}
_NORMALISES = "preprocess.mean and preprocess.std normalise"
_REFUSED = {
    "Normalize": _NORMALISES,
    "ToFloat": _NORMALISES,
    "FromFloat": _NORMALISES,
    "ToTensorV2": _NORMALISES,
    "ToTensor3D": _NORMALISES,
    "Mosaic": "augment.mosaic makes mosaics, with masks",
    "Lambda": "a function cannot be named in a configuration",
}
_FLOAT32_ERROR = 0.01
"""Pixels; a box that comes back within this of where it was has not moved, and keeps its exact coordinates."""
_BOX = -1
"""The row number of `Labels.box` among the boxes."""


class Augment:
    """A list of albumentations transforms, applied to image, boxes, masks and semantic map alike.

    Args:
        transforms: one mapping {name: arguments or None} a transform, in order, by albumentations' names:
            [{"HorizontalFlip": {"p": 0.5}}, {"OneOf": {"p": 0.3, "transforms": [{"Blur": None}, …]}}].

    Raises:
        ConfigError: a name, an argument or a value is wrong; all faults of the list, one line each.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any]]) -> None:
        faults: list[str] = []
        built = _built(transforms, "augment.transforms", faults)
        if faults:
            raise ConfigError("\n".join(faults))
        self.names = tuple(name for entry in transforms for name in entry)
        self._compose = albumentations.Compose(
            # A list of colour transforms alone would warn that nothing uses the boxes.
            [*built, albumentations.NoOp()],
            bbox_params=albumentations.BboxParams(
                format="pascal_voc", label_fields=["rows", "crowd"], clip=True, filter_invalid_bboxes=True
            ),
            mask_interpolation=cv2.INTER_NEAREST,
            strict=True,
        )
        # The library's own filter knows no crowd regions; ours is the rule of every other step of training.
        self._compose.processors["bboxes"].filter = _visible

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the transformed sample: (H, W, 3) uint8 in and out, the sizes as the transforms make them.

        Objects follow the rule of `placement.clip_boxes`. Where masks are known, a box that moved becomes the extent of
        its mask, and an object without a visible pixel is dropped. `box` becomes unknown when its object is lost.

        Raises:
            ConfigError: the transforms cannot be applied, or leave something else than an image of the same kind.
        """
        if not self.names:
            return sample
        seeds = rng.integers(2**63, size=2)
        self._compose.set_random_state(np.random.default_rng(seeds[0]), random.Random(int(seeds[1])))
        labels = sample.labels
        painted = None if labels.masks is None else paint(labels.masks, labels.size)
        try:
            result = self._compose(**_data(sample, painted))
        except Exception as error:
            where = f"augment.transforms ({', '.join(self.names)}) cannot be applied to {sample.file_name}"
            raise ConfigError(f"{where}: {_one_line(error)}") from error
        image = result["image"]
        if image.dtype != sample.image.dtype or image.ndim != 3 or image.shape[2] != sample.image.shape[2]:
            raise ConfigError(
                f"augment.transforms ({', '.join(self.names)}): an image {sample.image.dtype} with "
                f"{sample.image.shape[2]} channels became {image.shape} {image.dtype}; normalising is preprocess's"
            )
        return replace(sample, image=np.ascontiguousarray(image), labels=_labels(labels, result, painted))


def _built(transforms: Sequence[Any], where: str, faults: list[str]) -> list[Any]:
    """Build the transforms of a list, noting every fault."""
    if not isinstance(transforms, Sequence) or isinstance(transforms, str):
        faults.append(f"{where}: a list of {{Name: arguments}} is wanted, not {transforms!r}")
        return []
    built = []
    for number, entry in enumerate(transforms):
        place = f"{where}[{number}]"
        if not isinstance(entry, Mapping) or len(entry) != 1:
            faults.append(f"{place}: one {{Name: arguments}} is wanted, not {entry!r}")
            continue
        name, arguments = next(iter(entry.items()))
        if isinstance(arguments, Sequence) and not isinstance(arguments, str) and name in _GROUPS:
            arguments = {"transforms": arguments}
        if arguments is not None and not isinstance(arguments, Mapping):
            faults.append(f"{place}: {name}: arguments by name are wanted, not {arguments!r}")
            continue
        before = len(faults)
        transform = _transform(str(name), dict(arguments or {}), place, faults)
        if len(faults) == before:
            built.append(transform)
    return built


def _transform(name: str, arguments: dict[str, Any], place: str, faults: list[str]) -> Any:
    """Build one transform, or note its faults and return None."""
    known = _known()
    if name in _REFUSED:
        faults.append(f"{place}: {name} is refused: {_REFUSED[name]}")
        return None
    if name not in known:
        faults.append(f"{place}: albumentations has no transform '{name}'{did_you_mean(name, known)}")
        return None
    parameters = [key for key in inspect.signature(known[name]).parameters]
    before = len(faults)
    for key in arguments:
        if key in _PRESET:
            faults.append(f"{place}: {name}.{key} is always {_PRESET[key]}; leave it out")
        elif key not in parameters:
            faults.append(f"{place}: {name} has no argument '{key}'{did_you_mean(key, parameters)}")
    if "transforms" in parameters:
        arguments["transforms"] = _built(arguments.get("transforms", []), f"{place}.{name}", faults)
    if len(faults) > before:
        return None
    try:
        return known[name](**arguments)
    except (TypeError, ValueError) as error:
        faults.append(f"{place}: {name}: {_one_line(error)}")
        return None


def _known() -> dict[str, type]:
    return {
        name: item
        for name, item in vars(albumentations).items()
        if name in _GROUPS or getattr(item, "__module__", "").startswith("albumentations.augmentations.")
        if isinstance(item, type) and issubclass(item, (albumentations.BasicTransform, albumentations.BaseCompose))
    }


def _one_line(error: Exception) -> str:
    """Bring the validator's many lines into one, without its headline and its links."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith("For further") and "validation error" not in line]
    return " ".join(kept)


def _data(sample: Sample, painted: Painted | None) -> dict[str, Any]:
    """Return the sample's known fields as albumentations' targets."""
    labels = sample.labels
    boxes = np.zeros((0, 4)) if labels.boxes is None else labels.boxes
    crowd = np.zeros(0, np.bool_) if labels.crowd is None else labels.crowd
    rows = np.arange(len(boxes))
    if labels.box is not None:
        boxes = np.concatenate([boxes, labels.box[None]])
        crowd = np.append(crowd, False)
        rows = np.append(rows, _BOX)
    data: dict[str, Any] = {"image": sample.image, "bboxes": boxes, "rows": rows, "crowd": crowd.astype(np.float32)}
    if labels.semantic is not None:
        # Transforms fill masks with 0, and unlabelled is 255: one step up, 255 wraps to 0.
        data["mask"] = labels.semantic + np.uint8(1)
    if painted is not None and len(painted.maps):
        data["masks"] = painted.maps
    return data


def _labels(before: Labels, result: Mapping[str, Any], painted: Painted | None) -> Labels:
    """Read the transformed labels back, row by row."""
    height, width = result["image"].shape[:2]
    boxes = np.asarray(result["bboxes"], np.float64).reshape(-1, 4)
    rows = np.asarray(result["rows"]).astype(np.int64).reshape(-1)
    moved: dict[str, Any] = {"size": (height, width)}
    if before.semantic is not None:
        moved["semantic"] = result["mask"] - np.uint8(1)
    if before.box is not None:
        found = boxes[rows == _BOX]
        moved["box"] = found[0] if len(found) else None
    if before.boxes is None:
        return replace(before, **moved)
    boxes, rows = boxes[rows != _BOX], rows[rows != _BOX]
    moved_rows = np.abs(boxes - before.boxes[rows]).max(axis=1, initial=0.0) > _FLOAT32_ERROR
    boxes = np.where(moved_rows[:, None], boxes, before.boxes[rows])
    kept = {name: getattr(before, name)[rows] for name in ("labels", "crowd", "ignore")}
    after = replace(before, boxes=boxes, areas=box_areas(boxes), masks=None, **kept, **moved)
    if painted is None:
        return after
    maps = result["masks"] if "masks" in result else np.zeros((0, height, width), np.uint8)
    masks = replace(painted, maps=np.asarray(maps)).encode(rows)
    return tie_to_masks(after, masks, moved_rows)


def _visible(boxes: np.ndarray, shape: Mapping[str, int]) -> np.ndarray:
    """Filter boxes for albumentations: (N, 6), x1 y1 x2 y2 as shares of the image, row number, crowd."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 6)
    pixels = np.array([shape["width"], shape["height"]] * 2, np.float64)
    window = (0.0, 0.0, float(shape["width"]), float(shape["height"]))
    clipped, kept = clip_boxes(boxes[:, :4] * pixels, window, boxes[:, 5] > 0)
    shares = (clipped / pixels).astype(np.float32)
    return np.concatenate([shares[kept], boxes[kept, 4:]], axis=1)
