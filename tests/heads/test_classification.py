"""The linear classification head against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from visionkit.errors import ConfigError
from visionkit.heads import LinearClassification
from visionkit.structures import FeatureSpec, Geometry, Targets

SPECS = {"c4": FeatureSpec(6, 16), "c5": FeatureSpec(2, 32)}


def head_of(logits, **options):
    """A head that says `logits` (B, C) whatever it sees."""
    head = LinearClassification(SPECS, classes=[str(k) for k in range(len(logits[0]))], dropout=0.0, **options)
    head.forward = lambda features, sizes: torch.tensor(logits, requires_grad=True)
    return head


def loss_of(head, scores, known=None, **options):
    scores = torch.tensor(scores)
    known = torch.ones(len(scores), dtype=torch.bool) if known is None else torch.tensor(known)
    sizes = torch.full((len(scores), 2), 32)
    targets = Targets(sizes=sizes, known={"class_scores": known}, class_scores=scores, **options)
    (value,) = head.loss({}, targets).values()
    return float(value.detach())


def test_is_a_linear_function_of_the_mean_of_its_level():
    head = LinearClassification(SPECS, classes=["a", "b", "c"]).eval()
    features = {"c4": torch.randn(2, 6, 4, 4), "c5": torch.randn(2, 2, 2, 3)}
    logits = head(features, torch.tensor([[64, 96]] * 2))
    assert torch.allclose(logits, features["c5"].mean((2, 3)) @ head.linear.weight.T + head.linear.bias, atol=1e-6)


def test_what_lies_beside_the_image_does_not_count():
    head = LinearClassification(SPECS, classes=["a", "b", "c"]).eval()
    x = torch.randn(2, 2, 4, 4)
    logits = head({"c5": x}, torch.tensor([[128, 60], [70, 128]]))  # a cell counts whose centre lies on the image
    means = torch.stack([x[0, :, :, :2].mean((1, 2)), x[1, :, :2].mean((1, 2))])
    assert torch.allclose(logits, means @ head.linear.weight.T + head.linear.bias, atol=1e-6)


def test_cross_entropy_by_hand():
    # Probabilities 1/2, 1/4, 1/4 in both images.
    head = head_of([[math.log(2.0), 0.0, 0.0]] * 2)
    assert loss_of(head, [[1.0, 0, 0], [0, 0, 1.0]]) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert loss_of(head, [[0.5, 0.5, 0], [0, 0, 1.0]]) == pytest.approx((1.5 * math.log(2) + math.log(4)) / 2)


def test_unknown_images_do_not_enter_the_mean():
    head = head_of([[math.log(2.0), 0.0, 0.0]] * 2)
    scores = [[1.0, 0, 0], [-1.0, -1, -1]]
    assert loss_of(head, scores, [True, False]) == pytest.approx(math.log(2))
    assert loss_of(head, scores, [True, False], totals={"class_scores": torch.tensor(4.0)}) == pytest.approx(
        math.log(2) / 4
    )


def test_smoothing_teaches_nothing_of_unknown_images():
    head = head_of([[math.log(2.0), 0.0, 0.0]] * 2, label_smoothing=0.3)
    assert loss_of(head, [[1.0, 0, 0], [-1.0, -1, -1]], [True, False]) == pytest.approx(
        0.8 * math.log(2) + 0.2 * math.log(4)
    )


def test_label_smoothing_by_hand():
    head = head_of([[math.log(2.0), 0.0, 0.0]], label_smoothing=0.3)
    # 0.8 on the class, 0.1 on each of the others.
    assert loss_of(head, [[1.0, 0, 0]]) == pytest.approx(0.8 * math.log(2) + 0.2 * math.log(4))


def test_several_labels_are_a_mean_over_the_classes_that_are_told():
    head = head_of([[0.0, math.log(3.0), 5.0]], multi_label=True)
    # sigmoid 1/2 and 3/4; the third class is not told.
    assert loss_of(head, [[1.0, 0.0, -1.0]]) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert loss_of(head, [[1.0, 1.0, -1.0]]) == pytest.approx((math.log(2) - math.log(0.75)) / 2)
    assert loss_of(head, [[-1.0, -1.0, -1.0]]) == 0


def test_decode_and_finish():
    sizes, geometries = torch.tensor([[32, 32]]), [Geometry((7, 9), (32, 32), (1.0, 1.0))]
    for multi_label, expected in ((False, [0.5, 0.25, 0.25]), (True, [2 / 3, 0.5, 0.5])):
        head = head_of([[math.log(2.0), 0.0, 0.0]], multi_label=multi_label)
        (found,) = head.finish(head.decode(torch.tensor([[math.log(2.0), 0.0, 0.0]]), sizes), geometries)
        assert found.scores.tolist() == pytest.approx(expected)
        assert found.to_coco(5, [10, 20, 30]) == [
            {"image_id": 5, "category_id": 10, "score": pytest.approx(expected[0])}
        ]


def test_the_loss_is_chosen_by_name_and_decides_how_scores_are_told():
    logits = [[math.log(2.0), 0.0, 0.0]]
    for name, scores in (
        ("focal", [0.5, 0.25, 0.25]), ("cross_entropy", [0.5, 0.25, 0.25]), ("binary_cross_entropy", [2 / 3, 0.5, 0.5]),
    ):  # fmt: skip
        head = head_of(logits, loss=name)
        assert dict(head.default_loss_weights) == {name: 1.0}
        assert head.decode(torch.tensor(logits), torch.tensor([[32, 32]]))["scores"][0].tolist() == pytest.approx(
            scores
        )
    # The right class has 1/2, and the power of what is wrong is the third: (1/2)³ log 2.
    assert loss_of(head_of(logits, loss="focal", focal_gamma=3.0), [[1.0, 0, 0]]) == pytest.approx(math.log(2) / 8)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "focla"}, "loss=focla: one of auto, .* is wanted"),
        ({"dropout": 1.5}, "dropout=1.5 must be from 0 to 1"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1 must be from 0 to 1"),
        ({"levels": ("c4", "c5")}, r"reads one level, not \['c4', 'c5'\]; there are c4, c5"),
    ],
)
def test_wrong_values_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        LinearClassification(SPECS, classes=["a"], **options)
