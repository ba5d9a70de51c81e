"""The built-in generated scenes as a data set: drawn when first asked for, then kept."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from visionkit.cache_place import cache_folder
from visionkit.data.cache_room import note_use, prune
from visionkit.data.scene_variety import checked_variety
from visionkit.data.scenes import GENERATOR_VERSION, SPLITS, STUFF, THINGS, render_scene
from visionkit.errors import DataError, did_you_mean, listed
from visionkit.structures import LABEL_FIELDS, Labels, Sample

_MEMORY_BYTES = 256 * 2**20
_MOST_BYTES = 8 << 30
"""The most that all drawn scenes take in the cache folder; those drawn or read longest ago then make room."""
_MAGIC = b"visionkit-scene\n"
_MOST_PROCESSES = 64
_WORTH_A_PROCESS = 32
"""Scenes; fewer are drawn sooner than processes start."""


class Shapes:
    """Generated scenes (see `visionkit.data.scenes`), a `Reader`.

    A scene depends on the seed, the split, its own number, the size, `objects` and the knobs, on nothing else: another
    `count` or another order gives the same scenes.

    Args:
        split: "train", "val" or "test"; their scenes have nothing in common.
        size: (height, width), or the side of a square, at least 32.
        count: how many scenes.
        seed: the world, from 0.
        objects: 1 = one dominant object an image, another number = as many, None = 0 to 8; [least, most]: each scene
            draws its number.
        extent: [low, high], the objects' longer extents as shares of the shorter side (`Variety.of_scene`); None: as
            the viewpoint knob says.
        viewpoint, illumination, occlusion, clutter, deformation, intra_class, inter_class: knobs, 0 tidy … 1 hard, or
            [low, high], within which each scene draws its own:
            rotation, tilt, perspective and range of scales; light, shadows, exposure and colour cast; overlap of
            objects; scraps and background texture; elastic bending; variation of a class's own form and surface;
            how far the forms are pulled towards each other.
        cache_folder: drawn scenes are kept below it; None: `$VISIONKIT_CACHE`, else `~/.cache/visionkit`. Where it
            cannot be written to, scenes are kept in memory alone.

    Raises:
        DataError: an argument is out of range.
    """

    def __init__(
        self,
        split: str,
        *,
        size: int | Sequence[int],
        count: int,
        seed: int = 0,
        objects: int | Sequence[int] | None = None,
        extent: Sequence[float] | None = None,
        viewpoint: float | Sequence[float] = 0.5,
        illumination: float | Sequence[float] = 0.5,
        occlusion: float | Sequence[float] = 0.5,
        clutter: float | Sequence[float] = 0.5,
        deformation: float | Sequence[float] = 0.5,
        intra_class: float | Sequence[float] = 0.5,
        inter_class: float | Sequence[float] = 0.5,
        cache_folder: str | Path | None = None,
    ) -> None:
        if split not in SPLITS:
            raise DataError(
                f"data=shapes has no split '{split}'{did_you_mean(split, SPLITS)}; it has {listed(SPLITS)}",
                code="split-unknown",
            )
        self.split = split
        self.size = _checked_size(size)
        self.seed = _checked_integer("seed", seed, 0)
        self.variety = checked_variety(
            objects=objects,
            extent=extent,
            viewpoint=viewpoint,
            illumination=illumination,
            occlusion=occlusion,
            clutter=clutter,
            deformation=deformation,
            intra_class=intra_class,
            inter_class=inter_class,
        )
        count = _checked_integer("count", count, 1)
        self.things: Sequence[str] = THINGS
        self.stuff: Sequence[str] = STUFF
        self.classes: Sequence[str] = THINGS
        self.category_ids: Sequence[int | str] = tuple(range(1, len(THINGS) + 1))
        self.semantic_classes: Sequence[str] = (*STUFF, *THINGS)
        self.semantic_category_ids: Sequence[int | str] = (*range(11, 17), *range(1, 11))
        self.image_ids: Sequence[int | str] = range(1, count + 1)
        self.file_names: Sequence[str] = tuple(f"{split}/{number:06d}.png" for number in self.image_ids)
        self.fields = frozenset(LABEL_FIELDS)
        self.folder: Path | None = _cache_root(cache_folder) / "shapes" / self._key() / split
        self._memory: dict[int, bytes] = {}
        self._held = 0

    def __len__(self) -> int:
        return len(self.image_ids)

    def labels(self, index: int) -> Labels:
        """The labels of scene `index`, from 0; the scene is drawn if it never was."""
        return self._labels_in(self._packed(index))

    def read(self, index: int) -> Sample:
        """Scene `index`, from 0, as RGB uint8 with all its labels."""
        packed = self._packed(index)
        labels = self._labels_in(packed)
        return Sample(_unpack_image(packed, labels.size), labels, self.image_ids[index], self.file_names[index])

    def narrowed(self, fields: frozenset[str]) -> Shapes:
        """The same scenes with labels of `fields` alone; a map that nobody reads is not unpacked."""
        reader = copy(self)
        reader.fields = self.fields & fields
        return reader

    def prepare(self, count: int | None = None) -> None:
        """Draw those of the first `count` scenes (None: all) that were never drawn; on Linux in several processes.

        Drawing beside computing threads costs both dearly: a first epoch that drew its scenes took four times as long.
        """
        wanted = range(len(self) if count is None else min(count, len(self)))
        there = set() if self.folder is None else {path.name for path in self.folder.glob("*.scene")}
        missing = [index for index in wanted if index not in self._memory and _file_name(index) not in there]
        if missing and self.folder is not None:
            prune(self.folder.parents[2], "shapes/*/*/*.scene", above=_MOST_BYTES, down_to=_MOST_BYTES)
        processes = min(len(os.sched_getaffinity(0)), _MOST_PROCESSES) if sys.platform == "linux" else 1
        if processes == 1 or len(missing) < _WORTH_A_PROCESS or self.folder is None:
            for index in missing:
                self._packed(index)
            return
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
            list(pool.map(self._draw, missing, chunksize=8))

    def label_parts(self) -> list[Any]:
        """What `labels` are made of (`visionkit.data.fingerprint`)."""
        return [self._key(), self.split]

    def _draw(self, index: int) -> None:
        self._stored(index)

    def __getstate__(self) -> dict[str, Any]:
        """What is held in memory stays behind when the reader goes to a loader's worker."""
        return {**self.__dict__, "_memory": {}, "_held": 0}

    def _key(self) -> str:
        """Name what scenes depend on, apart from split and number."""
        variety = self.variety
        what: list[Any] = [GENERATOR_VERSION, self.seed, self.size, variety.objects, dict(variety.knobs)]
        if variety.extent is not None:  # the key of worlds without one is as it ever was
            what.append(variety.extent)
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]

    def _labels_in(self, packed: bytes) -> Labels:
        labels = _unpack_labels(packed, semantic="semantic" in self.fields)
        return labels if len(self.fields) == len(LABEL_FIELDS) else labels.keep(self.fields)

    def _packed(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        packed = self._memory.get(index)
        if packed is None:
            packed = self._stored(index)
            if self._held + len(packed) <= _MEMORY_BYTES:
                self._memory[index] = packed
                self._held += len(packed)
        return packed

    def _stored(self, index: int) -> bytes:
        """Read a scene from the folder; draw it, and leave it there, where it is missing or damaged."""
        if self.folder is not None:
            try:
                file = self.folder / _file_name(index)
                packed = file.read_bytes()
                if _intact(packed):
                    note_use(self.folder.parents[2], file)
                    return packed
            except OSError:
                pass
        objects, knobs, extent = self.variety.of_scene(self.seed, self.split, index)
        drawn = render_scene(self.seed, self.split, index, size=self.size, objects=objects, knobs=knobs, extent=extent)
        packed = _pack(*drawn)
        if self.folder is not None:
            try:
                _write_whole(self.folder / _file_name(index), packed)
            except OSError:
                self.folder = None
        return packed


# --------------------------------------------------------------------------------------------------- a scene as a file
def _file_name(index: int) -> str:
    return f"{index + 1:06d}.scene"


def _pack(image: np.ndarray, labels: Labels) -> bytes:
    """Lay out a scene: a line of magic, a checksum, the length of the labels, the labels as JSON, map, image."""
    assert labels.boxes is not None and labels.labels is not None and labels.areas is not None
    assert labels.masks is not None and labels.semantic is not None
    semantic = zlib.compress(labels.semantic.tobytes(), 1)
    head = {
        "size": labels.size,
        "boxes": labels.boxes.tolist(),
        "labels": labels.labels.tolist(),
        "areas": labels.areas.tolist(),
        "masks": [mask["counts"].decode("ascii") for mask in labels.masks],
        "class_scores": None if labels.class_scores is None else labels.class_scores.tolist(),
        "box": None if labels.box is None else labels.box.tolist(),
        "semantic": len(semantic),
    }
    text = json.dumps(head).encode()
    body = len(text).to_bytes(4, "little") + text + semantic + image.tobytes()
    return _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def _intact(packed: bytes) -> bool:
    start = len(_MAGIC) + 4
    return packed.startswith(_MAGIC) and zlib.crc32(memoryview(packed)[start:]) == int.from_bytes(
        packed[len(_MAGIC) : start], "little"
    )


def _unpack_labels(packed: bytes, *, semantic: bool) -> Labels:
    start = len(_MAGIC) + 8
    text_end = start + int.from_bytes(packed[start - 4 : start], "little")
    head = json.loads(packed[start:text_end])
    size = (head["size"][0], head["size"][1])
    values = zlib.decompress(packed[text_end : text_end + head["semantic"]]) if semantic else None
    return Labels(
        size=size,
        boxes=np.array(head["boxes"], np.float64).reshape(-1, 4),
        labels=np.array(head["labels"], np.int64),
        areas=np.array(head["areas"], np.float64),
        masks=tuple({"size": list(size), "counts": counts.encode("ascii")} for counts in head["masks"]),
        class_scores=None if head["class_scores"] is None else np.array(head["class_scores"], np.float32),
        box=None if head["box"] is None else np.array(head["box"], np.float64),
        semantic=None if values is None else np.frombuffer(values, np.uint8).reshape(size).copy(),
    )


def _unpack_image(packed: bytes, size: tuple[int, int]) -> np.ndarray:
    length = size[0] * size[1] * 3
    return np.frombuffer(packed, np.uint8, length, len(packed) - length).reshape(*size, 3).copy()


def _write_whole(path: Path, content: bytes) -> None:
    """Write beside and rename, so that another process sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


# ------------------------------------------------------------------------------------------------------------ checking
def _cache_root(folder: str | Path | None) -> Path:
    return cache_folder() if folder is None else Path(folder).expanduser()


def _checked_integer(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError(f"data=shapes: {name}={value!r}: a whole number from {least} on is wanted", code="value-unfit")
    return value


def _checked_size(size: int | Sequence[int]) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 32 for side in sides):
        raise DataError(
            f"data=shapes: size={size!r}: a side or (height, width) in whole pixels, at least 32, is wanted",
            code="value-unfit",
        )
    return sides[0], sides[1]
