"""Generated scenes: objects of ten forms in cluttered surroundings, with every kind of label.

A scene is a pure function of its arguments. It is a vision problem in small: what makes recognition hard, viewpoint,
illumination, occlusion, clutter, deformation, variation within a class and likeness between classes, has a knob each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from visionkit.data.scene_backgrounds import BACK, FRONT, background
from visionkit.data.scene_objects import FORMS, Cutout, Knobs, Pose, cut_out, pose, scrap, vary_by
from visionkit.data.scene_textures import Light, random_paint
from visionkit.structures import IGNORE_INDEX, Labels

THINGS = tuple(FORMS)
STUFF = (*BACK, *FRONT, "clutter")
"""`clutter` is what lies about and belongs to no class."""
GENERATOR_VERSION = 1
"""To be raised with every change that alters a scene: cached scenes of other versions are not read."""
SPLITS = ("train", "val", "test")

_VISIBLE = 0.2
_DOMINANT = 1.5
_SMALLEST_AREA, _SMALLEST_SIDE = 10, 3
_BACKGROUND, _SCRAP = -1, -2
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Item:
    """Something to be drawn: `label` is an index into `THINGS`, or `_SCRAP`."""

    label: int
    posed: Pose
    centre: tuple[float, float]


def render_scene(
    seed: int,
    split: str,
    index: int,
    *,
    size: tuple[int, int],
    objects: int | None,
    knobs: Knobs,
    extent: tuple[float, float] | None = None,
) -> tuple[np.ndarray, Labels]:
    """Draw scene `index` of a split.

    Args:
        seed: the world; another seed draws other scenes.
        split: one of `SPLITS`, whose scenes have nothing in common.
        index: from 0.
        size: (height, width).
        objects: how many objects; None for 0 to 8, most often 2 to 6.
        knobs: how hard the world is.
        extent: the range of objects' longer extents as shares of the shorter side; None: by `viewpoint` (`_scale`).

    Returns:
        The image, (H, W, 3) uint8 RGB, and its labels with all fields but, where no object dominates, `class_scores`
        and `box`. Objects seen by less than a fifth of their own area are not labelled; `IGNORE_INDEX` marks the rest
        of them in the semantic map.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))
    height, width = size
    light = _light(rng, knobs.illumination)
    image, semantic = background(rng, height, width, knobs.clutter)
    items = _arrange(rng, size, objects, knobs, extent)
    owner = np.full(size, _BACKGROUND, np.int16)
    areas = np.zeros(len(items), np.int64)
    for number, item in enumerate(items):
        variety = 0.2 + 0.8 * (knobs.clutter if item.label == _SCRAP else knobs.intra_class)
        cut = cut_out(item.posed, item.centre, random_paint(rng, variety), light)
        areas[number] = np.count_nonzero(cut.solid)
        _paste(image, owner, cut, number, light)
    image = _exposed(rng, image, knobs.illumination)
    return image, _labels(owner, semantic, items, areas, size)


# ---------------------------------------------------------------------------------------------------------- arranging
def _light(rng: np.random.Generator, illumination: float) -> Light:
    """Light from the upper left, from ever further around it as `illumination` rises."""
    azimuth = np.radians(225 + rng.uniform(-180, 180) * illumination)
    height = np.radians(rng.uniform(55 - 25 * illumination, 60))
    return Light(
        x=float(np.cos(azimuth) * np.cos(height)),
        y=float(np.sin(azimuth) * np.cos(height)),
        z=float(np.sin(height)),
        strength=float(rng.uniform(0.55, 0.6 + 0.6 * illumination)),
        shadow=float(rng.uniform(0.1, 0.2 + 0.5 * illumination)),
    )


def _arrange(
    rng: np.random.Generator,
    size: tuple[int, int],
    objects: int | None,
    knobs: Knobs,
    extent: tuple[float, float] | None,
) -> list[_Item]:
    """Choose and place everything, in drawing order: scraps, objects, and a few scraps before them."""
    count = _draw_count(rng) if objects is None else objects
    behind = int(rng.integers(0, 1 + round(10 * knobs.clutter)))
    before = int(rng.integers(0, 1 + round(5 * knobs.occlusion * knobs.clutter)))
    items = [_scrap(rng, size, knobs) for _ in range(behind)]
    taken: list[_Box] = []
    for _ in range(count):
        items.append(_object(rng, size, (extent, objects == 1), knobs, taken))
    return items + [_scrap(rng, size, knobs) for _ in range(before)]


def _draw_count(rng: np.random.Generator) -> int:
    """0 once in 25 scenes, else 1 to 8, the lower the likelier."""
    return 0 if rng.random() < 0.04 else 1 + int(8 * rng.random() ** 1.3)


def _scrap(rng: np.random.Generator, size: tuple[int, int], knobs: Knobs) -> _Item:
    posed = pose(scrap(rng), rng, knobs, min(size) * (0.04 + 0.1 * rng.random()))
    return _Item(_SCRAP, posed, (rng.random() * size[1], rng.random() * size[0]))


def _object(
    rng: np.random.Generator,
    size: tuple[int, int],
    scale: tuple[tuple[float, float] | None, bool],
    knobs: Knobs,
    taken: list[_Box],
) -> _Item:
    """Draw an object and the first of twelve places where it covers others no more than `occlusion` allows.

    scale: the range of extents, or None and whether the object is a dominant one.
    """
    label = int(rng.integers(len(THINGS)))
    form = FORMS[THINGS[label]](vary_by(rng, knobs.intra_class))
    extent, dominant = scale
    share = _scale(rng, dominant, knobs.viewpoint) if extent is None else _within(rng, extent)
    posed = pose(form, rng, knobs, min(size) * share)
    x1, y1, x2, y2 = posed.extents
    inside = 1 - 0.5 * knobs.occlusion * rng.random() ** 2
    allowed = 0.7 * knobs.occlusion * rng.random()
    best, least = (size[1] / 2, size[0] / 2), math.inf
    for _ in range(12):
        x = x2 * inside + rng.random() * max(size[1] - 2 * x2 * inside, 0.0)
        y = y2 * inside + rng.random() * max(size[0] - 2 * y2 * inside, 0.0)
        covered = max((_shared(box, (x + x1, y + y1, x + x2, y + y2)) for box in taken), default=0.0)
        if covered < least:
            best, least = (x, y), covered
        if covered <= allowed:
            break
    taken.append((best[0] + x1, best[1] + y1, best[0] + x2, best[1] + y2))
    return _Item(label, posed, best)


def _scale(rng: np.random.Generator, dominant: bool, viewpoint: float) -> float:
    """Draw an object's longer extent as a share of the image's shorter side.

    One of many lies within 0.08 … 0.6 from `viewpoint` 0.5 on, ever more often small as it rises, and within
    0.22 … 0.45 at 0. A dominant object takes 0.45 … 0.6 at 0, 0.3 … 0.6 at 1.
    """
    narrow = max(0.0, 1 - 2 * viewpoint)
    low, high = (0.45 - 0.15 * viewpoint, 0.6) if dominant else (0.08 + 0.14 * narrow, 0.6 - 0.15 * narrow)
    return low * float((high / low) ** (rng.random() ** (0.5 + 0.5 * viewpoint)))


def _within(rng: np.random.Generator, extent: tuple[float, float]) -> float:
    """Draw a share of a range, twice as large as often as half as large."""
    return extent[0] * float((extent[1] / extent[0]) ** rng.random())


def _shared(first: _Box, second: _Box) -> float:
    """Return which share of the smaller of two boxes lies in the other."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return max(wide, 0.0) * max(high, 0.0) / min(areas)


# ------------------------------------------------------------------------------------------------------------ drawing
def _paste(image: np.ndarray, owner: np.ndarray, cut: Cutout, number: int, light: Light) -> None:
    """Lay the shadow of an object on the image, then the object; `owner` keeps who is seen at each pixel."""
    reach = max(cut.alpha.shape) * 0.14
    blur = 2 * int(reach / 2) + 1
    margin = blur // 2
    padded = cv2.copyMakeBorder(cut.alpha, margin, margin, margin, margin, cv2.BORDER_CONSTANT)
    soft = 1 - light.shadow * cv2.blur(padded, (blur, blur))
    left, top = cut.left - margin - round(light.x * reach), cut.top - margin - round(light.y * reach)
    there, here = _overlap(owner.shape, soft.shape, left, top)
    image[:, *there] *= soft[here]
    there, here = _overlap(owner.shape, cut.alpha.shape, cut.left, cut.top)
    alpha = cut.alpha[here]
    image[:, *there] += alpha * (cut.colours[:, *here] - image[:, *there])
    owner[there][cut.solid[here]] = number


def _overlap(
    frame: tuple[int, ...], patch: tuple[int, ...], left: int, top: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the slices of a frame and of a patch laid on it at (left, top) where both are."""
    rows = max(top, 0), max(min(top + patch[0], frame[0]), max(top, 0))
    columns = max(left, 0), max(min(left + patch[1], frame[1]), max(left, 0))
    there = slice(*rows), slice(*columns)
    here = slice(rows[0] - top, rows[1] - top), slice(columns[0] - left, columns[1] - left)
    return there, here


def _exposed(rng: np.random.Generator, image: np.ndarray, illumination: float) -> np.ndarray:
    """Apply colour cast, uneven light and exposure; return (H, W, 3) uint8."""
    _, height, width = image.shape
    cast = 1 + (rng.random((3, 1, 1)) - 0.5) * (0.6 * illumination)
    cast *= 255 * 2.0 ** ((1.6 * rng.random() - 1.0) * illumination)
    across, along = ((rng.random(2) - 0.5) * (1.2 * illumination)).astype(np.float32)
    slope = across * np.linspace(-0.5, 0.5, width, dtype=np.float32) + (
        along * np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    )
    image *= cast.astype(np.float32) * (1 + slope)
    image += 0.5
    image = np.minimum(np.maximum(image, 0, out=image), 255, out=image).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0))


# ------------------------------------------------------------------------------------------------------------- labels
def _labels(
    owner: np.ndarray, semantic: np.ndarray, items: list[_Item], areas: np.ndarray, size: tuple[int, int]
) -> Labels:
    """Read all labels off the map of who is seen where."""
    seen = np.bincount(owner.ravel().astype(np.int64) + 1, minlength=len(items) + 1)[1:]
    kinds = np.array([item.label for item in items], np.int64)
    codes = np.full(len(items) + 1, IGNORE_INDEX, np.uint8)
    codes[1:][kinds == _SCRAP] = STUFF.index("clutter")
    boxes, labels, counts, masks = [], [], [], []
    for number in np.flatnonzero((kinds >= 0) & (seen >= _SMALLEST_AREA) & (seen >= _VISIBLE * areas)):
        mask = owner == number
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        if min(box[2] - box[0], box[3] - box[1]) < _SMALLEST_SIDE:
            continue
        codes[number + 1] = len(STUFF) + kinds[number]
        boxes.append(box)
        labels.append(kinds[number])
        counts.append(seen[number])
        masks.append(coco_mask.encode(np.asfortranarray(mask.view(np.uint8))))
    semantic = np.where(owner == _BACKGROUND, semantic, codes[owner + 1])
    all_boxes, all_areas = np.array(boxes, np.float64).reshape(-1, 4), np.array(counts, np.float64)
    first = _dominant(all_areas)
    return Labels(
        size=size,
        boxes=all_boxes,
        labels=np.array(labels, np.int64),
        areas=all_areas,
        masks=tuple(masks),
        class_scores=None if first is None else np.eye(len(THINGS), dtype=np.float32)[labels[first]],
        box=None if first is None else all_boxes[first].copy(),
        semantic=semantic,
    )


def _dominant(areas: np.ndarray) -> int | None:
    """Return the row of the largest object if it is at least 1.5 times the second."""
    if len(areas) == 0:
        return None
    order = np.argsort(areas)
    second = areas[order[-2]] if len(areas) > 1 else 0.0
    return int(order[-1]) if areas[order[-1]] >= _DOMINANT * second else None
