"""The annotations of a COCO file as a reader uses them: of the images that are there, and of the wanted classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visionkit.data.flat import offsets_of
from visionkit.data.readers.coco_faults import Fault
from visionkit.data.readers.coco_index import CocoObjects, shown_box
from visionkit.data.readers.objects import ObjectTable, fit_boxes
from visionkit.data.readers.segmentation import POLYGONS
from visionkit.data.validate import Problem

_XYXY_SHARE = 0.25
"""The least share of boxes that must reach out of their image before they are taken for two corners: of boxes that are
two corners three in four do."""


@dataclass(frozen=True, eq=False)
class UsedObjects:
    """The table (its `order` are rows of the segmentations), and what was found on the way.

    unlisted: objects per class name that is not wanted; clipped: boxes that were; unmasked: objects of the table
    without a segmentation.
    """

    table: ObjectTable
    problems: list[Problem]
    unlisted: Counter[str]
    clipped: int
    unmasked: int


def use_objects(
    objects: CocoObjects, file: Path, *, images: np.ndarray, sizes: np.ndarray, names: Sequence[str], labels: np.ndarray
) -> UsedObjects:
    """Choose the objects of `images` and of the wanted classes, and judge them by the images' sizes.

    Args:
        objects: those of the file.
        file: its name, for the problems.
        images: (N,) int64, places of the used images among the file's usable ones, rising.
        sizes: (N, 2) int64, their (height, width).
        names: the class name of each category, in the file's order.
        labels: (categories,) int64, the label of each category; −1 where it is not wanted.
    """
    counts = np.diff(objects.offsets)
    new_place = np.full(len(counts) + 1, -1, np.int64)  # the last one stands for no image
    new_place[images] = np.arange(len(images))
    owners = np.repeat(new_place[:-1], counts)
    label = labels[objects.category] if len(labels) else np.zeros(0, np.int64)
    unlisted = Counter(_named(objects.category[(owners >= 0) & (label < 0)], names))
    faults, remarks, more = _faults_of_used(objects, new_place, names, labels)
    unlisted += more
    rows = np.flatnonzero((owners >= 0) & (label >= 0))
    corners = objects.bbox[rows].copy()
    corners[:, 2:] += corners[:, :2]
    of_image = sizes[owners[rows]]
    problems = _lacking(objects, file)
    if _look_like_corners(objects.bbox[rows], corners, of_image):
        fault = f"all {len(rows)} boxes fit their images as two corners, and many do not as [x, y, width, height]"
        mend = "these look like xyxy, not xywh: write width and height in place of the second corner"
        problems.append(Problem(str(file), objects.key, fault, mend, rule="box-xyxy"))
        rows = rows[:0]
        corners, of_image = corners[:0], of_image[:0]
    boxes, clipped, outside = fit_boxes(corners, of_image)
    for i in np.flatnonzero(outside).tolist():
        height, width = of_image[i].tolist()
        shown = shown_box(objects.bbox[rows[i]])
        said = f"the box is outside the image of {width} x {height}: {shown}"
        faults[int(objects.places[rows[i]])] = Fault("bbox", "box-outside", said)
    places = objects.places[rows]
    for i, (rule, said) in objects.segmentations.faults(places, of_image).items():
        faults.setdefault(int(places[i]), Fault("segmentation", rule, said))
    told = sorted([*faults.items(), *remarks.items()], key=lambda pair: pair[0])
    problems = [fault.problem(file, f"{objects.key}[{place}]") for place, fault in told] + problems
    if faults:
        good = ~np.isin(places, list(faults))
        rows, boxes, clipped, places = rows[good], boxes[good], clipped[good], places[good]
    table = ObjectTable(
        boxes=boxes,
        labels=label[rows].astype(np.int64),
        crowd=objects.crowd[rows],
        ignore=objects.ignore[rows],
        areas=objects.areas[rows],
        offsets=offsets_of(np.bincount(owners[rows], minlength=len(images))),
        order=places,
    )
    unmasked = int((objects.segmentations.kinds[places] < POLYGONS).sum())
    return UsedObjects(table, problems, unlisted, int(clipped.sum()), unmasked)


def _lacking(objects: CocoObjects, file: Path) -> list[Problem]:
    """Warnings, one each, of annotations without `area` or `iscrowd`."""
    used = {"area": "the area of the mask or the box is taken", "iscrowd": "none of them is taken for a crowd"}
    return [
        Problem(str(file), objects.key, f"{objects.lacking[key]} of {objects.lacking['of']} lack '{key}'",
                f"{what}; add it for other tools", rule=f"{key}-missing", warning=True)
        for key, what in used.items()
        if objects.lacking[key]
    ]  # fmt: skip


def _look_like_corners(boxes: np.ndarray, corners: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether (A, 4) numbers, read as [x, y, width, height] with the given corners, were meant as two corners."""
    limits = sizes[:, ::-1] + 1
    as_corners = (boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits) & (boxes[:, :2] >= -1)
    reach_out = (corners[:, 2:] > limits).any(axis=1)
    return len(boxes) > 0 and bool(as_corners.all()) and bool(reach_out.mean() >= _XYXY_SHARE)


def _faults_of_used(
    objects: CocoObjects, new_place: np.ndarray, names: Sequence[str], labels: np.ndarray
) -> tuple[dict[int, Fault], dict[int, Fault], Counter[str]]:
    """The file's faults by place of objects that are left out, those of objects that are kept, and the objects left
    out per class name that is not wanted, all of the used images alone.
    """
    faults: dict[int, Fault] = {}
    remarks: dict[int, Fault] = {}
    unlisted: Counter[str] = Counter()
    for one in objects.faults:
        if one.image >= 0 and new_place[one.image] < 0:
            continue
        if one.category < 0 or labels[one.category] >= 0:
            (remarks if one.kept else faults).setdefault(one.place, one.fault)
        elif not one.kept:
            unlisted[names[one.category]] += 1
    return faults, remarks, unlisted


def _named(categories: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(categories, minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counts, strict=True) if count}
