"""The first training batches as the network sees them: mixed, augmented, on their canvas, with their labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.report.draw import draw
from visionkit.report.gallery import SIDE
from visionkit.report.sheet import displayable, fitted_image, fitted_truth
from visionkit.structures import RLE, Batch, Labels, Targets


@dataclass(frozen=True)
class ClassLists:
    """Names of the classes of objects, of whole images, and of pixels."""

    objects: Sequence[str] = ()
    images: Sequence[str] = ()
    pixels: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Seen:
    """A training image: (h, w, 3) uint8 RGB with its labels drawn, its name, and its classes with their shares."""

    pixels: np.ndarray
    file_name: str
    classes: str


def drawn_batches(batches: Iterable[Batch], lists: ClassLists) -> list[Seen]:
    """Draw every image of some training batches."""
    return [_seen(batch, i, lists) for batch in batches for i in range(len(batch.images))]


def _seen(batch: Batch, i: int, lists: ClassLists) -> Seen:
    pixels = displayable(np.ascontiguousarray(batch.images[i].permute(1, 2, 0).cpu().numpy()))
    image, geometry = fitted_image(pixels, SIDE)
    labels = fitted_truth(labels_of(batch.targets, i, (pixels.shape[0], pixels.shape[1])), geometry)
    layers = (
        ({"semantic"}, lists.pixels),
        ({"boxes", "masks"}, lists.objects),
        ({"class_scores", "box"}, lists.images),
    )
    for fields, names in layers:
        layer = labels.keep(frozenset(fields))
        if layer.known:
            image = draw(image, None, names, truth=layer)
    scores = np.zeros(0, np.float32) if labels.class_scores is None else labels.class_scores
    shares = [k for k in np.argsort(-scores, kind="stable").tolist() if scores[k] >= 0.05]
    mixed = any(scores[k] < 0.8 for k in shares)  # smoothed alone, a class keeps more
    told = ", ".join(f"{lists.images[k]} {scores[k]:.2f}" if mixed else lists.images[k] for k in shares[:3])
    return Seen(image, batch.file_names[i], told)


def labels_of(targets: Targets, i: int, canvas: tuple[int, int]) -> Labels:
    """Return what the targets of a batch know of image `i`, in pixels of the canvas."""
    known = {name for name, rows in targets.known.items() if bool(rows[i])}
    given: dict[str, object] = {}
    if "boxes" in known and targets.boxes is not None and targets.labels is not None:
        rows = (targets.labels[i] >= 0).cpu().numpy()
        given = {
            "boxes": targets.boxes[i].cpu().numpy()[rows].astype(np.float64),
            "labels": targets.labels[i].cpu().numpy()[rows].astype(np.int64),
        }
        for name in ("crowd", "ignore"):
            given[name] = getattr(targets, name)[i].cpu().numpy()[rows]
        if "masks" in known and targets.masks is not None and targets.mask_row is not None:
            places = targets.mask_row[i].cpu().numpy()[rows].tolist()
            packed = targets.masks.cpu().numpy()
            given["masks"] = tuple(_mask(packed[place] if place >= 0 else None, canvas) for place in places)
    if "class_scores" in known and targets.class_scores is not None:
        given["class_scores"] = targets.class_scores[i].cpu().numpy().astype(np.float32)
    if "box" in known and targets.box is not None:
        given["box"] = targets.box[i].cpu().numpy().astype(np.float64)
    if "semantic" in known and targets.semantic is not None:
        given["semantic"] = targets.semantic[i].cpu().numpy()
    return Labels(size=canvas, **given)  # type: ignore[arg-type]


def _mask(bits: np.ndarray | None, canvas: tuple[int, int]) -> RLE:
    """bits: packed along the flattened canvas; None: no pixel."""
    height, width = canvas
    flat = np.zeros(height * width, np.uint8) if bits is None else np.unpackbits(bits)[: height * width]
    encoded: RLE = coco_mask.encode(np.asfortranarray(flat.reshape(canvas)))
    return encoded
