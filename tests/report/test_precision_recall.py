from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit.report.precision_recall import plot_precision_recall


@pytest.mark.parametrize("classes", [1, 80])
def test_curves_are_drawn_of_the_classes_that_have_objects(classes: int, tmp_path: Path) -> None:
    precision = np.linspace(1, 0, 101)[None, :, None].repeat(10, 0).repeat(classes, 2)
    path = plot_precision_recall(precision, [f"class {k}" for k in range(classes)], tmp_path / "x.png")
    assert path is not None
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert (pixels[:, -3:] == 255).all()
    with_absent = np.concatenate([precision, -np.ones((10, 101, 1))], axis=2)
    other = plot_precision_recall(with_absent, [f"class {k}" for k in range(classes + 1)], tmp_path / "y.png")
    assert other is not None
    assert (np.asarray(Image.open(other).convert("RGB")) == pixels).all()


def test_without_any_object_there_is_no_curve(tmp_path: Path) -> None:
    assert plot_precision_recall(-np.ones((10, 101, 2)), ["a", "b"], tmp_path / "x.png") is None
    assert plot_precision_recall(np.zeros((10, 101, 0)), [], tmp_path / "x.png") is None
