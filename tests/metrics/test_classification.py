from __future__ import annotations

import numpy as np
import pytest

from visionkit.errors import ConfigError, DataError
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


def test_f1_and_the_table_of_classes_by_hand() -> None:
    metric = TopK(NAMES[:4], numbers=["f1", "top1"])
    for image_id, (said, label) in enumerate([(0, 0), (0, 0), (0, 1), (1, 1), (2, 1), (1, 0)]):
        metric.update(image_id, says(*np.eye(4)[said]), truth_of(label, count=4))
    # Class 0: 2 of 3 found, 2 of 3 said are right. Class 1: 1 of 3, 1 of 2. Class 2 is said once, wrongly. No class 3.
    assert metric.compute() == pytest.approx({"f1": (2 / 3 + 2 / 5 + 0) / 3, "top1": 3 / 6})
    assert list(metric.compute()) == ["f1", "top1"]
    assert metric.headline == "top1"
    table = metric.class_table()
    assert table["class 0"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "images": 3})
    assert table["class 1"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "images": 3})
    for name in ("class 2", "class 3"):
        assert table[name] == pytest.approx(
            {"precision": np.nan, "recall": np.nan, "f1": np.nan, "images": 0}, nan_ok=True
        )
    assert all(isinstance(row["images"], int) for row in table.values())


def test_f1_of_several_labels_counts_scores_above_a_half_and_no_unknown_class() -> None:
    metric = TopK(NAMES[:3], multi_label=True, numbers=["f1"])
    assert metric.headline == "f1"
    rows = [((0.9, 0.6, 0.5), (1, 0, 1)), ((0.2, 0.8, 0.9), (1, 1, -1)), ((0.1, 0.7, 0.1), (0, -1, 0))]
    for image_id, (scores, truth) in enumerate(rows):
        metric.update(image_id, says(*scores), Labels(size=(9, 9), class_scores=np.array(truth, np.float32)))
    # Class 0: 1 of 2 found, nothing wrong: 2/3. Class 1: its one is found, one said wrongly: 2/3. Class 2: missed.
    assert metric.compute() == {"f1": pytest.approx((2 / 3 + 2 / 3 + 0) / 3)}
    assert metric.class_table()["class 1"] == pytest.approx({"precision": 0.5, "recall": 1, "f1": 2 / 3, "images": 1})


def test_f1_equals_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.metrics").f1_score
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, scores = rng.integers(0, 5, 12), rng.random((12, 6)).astype(np.float32)
        one, several = TopK(NAMES, numbers=["f1"]), TopK(NAMES, multi_label=True, numbers=["f1"])
        marks = rng.random((12, 6)) < 0.4
        for i in range(12):
            one.update(i, Classification(scores[i]), truth_of(truth[i]))
            several.update(i, Classification(scores[i]), truth_of(*np.flatnonzero(marks[i])))
        assert one.compute()["f1"] == pytest.approx(reference(truth, scores.argmax(1), average="macro"))
        met = (marks | (scores > 0.5)).any(axis=0)  # scikit-learn counts as 0 a class that is neither there nor said
        expected = reference(marks[:, met], scores[:, met] > 0.5, average="macro")
        assert several.compute()["f1"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"numbers": ["top1", "mean_accuracy"]}, "metrics=[top1, mean_accuracy]: there is no 'mean_accuracy' (did you "
         "mean 'mean_class_accuracy'?); known: top1, top5, mean_class_accuracy, f1"),
        ({"numbers": ["top1"], "multi_label": True}, "metrics=[top1]: there is no 'top1'; known: mAP, f1"),
        ({"numbers": []}, "metrics=[]: name at least one; known: top1, top5, mean_class_accuracy, f1"),
    ],
)  # fmt: skip
def test_unknown_numbers_are_refused(options, said) -> None:
    with pytest.raises(ConfigError) as caught:
        TopK(NAMES, **options)
    assert str(caught.value) == said


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
