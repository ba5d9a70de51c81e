"""Box functions against numbers worked by hand and against torchvision."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import torchvision
from torch.utils._python_dispatch import TorchDispatchMode

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


# ---------------------------------------------------------------------------------------------------- suppression
BOTH = pytest.mark.parametrize("suppress", [box_ops.suppressed_in_turn, box_ops.suppressed_together])


def one_by_one(boxes, labels, candidates, threshold):
    """What greedy suppression is, box by box in float64, for one image."""
    kept = []
    for row in np.flatnonzero(candidates.numpy()).tolist():
        better = [other for other in kept if labels[other] == labels[row]]
        overlaps = box_ops.iou(boxes[row].double(), boxes[better].double())
        if not (overlaps > threshold).any():
            kept.append(row)
    return kept


def crowded(images, rows, seed=4, classes=4):
    """Boxes (B, K, 4) with duplicates, on a coarse grid, so that many overlaps are alike; labels and candidates."""
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(images * rows, seed).view(images, rows, 4)
    boxes[:, ::3] = boxes[:, ::3].round()
    boxes[:, 1::7] = boxes[:, :1]
    labels = torch.randint(0, classes, (images, rows), generator=generator)
    return boxes, labels, torch.rand(images, rows, generator=generator) < 0.9


@BOTH
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_suppression_is_greedy_within_each_class_of_each_image(suppress, threshold):
    boxes, labels, candidates = crowded(3, 150)
    keep = suppress(boxes, labels, candidates, threshold)
    assert keep.dtype == torch.bool
    for i in range(3):
        assert keep[i].nonzero()[:, 0].tolist() == one_by_one(boxes[i], labels[i], candidates[i], threshold)


@pytest.mark.parametrize("seed", range(6))
def test_both_ways_to_suppress_keep_the_same_boxes_as_torchvision(seed):
    boxes, labels, candidates = crowded(4, 400, seed, classes=1 + 3 * seed)
    boxes = boxes * (0.1, 1.0, 6.4)[seed % 3]
    threshold = (0.3, 0.5, 0.7)[seed % 3]
    together = box_ops.suppressed_together(boxes, labels, candidates, threshold)
    assert torch.equal(together, box_ops.suppressed_in_turn(boxes, labels, candidates, threshold))
    assert torch.equal(together, box_ops.non_maximum_suppression(boxes, labels, candidates, threshold))
    for i in range(4):
        rows = candidates[i].nonzero()[:, 0]
        falling = torch.arange(len(rows), 0, -1.0)
        kept = torchvision.ops.batched_nms(boxes[i][rows].double(), falling.double(), labels[i][rows], threshold)
        assert together[i].nonzero()[:, 0].tolist() == rows[kept].tolist()
        assert 20 < len(kept) < len(rows)


@BOTH
@pytest.mark.parametrize("length", [2, 3, 9, 10, 64])
def test_of_a_chain_of_overlaps_every_other_box_stays(suppress, length):
    # Each box overlaps its neighbours alone, so what is kept is settled one box after the other.
    x = torch.arange(length) * 4.0
    boxes = torch.stack([x, torch.zeros(length), x + 10, torch.full((length,), 10.0)], -1)[None]
    labels, every = torch.zeros(1, length, dtype=torch.long), torch.ones(1, length, dtype=torch.bool)
    assert suppress(boxes, labels, every, 0.4).nonzero()[:, 1].tolist() == list(range(0, length, 2))
    # Without the first one the others take its place.
    every[0, 0] = False
    assert suppress(boxes, labels, every, 0.4).nonzero()[:, 1].tolist() == list(range(1, length, 2))


@BOTH
def test_duplicates_empty_boxes_and_overlaps_of_just_the_threshold(suppress):
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 5], [3, 3, 3, 9], [3, 3, 3, 9], [0, 0, 0, 0]]])
    every = torch.ones(1, 6, dtype=torch.bool)
    alike = torch.zeros(1, 6, dtype=torch.long)
    assert suppress(boxes, alike, every, 0.5).tolist() == [[True, False, True, True, True, True]]
    assert suppress(boxes, alike, every, 0.4999).tolist() == [[True, False, False, True, True, True]]
    assert suppress(boxes, torch.arange(6)[None], every, 0.1).all()
    assert not suppress(boxes, alike, ~every, 0.5).any()
    for shape in ((2, 0), (0, 3), (0, 0)):
        nothing = torch.zeros(shape, dtype=torch.long)
        assert suppress(torch.zeros(*shape, 4), nothing, nothing.bool(), 0.5).shape == shape


@BOTH
def test_the_number_of_a_class_does_not_change_what_is_suppressed(suppress):
    # IoU 0.5 + 6e-5 against a threshold of 0.5: shifting by a large class number in float32 would round it away.
    boxes = torch.tensor([[[0.1, 0.1, 20.1, 10.1], [0.1, 0.1, 10.1012, 10.1]]])
    every = torch.ones(1, 2, dtype=torch.bool)
    for label in (0, 79, 999, 100_000):
        assert suppress(boxes, torch.full((1, 2), label), every, 0.5).tolist() == [[True, False]]


@BOTH
def test_of_the_kept_boxes_the_best_are_given(suppress):
    boxes, labels, candidates = crowded(3, 1200, classes=30)
    candidates[1] = False
    candidates[2, 600:] = False
    every = suppress(boxes, labels, candidates, 0.5)
    assert torch.equal(every, box_ops.suppressed_in_turn(boxes, labels, candidates, 0.5))
    assert every.sum(1)[0] > 512  # so that blocks after the first one matter
    for most in (1, 60, 512, 513, 700, 5000):
        assert torch.equal(suppress(boxes, labels, candidates, 0.5, most), every & (every.cumsum(1) <= most))


@pytest.mark.parametrize("length", [511, 512, 513, 700, 1025])
def test_a_chain_runs_through_the_blocks(length):
    x = torch.arange(length) * 4.0
    boxes = torch.stack([x, torch.zeros(length), x + 10, torch.full((length,), 10.0)], -1)[None]
    labels, every = torch.zeros(1, length, dtype=torch.long), torch.ones(1, length, dtype=torch.bool)
    keep = box_ops.suppressed_together(boxes, labels, every, 0.4)
    assert keep.nonzero()[:, 1].tolist() == list(range(0, length, 2))


def test_overlaps_are_made_within_the_bytes_allowed(monkeypatch):
    boxes, labels, candidates = crowded(5, 40)
    whole = box_ops.suppressed_together(boxes, labels, candidates, 0.5)
    sizes, original = [], box_ops._settled
    monkeypatch.setattr(box_ops, "_settled", lambda part, *args: sizes.append(len(part)) or original(part, *args))
    for most_bytes, expected in ((1, [1] * 5), (2 * 8 * 40 * 40, [2, 2, 1]), (1 << 30, [5])):
        sizes.clear()
        assert torch.equal(box_ops.suppressed_together(boxes, labels, candidates, 0.5, most_bytes=most_bytes), whole)
        assert sizes == expected


class _Waits(TorchDispatchMode):
    """Counts the operations that make the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += any(part in str(func) for part in ("aten.equal", "_local_scalar_dense", "nonzero"))
        return func(*args, **(kwargs or {}))


def test_all_images_together_are_waited_for_once_a_block():
    boxes, labels, candidates = crowded(4, 800, classes=50)
    for most, waits in ((100, 1), (600, 2), (None, 2)):
        with _Waits() as watch:
            box_ops.suppressed_together(boxes, labels, candidates, 0.9, most)
        assert watch.count == waits


CASES = [  # images, boxes, classes, most
    (3, 50, 4, None), (2, 300, 2, 40), (4, 7, 1, 3), (1, 1, 1, None), (2, 130, 50, 1000),
]  # fmt: skip


def said_by_the_kernel(device):
    """Of `CASES`, what the kernel for CUDA devices keeps; to be called in a process of its own on a CPU."""
    from visionkit.ops.suppression_kernel import suppressed

    kept = []
    for number, (images, rows, classes, most) in enumerate(CASES):
        boxes, labels, candidates = (part.to(device) for part in crowded(images, rows, number, classes))
        if number % 2:  # memory in another order
            boxes, labels, candidates = (
                part.transpose(0, 1).contiguous().transpose(0, 1) for part in (boxes, labels, candidates)
            )
        kept += [suppressed(boxes, labels, candidates, threshold, most).cpu() for threshold in (0.0, 0.3, 0.7, 1.0)]
    return kept


def wanted_of_the_kernel():
    for number, (images, rows, classes, most) in enumerate(CASES):
        for threshold in (0.0, 0.3, 0.7, 1.0):
            yield box_ops.suppressed_in_turn(*crowded(images, rows, number, classes), threshold, most)


def test_the_kernel_keeps_the_same_boxes_when_it_is_interpreted(tmp_path):
    """Triton's interpreter runs it without a GPU, if the variable is set before Triton is imported."""
    pytest.importorskip("triton")
    program = (
        "import contextlib, torch; from tests.ops.test_boxes import said_by_the_kernel\n"
        "torch.cuda.device = lambda device: contextlib.nullcontext()\n"
        f"torch.save(said_by_the_kernel('cpu'), {str(tmp_path / 'kept.pt')!r})"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for found, wanted in zip(torch.load(tmp_path / "kept.pt"), wanted_of_the_kernel(), strict=True):
        assert torch.equal(found, wanted)


def test_the_kernel_compiles_for_a_gpu_that_is_not_there(tmp_path, monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from visionkit.ops.suppression_kernel import _suppress

    given = ("*fp32", "*i64", "*u8", "*u8", "*fp64", "i32", "i32", "constexpr")
    source = ASTSource(_suppress, dict(zip(_suppress.arg_names, given, strict=True)), {(7,): 1024})
    with warnings.catch_warnings(action="ignore"):
        made = triton.compile(source, GPUTarget("cuda", 90, 32), {"num_warps": 8, "enable_fp_fusion": False})
    assert ".target sm_90" in made.asm["ptx"]
    assert ".f64" in made.asm["ptx"]


@pytest.mark.gpu
def test_the_kernel_keeps_the_same_boxes_on_a_gpu_and_nobody_waits():
    assert box_ops._kernel(torch.device("cuda", 0)) is not None
    for found, wanted in zip(said_by_the_kernel("cuda"), wanted_of_the_kernel(), strict=True):
        assert torch.equal(found, wanted)
    boxes, labels, candidates = (part.cuda() for part in crowded(32, 1000))
    wanted = box_ops.suppressed_together(boxes, labels, candidates, 0.7, 300)
    box_ops.non_maximum_suppression(boxes, labels, candidates, 0.7, 300)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = box_ops.non_maximum_suppression(boxes, labels, candidates, 0.7, 300)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, wanted)


@pytest.mark.gpu
def test_where_triton_does_not_work_operators_take_its_place(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("visionkit"), "propagate", True)
    monkeypatch.setitem(sys.modules, "visionkit.ops.suppression_kernel", None)
    box_ops._kernel.cache_clear()
    given = crowded(2, 30)
    try:
        with caplog.at_level("INFO", "visionkit"):
            keep = box_ops.non_maximum_suppression(*(part.cuda() for part in given), 0.5)
    finally:
        box_ops._kernel.cache_clear()
    assert "Triton does not work here (ModuleNotFoundError" in caplog.text
    assert torch.equal(keep.cpu(), box_ops.suppressed_in_turn(*given, 0.5))
