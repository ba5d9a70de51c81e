"""Box functions against numbers worked by hand and against torchvision."""

from __future__ import annotations

import pytest
import torch
import torchvision

from visionkit.ops import boxes as box_ops


def random_boxes(count, seed, size=200.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * size
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * size / 2], 1)


def test_area_by_hand():
    boxes = torch.tensor([[0.0, 0, 4, 3], [1, 1, 1, 5], [5, 5, 2, 9]])
    assert box_ops.area(boxes).tolist() == [12, 0, 0]


def test_iou_by_hand():
    first = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4], [2, 2, 2, 2]])
    second = torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4], [4, 0, 8, 4], [2, 2, 2, 2]])
    assert torch.allclose(box_ops.iou(first, second), torch.tensor([1, 8 / 24, 0, 0]))


def test_iou_equals_torchvision_and_broadcasts():
    first, second = random_boxes(40, 0), random_boxes(30, 1)
    expected = torchvision.ops.box_iou(first, second)
    assert torch.allclose(box_ops.iou(first[:, None], second[None]), expected, atol=1e-6)


def test_generalised_iou_by_hand():
    box = torch.tensor([0.0, 0.0, 10.0, 10.0])
    assert float(box_ops.generalised_iou(box, box)) == 1.0
    # IoU 50 / 150; the hull of 150 is covered.
    assert float(box_ops.generalised_iou(box, torch.tensor([5.0, 0.0, 15.0, 10.0]))) == pytest.approx(1 / 3)
    # IoU 0; the hull of 30 x 10 is covered by 200 of 300.
    assert float(box_ops.generalised_iou(box, torch.tensor([20.0, 0.0, 30.0, 10.0]))) == pytest.approx(-1 / 3)


def test_generalised_iou_equals_torchvision_and_stays_finite_with_its_gradient():
    first, second = random_boxes(50, 0), random_boxes(50, 1)
    expected = torchvision.ops.generalized_box_iou(first, second).diagonal()
    assert torch.allclose(box_ops.generalised_iou(first, second), expected, atol=1e-6)
    odd = torch.tensor([[5.0, 5, 5, 5], [9, 9, 2, 2], [-1e4, 0, 1e4, 0]], requires_grad=True)
    values = box_ops.generalised_iou(odd, torch.tensor([[5.0, 5, 5, 5], [0, 0, 1, 1], [0, 0, 1, 1]]))
    values.sum().backward()
    assert (values.abs() <= 1).all() and odd.grad.isfinite().all()


def test_complete_iou_by_hand():
    # Two 2 x 2 boxes side by side: IoU 0, centres 2 apart, the hull 4 x 2: 0 − 4 / 20, and no aspect penalty.
    value = box_ops.complete_iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor([2.0, 0, 4, 2]))
    assert float(value) == pytest.approx(-0.2, abs=1e-6)
    assert float(box_ops.complete_iou(torch.tensor([1.0, 2, 5, 9]), torch.tensor([1.0, 2, 5, 9]))) == pytest.approx(1)


def test_complete_iou_equals_torchvision_with_its_gradient():
    ours, theirs = (random_boxes(200, 2).requires_grad_() for _ in range(2))
    goal = random_boxes(200, 3)
    loss = (1 - box_ops.complete_iou(ours, goal)).sum()
    reference = torchvision.ops.complete_box_iou_loss(theirs, goal, reduction="sum")
    assert torch.allclose(loss, reference, rtol=1e-4)
    loss.backward()
    reference.backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-4)


@pytest.mark.parametrize("box", [[3.0, 3, 3, 3], [-1e4, -1e4, 1e4, 1e4], [5.0, 5, 2, 2], [1e4, 1e4, 1e4, 1e4]])
def test_complete_iou_stays_finite_with_its_gradient(box):
    first = torch.tensor(box).requires_grad_()
    for second in ([3.0, 3, 3, 3], [0.0, 0, 8, 8]):
        value = box_ops.complete_iou(first, torch.tensor(second))
        (gradient,) = torch.autograd.grad(value, first)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_complete_iou_is_within_its_range():
    values = box_ops.complete_iou(random_boxes(500, 6, 1000.0), random_boxes(500, 7, 10.0))
    assert values.min() > -1.5
    assert values.max() <= 1
    assert box_ops.complete_iou(torch.tensor([0.0, 0, 1, 1000]), torch.tensor([9e5, 0, 9.1e5, 1])) < -1.2


def test_distances_and_boxes_are_inverse():
    points = torch.tensor([[10.0, 20.0], [4.0, 4.0]])
    boxes = torch.tensor([[7.0, 18, 15, 29], [5, 1, 9, 8]])
    distances = box_ops.boxes_to_distances(points, boxes)
    assert distances.tolist() == [[3, 2, 5, 9], [-1, 3, 5, 4]]
    assert torch.equal(box_ops.distances_to_boxes(points, distances), boxes)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression_equals_torchvision(threshold):
    boxes = random_boxes(300, 4)
    generator = torch.Generator().manual_seed(5)
    scores, labels = torch.rand(300, generator=generator), torch.randint(0, 4, (300,), generator=generator)
    kept = box_ops.non_maximum_suppression(boxes, scores, labels, threshold)
    assert torch.equal(kept, torchvision.ops.batched_nms(boxes, scores, labels, threshold))
    assert 20 < len(kept) < 300


def test_suppression_is_per_class_best_first_and_takes_no_box():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]])
    scores = torch.tensor([0.5, 0.9, 0.7])
    kept = box_ops.non_maximum_suppression(boxes, scores, torch.tensor([0, 0, 1]), 0.5)
    assert kept.tolist() == [1, 2]
    empty = box_ops.non_maximum_suppression(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.5)
    assert empty.shape == (0,)
    assert empty.dtype == torch.int64


def test_the_number_of_a_class_does_not_change_what_is_suppressed():
    # IoU 0.5 + 6e-5 against a threshold of 0.5: shifting by a large class number in float32 would round it away.
    boxes = torch.tensor([[0.1, 0.1, 20.1, 10.1], [0.1, 0.1, 10.1012, 10.1]])
    scores = torch.tensor([0.9, 0.8])
    for label in (0, 79, 999, 100_000):
        assert box_ops.non_maximum_suppression(boxes, scores, torch.full((2,), label), 0.5).tolist() == [0]
