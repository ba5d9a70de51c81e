"""Losses against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from visionkit.ops.losses import distribution_focal, quality_focal


def test_quality_focal_by_hand():
    # sigmoid(0) = 0.5: BCE is ln 2 whatever the target, and |quality − 0.5|^2 turns it down.
    quality = torch.tensor([0.0, 0.5, 0.8, 1.0])
    loss = quality_focal(torch.zeros(4), quality, gamma=2.0)
    assert torch.allclose(loss, math.log(2) * torch.tensor([0.25, 0.0, 0.09, 0.25]))
    # sigmoid(ln 3) = 0.75 against 1: −ln(0.75) * 0.25^1.
    loss = quality_focal(torch.tensor([math.log(3.0)]), torch.ones(1), gamma=1.0)
    assert float(loss) == pytest.approx(-math.log(0.75) * 0.25)


def test_quality_focal_without_gamma_is_cross_entropy():
    logits, quality = torch.randn(50) * 5, torch.rand(50)
    expected = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    assert torch.equal(quality_focal(logits, quality, gamma=0), expected)


def test_quality_focal_gradient():
    logits = (torch.randn(30, dtype=torch.float64) * 3).requires_grad_()
    quality = torch.rand(30, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: quality_focal(x, quality), logits)


def test_quality_focal_is_finite_at_the_ends():
    logits = torch.tensor([-1e4, 1e4, -1e4, 1e4], requires_grad=True)
    loss = quality_focal(logits, torch.tensor([0.0, 0.0, 1.0, 1.0]))
    loss.sum().backward()
    assert torch.allclose(loss.detach(), torch.tensor([0.0, 1e4, 1e4, 0.0]))
    assert logits.grad.isfinite().all()


def test_distribution_focal_by_hand():
    # Probabilities 1/2, 1/4, 1/4.
    logits = torch.tensor([0.5, 0.25, 0.25]).log().expand(5, 3)
    loss = distribution_focal(logits, torch.tensor([0.0, 1.0, 0.5, 0.25, 1.5]))
    one, two = math.log(2), math.log(4)
    expected = [one, two, (one + two) / 2, 0.75 * one + 0.25 * two, two]
    assert torch.allclose(loss, torch.tensor(expected), atol=1e-6)


def test_distribution_focal_outside_counts_as_the_nearest_end():
    logits = torch.randn(4)
    below, above, far = (float(distribution_focal(logits, torch.tensor(value))) for value in (-3.0, 3.0, 1e4))
    log_probabilities = F.log_softmax(logits, 0)
    assert below == pytest.approx(-float(log_probabilities[0]), abs=1e-6)
    assert far == above == pytest.approx(-float(log_probabilities[3]), abs=0.01)


def test_distribution_focal_gradient_pulls_the_expectation_to_the_value():
    logits = torch.zeros(1, 8, requires_grad=True)
    for _ in range(300):
        (gradient,) = torch.autograd.grad(distribution_focal(logits, torch.tensor([4.3])).sum(), logits)
        logits = (logits - gradient * 2).detach().requires_grad_()
    assert float((logits.detach().softmax(-1) * torch.arange(8)).sum()) == pytest.approx(4.3, abs=0.1)


def test_losses_give_values_per_element():
    assert quality_focal(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)).shape == (2, 3, 4)
    assert distribution_focal(torch.zeros(2, 3, 4, 16), torch.zeros(2, 3, 4)).shape == (2, 3, 4)


def test_a_distance_that_is_no_number_gives_a_loss_that_is_none_and_no_error():
    loss = distribution_focal(torch.zeros(2, 8), torch.tensor([float("nan"), 3.0]))
    assert loss[0].isnan()
    assert loss[1] == pytest.approx(math.log(8))
