"""What heads say of one image, in its original pixels: small frozen dataclasses that check their own shapes.

Each carries the `names` of its head's classes where a `Predictor` made it, so that `prediction.draw(photograph)` and
`prediction.to_supervision()` know them; empty elsewhere. What is common to all:

    draw(image, names=None, *, score=0.3)   a copy of the image, (H, W, 3) uint8 RGB, with the prediction drawn into it
    to_coco(image_id, category_ids=None)    rows of COCO's results; categories are 1, 2, … in the classes' order if None
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from visionkit.errors import UserError
from visionkit.ops.run_lengths import run_lengths
from visionkit.structures import RLE, Geometry, ImageId
from visionkit.supervision_detections import supervision_detections

if TYPE_CHECKING:
    import supervision

    from visionkit.predictor import ImageLike

CategoryIds = Sequence[int | str | None]
"""The source's id of each class, None for a class that the source lacks."""
Names = Sequence[str] | None


@dataclass(frozen=True, eq=False)
class Classification:
    """scores: (C,) float32, a probability per class of the head."""

    scores: np.ndarray
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("Classification", scores=(self.scores, (None,)))

    def to_coco(self, image_id: ImageId, category_ids: CategoryIds | None = None) -> list[dict[str, Any]]:
        """One row: the best class with its score."""
        best = int(self.scores.argmax())
        return [{"image_id": image_id, "category_id": _id(category_ids, best), "score": float(self.scores[best])}]

    def draw(self, image: ImageLike, names: Names = None, *, score: float = 0.3) -> np.ndarray:
        """Return the image with a list of the best classes; see the module's head."""
        return _drawn(self, image, names, score)


@dataclass(frozen=True, eq=False)
class Localization:
    """scores: (C,) float32, a probability per class of the head; boxes: (C, 4) float32 xyxy original pixels.

    A box per class: that of the object if it is of the class. A class-agnostic head gives the same one C times.
    """

    scores: np.ndarray
    boxes: np.ndarray
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("Localization", scores=(self.scores, (None,)), boxes=(self.boxes, (len(self.scores), 4)))

    @property
    def box(self) -> np.ndarray:
        """(4,) float32 xyxy, the box of the best class."""
        best: np.ndarray = self.boxes[int(self.scores.argmax())]
        return best

    def to_coco(self, image_id: ImageId, category_ids: CategoryIds | None = None) -> list[dict[str, Any]]:
        """One row: the best class with its score, and bbox as [x, y, width, height]."""
        best = int(self.scores.argmax())
        found = {"bbox": _xywh(self.box[None])[0], "score": float(self.scores[best])}
        return [{"image_id": image_id, "category_id": _id(category_ids, best), **found}]

    def to_supervision(self) -> supervision.Detections:
        """Return supervision's detections: the box of the best class. Raises UserError: it is not installed."""
        best = np.array([self.scores.argmax()])
        return supervision_detections(self.boxes[best], self.scores[best], best, self.names)

    def draw(self, image: ImageLike, names: Names = None, *, score: float = 0.3) -> np.ndarray:
        """Return the image with the box and a list of the best classes; see the module's head."""
        return _drawn(self, image, names, score)


@dataclass(frozen=True, eq=False)
class Detections:
    """boxes: (N, 4) float32 xyxy original pixels; scores: (N,) float32, falling; labels: (N,) int64."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.boxes)
        rows = {"boxes": (self.boxes, (count, 4)), "scores": (self.scores, (count,)), "labels": (self.labels, (count,))}
        _check("Detections", **rows)

    def __len__(self) -> int:
        return len(self.boxes)

    def above(self, score: float) -> Detections:
        """Return the detections whose score is at least `score`."""
        return self.select(np.flatnonzero(self.scores >= score))

    def select(self, rows: np.ndarray) -> Detections:
        """Return the detections `rows`, (n,) int64."""
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows])

    def to_coco(self, image_id: ImageId, category_ids: CategoryIds | None = None) -> list[dict[str, Any]]:
        """COCO result rows: bbox as [x, y, width, height] in original pixels."""
        rows = zip(_xywh(self.boxes), self.scores.tolist(), self.labels.tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": _id(category_ids, label), "bbox": box, "score": score}
            for box, score, label in rows
        ]

    def to_supervision(self) -> supervision.Detections:
        """Return supervision's detections, rows and coordinates alike. Raises UserError: it is not installed."""
        return supervision_detections(self.boxes, self.scores, self.labels, self.names)

    def draw(self, image: ImageLike, names: Names = None, *, score: float = 0.3) -> np.ndarray:
        """Return the image with the detections that reach `score`; see the module's head."""
        return _drawn(self, image, names, score)


@dataclass(frozen=True, eq=False)
class Instances:
    """Objects with masks. Masks are made in original pixels one by one, when they are asked for.

    The logits of a mask, above 0 on the object, are its coefficients times the prototypes.

    Attributes:
        boxes, scores, labels: as in `Detections`.
        coefficients: (N, K) float16 or float32.
        prototypes: (K, h, w) float16 or float32, maps on a grid over the canvas that all rows share.
        geometry: how the image lies on the canvas.
        stride: canvas pixels of a cell of the grid; the first cell's corner is the canvas's.
        rles: the masks, where they are encoded already (`encoded`).
        windows: the masks inside their boxes (`corners`), where they come from several parts of an image instead of
            from prototypes, of which there are none then: run-length encodings of the boxes' sizes.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    coefficients: np.ndarray
    prototypes: np.ndarray
    geometry: Geometry
    stride: float
    rles: tuple[RLE, ...] | None = None
    names: tuple[str, ...] = ()
    windows: tuple[RLE, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        rows = {"boxes": (self.boxes, (count, 4)), "scores": (self.scores, (count,)), "labels": (self.labels, (count,))}
        _check("Instances", **rows, coefficients=(self.coefficients, (count, None)))
        _check("Instances", prototypes=(self.prototypes, (self.coefficients.shape[1], None, None)))

    def __len__(self) -> int:
        return len(self.boxes)

    def above(self, score: float) -> Instances:
        """Return the instances whose score is at least `score`."""
        return self.select(np.flatnonzero(self.scores >= score))

    def select(self, rows: np.ndarray) -> Instances:
        """Return the instances `rows`, (n,) int64."""
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            coefficients=self.coefficients[rows],
            rles=None if self.rles is None else tuple(self.rles[row] for row in rows),
            windows=None if self.windows is None else tuple(self.windows[row] for row in rows),
        )

    def corners(self, row: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of an instance's box in whole pixels of the image, where a mask can be."""
        height, width = self.geometry.original
        x1, y1, x2, y2 = (int(edge) for edge in np.floor(self.boxes[row].astype(np.float64) + 0.5))
        return max(0, x1), max(0, y1), min(width, x2), min(height, y2)

    def window(self, row: int) -> tuple[np.ndarray, int, int]:
        """Return the mask of one instance inside its box: (h, w) bool, and the (left, top) pixel where it belongs.

        The logits are resampled once, linearly, to the pixels of the original image. Outside the box there is nothing.
        """
        left, top, right, bottom = self.corners(row)
        if right <= left or bottom <= top:
            return np.zeros((0, 0), bool), left, top
        if self.windows is not None:
            return coco_mask.decode(self.windows[row]).astype(bool), left, top
        (scale_y, scale_x), (offset_y, offset_x) = self.geometry.scale, self.geometry.offset
        # Pixel centres: cell = ((pixel + 0.5) * scale + offset) / stride - 0.5
        step = np.array([scale_x, scale_y]) / self.stride
        first = (np.array([left, top]) + 0.5) * step + np.array([offset_x, offset_y]) / self.stride - 0.5
        last = first + step * (right - left - 1, bottom - top - 1)
        # Of the grid only the cells around the box are mixed: a hundred instances are a hundred whole grids.
        sides = np.array(self.prototypes.shape[:0:-1])
        least = np.floor(first).astype(int).clip(0, sides - 1)
        most = np.maximum(np.ceil(last).astype(int), least) + 1
        around = self._maps[:, least[1] : most[1], least[0] : most[0]]
        cells = np.einsum("k,kyx->yx", self.coefficients[row].astype(np.float32), around)
        (shift_x, shift_y), (step_x, step_y) = first - least, step
        values = cv2.warpAffine(
            cells,
            np.array([[step_x, 0.0, shift_x], [0.0, step_y, shift_y]]),
            (right - left, bottom - top),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return values > 0, left, top

    def mask(self, row: int) -> np.ndarray:
        """Return the mask of one instance, (H, W) bool in original pixels."""
        full = np.zeros(self.geometry.original, bool)
        window, left, top = self.window(row)
        full[top : top + window.shape[0], left : left + window.shape[1]] = window
        return full

    def rle(self, row: int) -> RLE:
        """Return the mask of one instance as COCO's compressed run-length encoding."""
        return self.rles[row] if self.rles is not None else self._encoded([row])[0]

    def encoded_masks(self) -> tuple[RLE, ...]:
        """Return the masks as COCO's compressed run-length encodings; made once for those that are `encoded`."""
        return self._encoded(range(len(self))) if self.rles is None else self.rles

    def encoded(self) -> Instances:
        """Return the same instances with their masks encoded, for whoever asks for them more than once."""
        return replace(self, rles=self.encoded_masks())

    def masks(self) -> Iterator[np.ndarray]:
        """Yield the masks in order, one in memory at a time."""
        return (self.mask(row) for row in range(len(self)))

    def to_coco(self, image_id: ImageId, category_ids: CategoryIds | None = None) -> list[dict[str, Any]]:
        """COCO result rows with bbox and segmentation."""
        rows = zip(_xywh(self.boxes), self.scores.tolist(), self.labels.tolist(), self.encoded_masks(), strict=True)
        return [
            {
                "image_id": image_id,
                "category_id": _id(category_ids, label),
                "bbox": box,
                "score": score,
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
            }
            for box, score, label, rle in rows
        ]

    def to_supervision(self) -> supervision.Detections:
        """Return supervision's detections, with masks of the whole image. Raises UserError: it is not installed."""
        masks = np.stack([*self.masks()]) if len(self) else np.zeros((0, *self.geometry.original), bool)
        return supervision_detections(self.boxes, self.scores, self.labels, self.names, masks)

    def draw(self, image: ImageLike, names: Names = None, *, score: float = 0.3) -> np.ndarray:
        """Return the image with the boxes and masks that reach `score`; see the module's head."""
        return _drawn(self, image, names, score)

    @cached_property
    def _maps(self) -> np.ndarray:
        """The prototypes in float32: widening them for each mask would cost more than the mask."""
        return self.prototypes.astype(np.float32)

    def _encoded(self, rows: Sequence[int]) -> tuple[RLE, ...]:
        height, width = self.geometry.original
        runs = [{"size": [height, width], "counts": run_lengths(*self.window(row), height, width)} for row in rows]
        return tuple(coco_mask.frPyObjects(runs, height, width)) if runs else ()


@dataclass(frozen=True, eq=False)
class SemanticMap:
    """classes: (H, W) uint8, the class of each original pixel; `IGNORE_INDEX` where others were asked for.

    scores: (C, H, W) float16, the classes' probabilities, where the head was told to keep them.
    """

    classes: np.ndarray
    scores: np.ndarray | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("SemanticMap", classes=(self.classes, (None, None)))
        if self.scores is not None:
            _check("SemanticMap", scores=(self.scores, (None, *self.classes.shape)))

    def to_png(self) -> np.ndarray:
        """Return what is saved as a picture: (H, W) uint8, the place of each pixel's class in the head's class list."""
        return self.classes

    def to_coco(self, image_id: ImageId, category_ids: CategoryIds | None = None) -> list[dict[str, Any]]:
        """No rows: the map is saved as a picture."""
        return []

    def draw(self, image: ImageLike, names: Names = None, *, score: float = 0.3) -> np.ndarray:
        """Return the image under the colours of its classes, with a legend; see the module's head."""
        return _drawn(self, image, names, score)


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: its pixels' value in the map, from 1.
        label: its class.
        thing: is it one object, or all of the image's pixels of a class of stuff?
        score: 0 to 1; 1 for stuff.
        area: pixels.
    """

    id: int
    label: int
    thing: bool
    score: float
    area: int


@dataclass(frozen=True, eq=False)
class PanopticMap:
    """ids: (H, W) int32, the segment of each original pixel, 0 where there is none; segments: one for each id."""

    ids: np.ndarray
    segments: tuple[Segment, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("PanopticMap", ids=(self.ids, (None, None)))

    def to_png(self) -> np.ndarray:
        """Return COCO's panoptic picture: (H, W, 3) uint8 RGB, id = R + 256 G + 65536 B."""
        return np.stack([self.ids & 255, self.ids >> 8 & 255, self.ids >> 16 & 255], -1).astype(np.uint8)

    def to_coco(self, image_id: ImageId, category_ids: CategoryIds | None = None) -> list[dict[str, Any]]:
        """One row, as COCO's panoptic results: the image's segments_info."""
        told = [
            {"id": one.id, "category_id": _id(category_ids, one.label), "score": one.score, "area": one.area}
            for one in self.segments
            if _id(category_ids, one.label) is not None
        ]
        return [{"image_id": image_id, "segments_info": told}]

    def draw(self, image: ImageLike, names: Names = None, *, score: float = 0.3) -> np.ndarray:
        """Return the image under the colours of its segments, with a legend; see the module's head."""
        return _drawn(self, image, names, score)


def encoded(predictions: Mapping[str, Prediction]) -> dict[str, Prediction]:
    """Return one image's predictions with the masks of all instances encoded; what a worker of an evaluation does."""
    return {name: one.encoded() if isinstance(one, Instances) else one for name, one in predictions.items()}


Prediction = Classification | Localization | Detections | Instances | SemanticMap | PanopticMap
Predictions = Mapping[str, Prediction]
"""One image's predictions by head name."""


def _id(category_ids: CategoryIds | None, label: int) -> int | str | None:
    return label + 1 if category_ids is None else category_ids[label]


def _drawn(prediction: Prediction, image: ImageLike, names: Names, score: float) -> np.ndarray:
    from visionkit.predictor import to_array  # only who draws pays for fonts, and for what reads images
    from visionkit.report.draw import draw

    known = prediction.names if names is None else names
    if not known:
        raise UserError(
            f"{type(prediction).__name__}.draw: the classes have no names; give names=[…] in their order",
            code="value-missing",
        )
    return draw(to_array(image), prediction, known, score_threshold=score)


def _xywh(boxes: np.ndarray) -> list[list[float]]:
    result = boxes.astype(np.float64)
    result[:, 2:] -= result[:, :2]
    rows: list[list[float]] = result.tolist()
    return rows


def _check(name: str, **arrays: tuple[np.ndarray, tuple[int | None, ...]]) -> None:
    """Refuse arrays of another shape; None stands for any length."""
    for field, (array, wanted) in arrays.items():
        lengths = zip(wanted, array.shape, strict=False)
        if array.shape != wanted and (
            array.ndim != len(wanted) or any(length not in (None, given) for length, given in lengths)
        ):
            shape = ", ".join("any" if length is None else str(length) for length in wanted)
            raise ValueError(f"{name}.{field}: the shape ({shape}) is wanted, not {array.shape} {array.dtype}")
