"""The losses by name, against torch's own functions and numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from visionkit.errors import ConfigError
from visionkit.heads.class_loss import ClassLoss
from visionkit.structures import Targets


def loss_of(name, logits, scores, *, known=None, multi_label=False, label_smoothing=0.0, gamma=2.0, key=None):
    known = torch.ones(len(scores), dtype=torch.bool) if known is None else torch.tensor(known)
    targets = Targets(sizes=torch.full((len(scores), 2), 8), known={"class_scores": known}, class_scores=scores)
    loss = ClassLoss(name, multi_label=multi_label, label_smoothing=label_smoothing, gamma=gamma)
    values = loss(logits, targets)
    assert list(values) == [key or loss.name]
    return values[loss.name]


@pytest.fixture
def batch():
    torch.manual_seed(0)
    labels = torch.tensor([0, 2, 1, 4])
    return torch.randn(4, 5, requires_grad=True), labels, torch.eye(5)[labels]


def test_cross_entropy_is_torchs_own(batch):
    logits, labels, one_hot = batch
    for smoothing in (0.0, 0.2):
        expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        for name in ("auto", "cross_entropy"):
            found = loss_of(name, logits, one_hot, label_smoothing=smoothing, key="cross_entropy")
            assert torch.allclose(found, expected)


def test_binary_cross_entropy_is_torchs_own(batch):
    logits, _, one_hot = batch
    expected = F.binary_cross_entropy_with_logits(logits, one_hot)
    assert torch.allclose(loss_of("binary_cross_entropy", logits, one_hot), expected)
    assert torch.allclose(loss_of("auto", logits, one_hot, multi_label=True, key="binary_cross_entropy"), expected)
    # One of 5 classes: 0.8 + 0.2 / 5 and 0.2 / 5.
    smoothed = loss_of("binary_cross_entropy", logits, one_hot, label_smoothing=0.2)
    assert torch.allclose(smoothed, F.binary_cross_entropy_with_logits(logits, one_hot * 0.8 + 0.04))


def test_focal_is_torchvisions_own_with_several_labels(batch):
    from torchvision.ops import sigmoid_focal_loss

    logits, _, one_hot = batch
    for gamma in (1.0, 2.0, 3.5):
        expected = sigmoid_focal_loss(logits, one_hot, alpha=-1, gamma=gamma, reduction="mean")
        assert torch.allclose(loss_of("focal", logits, one_hot, multi_label=True, gamma=gamma), expected)


def test_focal_of_classes_that_exclude_each_other(batch):
    logits, labels, one_hot = batch
    each = F.cross_entropy(logits, labels, reduction="none")
    right = logits.softmax(1)[range(4), labels]
    assert torch.allclose(loss_of("focal", logits, one_hot, gamma=2.0), ((1 - right) ** 2 * each).mean())
    assert torch.allclose(loss_of("focal", logits, one_hot, gamma=0), F.cross_entropy(logits, labels))
    # p = 1/2: (1 − 1/2)² log 2.
    half = loss_of("focal", torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    assert float(half) == pytest.approx(0.25 * math.log(2))


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "binary_cross_entropy"])
@pytest.mark.parametrize("gamma", [0, 1.0, 2.0])
def test_certain_answers_and_unknown_images_have_finite_gradients(name, gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0], [3.0, 1.0]], requires_grad=True)
    scores = torch.tensor([[1.0, 0], [1, 0], [float("nan"), -1]])
    loss = loss_of(name, logits, scores, known=[True, True, False], gamma=gamma)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert not logits.grad[2].any()


def test_only_images_that_know_their_class_count(batch):
    logits, _, one_hot = batch
    found = loss_of("focal", logits, one_hot, known=[True, False, True, False])
    assert torch.allclose(found, loss_of("focal", logits[::2], one_hot[::2]))


def test_classes_that_are_not_told_are_left_out_of_the_mean():
    logits, scores = torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([[1.0, 0.0, -1.0]])
    for name, expected in (("binary_cross_entropy", math.log(2)), ("focal", 0.25 * math.log(2))):
        assert float(loss_of(name, logits, scores, multi_label=True)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("crossentropy", {}, "loss=crossentropy: one of auto, cross_entropy, focal, binary_cross_entropy is wanted "
         "(did you mean 'cross_entropy'?)"),
        ("cross_entropy", {"multi_label": True}, "loss=cross_entropy: it takes one class an image, and multi_label="
         "true gives it several; use loss=binary_cross_entropy or loss=focal"),
        ("auto", {"label_smoothing": -0.1}, "label_smoothing=-0.1 must be from 0 to 1"),
        ("focal", {"gamma": 0.5}, "focal_gamma=0.5 must be 0, or 1 or more"),
        ("focal", {"gamma": float("nan")}, "focal_gamma=nan must be 0, or 1 or more"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(name, options, said):
    with pytest.raises(ConfigError) as caught:
        ClassLoss(name, **({"multi_label": False, "label_smoothing": 0.0, "gamma": 2.0} | options))
    assert str(caught.value) == said
