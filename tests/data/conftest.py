"""Small data sets in memory for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionkit.structures import LABEL_FIELDS, Labels, Sample


def rectangle(size, box):
    """The run-length encoding of a rectangle with whole corners."""
    bitmap = np.zeros(size, np.uint8, order="F")
    x1, y1, x2, y2 = box
    bitmap[y1:y2, x1:x2] = 1
    return coco_mask.encode(bitmap)


def scene(number: int, size: tuple[int, int], objects: int, classes: int) -> Sample:
    """Rectangles that do not overlap, drawn into image, masks and semantic map alike; class 0 is the ground, too."""
    rng = np.random.default_rng([number, 99])
    height, width = size
    image = np.full((height, width, 3), 200, np.uint8)
    semantic = np.zeros(size, np.uint8)
    boxes, labels, masks = [], [], []
    cells = rng.permutation((height // 14) * (width // 14))[:objects]
    for cell in cells.tolist():
        x1, y1 = 14 * (cell % (width // 14)), 14 * (cell // (width // 14))
        x2, y2 = x1 + int(rng.integers(8, 14)), y1 + int(rng.integers(8, 14))
        label = int(rng.integers(classes))
        image[y1:y2, x1:x2] = 20 * label
        semantic[y1:y2, x1:x2] = label
        boxes.append([x1, y1, x2, y2])
        labels.append(label)
        masks.append(rectangle(size, boxes[-1]))
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    scores = np.zeros(classes, np.float32)
    scores[number % classes] = 1
    return Sample(
        image,
        Labels(
            size=size,
            boxes=boxes,
            labels=np.array(labels, np.int64),
            masks=tuple(masks),
            semantic=semantic,
            class_scores=scores,
            box=boxes[0] if objects else None,
        ),
        number + 1,
        f"{number:03}.png",
    )


@dataclass
class MemoryReader:
    samples: list[Sample]
    classes: tuple[str, ...]
    fields: frozenset[str] = frozenset(LABEL_FIELDS)
    reads: int = 0

    def __post_init__(self):
        self.semantic_classes = self.classes
        self.category_ids = tuple(range(1, len(self.classes) + 1))
        self.image_ids = [sample.image_id for sample in self.samples]
        self.file_names = [sample.file_name for sample in self.samples]

    def __len__(self):
        return len(self.samples)

    def labels(self, index):
        return self.samples[index].labels

    def read(self, index):
        self.reads += 1
        return self.samples[index]


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    def make(number=0, size=(48, 64), objects=3, classes=3):
        return scene(number, size, objects, classes)

    return make


@pytest.fixture
def make_reader() -> Callable[..., MemoryReader]:
    def make(count=12, objects=3, classes=("a", "b", "c")):
        sizes = [(48, 64), (64, 48), (40, 40)]
        samples = [scene(number, sizes[number % 3], objects, len(classes)) for number in range(count)]
        return MemoryReader(samples, tuple(classes))

    return make
