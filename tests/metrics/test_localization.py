"""Localization's shares on images worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from visionkit.errors import DataError
from visionkit.metrics import LocalizationAccuracy
from visionkit.predictions import Localization
from visionkit.structures import Labels

NAMES = [f"class {k}" for k in range(6)]
BOX = (0.0, 0.0, 10.0, 10.0)
HALF = (0.0, 0.0, 10.0, 5.0)  # IoU 0.5, which is enough
LESS = (0.0, 0.0, 10.0, 4.9)
FAR = (20.0, 20.0, 30.0, 30.0)
RANKING = (0.3, 0.25, 0.2, 0.15, 0.08, 0.02)


def truth_of(label: int | None, box: tuple[float, ...] | None = BOX) -> Labels:
    scores = None if label is None else np.eye(6, dtype=np.float32)[label]
    return Labels(size=(40, 40), class_scores=scores, box=None if box is None else np.array(box))


def says(*boxes: tuple[float, ...]) -> Localization:
    """The classes in their order, with these boxes; the last one stands for the classes that are left."""
    every = [*boxes, *[boxes[-1]] * (6 - len(boxes))]
    return Localization(np.array(RANKING, np.float32), np.array(every, np.float32))


def test_shares_by_hand() -> None:
    metric = LocalizationAccuracy(NAMES)
    metric.update(1, says(HALF), truth_of(0))  # right
    metric.update(2, says(LESS), truth_of(0))  # the place alone is wrong
    metric.update(3, says(BOX), truth_of(4))  # the class alone is wrong, and among the best five
    metric.update(4, says(BOX), truth_of(5))  # the same, but sixth
    metric.update(5, says(FAR), truth_of(1))  # both are
    numbers = metric.compute()
    assert numbers == pytest.approx(
        {
            "acc50": 1 / 5,
            "top1": 2 / 5,
            "top1_error": 4 / 5,
            "top5_error": 3 / 5,
            "mean_IoU": (0.5 + 0.49 + 1 + 1 + 0) / 5,
            "class_wrong_only": 2 / 5,
            "place_wrong_only": 1 / 5,
            "both_wrong": 1 / 5,
        }
    )
    assert numbers["acc50"] + sum(numbers[name] for name in numbers if "wrong" in name) == pytest.approx(1)
    assert metric.reasons == {}


def test_each_of_the_best_five_is_judged_with_its_own_box() -> None:
    metric = LocalizationAccuracy(NAMES)
    metric.update(1, says(FAR, BOX, FAR), truth_of(1))
    metric.update(2, says(BOX, FAR, BOX), truth_of(1))
    numbers = metric.compute()
    assert numbers["top5_error"] == 0.5
    assert numbers["mean_IoU"] == 0.5  # of the best class's boxes, FAR and BOX
    assert (numbers["both_wrong"], numbers["class_wrong_only"]) == (0.5, 0.5)


def test_images_that_do_not_know_both_are_left_out() -> None:
    metric = LocalizationAccuracy(NAMES)
    metric.update(1, says(BOX), truth_of(None))
    metric.update(2, says(BOX), truth_of(0, None))
    assert metric.state() == {}
    metric.update(3, says(BOX), truth_of(0))
    assert metric.compute()["acc50"] == 1.0


def test_top5_of_few_classes_is_not_a_number() -> None:
    metric = LocalizationAccuracy(NAMES[:2])
    scores, boxes = np.array([0.4, 0.6], np.float32), np.array([BOX] * 2, np.float32)
    metric.update(1, Localization(scores, boxes), Labels(size=(9, 9), class_scores=scores.round(), box=np.array(BOX)))
    assert np.isnan(metric.compute()["top5_error"]) and metric.reasons == {"top5_error": "only 2 classes"}


def test_boxes_without_area_are_in_the_wrong_place() -> None:
    metric = LocalizationAccuracy(NAMES)
    metric.update(1, says((5.0, 5.0, 5.0, 5.0)), truth_of(0, (5.0, 5.0, 5.0, 5.0)))
    assert metric.compute()["mean_IoU"] == 0.0


def test_what_cannot_be_scored_is_refused() -> None:
    metric = LocalizationAccuracy(NAMES)
    several = Labels(size=(9, 9), class_scores=np.ones(6, np.float32), box=np.array(BOX))
    with pytest.raises(DataError, match="image 7: 6 classes where localization needs one"):
        metric.update(7, says(BOX), several)
    with pytest.raises(ValueError, match="image 7: a predicted score or box is not finite"):
        metric.update(7, says((0.0, 0.0, np.nan, 1.0)), truth_of(0))
    with pytest.raises(ValueError, match="image 7: 6 scores and 6 labels for 2 classes"):
        LocalizationAccuracy(NAMES[:2]).update(7, says(BOX), truth_of(0))
