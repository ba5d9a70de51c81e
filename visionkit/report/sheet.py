"""Contact sheets: truth beside prediction, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from visionkit.metrics.panoptic import panoptic_truth
from visionkit.predictions import Detections, Instances, Localization, PanopticMap, Prediction, Segment, SemanticMap
from visionkit.report.colours import BLACK, WHITE
from visionkit.report.draw import draw, truth_fields
from visionkit.report.pen import font, shortened
from visionkit.structures import RLE, Geometry, Labels


@dataclass(frozen=True, eq=False)
class Shown:
    """One image of a report.

    Attributes:
        image: (H, W, C) in the reader's own type.
        file_name: written over it.
        truth: what is known of it.
        predictions: by head name, in the image's pixels as the truth.
    """

    image: np.ndarray
    file_name: str
    truth: Labels
    predictions: Mapping[str, Prediction]


def spread(count: int, most: int = 12) -> list[int]:
    """Return at most `most` indices below `count`, evenly spread, by rising number."""
    taken = min(count, most)
    return [(2 * i + 1) * count // (2 * taken) for i in range(taken)]


def contact_sheet(
    items: Sequence[tuple[np.ndarray, Prediction, Labels]],
    classes: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    cell: int = 320,
    pairs_a_row: int = 2,
    score_threshold: float = 0.3,
    things: Sequence[str] | None = None,
) -> np.ndarray:
    """Return a sheet, (H, W, 3) uint8 RGB, of images twice side by side: left the truth, right the prediction.

    Args:
        items: images, (H, W, 3) uint8 RGB or (H, W, C) of another kind, with prediction and truth in their pixels; at
            least one. Of the truth that is drawn which tells whether the prediction is right.
        classes: names, in the order of the labels.
        names: written over the images, their beginning cut off where they are too long.
        cell: side in pixels of the square into which each image is fitted before anything is drawn on it.
        pairs_a_row: images a row.
        score_threshold: detections and instances under it are left out.
        things: for panoptic maps, the class list of the truth's objects; None: `classes`.
    """
    if not items:
        raise ValueError("contact_sheet: at least one image is wanted")
    pairs = [
        drawn_pair(image, prediction, truth, classes, side=cell, score_threshold=score_threshold, things=things)
        for image, prediction, truth in items
    ]
    return sheet_of(pairs, names=names, cell=cell, pairs_a_row=pairs_a_row)


def drawn_pair(
    image: np.ndarray,
    prediction: Prediction,
    truth: Labels,
    classes: Sequence[str],
    *,
    side: int,
    score_threshold: float = 0.3,
    things: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image twice, (h, w, 3) uint8 RGB of at most `side` pixels a side: with the truth, with the prediction.

    Args: as of `contact_sheet`.
    """
    small, fitted, labels = _fitted(displayable(image), prediction, truth, side)
    true = _drawn_truth(small, fitted, labels, classes, classes if things is None else things)
    return true, draw(small, fitted, classes, score_threshold=score_threshold)


def sheet_of(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    names: Sequence[str] | None = None,
    cell: int = 320,
    pairs_a_row: int = 2,
) -> np.ndarray:
    """Return a sheet, (H, W, 3) uint8 RGB, of `drawn_pair`s of that `cell`; at least one."""
    gap = max(2, cell // 40)
    columns = min(pairs_a_row, len(pairs))
    rows = [headings(("truth", "prediction") * columns, cell + gap)]
    for first in range(0, len(pairs), columns):
        if names is not None:
            told = [*names[first : first + columns], *[""] * columns][:columns]
            rows.append(headings(told, 2 * (cell + gap), size=max(9, cell // 26)))
        halves = [half for pair in pairs[first : first + columns] for half in pair]
        rows.append(_row(halves, 2 * columns, cell, gap))
    return np.concatenate(rows, axis=0)


def headings(texts: Sequence[str], width: int, *, size: int | None = None) -> np.ndarray:
    """A white strip, (H, len(texts) * width, 3) uint8 RGB, with each text over its own `width` pixels."""
    letters = font(max(9, width // 20) if size is None else size)
    strip = Image.new("RGB", (len(texts) * width, round(1.6 * sum(letters.getmetrics()))), WHITE)
    for index, text in enumerate(texts):
        place = ((index + 0.5) * width, strip.height / 2)
        ImageDraw.Draw(strip).text(place, shortened(text, 0.96 * width, letters), BLACK, letters, anchor="mm")
    return np.array(strip)


def displayable(image: np.ndarray) -> np.ndarray:
    """Return an image of C channels of any type as (H, W, 3) uint8: the first three, or the one three times.

    What is not uint8 is stretched from its smallest to its largest finite value.
    """
    channels = image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)
    if channels.dtype == np.uint8:
        return np.ascontiguousarray(channels)
    values = np.nan_to_num(channels.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    return ((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)


def _drawn_truth(
    image: np.ndarray, prediction: Prediction, truth: Labels, classes: Sequence[str], things: Sequence[str]
) -> np.ndarray:
    if not isinstance(prediction, PanopticMap) or truth.masks is None or truth.semantic is None:
        return draw(image, None, classes, truth=truth)
    made = panoptic_truth(truth, classes, things)
    areas = np.bincount(made.ids.ravel(), minlength=len(made.labels) + 1)[1:].tolist()
    rows = enumerate(zip(made.labels.tolist(), areas, strict=True), start=1)
    segments = tuple(Segment(number, label, classes[label] in things, 1.0, area) for number, (label, area) in rows)
    return draw(image, PanopticMap(made.ids, segments), classes)


def _fitted(
    image: np.ndarray, prediction: Prediction, truth: Labels, cell: int
) -> tuple[np.ndarray, Prediction, Labels]:
    """Image, prediction and its truth scaled, up or down, to fit into a square of `cell` pixels."""
    small, geometry = fitted_image(image, cell)
    return (
        small,
        _fitted_prediction(prediction, geometry),
        fitted_truth(truth.keep(truth_fields(prediction)), geometry),
    )


def fitted_image(image: np.ndarray, cell: int) -> tuple[np.ndarray, Geometry]:
    """Return the image, (H, W, 3) uint8, scaled up or down to fit into a square of `cell` pixels, and how."""
    height, width = image.shape[:2]
    factor = cell / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    return small, Geometry((height, width), size, (size[0] / height, size[1] / width))


def _fitted_prediction(prediction: Prediction, geometry: Geometry) -> Prediction:
    if isinstance(prediction, Detections | Localization):
        return replace(prediction, boxes=geometry.to_canvas(prediction.boxes).astype(np.float32))
    if isinstance(prediction, Instances):
        boxes = geometry.to_canvas(prediction.boxes).astype(np.float32)
        before = prediction.geometry
        scale = (before.scale[0] / geometry.scale[0], before.scale[1] / geometry.scale[1])
        laid = replace(before, original=geometry.size, scale=scale)
        return replace(prediction, boxes=boxes, geometry=laid, rles=None)
    if isinstance(prediction, SemanticMap):
        return SemanticMap(_nearest(prediction.classes, geometry.size))
    if isinstance(prediction, PanopticMap):
        return replace(prediction, ids=_nearest(prediction.ids, geometry.size))
    return prediction


def fitted_truth(truth: Labels, geometry: Geometry) -> Labels:
    """Return labels in the pixels of a fitted image."""
    return replace(
        truth,
        size=geometry.size,
        boxes=None if truth.boxes is None else geometry.to_canvas(truth.boxes),
        masks=None if truth.masks is None else tuple(_fitted_mask(rle, geometry.size) for rle in truth.masks),
        box=None if truth.box is None else geometry.to_canvas(truth.box[None])[0],
        semantic=None if truth.semantic is None else _nearest(truth.semantic, geometry.size),
    )


def _fitted_mask(rle: RLE, size: tuple[int, int]) -> RLE:
    encoded: RLE = coco_mask.encode(np.asfortranarray(_nearest(coco_mask.decode(rle), size)))
    return encoded


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) of any type at another (height, width), each pixel with the value at its centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, values.shape, strict=True)
    )
    picked: np.ndarray = values[rows[:, None], columns]
    return picked


def _row(images: Sequence[np.ndarray], columns: int, cell: int, gap: int) -> np.ndarray:
    """The images side by side at the top of a white strip, each in the middle of its column."""
    strip = np.full((max(len(image) for image in images) + gap, columns * (cell + gap), 3), 255, np.uint8)
    for index, image in enumerate(images):
        left = index * (cell + gap) + (cell + gap - image.shape[1]) // 2
        strip[: len(image), left : left + image.shape[1]] = image
    return strip
