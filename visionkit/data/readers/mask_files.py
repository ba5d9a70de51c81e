"""From a mask file to class numbers or to instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from visionkit.data.decode import check_file
from visionkit.data.validate import Problem, refusal
from visionkit.errors import ConfigError, DataError, listed
from visionkit.structures import IGNORE_INDEX

_UNKNOWN = -1
_VALUES = 1 << 16
_WITH_LOSS = ("JPEG", "MPO")
_LOOKED_AT = 64
_THREADS = 8


@dataclass(frozen=True, eq=False)
class Instances:
    """The N objects of an id mask, by rising id.

    Attributes:
        ids: (N,) int64, the values of the mask.
        counts: the compressed counts of each object's run-length encoding.
        boxes: (N, 4) float64 xyxy that enclose the pixels.
        areas: (N,) float64 in pixels.
    """

    ids: np.ndarray
    counts: tuple[bytes, ...]
    boxes: np.ndarray
    areas: np.ndarray


def read_values(path: Path) -> np.ndarray:
    """Return the numbers that a mask file holds, (H, W) uint8 or uint16.

    A palette file gives its indices, whatever their colours; a file with three equal channels gives one of them; grey
    values of 1, 2 or 4 bits are not stretched.

    Raises:
        DataError: the file is damaged, is stored with loss, or holds colours.
    """
    with _opened(path) as image:
        if image.mode in ("RGB", "RGBA"):
            channels = np.asarray(image)[..., :3]
            if (channels != channels[..., :1]).any():
                mend = "give the colour of each class with data.reader.names={road: [128, 64, 128], …}"
                raise _refused(path, "a colour mask", mend, "mask-value")
            return channels[..., 0].copy()
        if image.mode in ("I", "F") and np.asarray(image).max(initial=0) >= _VALUES:
            raise _refused(path, f"values above {_VALUES - 1}", "save the mask with 8 or 16 bits", "mask-value")
        if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
            raise _refused(path, f"a mask of mode {image.mode}", "save it as a grey or palette PNG")
        values = np.asarray(image)
        return values.astype(np.uint8 if values.dtype.itemsize == 1 else np.uint16) // _stretch(path, image.mode)


def read_colours(path: Path) -> np.ndarray:
    """Return a mask file's colours as (H, W) int64 codes, see `colour_code`.

    Raises:
        DataError: the file is damaged or stored with loss.
    """
    with _opened(path) as image:
        colours = np.asarray(image.convert("RGB")).astype(np.int64)
    return (colours[..., 0] << 16) | (colours[..., 1] << 8) | colours[..., 2]


def colour_code(colour: Sequence[int]) -> int:
    """Return [red, green, blue] as one number."""
    red, green, blue = colour
    return red << 16 | green << 8 | blue


class ValueMap:
    """From the values of mask files to class numbers.

    Args:
        classes: the classes in their order, at most 255.
        numbers: the value of each class name in the files, or its [red, green, blue]; names that `classes` does not
            list become `IGNORE_INDEX`.
        ignored: values or colours that mean nothing, which become `IGNORE_INDEX`.

    Raises:
        ConfigError: there are too many classes, or something is neither a value nor a colour, or some are the one and
            some the other.
    """

    def __init__(self, classes: Sequence[str], numbers: Mapping[str, Any], ignored: Sequence[Any]) -> None:
        if len(classes) > IGNORE_INDEX:
            raise ConfigError(
                f"data.classes: {len(classes)} classes; a semantic map holds at most {IGNORE_INDEX}", code="value-unfit"
            )
        meanings = [*numbers.values(), *ignored]
        self.by_colour = bool(numbers) and not isinstance(next(iter(numbers.values())), int)
        for value in meanings:
            if not (_is_colour(value) if self.by_colour else type(value) is int and 0 <= value < _VALUES):
                wanted = "colours [red, green, blue]" if self.by_colour else f"whole numbers below {_VALUES}"
                raise ConfigError(
                    f"data.reader.names, data.ignore_index: '{value}' among {wanted}; give all alike",
                    code="keys-contradict",
                )
        label_of = {name: label for label, name in enumerate(classes)}
        targets = [*(label_of.get(name, IGNORE_INDEX) for name in numbers), *([IGNORE_INDEX] * len(ignored))]
        sources = np.array([colour_code(value) if self.by_colour else value for value in meanings], np.int64)
        order = np.argsort(sources, kind="stable")
        self._sources, self._targets = sources[order], np.array(targets, np.int16)[order]
        self._table = np.full(_VALUES, _UNKNOWN, np.int16)
        if not self.by_colour:
            self._table[sources] = targets

    def read(self, path: Path) -> np.ndarray:
        """Return a mask file as (H, W) uint8 class numbers.

        Raises:
            DataError: the file cannot be read, or a value is neither a class nor ignored.
        """
        values = read_colours(path) if self.by_colour else read_values(path)
        if self.by_colour:
            places = np.searchsorted(self._sources, values).clip(max=len(self._sources) - 1)
            mapped = np.where(self._sources[places] == values, self._targets[places], np.int16(_UNKNOWN))
        else:
            mapped = self._table[values]
        if mapped.min(initial=0) == _UNKNOWN:
            strange = np.unique(values[mapped == _UNKNOWN]).tolist()
            shown = [[one >> 16, one >> 8 & 255, one & 255] if self.by_colour else one for one in strange]
            kind = "colour" if self.by_colour else "value"
            found = f"{kind} {shown[0]} is" if len(shown) == 1 else f"{kind}s {listed(shown)} are"
            mend = "name it in data.reader.names, or ignore it with data.ignore_index or data.reader.ignore_values"
            raise _refused(path, f"{found} outside the class list", mend, "mask-value")
        return mapped.astype(np.uint8)


def mask_faults(paths: Sequence[Path], values: ValueMap, *, every: bool) -> dict[int, DataError]:
    """Return the faults of mask files by their place, looking into every one, or else into 64, evenly spread."""
    count = len(paths)
    spread = np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(int).tolist()
    looked = range(count) if every else spread

    def fault_of(place: int) -> DataError | None:
        try:
            values.read(paths[place])
        except DataError as fault:
            return fault
        return None

    with ThreadPoolExecutor(_THREADS) as threads:
        found = dict(zip(looked, threads.map(fault_of, looked), strict=True))
    return {place: fault for place, fault in found.items() if fault is not None}


def instances(ids: np.ndarray) -> Instances:
    """Return the objects of an id mask, (H, W) whole numbers; 0 is background, and gaps between ids do not matter."""
    height, width = ids.shape
    flat = ids.ravel(order="F")  # column by column, as COCO's runs go
    pixels = np.flatnonzero(flat)
    pixels = pixels[np.argsort(flat[pixels], kind="stable")]
    values, firsts = np.unique(flat[pixels], return_index=True)
    counts, boxes, areas = [], [], []
    for own in np.split(pixels, firsts[1:]) if len(firsts) else ():
        gaps = np.flatnonzero(np.diff(own) > 1)
        starts, ends = own[np.concatenate([[0], gaps + 1])], own[np.concatenate([gaps, [-1]])] + 1
        edges = np.stack([starts, ends], axis=1).ravel()
        runs = np.diff(np.concatenate([[0], edges, [height * width]])).tolist()
        runs = runs if runs[-1] else runs[:-1]
        encoded = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
        counts.append(encoded["counts"])
        across, down = own // height, own % height
        boxes.append((across.min(), down.min(), across.max() + 1, down.max() + 1))
        areas.append(len(own))
    boxes_of = np.array(boxes, np.float64).reshape(-1, 4)
    return Instances(values.astype(np.int64), tuple(counts), boxes_of, np.array(areas, np.float64))


def _opened(path: Path) -> Image.Image:
    check_file(path)
    try:
        image = Image.open(path)
        image.load()
    except Exception as fault:  # a damaged file can make a decoder raise anything
        raise _refused(path, f"cannot be decoded ({fault})", "restore the mask, or remove it") from None
    if image.format in _WITH_LOSS:
        raise _refused(path, "a mask as JPEG, which blurs its values", "make it again as PNG", "mask-jpeg")
    return image


def _refused(path: Path, fault: str, mend: str, rule: str = "mask-unreadable") -> DataError:
    return refusal(Problem(str(path), "", fault, mend, rule))


def _stretch(path: Path, mode: str) -> int:
    """Return by what Pillow has multiplied the values of a grey PNG of 2 or 4 bits."""
    if path.suffix.lower() != ".png" or mode != "L":
        return 1
    with path.open("rb") as file:
        header = file.read(26)
    depth, kind = header[24], header[25]
    return 255 // ((1 << depth) - 1) if kind == 0 and depth < 8 else 1


def _is_colour(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3
    return is_list and all(type(part) is int and 0 <= part < 256 for part in value)
