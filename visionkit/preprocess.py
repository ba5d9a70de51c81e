"""The one path from pixels to network input: how an image is laid on its canvas, and how its values are normalised.

A pixel edge at x of the image lies at x * scale + offset of the canvas (`Geometry`), so that boxes follow exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from visionkit.errors import ConfigError, did_you_mean
from visionkit.structures import Decoding, Geometry

__all__ = ["Preprocess"]

POLICIES = ("letterbox", "resize_crop")
CROP_SHARE = 0.875
"""The part of the short side that `resize_crop` keeps: 224 of 256, as ImageNet's networks are evaluated."""
_MOST_CHANNELS = 4
"""OpenCV averages over areas for no more channels at once."""
_LONGEST = 3
_LARGEST_VALUE = {torch.uint8: 255.0, torch.uint16: 65535.0}

Span = tuple[int, int]
"""First and one past the last pixel along one axis."""


@dataclass(frozen=True)
class Placement:
    """Which part of an image comes to lie where on a canvas; whole pixels on both sides.

    Attributes:
        original: (height, width) of the image.
        source: the rows and the columns of the image that are used.
        target: the rows and the columns of the canvas that they become.
        size: (height, width) of the part of the canvas, from its top left corner, that holds image.
    """

    original: tuple[int, int]
    source: tuple[Span, Span]
    target: tuple[Span, Span]
    size: tuple[int, int]

    @property
    def geometry(self) -> Geometry:
        """The map from the image's coordinates to the canvas's."""
        scale = [(t[1] - t[0]) / (s[1] - s[0]) for s, t in zip(self.source, self.target, strict=True)]
        offset = [t[0] - s[0] * factor for s, t, factor in zip(self.source, self.target, scale, strict=True)]
        return Geometry(self.original, self.size, (scale[0], scale[1]), (offset[0], offset[1]))

    @property
    def target_size(self) -> tuple[int, int]:
        """(height, width) of `target`."""
        rows, columns = self.target
        return rows[1] - rows[0], columns[1] - columns[0]

    def resized(self, image: np.ndarray, *, area_below: float = 1.0, into: np.ndarray | None = None) -> np.ndarray:
        """Cut `source` out of the (H, W, C) image and resize it to `target_size`; a view where nothing changes.

        An image that was decoded at a part of its size (`Sample.reduction`) is cut at its nearest pixels.

        into: where the pixels are wanted, of `target_size`; None: anywhere.
        """
        rows, columns = (
            span if side == full else _scaled(span, side / full, side)
            for span, side, full in zip(self.source, image.shape, self.original, strict=False)
        )
        return resize(image[slice(*rows), slice(*columns)], self.target_size, area_below=area_below, into=into)


class Preprocess(nn.Module):
    """The resize policy, with the mean and the standard deviation that belong to the weights.

    Args:
        image_size: the canvas: one number for a square, or (height, width).
        policy: "letterbox" scales by one factor, up or down, until the image just fits into the canvas, and leaves it
            at the top left; "resize_crop" takes the centre of the image, `CROP_SHARE` of the side that fits tighter.
        mean, std: one value a channel: of uint8 and uint16 pixels scaled to 0..1, of floating-point ones as they are.
        fill: the grey value of the canvas beside the image, 0 to 255; times 257 in uint16 images, / 255 in float ones.
        bit_depth: of the images that the weights have learned from, 8, 16 or "float", for who decodes them.

    Raises:
        ConfigError: a value cannot be.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_size: int | Sequence[int],
        *,
        policy: str = "letterbox",
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        fill: int = 114,
        bit_depth: int | str = 8,
    ) -> None:
        super().__init__()
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(sides) != 2 or min(sides) < 1:
            raise ConfigError(
                f"image_size={image_size}: a positive number, or [height, width], is wanted", code="value-unfit"
            )
        if policy not in POLICIES:
            choices = f"{', '.join(POLICIES)}{did_you_mean(policy, POLICIES)}"
            raise ConfigError(f"preprocess.policy={policy}: one of {choices} is wanted", code="choice-unknown")
        if len(mean) != len(std) or min(std, default=0) <= 0:
            raise ConfigError(
                f"preprocess: mean {list(mean)} and std {list(std)} need a value a channel, std above 0",
                code="channels-differ",
            )
        if not 0 <= fill <= 255:
            raise ConfigError(f"preprocess.fill={fill}: a grey value from 0 to 255 is wanted", code="value-unfit")
        self.canvas: tuple[int, int] = (int(sides[0]), int(sides[1]))
        self.policy = policy
        self.fill = fill
        self.decoding = Decoding(len(mean), bit_depth)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def place(self, size: tuple[int, int]) -> Placement:
        """Say which part of an image of (height, width) `size` comes to lie where on the canvas."""
        height, width = size
        if self.policy == "letterbox":
            ratio = min(self.canvas[0] / height, self.canvas[1] / width)
            placed = (_between(1, height * ratio, self.canvas[0]), _between(1, width * ratio, self.canvas[1]))
            return Placement(size, ((0, height), (0, width)), ((0, placed[0]), (0, placed[1])), placed)
        # The crop is taken before the resize: a 7 x 5000 image never grows to 256 x 182857.
        ratio = max(self.canvas[0] / height, self.canvas[1] / width) / CROP_SHARE
        source = (_centre(height, self.canvas[0] / ratio), _centre(width, self.canvas[1] / ratio))
        return Placement(size, source, ((0, self.canvas[0]), (0, self.canvas[1])), self.canvas)

    def place_uncropped(self, size: tuple[int, int]) -> Placement:
        """As `place`, for training: at the scale of `resize_crop`, but leaving the cropping to the augmentation.

        The result may be larger than the canvas, at most `_LONGEST` times its side (thin images are cut in the middle).
        """
        if self.policy == "letterbox":
            return self.place(size)
        ratio = max(self.canvas[0] / size[0], self.canvas[1] / size[1]) / CROP_SHARE
        most = [_LONGEST * side for side in self.canvas]
        height, width = (_between(1, side * ratio, limit) for side, limit in zip(size, most, strict=True))
        source = (_centre(size[0], height / ratio), _centre(size[1], width / ratio))
        return Placement(size, source, ((0, height), (0, width)), (height, width))

    def crop(self, size: tuple[int, int]) -> Placement:
        """The middle of an image of (height, width) `size`, as much as the canvas holds, at its own scale."""
        source = (_centre(size[0], self.canvas[0]), _centre(size[1], self.canvas[1]))
        height, width = (span[1] - span[0] for span in source)
        return Placement(size, source, ((0, height), (0, width)), (height, width))

    def fit(self, image: np.ndarray) -> tuple[np.ndarray, Geometry]:
        """Resize an (H, W, C) image of any dtype to its part of the canvas, (h, w, C), without the padding."""
        placement = self.place((image.shape[0], image.shape[1]))
        return placement.resized(image), placement.geometry

    def normalise(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8, uint16 or float -> float32 (values − mean) / std, in the same layout."""
        largest = _LARGEST_VALUE.get(images.dtype, 1.0)
        return (images.to(torch.float32) - self.mean * largest) / (self.std * largest)


def resize(
    image: np.ndarray, size: tuple[int, int], *, area_below: float = 1.0, into: np.ndarray | None = None
) -> np.ndarray:
    """Resize (H, W, C) pixels to (height, width) `size`; the array itself is returned when it has that size already.

    area_below: pixels are averaged over areas when the sides shrink by less than this factor (their geometric mean),
    otherwise bilinear. By 1.0 whatever shrinks is averaged; from 0.5 on bilinear still sees every pixel, and costs a
    quarter of the time.
    into: an array or a view of `size` that takes the pixels and is returned; None: a new one.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        if into is None:
            return image
        into[...] = image
        return into
    shrinks = size[0] * size[1] < area_below**2 * height * width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    channels = image.shape[2]
    if channels <= _MOST_CHANNELS:
        made = cv2.resize(image, size[::-1], dst=into, interpolation=method).reshape(*size, channels)
        if into is None or np.may_share_memory(made, into):
            return made
        into[...] = made
        return into
    groups = (image[:, :, first : first + _MOST_CHANNELS] for first in range(0, channels, _MOST_CHANNELS))
    parts = [cv2.resize(np.ascontiguousarray(group), size[::-1], interpolation=method) for group in groups]
    return np.concatenate([part.reshape(*size, -1) for part in parts], axis=2, out=into)


def resize_indices(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an (H, W) uint8 map of class or object numbers to `size`, taking the value nearest to each new centre."""
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def fill_value(grey: float, dtype: np.dtype) -> float:
    """Return what a grey value from 0 to 255 is in images of `dtype`: uint8, uint16 or float (0..1)."""
    return {"uint8": grey, "uint16": grey * 257}.get(dtype.name, grey / 255)


def _scaled(span: Span, factor: float, side: int) -> Span:
    """Return the nearest pixels to `span` in an axis of `side` pixels that was scaled by `factor`, at least one."""
    first = min(round(span[0] * factor), side - 1)
    return first, max(first + 1, min(side, round(span[1] * factor)))


def _centre(side: int, wanted: float) -> Span:
    """Return the middle `wanted` pixels of `side`, at least one and at most all of them."""
    length = _between(1, wanted, side)
    first = (side - length) // 2
    return first, first + length


def _between(least: int, value: float, most: int) -> int:
    return max(least, min(most, round(value)))
