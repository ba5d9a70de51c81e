from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from visionkit.report.label_statistics import LabelSource, Statistics, gather, plot_labels
from visionkit.structures import IGNORE_INDEX, Labels


def labels(index: int) -> Labels:
    """A box of a tenth by a half of the image, another that is a crowd; every other image is empty."""
    boxes = np.array([[0, 0, 10, 50.0], [0, 0, 100, 100]])[: 2 * (index % 2 == 0)]
    semantic = np.zeros((100, 100), np.uint8)
    semantic[:25] = 1
    semantic[50:] = IGNORE_INDEX
    return Labels(
        size=(100, 100),
        boxes=boxes.reshape(-1, 4),
        labels=np.array([1, 0])[: len(boxes)],
        crowd=np.array([False, True])[: len(boxes)],
        class_scores=np.array([1, 0], np.float32),
        semantic=semantic,
    )


def test_what_is_counted_by_hand(tmp_path: Path) -> None:
    found = gather(LabelSource(4, labels, ("a", "b"), ("x", "y"), ("sky", "road")), seconds=60)
    assert found.classes == {
        "objects": {"a": 0.0, "b": 2.0},
        "images": {"x": 4.0, "y": 0.0},
        "% of the pixels": {"sky": 50.0, "road": 50.0},
    }
    assert sorted(found.per_image) == [0, 0, 1, 1]
    assert found.boxes.tolist() == [[0.1, 0.5]] * 2
    assert found.aspects.tolist() == pytest.approx([0.2] * 2)
    rows = dict(found.rows())
    assert rows["images"] == "4"
    assert rows["sizes"] == "100 × 100 (4)"
    assert rows["objects"] == "2; an image has 0.5 on average, 1 at most"
    assert rows["images without an object"] == "2"
    assert rows["size of the objects"].startswith("22.4 % of the image's side")
    assert plot_labels(found, tmp_path / "labels.png") == tmp_path / "labels.png"


def test_slow_labels_are_looked_at_for_a_while_only() -> None:
    found = gather(LabelSource(1000, labels, ("a", "b")), seconds=0.0)
    assert found.images == 1
    assert dict(found.rows())["images"] == "1000, of which 1 were looked at"


def test_nothing_to_look_at_is_no_fault(tmp_path: Path) -> None:
    assert gather(LabelSource(0, labels)).rows() == [("images", "0")]
    assert plot_labels(Statistics(), tmp_path / "labels.png") is None


def test_of_many_classes_the_most_and_the_least_frequent_are_drawn(tmp_path: Path) -> None:
    counts = {f"class {k}": float(k) for k in range(1000)}
    drawn = plot_labels(Statistics(1, 1, {"objects": counts}, sizes=[(5, 5)]), tmp_path / "labels.png")
    assert drawn is not None
    assert drawn.stat().st_size < 200_000
