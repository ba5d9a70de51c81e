"""Augmentation of single samples by torchvision.transforms.v2: the one place that knows that library's transforms.

Facts about torchvision 0.29 that shape this adapter: it draws from torch's global random numbers, so each call lends
them a stream of the sample's own; boxes are clamped to the image unless they say otherwise, and an object that has left
it keeps its row; what a transform fills, it fills in images and masks alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from visionkit.data.moved_labels import moved_labels, numbered_boxes
from visionkit.data.placement import Painted, clip_boxes, paint
from visionkit.data.transform_lists import NORMALISES, Library, check_kind, one_line, scaled_fill
from visionkit.errors import CodedLine, ConfigError
from visionkit.structures import Labels, Sample

_BOXES = "boxes are followed and cut by the toolkit"
_SEVERAL = "one image of a sample is wanted"
_REFUSED = {
    **dict.fromkeys(("Normalize", "ToDtype", "ConvertImageDtype", "LinearTransformation"), NORMALISES),
    **dict.fromkeys(("ToImage", "ToTensor", "ToPILImage", "PILToTensor", "ToPureTensor"), NORMALISES),
    **dict.fromkeys(("SanitizeBoundingBoxes", "ClampBoundingBoxes", "ConvertBoundingBoxFormat"), _BOXES),
    **dict.fromkeys(("SetClampingMode", "SanitizeKeyPoints", "ClampKeyPoints"), _BOXES),
    **dict.fromkeys(("FiveCrop", "TenCrop", "UniformTemporalSubsample"), _SEVERAL),
    **dict.fromkeys(("MixUp", "CutMix"), "augment.batch_mix mixes batches"),
    "Lambda": "a function cannot be named in a configuration",
}


class TorchvisionAugment:
    """A list of torchvision's v2 transforms, applied to image, boxes, masks and semantic map alike.

    Args:
        transforms: one mapping {name: arguments or None} a transform, in order, by torchvision's names:
            [{"RandomHorizontalFlip": {"p": 0.5}}, {"RandomApply": {"p": 0.3, "transforms": [{"GaussianBlur": …}]}}].
            `fill` is of the image alone, a grey value from 0 to 255, whatever the dtype of the images (`fill_value`);
            `interpolation` is a name such as "bilinear".

    Raises:
        ConfigError: a name, an argument or a value is wrong; all faults of the list, one line each.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any]]) -> None:
        self._transforms = transforms
        self._composed = {"uint8": self._compose(np.dtype(np.uint8))}
        self.names = tuple(name for entry in transforms for name in entry)

    def _compose(self, dtype: np.dtype) -> v2.Compose:
        """Build the list for images of `dtype`."""
        faults: list[CodedLine] = []
        settled = partial(_settled, dtype=dtype)
        library = Library("torchvision.transforms.v2", _known(), _REFUSED, {"inplace": "false"}, settled)
        built = library.built(self._transforms, "augment.transforms", faults)
        if faults:
            raise ConfigError.of(faults)
        return v2.Compose(built or [v2.Identity()])

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the transformed sample: (H, W, C) of the same C and dtype, the sizes as the transforms make them.

        Objects follow the rules of `Augment`, except that what is left of a box is compared with the whole of it after
        the last transform and not after each.

        Raises:
            ConfigError: the transforms cannot be applied, or leave something else than an image of the same kind.
        """
        if not self.names:
            return sample
        dtype, labels = sample.image.dtype, sample.labels
        if dtype.name not in self._composed:
            self._composed[dtype.name] = self._compose(dtype)
        painted = None if labels.masks is None else paint(labels.masks, labels.size)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(int(rng.integers(2**63)))
                result = self._composed[dtype.name](_data(sample, painted))
        except Exception as error:
            where = f"augment.transforms ({', '.join(self.names)}) cannot be applied to {sample.file_name}"
            raise ConfigError(f"{where}: {one_line(error)}", code="augmentation-unfit") from error
        image = result["image"].permute(1, 2, 0).contiguous().numpy()
        check_kind(sample.image, image, self.names)
        return replace(sample, image=image, labels=_labels(labels, result, painted))


def _known() -> dict[str, type]:
    return {
        name: item
        for name, item in vars(v2).items()
        if isinstance(item, type) and issubclass(item, v2.Transform) and item is not v2.Transform
    }


def _settled(arguments: dict[str, Any], dtype: np.dtype) -> dict[str, Any]:
    """Fill masks with 0, whatever the image is filled with; find interpolations by name."""
    settled = scaled_fill(arguments, dtype)
    if isinstance(settled.get("fill"), int | float | list):
        settled["fill"] = {tv_tensors.Image: settled["fill"], "others": 0}
    if isinstance(settled.get("interpolation"), str):
        settled["interpolation"] = v2.InterpolationMode(settled["interpolation"])
    return settled


def _data(sample: Sample, painted: Painted | None) -> dict[str, Any]:
    """Return the sample's known fields as tensors that know what they are."""
    labels = sample.labels
    pixels = sample.image if sample.image.flags.writeable else sample.image.copy()  # torch warns of read-only arrays
    data: dict[str, Any] = {"image": tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))}
    boxes, _, _ = numbered_boxes(labels)
    if labels.boxes is not None or labels.box is not None:
        data["boxes"] = tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes.copy()), format="XYXY", canvas_size=labels.size, clamping_mode=None
        )
    if painted is not None:
        data["masks"] = tv_tensors.Mask(torch.from_numpy(painted.maps))
    if labels.semantic is not None:
        # Transforms fill masks with 0, and unlabelled is 255: one step up, 255 wraps to 0.
        data["semantic"] = tv_tensors.Mask(torch.from_numpy(labels.semantic + np.uint8(1))[None])
    return data


def _labels(before: Labels, result: Mapping[str, Any], painted: Painted | None) -> Labels:
    """Read the transformed labels back, row by row."""
    height, width = result["image"].shape[-2:]
    _, crowd, rows = numbered_boxes(before)
    boxes = result["boxes"].numpy() if "boxes" in result else np.zeros((0, 4))
    boxes, kept = clip_boxes(boxes, (0.0, 0.0, float(width), float(height)), crowd)
    return moved_labels(
        before,
        size=(height, width),
        boxes=boxes[kept],
        rows=rows[kept],
        semantic=None if before.semantic is None else result["semantic"][0].numpy() - np.uint8(1),
        painted=None if painted is None else replace(painted, maps=np.ascontiguousarray(result["masks"].numpy())),
    )
