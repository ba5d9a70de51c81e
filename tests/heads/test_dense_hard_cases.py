"""Data that break detectors: the losses stay finite, memory stays bounded, and what is found stays sane."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from visionkit.heads import DenseDetection, DenseInstance
from visionkit.ops import boxes as box_ops
from visionkit.structures import FeatureSpec, Geometry, Targets

SIDE = 256
SPECS = {"p3": FeatureSpec(16, 8), "p4": FeatureSpec(16, 16), "p5": FeatureSpec(16, 32)}
PIXELS = {**SPECS, "pixels": FeatureSpec(16, 4)}


def features(count, *, maps=False):
    torch.manual_seed(0)
    specs = PIXELS if maps else SPECS
    made = {
        name: torch.randn(count, one.channels, SIDE // one.stride, SIDE // one.stride) for name, one in specs.items()
    }
    return {name: value.requires_grad_() for name, value in made.items()}


def targets(*images, **marks):
    """images: each a list of (x1, y1, x2, y2, label)."""
    most = max(map(len, images))
    boxes, labels = torch.zeros(len(images), most, 4), torch.full((len(images), most), -1)
    for i, rows in enumerate(images):
        if rows:
            table = torch.tensor(rows, dtype=torch.float32)
            boxes[i, : len(rows)], labels[i, : len(rows)] = table[:, :4], table[:, 4].long()
    return Targets(sizes=torch.tensor([[SIDE, SIDE]] * len(images)), boxes=boxes, labels=labels, **marks)


def trained(head, levels, wanted):
    """The losses, all finite, as are the gradients of every level."""
    head.train()
    losses = head.loss(levels, wanted)
    assert all(torch.isfinite(value) for value in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    return {name: float(value.detach()) for name, value in losses.items()}


def random_rows(count, classes, low, high, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, SIDE - high, (count, 2))
    size = rng.uniform(low, high, (count, 2))
    return np.column_stack([corner, corner + size, rng.integers(classes, size=count)]).tolist()


class Largest(TorchDispatchMode):
    """The largest tensor that any operation made, in bytes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor):
                self.bytes = max(self.bytes, one.numel() * one.element_size())
        return made


def test_two_thousand_objects_in_an_image_need_bounded_memory():
    head = DenseDetection(SPECS, classes=["a", "b"], one_to_one=True)
    anchors = sum((SIDE // one.stride) ** 2 for one in SPECS.values())
    with Largest() as seen:
        trained(head, features(1), targets(random_rows(2000, 2, 4, 20)))
    # Objects x anchors would be 2,000 x 1,344 float32 boxes: 43 MB.
    assert seen.bytes < 2000 * anchors * 4


@pytest.mark.parametrize("one_to_one", [False, True])
def test_ninety_percent_empty_images(one_to_one):
    head = DenseDetection(SPECS, classes=["a"], one_to_one=one_to_one)
    images = [[] for _ in range(9)] + [[(20, 20, 80, 90, 0)]]
    losses = trained(head, features(10), targets(*images))
    assert losses["box"] > 0
    alone = trained(DenseDetection(SPECS, classes=["a"]), features(10), targets(*[[] for _ in range(10)]))
    assert alone["box"] == alone["distribution"] == 0
    assert alone["classification"] > 0


@pytest.mark.parametrize("classes", [1, 1000])
def test_one_class_and_a_thousand(classes):
    head = DenseDetection(SPECS, classes=[str(i) for i in range(classes)], one_to_one=True)
    rows = random_rows(12, classes, 8, 60)
    trained(head, features(2), targets(rows, rows[:3]))
    head.eval()
    with torch.inference_mode():
        sizes = torch.tensor([[SIDE, SIDE]] * 2)
        found = head.decode(head(features(2), sizes), sizes)
    assert found["labels"].max() < classes
    assert (found["scores"].diff(dim=1) <= 0).all()
    assert len(head.finish(found, [Geometry((SIDE, SIDE), (SIDE, SIDE), (1.0, 1.0))] * 2)) == 2


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([(100.2, 100.2, 100.9, 100.9, 0)], id="smaller than a pixel"),
        pytest.param([(0, 0, SIDE, SIDE, 0)], id="the whole image"),
        pytest.param([(0, 10, SIDE, 11, 0), (7, 0, 8, SIDE, 0)], id="lines"),
        pytest.param([(30, 30, 90, 90, 0)] * 2, id="the same box twice"),
        pytest.param([(30, 30, 90, 90, 0), (30, 30, 90, 90, 1)], id="the same box in two classes"),
        pytest.param([(30, 30, 60, 60, 0), (60, 30, 90, 60, 0)], id="boxes that touch"),
        pytest.param([(0, 0, 4, 4, 0), (SIDE - 4, SIDE - 4, SIDE, SIDE, 1)], id="in the corners"),
    ],
)
@pytest.mark.parametrize("one_to_one", [False, True])
def test_every_place_is_learned(rows, one_to_one):
    head = DenseDetection(SPECS, classes=["a", "b"], one_to_one=one_to_one)
    levels, wanted = features(1), targets(rows)
    trained(head, levels, wanted)
    _, assignment = head.raw_losses(head.learned(levels), head.grids(levels), wanted)
    # Of equal boxes the first one's cells answer for all.
    answering = {rows[i][:4] for i in assignment.row.unique().tolist() if i >= 0}
    assert answering == {row[:4] for row in rows}


@pytest.mark.parametrize("nms", [True, False])
def test_two_classes_of_one_box_are_both_learned_and_found(nms):
    """Small and large: an object with fewer cells than it may have, and one with more."""
    rows = [(30, 30, 50, 50, 0), (30, 30, 50, 50, 1), (90, 80, 230, 220, 1), (90, 81, 230, 220, 2)]
    torch.manual_seed(0)
    head = DenseDetection(SPECS, classes=["a", "b", "c"], one_to_one=True, nms=nms, depth=1).train()
    levels, wanted, sizes = features(1), targets(rows), torch.tensor([[SIDE, SIDE]])
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        sum(head.loss(levels, wanted).values()).backward()
        optimizer.step()
    with torch.inference_mode():
        found = head.decode(head(levels, sizes), sizes)
    sure = found["scores"][0] > 0.5
    assert sorted(found["labels"][0][sure].tolist()) == [0, 1, 1, 2]
    boxes = found["boxes"][0][sure]
    for x1, y1, x2, y2, label in rows:
        same = boxes[found["labels"][0][sure] == label]
        assert box_ops.iou(same, torch.tensor([x1, y1, x2, y2])).max() > 0.8


def test_crowds_teach_nothing():
    rows = [(20.0, 20, 200, 200, 0), (40, 40, 80, 80, 0)]
    crowd = torch.tensor([[True, False]])
    head = DenseDetection(SPECS, classes=["a"], one_to_one=True)
    with_crowd = trained(head, features(1), targets(rows, crowd=crowd))
    head.zero_grad()
    without = trained(head, features(1), targets(rows[1:]))
    assert with_crowd["box"] == pytest.approx(without["box"], rel=1e-5)
    assert with_crowd["classification"] < without["classification"]  # the cells under the crowd are not counted


def test_masks_of_many_touching_and_tiny_objects():
    rows = random_rows(150, 2, 1, 40)
    masks = np.zeros((len(rows), SIDE, SIDE), bool)
    for mask, (x1, y1, x2, y2, _) in zip(masks, rows, strict=True):
        mask[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] = True
    packed = torch.from_numpy(np.packbits(masks.reshape(len(rows), -1), axis=1))
    packed = torch.cat([packed, torch.zeros(1, packed.shape[1], dtype=torch.uint8)])
    head = DenseInstance(PIXELS, classes=["a", "b"], one_to_one=True)
    wanted = targets(rows, masks=packed, mask_row=torch.arange(len(rows))[None])
    losses = trained(head, features(1, maps=True), wanted)
    assert losses["mask"] > 0


def test_without_suppression_the_second_tower_chooses():
    torch.manual_seed(0)
    one = DenseDetection(SPECS, classes=["a", "b"], one_to_one=True, nms=False, most=7)
    two = DenseDetection(SPECS, classes=["a", "b"], one_to_one=True)
    two.load_state_dict(one.state_dict())
    levels, sizes = features(1), torch.tensor([[SIDE, SIDE]])
    with torch.inference_mode():
        raw, other = one.eval()(levels, sizes), two.eval()(levels, sizes)
        learned = one.learned(levels)
        found = one.decode(raw, sizes)
    assert torch.equal(raw["logits"], learned["single_logits"])
    assert torch.equal(other["logits"], learned["logits"])
    assert not torch.equal(raw["logits"], other["logits"])
    # The seven best scores of all, though they overlap.
    best = raw["logits"].sigmoid().flatten().sort(descending=True).values[:7]
    torch.testing.assert_close(found["scores"][0], best)
    assert found["valid"].all()


def test_the_second_tower_takes_one_cell_an_object_and_leaves_the_features_alone():
    head = DenseDetection(SPECS, classes=["a"], one_to_one=True).train()
    levels = features(1)
    losses = head.loss(levels, targets([(20, 20, 80, 90, 0), (120, 130, 220, 200, 0)]))
    losses["one_to_one"].backward()
    assert all(value.grad is None for value in levels.values())
    assert head.single_score.weight.grad.abs().sum() > 0
    wanted = targets([(20, 20, 80, 90, 0), (120, 130, 220, 200, 0)])
    raw = head.learned(levels)
    boxes = torch.zeros_like(raw["distances"][..., :4])
    row = head.single_assigner(
        head.grids(levels), raw["single_logits"].detach(), boxes, wanted.boxes, wanted.labels, wanted.positive_rows()
    ).row
    assert sorted(row[row >= 0].tolist()) == [0, 1]


def test_suppression_or_a_second_tower():
    with pytest.raises(Exception, match="nms=false chooses by scores that only one_to_one=true learns"):
        DenseDetection(SPECS, classes=["a"], nms=False)


def test_a_level_of_stride_four_finds_what_is_smallest():
    """An object of 5 pixels has one cell of stride 8 at most whose centre it holds, and several of stride 4."""
    specs = {"p2": FeatureSpec(16, 4), **SPECS}
    head = DenseDetection(specs, classes=["a"], levels=tuple(specs))
    levels = {"p2": torch.randn(1, 16, SIDE // 4, SIDE // 4), **features(1)}
    wanted = targets([(101, 101, 110, 110, 0)])
    trained(head, levels, wanted)
    _, assignment = head.raw_losses(head.learned(levels), head.grids(levels), wanted)
    finest = assignment.row[:, : (SIDE // 4) ** 2]
    assert (finest >= 0).sum() >= 2
