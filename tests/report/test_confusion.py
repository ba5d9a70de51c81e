from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit.report.confusion import Confusion, _most_confused, box_confusion, plot_confusion, ranked_confusion

A, B = [0, 0, 10, 10], [20, 20, 30, 30]


def image(found: list[tuple], true: list[tuple], crowd: tuple[int, ...] = (), ignore: tuple[int, ...] = ()) -> dict:
    """found: (box, label, score) by falling score; true: (box, label)."""
    flags = [np.isin(np.arange(len(true)), rows) for rows in (crowd, ignore)]
    return {
        "boxes": np.array([row[0] for row in found], np.float32).reshape(-1, 4),
        "labels": np.array([row[1] for row in found], np.int32),
        "scores": np.array([row[2] for row in found], np.float32),
        "truth_boxes": np.array([row[0] for row in true], np.float64).reshape(-1, 4),
        "truth_labels": np.array([row[1] for row in true], np.int32),
        "crowd": flags[0],
        "ignore": flags[1],
    }


def counts(*images: dict) -> tuple[list[list[int]], float]:
    confusion, threshold = box_confusion(dict(enumerate(images)), ["a", "b"])
    assert confusion.names == ("a", "b", "background")
    return confusion.counts.tolist(), threshold


def test_images_are_counted_by_class_and_best_class() -> None:
    rows = [(0, [0, 1]), (0, [1, 0]), (1, [1, 0])]
    state = {k: {"truth": np.array([t]), "ranking": np.array(r)} for k, (t, r) in enumerate(rows)}
    assert ranked_confusion(state, ["a", "b"]).counts.tolist() == [[1, 1], [0, 1]]
    assert ranked_confusion({}, ["a", "b"]).counts.sum() == 0


def test_objects_are_right_taken_for_others_missed_or_invented() -> None:
    right = image([(A, 0, 0.9)], [(A, 0)])
    confused_and_invented = image([(A, 1, 0.8), (B, 1, 0.7)], [(A, 0)])
    missed = image([], [(B, 1)])
    # Scores from 0.9 on: F1 = 2/4. With 0.8, 2/5; with 0.7, 2/6. Only the first detection counts.
    assert counts(right, confused_and_invented, missed) == ([[1, 0, 1], [0, 0, 1], [0, 0, 0]], pytest.approx(0.9))
    # More right ones below move the threshold down to 0.6: then the wrong ones count too.
    later = [image([(A, 0, 0.6)], [(A, 0)])] * 6
    table, threshold = counts(right, confused_and_invented, missed, *later)
    assert threshold == pytest.approx(0.6)
    assert table == [[7, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_an_object_goes_to_its_own_class_before_a_better_scored_other() -> None:
    table, _ = counts(image([(A, 1, 0.9), (A, 0, 0.9)], [(A, 0)]))
    assert table == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_a_second_detection_of_an_object_is_the_background_s() -> None:
    images = [image([(A, 0, 0.9), (A, 0, 0.9)], [(A, 0)])]
    assert counts(*images)[0] == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("flag", ["crowd", "ignore"])
def test_what_lies_on_crowds_and_ignored_objects_is_left_out(flag: str) -> None:
    table, _ = counts(image([(B, 0, 0.9), (A, 0, 0.9), (A, 0, 0.9)], [(B, 0), (A, 0)], **{flag: (1,)}))
    assert table == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_nothing_found_or_nothing_there() -> None:
    assert counts() == ([[0] * 3] * 3, 0.0)
    assert counts(image([], [(A, 0)])) == ([[0, 0, 1], [0, 0, 0], [0, 0, 0]], 0.0)
    assert counts(image([(A, 1, 0.5)], [])) == ([[0, 0, 0], [0, 0, 0], [0, 1, 0]], 0.0)


# ------------------------------------------------------------------------------------------------------------- figure
@pytest.mark.parametrize("classes", [1, 16, 1000])
def test_any_number_of_classes_is_drawn(classes: int, tmp_path: Path) -> None:
    confusion = Confusion(np.eye(classes, dtype=np.int64) * 3, tuple(f"a class {k}" for k in range(classes)), "images")
    path = plot_confusion(confusion, tmp_path / "x.png")
    assert path is not None
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert max(pixels.shape) < 1400
    assert all((edge == 255).all() for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]))
    assert (pixels.astype(int).sum(axis=2) < 300).any()


def test_without_any_count_there_is_no_figure(tmp_path: Path) -> None:
    assert plot_confusion(Confusion(np.zeros((2, 2), np.int64), ("a", "b"), "images"), tmp_path / "x.png") is None


def test_of_many_classes_the_most_confused_are_shown() -> None:
    table = np.eye(50) * 9
    table[45, 3] = 5
    table[:, 49] = 7  # the background does not choose
    kept = _most_confused(table, background=True)
    assert {3, 45, 49} <= set(kept.tolist())
    assert len(kept) == 41
    assert kept.tolist() == sorted(kept.tolist())
