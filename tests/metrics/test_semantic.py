"""Scores of semantic maps against numbers worked by hand and against torchmetrics."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_jaccard_index

from visionkit.metrics import SemanticScores
from visionkit.predictions import Classification, SemanticMap
from visionkit.structures import Labels


def scores(*pairs, classes=3):
    """The metric of (truth, prediction) maps."""
    metric = SemanticScores([f"c{k}" for k in range(classes)])
    for image_id, (truth, found) in enumerate(pairs):
        truth, found = np.array(truth, np.uint8), np.array(found, np.uint8)
        metric.update(image_id, SemanticMap(found), Labels(size=truth.shape, semantic=truth))
    return metric


def random_maps(seed, size=(60, 80), classes=5, unlabelled=True):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (6, 8)).astype(np.uint8)
    truth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)
    found = truth.copy()
    found[:, 5:] = found[:, :-5].copy()
    if unlabelled:
        truth[20:30, 10:50] = 255
    return truth, found


def test_numbers_by_hand():
    truth = [[0, 0, 0, 0, 1], [0, 0, 1, 1, 255]]
    found = [[0, 0, 0, 1, 1], [0, 0, 1, 0, 0]]
    metric = scores((truth, found))
    assert metric.confusion.tolist() == [[5, 1, 0], [1, 2, 0], [0, 0, 0]]
    numbers = metric.compute()
    assert numbers["IoU/c0"] == pytest.approx(5 / 7)
    assert numbers["IoU/c1"] == pytest.approx(2 / 4)
    assert np.isnan(numbers["IoU/c2"])
    assert metric.reasons == {"IoU/c2": "no pixel has this class, in truth or in prediction"}
    assert numbers["mIoU"] == pytest.approx((5 / 7 + 2 / 4) / 2)
    assert numbers["pixel_accuracy"] == pytest.approx(7 / 9)
    assert numbers["class_accuracy"] == pytest.approx((5 / 6 + 2 / 3) / 2)
    assert numbers["frequency_weighted_IoU"] == pytest.approx((6 * 5 / 7 + 3 * 2 / 4) / 9)


def test_a_class_that_is_only_predicted_counts_as_zero():
    numbers = scores(([[0, 0, 1, 1]], [[0, 0, 2, 1]])).compute()
    assert numbers["IoU/c2"] == 0
    assert numbers["mIoU"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert numbers["class_accuracy"] == pytest.approx((1 + 1 / 2) / 2)  # it is none of the truth's


def test_pixels_count_alike_over_images():
    numbers = scores(([[0, 1, 1, 1]], [[0, 1, 1, 0]]), ([[0, 1]], [[1, 1]])).compute()
    assert numbers["IoU/c0"] == pytest.approx(1 / 3)
    assert numbers["IoU/c1"] == pytest.approx(3 / 5)


def test_equals_torchmetrics():
    pairs = [random_maps(seed) for seed in range(6)]
    metric = scores(*pairs, classes=5)
    truth, found = (torch.from_numpy(np.stack(maps)).long() for maps in zip(*pairs, strict=True))
    wanted = multiclass_confusion_matrix(found, truth, 5, ignore_index=255)
    assert np.array_equal(metric.confusion, wanted)
    jaccard = multiclass_jaccard_index(found, truth, 5, average=None, ignore_index=255)
    numbers = metric.compute()
    assert [numbers[f"IoU/c{k}"] for k in range(5)] == pytest.approx(jaccard.tolist(), abs=1e-6)


def boundary_by_hand(mask, reach):
    """The published definition: what an erosion takes from the mask, the image's edge being one (Cheng et al. 2021)."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return mask & (cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=reach)[1:-1, 1:-1] == 0)


def test_boundary_iou_is_the_published_one_of_each_class():
    pairs = [random_maps(seed, size=(120, 160), unlabelled=False) for seed in range(4)]
    reach = round(0.02 * 200)
    overlap, either = np.zeros(5), np.zeros(5)
    for truth, found in pairs:
        for k in range(5):
            one, other = (boundary_by_hand(values == k, reach) for values in (truth, found))
            overlap[k] += (one & other).sum()
            either[k] += (one | other).sum()
    assert scores(*pairs, classes=5).compute()["boundary_IoU"] == pytest.approx((overlap / either).mean())


def test_boundary_iou_by_hand():
    truth, found = np.zeros((2, 6, 7), np.uint8)
    truth[:, 3:] = 1
    found[:, 4:] = 1
    # One pixel wide. Class 0: 6 x 3 without its inner 4 x 1, and 6 x 4 without 4 x 2, share 6 x 3 - 4 (the last column
    # of the first is inside the second's at 4 rows).
    zero = (14 - 4) / (14 + 16 - (14 - 4))
    one = (14 - 4) / (16 + 14 - (14 - 4))
    assert scores((truth, found), classes=2).compute()["boundary_IoU"] == pytest.approx((zero + one) / 2)


def test_what_is_unlabelled_is_never_held_against_a_prediction():
    truth, found = random_maps(0)
    right = np.where(truth == 255, 3, truth)
    numbers = scores((truth, right), classes=5).compute()
    assert numbers == dict.fromkeys(numbers, 1.0)
    other = found.copy()
    other[truth == 255] = 0
    assert scores((truth, found), classes=5).compute() == scores((truth, other), classes=5).compute()


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 2)])
def test_thin_images(size):
    truth = np.ones(size, np.uint8)
    numbers = scores((truth, truth), classes=2).compute()
    assert numbers["mIoU"] == numbers["boundary_IoU"] == 1


def test_255_classes():
    truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    metric = scores((truth, np.minimum(truth, 254)), classes=255)
    assert metric.compute()["mIoU"] == 1
    assert np.array_equal(metric.confusion, np.eye(255, dtype=np.int64))


@pytest.mark.parametrize(
    ("truth", "found", "said"),
    [
        ([[0, 1]], [[0, 1, 1]], r"a map of \(1, 3\) for one of \(1, 2\)"),
        ([[0, 7]], [[0, 1]], "image 0: a value of the truth is none of 3 classes"),
        ([[0, 1]], [[0, 7]], "image 0: a value of the prediction is none of 3 classes"),
        ([[0, 1]], [[0, 255]], "image 0: a value of the prediction is none of 3 classes"),
    ],
)
def test_maps_that_cannot_be_are_refused(truth, found, said):
    with pytest.raises(ValueError, match=said):
        scores((truth, found))


def test_another_prediction_is_refused_and_an_unknown_map_left_out():
    metric = SemanticScores(["a"])
    with pytest.raises(TypeError, match="a SemanticMap is wanted, not Classification"):
        metric.update(1, Classification(np.ones(1, np.float32)), Labels(size=(1, 1)))
    metric.update(1, SemanticMap(np.zeros((1, 1), np.uint8)), Labels(size=(1, 1)))
    assert metric.state() == {}


def test_the_state_of_an_image_is_small():
    metric = SemanticScores([str(k) for k in range(150)])
    truth, found = random_maps(0, size=(480, 640), classes=9)
    metric.update(1, SemanticMap(found), Labels(size=(480, 640), semantic=truth))
    assert sum(value.nbytes for value in metric.state()[1].values()) < 4000
