from __future__ import annotations

import numpy as np
import pytest

from visionkit.errors import DataError
from visionkit.metrics import TopK
from visionkit.metrics.classification import average_precision
from visionkit.predictions import Classification
from visionkit.structures import Labels

NAMES = [f"class {k}" for k in range(6)]


def truth_of(*classes: int, count: int = 6) -> Labels:
    scores = np.zeros(count, np.float32)
    scores[list(classes)] = 1
    return Labels(size=(10, 10), class_scores=scores)


def says(*scores: float) -> Classification:
    return Classification(np.array(scores, np.float32))


def test_accuracies_by_hand() -> None:
    metric = TopK(NAMES)
    ranking = says(0.3, 0.25, 0.2, 0.15, 0.08, 0.02)
    for image_id, label in enumerate([0, 0, 0, 1, 4, 5]):
        metric.update(image_id, ranking, truth_of(label))
    numbers = metric.compute()
    # Right are the three of class 0; class 5 alone ranks sixth; of the four classes seen one is always right.
    assert numbers == pytest.approx({"top1": 3 / 6, "top5": 5 / 6, "mean_class_accuracy": 1 / 4})
    assert metric.reasons == {}


def test_of_equal_scores_the_first_class_wins_as_in_the_saved_prediction() -> None:
    metric, even = TopK(NAMES), says(0.1, 0.3, 0.3, 0.1, 0.1, 0.1)
    metric.update(1, even, truth_of(1))
    metric.update(2, even, truth_of(2))
    assert metric.compute()["top1"] == 0.5
    assert even.to_coco(1, range(6))[0]["category_id"] == 1


def test_top5_of_few_classes_is_not_a_number() -> None:
    metric = TopK(NAMES[:2])
    metric.update(1, says(0.9, 0.1), truth_of(0, count=2))
    assert np.isnan(metric.compute()["top5"])
    assert metric.reasons == {"top5": "only 2 classes"}


def test_images_of_unknown_class_are_not_counted() -> None:
    metric = TopK(NAMES)
    metric.update(1, says(1, 0, 0, 0, 0, 0), Labels(size=(10, 10)))
    metric.update(2, says(1, 0, 0, 0, 0, 0), truth_of(0))
    assert metric.compute()["top1"] == 1.0
    assert list(metric.state()) == [2]


def test_several_classes_without_multi_label_are_refused() -> None:
    for wrong in ((), (1, 2)):
        with pytest.raises(DataError, match=f"image 7: {len(wrong)} classes .*multi_label=true"):
            TopK(NAMES).update(7, says(1, 0, 0, 0, 0, 0), truth_of(*wrong))


def test_what_a_broken_model_gives_is_refused() -> None:
    with pytest.raises(ValueError, match="image 7: a predicted score is not finite"):
        TopK(NAMES).update(7, says(np.nan, 0, 0, 0, 0, 0), truth_of(0))
    with pytest.raises(ValueError, match="image 7: 2 scores and 6 labels for 6 classes"):
        TopK(NAMES).update(7, says(1, 0), truth_of(0))


def test_mean_average_precision_by_hand() -> None:
    metric = TopK(NAMES[:3], multi_label=True)
    rows = [((0.9, 0.1, 0.5), (0, 1)), ((0.8, 0.9, 0.5), ()), ((0.7, 0.2, 0.5), (0,))]
    for image_id, (scores, classes) in enumerate(rows):
        metric.update(image_id, says(*scores), truth_of(*classes, count=3))
    # Class 0: right, wrong, right: (1 + 2/3) / 2. Class 1: its one image comes last, 1/3. Class 2 has none.
    assert metric.compute() == {"mAP": pytest.approx((5 / 6 + 1 / 3) / 2)}


def test_single_classes_can_be_unknown() -> None:
    metric = TopK(NAMES[:2], multi_label=True)
    metric.update(1, says(0.9, 0.9), Labels(size=(10, 10), class_scores=np.array([-1, 1], np.float32)))
    metric.update(2, says(0.5, 0.5), Labels(size=(10, 10), class_scores=np.array([1, 0], np.float32)))
    assert metric.compute()["mAP"] == 1.0


def test_multi_label_without_any_label_has_a_reason() -> None:
    metric = TopK(NAMES, multi_label=True)
    metric.update(1, says(1, 0, 0, 0, 0, 0), truth_of())
    assert np.isnan(metric.compute()["mAP"])
    assert metric.reasons == {"mAP": "no image has any of the classes"}


def test_average_precision_equals_scikit_learn_also_with_equal_scores() -> None:
    reference = pytest.importorskip("sklearn.metrics").average_precision_score
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores, truth = np.round(rng.random(30), 1), rng.random(30) < 0.3
        truth[0] = True
        assert average_precision(scores, truth) == pytest.approx(reference(truth, scores))
