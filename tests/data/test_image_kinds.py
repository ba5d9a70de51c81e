from __future__ import annotations

import numpy as np
import pytest

from visionkit.data.image_kinds import statistics_warning, unfit_transforms
from visionkit.data.readers import Folder
from visionkit.preprocess import Preprocess
from visionkit.structures import Decoding

CANVAS = (32, 40)
GEOMETRY = [
    {"HorizontalFlip": {"p": 0.5}},
    {"Affine": {"rotate": [-10, 10], "p": 0.1}},
    {"RandomCrop": {"height": 32, "width": 40}},
]


@pytest.mark.parametrize("decoding", [Decoding(1), Decoding(4), Decoding(6, 16), Decoding(4, "float")])
def test_what_moves_pixels_takes_every_kind(decoding: Decoding) -> None:
    assert unfit_transforms(GEOMETRY, "albumentations", decoding, CANVAS) == []


@pytest.mark.parametrize(
    ("decoding", "reason"),
    [
        (Decoding(4), r"uint8 images of 4 channels \(.*"),
        (Decoding(3, 16), r"uint16 images of 3 channels \(.*"),
        (Decoding(3, "float"), r"float32 images of 3 channels \(it cuts values to 0\.\.1"),
    ],
)
def test_what_changes_colours_is_named(decoding: Decoding, reason: str) -> None:
    transforms = [GEOMETRY[0], {"OneOf": {"transforms": [{"HueSaturationValue": None}], "p": 0.5}}]
    (line,) = unfit_transforms(transforms, "albumentations", decoding, CANVAS)
    place = r"augment\.transforms\[1\]\.OneOf\[0\]: HueSaturationValue cannot take "
    with pytest.raises(ValueError, match=rf"^{place}{reason}\); leave it out, or choose augment=none$"):
        raise ValueError(line)


def test_usual_images_are_not_tried() -> None:
    assert unfit_transforms([{"NoSuch": {}}], "albumentations", Decoding(), CANVAS) == []


def test_statistics_that_are_far_off_are_said_with_better_ones(tmp_path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    for number in range(3):
        values = np.random.default_rng(number).normal([-20, 300], [2, 50], (40, 40, 2)).astype(np.float32)
        np.save(tmp_path / "train" / "a" / f"{number}.npy", values)
    reader = Folder(tmp_path, "train", channels=2, bit_depth="float")
    line = statistics_warning(reader, Preprocess(32, mean=[0.449] * 2, std=[0.226] * 2, bit_depth="float"))
    assert line is not None and line.startswith("preprocess.mean and preprocess.std are far from those of the first")
    assert "preprocess.mean=[-20" in line and " preprocess.std=[2.0" in line
    assert statistics_warning(reader, Preprocess(32, mean=[-20, 300], std=[2, 50], bit_depth="float")) is None
    assert statistics_warning(reader, Preprocess(32)) is None
