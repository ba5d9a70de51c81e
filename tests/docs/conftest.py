"""A folder in which the commands of the pages can be typed: what DIR, PHOTOS, FILE and runs/mine stand for."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from visionkit.data.readers import Shapes

SIZE = (48, 64)


def picture(file, seed=0):
    """Noise as a photograph; a mask of two values as a PNG; a panoptic map of two segments."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix != ".png":
        pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8)
    else:
        pixels = np.zeros((*SIZE, 3) if "panoptic" in str(file) else SIZE, np.uint8)
        pixels[SIZE[0] // 2 :] = 1
        if pixels.ndim == 3:
            pixels[:] = 0
            pixels[: SIZE[0] // 2, :, 2], pixels[SIZE[0] // 2 :, :, 2] = 1, 2
    assert cv2.imwrite(str(file), pixels)


def polygons_of_scenes(folder):
    """COCO files of a few generated scenes, with masks."""
    for split, count in (("train", 6), ("val", 3)):
        reader = Shapes(split, size=64, count=count)
        images, annotations = [], []
        for index in range(count):
            sample = reader.read(index)
            file = folder / "images" / f"{split}-{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(file), sample.image[..., ::-1])
            images.append({"id": len(images) + 1, "file_name": file.name, "width": 64, "height": 64})
            for box, label in zip(sample.labels.boxes.tolist(), sample.labels.labels.tolist(), strict=True):
                x1, y1, x2, y2 = box
                annotations.append({
                    "id": len(annotations) + 1, "image_id": len(images), "category_id": label + 1, "iscrowd": 0,
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                })  # fmt: skip
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(reader.classes)]
        file = folder / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))


def of_task(folder, task):
    """A set that the task can learn from, in place of DIR."""
    shutil.rmtree(folder, ignore_errors=True)
    if task == "classify":
        for seed, name in enumerate(
            ("train/cat/a", "train/dog/b", "train/cat/e", "train/dog/f", "val/cat/c", "val/dog/d")
        ):
            picture(folder / f"{name}.jpg", seed)
    elif task == "semantic":
        for seed, name in enumerate(("train/a", "train/b", "train/c", "val/d")):
            picture(folder / "images" / f"{name}.jpg", seed)
            picture(folder / "masks" / f"{name}.png")
    else:
        polygons_of_scenes(folder)


@pytest.fixture
def desk(runs, finished):
    """A folder with photographs and a finished detector; DIR is made for each command's task (`of_task`)."""
    shutil.copytree(finished, runs / "runs" / "mine", symlinks=True)
    for seed, name in enumerate(("PHOTOS/a.jpg", "PHOTOS/b.jpg", "photograph.jpg", "FILE.jpg")):
        picture(runs / name, seed)
    (runs / "FILE.jpg").rename(runs / "FILE")
    return runs
