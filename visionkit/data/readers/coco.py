"""COCO's JSON annotations: boxes, polygons, both kinds of run lengths, crowds (Lin et al., ECCV 2014)."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from visionkit.data.decode import decode
from visionkit.data.readers.coco_files import find_annotations, image_folders, locate
from visionkit.data.readers.coco_json import ImageRow, load_document, read_annotations, read_categories, read_images
from visionkit.data.readers.objects import ObjectTable, make_table
from visionkit.data.readers.segmentation import to_rle
from visionkit.data.readers.source import choose_classes, clipped_boxes, left_out, open_root
from visionkit.data.validate import Problem, check_images, check_on_error, settle
from visionkit.errors import listed
from visionkit.structures import RLE, ImageId, Labels, Sample


class Coco:
    """One split of a folder with COCO annotations.

    The annotations are annotations/instances_<split>*.json, or instances_<split>.json or <split>.json in the folder.
    Each image is looked for by its `file_name` under images/, <split>*/, images/<split>*/ and the folder itself, in
    this order. Ids of images and categories are the file's own. Boxes are clipped as `fit_box` says. `ignore: 1` makes
    an object ignored, whatever its `iscrowd` says. A file without a list `annotations` is read as unlabelled images.

    The masks of an image are known if each of its objects has one, and if any object of the file has one.

    Args:
        root: the folder.
        split: the name of the split.
        classes: the wanted classes in their order; objects of others are left out. None means the file's categories,
            in its order.
        annotations: the annotation file, absolute or seen from the folder or from the working directory, where it
            stands elsewhere.
        on_error: "stop" raises for all faults at once; "skip" leaves out the faulty object (or the image that cannot
            be used) and keeps the faults in `problems`.

    Attributes:
        problems: what was left out, and why.
        notes: what was done that somebody may not expect, one line each.

    Raises:
        DataError: the folder, split or a class is not there, the file is not a COCO file, or there are faults and
            `on_error` is "stop".
    """

    semantic_classes: Sequence[str] = ()

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        annotations: str | Path | None = None,
        on_error: str = "stop",
    ) -> None:
        check_on_error(on_error)
        self.root, self.split = open_root(root), split
        self.annotations = find_annotations(self.root, split, annotations, "instances")
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        document = load_document(self.annotations)
        categories = read_categories(document["categories"], self.annotations)
        ids = {name: number for number, name in categories.items()}
        self.classes = choose_classes(tuple(ids), classes, self.annotations)
        self.category_ids: Sequence[int | str] = tuple(ids[name] for name in self.classes)
        self._keep_images(document["images"])
        self._objects: ObjectTable | None = None
        self._segmentations: list[bytes] | None = None
        if "annotations" in document:
            self._keep_objects(document, categories)
        self.fields = frozenset(
            name for name, table in (("boxes", self._objects), ("masks", self._segmentations)) if table is not None
        )
        settle(self.problems, on_error)

    def __len__(self) -> int:
        return len(self.file_names)

    def labels(self, index: int) -> Labels:
        """Boxes, and masks where they are known. `areas` are the file's own, else the mask's, else the box's."""
        height, width = self._sizes[index].tolist()
        if self._objects is None:
            return Labels(size=(height, width))
        table, rows = self._objects, self._objects.rows(index)
        boxes, areas = table.boxes[rows].copy(), table.areas[rows].copy()
        masks = self._masks(index, (height, width))
        missing = np.isnan(areas)
        if missing.any():
            of_boxes = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            own = of_boxes if masks is None else np.asarray(coco_mask.area(list(masks)), np.float64)
            areas[missing] = own[missing]
        return Labels(
            size=(height, width),
            boxes=boxes,
            labels=table.labels[rows].copy(),
            crowd=table.crowd[rows].copy(),
            ignore=table.ignore[rows].copy(),
            areas=areas,
            masks=masks,
        )

    def path(self, index: int) -> Path:
        """The image file."""
        return self.root / self.file_names[index]

    def read(self, index: int) -> Sample:
        """Image and labels. Raises DataError when the file cannot be decoded."""
        return Sample(decode(self.path(index)), self.labels(index), self.image_ids[index], self.file_names[index])

    def class_counts(self) -> np.ndarray:
        """(C,) int64: objects per class, crowds too."""
        if self._objects is None:
            return np.zeros(len(self.classes), np.int64)
        return self._objects.class_counts(len(self.classes))

    # ------------------------------------------------------------------------------------------------ construction
    def _keep_images(self, rows: Sequence[Any]) -> None:
        images, problems = read_images(rows, self.annotations)
        self.problems += problems
        folders = image_folders(self.root, self.split)
        found: list[tuple[ImageRow, str]] = []
        for image in images:
            name = locate(self.root, folders, image.file_name)
            if name is not None:
                found.append((image, name))
                continue
            places = listed([f"{folder}/" if folder else "data.root itself" for folder in folders])
            fault = f"'{image.file_name}' is not there; looked in {places}"
            mend = "restore the image, or remove the entry"
            self.problems.append(Problem(str(self.annotations), f"images[{image.place}].file_name", fault, mend))
        checked = check_images(
            [self.root / name for _, name in found],
            [image.size for image, _ in found],
            lambda i: (str(self.annotations), f"images[{found[i][0].place}]"),
        )
        self.image_ids: list[ImageId] = []
        self.file_names: list[str] = []
        sizes: list[tuple[int, int]] = []
        for (image, name), result in zip(found, checked, strict=True):
            if isinstance(result, Problem):
                self.problems.append(result)
                continue
            self.image_ids.append(image.image_id)
            self.file_names.append(name)
            sizes.append(result)
        self._sizes = np.asarray(sizes, np.int64).reshape(-1, 2)

    def _keep_objects(self, document: dict[str, Any], categories: dict[ImageId, str]) -> None:
        objects = read_annotations(
            document["annotations"],
            self.annotations,
            all_images=document["images"],
            owner_of={image_id: index for index, image_id in enumerate(self.image_ids)},
            sizes=[(height, width) for height, width in self._sizes.tolist()],
            category_names=categories,
            label_of={name: label for label, name in enumerate(self.classes)},
        )
        self.problems += objects.problems
        self.notes += left_out("objects", objects.unlisted) + clipped_boxes(objects.clipped)
        self._objects = make_table(
            len(self),
            owners=objects.owners,
            boxes=objects.boxes,
            labels=objects.labels,
            crowd=objects.crowd,
            ignore=objects.ignore,
            areas=objects.areas,
        )
        missing = sum(segmentation is None for segmentation in objects.segmentations)
        if missing < len(objects.segmentations):
            self._segmentations = _packed(objects.segmentations, self._objects)
            if missing:
                self.notes.append(f"objects without a segmentation: {missing}; the masks of their images are unknown")

    def _masks(self, index: int, size: tuple[int, int]) -> tuple[RLE, ...] | None:
        if self._segmentations is None:
            return None
        segmentations = pickle.loads(self._segmentations[index])
        if any(segmentation is None for segmentation in segmentations):
            return None
        return tuple(to_rle(segmentation, size) for segmentation in segmentations)


def _packed(segmentations: Sequence[Any], table: ObjectTable) -> list[bytes]:
    """The segmentations of each image as one byte string: a fifth of the memory of lists, and light for workers."""
    order = table.order.tolist()
    rows = (table.rows(index) for index in range(len(table.offsets) - 1))
    return [pickle.dumps([segmentations[place] for place in order[row]], pickle.HIGHEST_PROTOCOL) for row in rows]
