"""Cross-entropy and dice of pixels against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from visionkit.ops.resample import original_classes
from visionkit.ops.segmentation_losses import enlarged, segmentation_losses
from visionkit.structures import Geometry

LOG2 = math.log(2)


def losses(probabilities, labels, **options):
    """Probabilities (W, C) and labels (W,) of one row of pixels -> (cross-entropy, dice) as numbers."""
    logits = torch.tensor(probabilities).log().T[None, :, None]
    cross_entropy, dice = segmentation_losses(logits, torch.tensor(labels)[None, None], stride=1, **options)
    return float(cross_entropy), float(dice)


PIXELS = [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5], [0.125, 0.125, 0.75]]


def test_sums_over_the_labelled_pixels_by_hand():
    cross_entropy, dice = losses(PIXELS, [0, 0, 255, 2])
    assert cross_entropy == pytest.approx(LOG2 + 2 * LOG2 - math.log(0.75))
    # Class 0: overlap 0.75, predicted 0.875, true 2. Class 2: overlap 0.75, predicted 1.25, true 1. Class 1: not shown.
    wanted = ((1 - 2.5 / 3.875) + (1 - 2.5 / 3.25)) / 2
    assert dice == pytest.approx(3 * wanted)


def test_nothing_labelled_is_zero_with_a_gradient_path():
    logits = torch.randn(2, 3, 2, 2, requires_grad=True)
    labels = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    for hardest in (1.0, 0.5):
        cross_entropy, dice = segmentation_losses(logits, labels, stride=4, hardest=hardest)
        assert cross_entropy.tolist() == dice.tolist() == [0, 0]
        (gradient,) = torch.autograd.grad((cross_entropy + dice).sum(), logits)
        assert not gradient.any()


def test_unlabelled_pixels_give_no_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.randint(0, 3, (1, 4, 4))
    labels[0, 1] = 255
    cross_entropy, dice = segmentation_losses(logits, labels, stride=1)
    (gradient,) = torch.autograd.grad((cross_entropy + dice).sum(), logits)
    assert not gradient[:, :, 1].any()
    assert gradient[:, :, 0].all()


def test_the_hardest_share_by_hand():
    labels = [0, 0, 255, 0]  # losses: log 2, 2 log 2, none, 3 log 2
    assert losses(PIXELS, labels, hardest=1 / 3)[0] == pytest.approx(3 * 3 * LOG2)
    assert losses(PIXELS, labels, hardest=0.5)[0] == pytest.approx(2 * (3 + 2) * LOG2)  # ceil(1.5) pixels
    assert losses(PIXELS, labels, hardest=1.0)[0] == pytest.approx(6 * LOG2)


def test_class_weights_by_hand():
    weights = torch.tensor([0.5, 1.0, 3.0])
    cross_entropy, dice = losses(PIXELS, [0, 1, 2, 255], class_weights=weights)
    assert cross_entropy == pytest.approx(4.5 * LOG2)
    assert dice == losses(PIXELS, [0, 1, 2, 255])[1]


@pytest.mark.parametrize("hardest", [1.0, 0.4])
def test_groups_of_images_are_the_same_as_all_at_once(hardest):
    logits = torch.randn(5, 4, 6, 5, requires_grad=True)
    labels = torch.randint(0, 5, (5, 23, 18), dtype=torch.uint8)
    results = []
    for most_bytes in (1 << 30, 2 * 4 * 4 * 23 * 18, 1):
        cross_entropy, dice = segmentation_losses(logits, labels, stride=4, hardest=hardest, most_bytes=most_bytes)
        (gradient,) = torch.autograd.grad((cross_entropy * torch.arange(5) + dice).sum(), logits)
        results.append((cross_entropy.detach(), dice.detach(), gradient))
    for other in results[1:]:
        assert all(torch.allclose(one, two, rtol=1e-4, atol=1e-5) for one, two in zip(results[0], other, strict=True))


def test_training_enlarges_as_prediction_does():
    logits = torch.randn(1, 6, 8, 13)
    size = (30, 50)  # no multiple of the stride
    trained = enlarged(logits, 4, size)
    predicted, scores = original_classes(logits, [Geometry(size, size, (1.0, 1.0))], 4, keep_scores=True)[0]
    assert trained.shape == (1, 6, *size)
    assert (trained[0].argmax(0).numpy() == predicted).mean() > 0.999
    assert torch.allclose(trained[0].softmax(0), torch.from_numpy(scores).float(), atol=2e-3)


def test_groups_are_one_graph_without_choices_by_value():
    def run(logits, labels):
        return segmentation_losses(logits, labels, stride=4, hardest=0.5, most_bytes=1)

    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 4, (2, 16, 16), dtype=torch.uint8)
    compiled = torch.compile(run, backend="eager", fullgraph=True)
    assert all(torch.equal(one, two) for one, two in zip(compiled(logits, labels), run(logits, labels), strict=True))


@pytest.mark.parametrize("every", [2, 3])
def test_the_pixels_looked_at_stand_for_all_of_them(every):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 5, generator=generator)
    labels = torch.randint(0, 3, (2, 24, 20), generator=generator)
    parts = [
        segmentation_losses(logits, labels, stride=4, every=every, first=(row, column))[0]
        for row in range(every)
        for column in range(every)
    ]
    whole, _ = segmentation_losses(logits, labels, stride=4)
    # Each pixel is in exactly one of the parts, where it lies as in the whole.
    torch.testing.assert_close(torch.stack(parts).mean(0), whole, rtol=1e-4, atol=1e-4)


def test_the_dice_of_every_second_pixel_is_near_that_of_all():
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 0, 1], [0, 1, 1]]), 2).permute(2, 0, 1)[None] * 4.0
    labels = torch.tensor([[0, 0, 1], [0, 0, 1]]).repeat_interleave(8, 0).repeat_interleave(8, 1)[None]
    (_, whole), (_, some) = (segmentation_losses(logits, labels, stride=8, every=every) for every in (1, 2))
    assert float(some) == pytest.approx(float(whole), rel=0.2)
