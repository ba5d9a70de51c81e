"""The localization head against boxes and losses worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from visionkit.errors import ConfigError
from visionkit.heads import ObjectLocalization
from visionkit.structures import FeatureSpec, Geometry, Targets

SPECS = {"c4": FeatureSpec(6, 16), "c5": FeatureSpec(8, 32)}
CLASSES = ("a", "b", "c")


def plain_head(**options) -> ObjectLocalization:
    """A head whose tower hands on what it reads: channels 0 to 3 attend to the edges, 4 to 7 tell their offsets."""
    head = ObjectLocalization(SPECS, classes=CLASSES, depth=0, dropout=0.0, **options).eval()
    head.enter = torch.nn.ModuleList([torch.nn.Identity()])
    with torch.no_grad():
        head.edge_attention.weight.copy_(torch.eye(4, 8)[..., None, None])
        head.offset.weight.copy_(torch.eye(8)[4:, :, None, None])
        head.offset.bias.zero_()
    return head


def head_of(logits, boxes, **options) -> ObjectLocalization:
    """A head that says these (B, C) logits and (B, K, 4) boxes, whatever it sees."""
    head = ObjectLocalization(SPECS, classes=CLASSES, **options)
    said = {"logits": torch.tensor(logits, requires_grad=True), "boxes": torch.tensor(boxes, requires_grad=True)}
    head.forward = lambda features, sizes: said
    return head


def losses_of(head, labels, boxes, known=None, box_known=None, size=(100, 200), **options):
    count = len(labels)
    every = [True] * count
    known = {"class_scores": torch.tensor(known or every), "box": torch.tensor(box_known or every)}
    scores = torch.eye(3)[torch.tensor(labels)]
    targets = Targets(
        sizes=torch.tensor([size] * count), known=known, class_scores=scores, box=torch.tensor(boxes), **options
    )
    return {name: float(value.detach()) for name, value in head.loss({}, targets).items()}


# ----------------------------------------------------------------------------------------------------------- the box
def test_an_edge_is_where_its_attention_is_plus_what_is_said_there():
    head, x = plain_head(), torch.zeros(1, 8, 4, 4)
    for edge, (row, column) in enumerate([(1, 0), (0, 2), (2, 3), (3, 1)]):
        x[0, edge, row, column] = 100.0
        x[0, 4 + edge, row, column] = 0.25 * (edge + 1)
    box = head({"c5": x}, torch.tensor([[128, 128]]))["boxes"][0, 0]
    # Centres at 16, 48, 80, 112; offsets in strides of 32.
    assert box.tolist() == pytest.approx([16 + 8, 16 + 16, 112 + 24, 112 + 32])


def test_between_two_cells_an_edge_lies_where_their_weights_say():
    head, x = plain_head(), torch.full((1, 8, 4, 4), -100.0)
    x[:, 4:] = 0
    x[0, 0, 0, 1:3] = torch.tensor([math.log(3.0), 0.0])
    box = head({"c5": x}, torch.tensor([[128, 128]]))["boxes"][0, 0]
    assert float(box[0].detach()) == pytest.approx(0.75 * 48 + 0.25 * 80)


def test_a_shifted_object_shifts_its_box():
    head, x = plain_head(), torch.zeros(1, 8, 4, 4)
    x[0, :4, 1, 1] = 100.0
    x[0, 4:, 1, 1] = torch.tensor([-0.3, -0.1, 0.2, 0.4])
    here = head({"c5": x}, torch.tensor([[128, 128]]))["boxes"]
    there = head({"c5": x.roll((1, 2), (-2, -1))}, torch.tensor([[128, 128]]))["boxes"]
    assert (there - here)[0, 0].tolist() == pytest.approx([64, 32, 64, 32])


def test_what_lies_beside_the_image_does_not_count():
    torch.manual_seed(0)
    head = ObjectLocalization(SPECS, classes=CLASSES, depth=0, dropout=0.0).eval()
    x, sizes = torch.randn(1, 8, 4, 4), torch.tensor([[64, 96]])
    other = torch.full_like(x, 50.0)
    other[:, :, :2, :3] = x[:, :, :2, :3]
    first, second = head({"c5": x}, sizes), head({"c5": other}, sizes)
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone = head({"c5": x[:, :, :2, :3]}, sizes)
    assert all(torch.allclose(first[name], alone[name], atol=1e-4) for name in first)


# ------------------------------------------------------------------------------------------------------------ losses
def test_losses_by_hand():
    # Half of the true box; the hull is the true box: GIoU = IoU = 1/2. Log-probability of class 0: log 1/2.
    head = head_of([[math.log(2.0), 0.0, 0.0]], [[[0.0, 0.0, 50.0, 100.0]]])
    losses = losses_of(head, [0], [[0.0, 0.0, 100.0, 100.0]])
    assert losses == pytest.approx({"cross_entropy": math.log(2), "giou": 0.5, "l1": (50 / 200) / 4})
    # Beside each other with a gap: IoU 0, hull 40 x 10, union 200: 1 − (0 − 1/2).
    head = head_of([[0.0, 0.0, 0.0]], [[[0.0, 0.0, 10.0, 10.0]]])
    assert losses_of(head, [0], [[30.0, 0.0, 40.0, 10.0]])["giou"] == pytest.approx(1.5)


def test_images_that_know_class_or_box_alone_teach_that_alone():
    head = head_of([[math.log(2.0), 0.0, 0.0]] * 3, [[[0.0, 0.0, 50.0, 100.0]]] * 3)
    boxes = [[0.0, 0.0, 100.0, 100.0], [float("nan")] * 4, [0.0, 0.0, 50.0, 100.0]]
    losses = losses_of(head, [0, 1, 2], boxes, known=[False, True, True], box_known=[True, False, True])
    assert losses == pytest.approx({"cross_entropy": math.log(4), "giou": 0.25, "l1": (50 / 200) / 8})
    totals = {"class_scores": torch.tensor(4.0), "box": torch.tensor(8.0)}
    losses = losses_of(head, [0, 1, 2], boxes, [False, True, True], [True, False, True], totals=totals)
    assert losses == pytest.approx({"cross_entropy": math.log(4) / 2, "giou": 0.5 / 8, "l1": (50 / 200) / 4 / 8})


def test_of_a_box_per_class_the_true_one_learns():
    right, wrong = [0.0, 0.0, 100.0, 100.0], [5.0, 5.0, 6.0, 6.0]
    head = head_of([[0.0, 0.0, 0.0]], [[wrong, right, wrong]], box_per_class=True)
    assert losses_of(head, [1], [right])["giou"] == 0.0
    assert losses_of(head, [0], [right])["giou"] > 0.9
    assert losses_of(head, [0], [right], known=[False])["giou"] == 0.0  # whose box it would be is not known


def test_label_smoothing_by_hand():
    head = head_of([[math.log(2.0), 0.0, 0.0]], [[[0.0, 0.0, 1.0, 1.0]]], label_smoothing=0.3)
    assert losses_of(head, [0], [[0.0, 0.0, 1.0, 1.0]])["cross_entropy"] == pytest.approx(
        0.8 * math.log(2) + 0.2 * math.log(4)
    )


# -------------------------------------------------------------------------------------------------------- what it says
def test_decode_clips_and_finish_goes_back_to_the_image():
    head = ObjectLocalization(SPECS, classes=CLASSES)
    raw = {"logits": torch.tensor([[0.0, math.log(2.0), 0.0]]), "boxes": torch.tensor([[[-5.0, 10.0, 70.0, 90.0]]])}
    decoded = head.decode(raw, torch.tensor([[64, 60]]))
    assert decoded["boxes"].tolist() == [[[0.0, 10.0, 60.0, 64.0]] * 3]
    assert decoded["valid"].all() and decoded["valid"].shape == (1, 3)
    (found,) = head.finish(decoded, [Geometry((128, 120), (64, 60), (0.5, 0.5))])
    assert found.scores.tolist() == pytest.approx([0.25, 0.5, 0.25])
    assert found.boxes.dtype == np.float32 and found.boxes.tolist() == [[0.0, 20.0, 120.0, 128.0]] * 3
    assert found.to_coco(5, [10, 20, 30]) == [
        {"image_id": 5, "category_id": 20, "bbox": [0.0, 20.0, 120.0, 108.0], "score": pytest.approx(0.5)}
    ]


def test_edges_that_have_changed_places_make_a_box_without_area():
    head = ObjectLocalization(SPECS, classes=("a",))
    raw = {"logits": torch.zeros(1, 1), "boxes": torch.tensor([[[30.0, 10.0, 20.0, 40.0]]])}
    assert head.decode(raw, torch.tensor([[64, 64]]))["boxes"].tolist() == [[[30.0, 10.0, 30.0, 40.0]]]


def test_a_box_per_class_belongs_to_its_class():
    head = ObjectLocalization(SPECS, classes=CLASSES, box_per_class=True)
    boxes = [[[float(k), 0.0, 10.0 + k, 10.0] for k in range(3)]]
    decoded = head.decode({"logits": torch.eye(3)[1:2], "boxes": torch.tensor(boxes)}, torch.tensor([[64, 64]]))
    (found,) = head.finish(decoded, [Geometry((64, 64), (64, 64), (1.0, 1.0))])
    assert found.box.tolist() == [1.0, 0.0, 11.0, 10.0]


def test_learns_the_place_of_a_square_to_a_fraction_of_a_cell():
    torch.manual_seed(0)
    head = ObjectLocalization({"c5": FeatureSpec(1, 32)}, classes=("a",), channels=8, depth=2)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)

    def batch(count):
        """How much of each cell of 4 x 4 a box covers, and the box."""
        corner, side = torch.rand(count, 2) * 60, 20 + torch.rand(count, 2) * 40
        boxes = torch.cat([corner, corner + side], 1)
        edges = torch.arange(5.0) * 32
        ends = torch.minimum(boxes[:, 2:, None], edges[1:]), torch.maximum(boxes[:, :2, None], edges[:-1])
        across, down = (ends[0] - ends[1]).clamp(min=0).unbind(1)
        cover = down[:, :, None] * across[:, None, :] / 1024
        sizes = torch.full((count, 2), 128)
        return {"c5": cover[:, None]}, Targets(sizes=sizes, class_scores=torch.ones(count, 1), box=boxes)

    for _ in range(150):
        features, targets = batch(32)
        losses = head.loss(features, targets)
        optimizer.zero_grad()
        (losses["giou"] + losses["l1"]).backward()
        optimizer.step()
    features, targets = batch(64)
    with torch.no_grad():
        error = (head.eval()(features, targets.sizes)["boxes"][:, 0] - targets.box).abs().mean()
    assert error < 6  # pixels, of a cell's 32


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dropout": 1.5}, "dropout=1.5 must be from 0 to 1"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1 must be from 0 to 1"),
        ({"depth": -1}, "depth=-1 must be at least 0"),
        ({"channels": 0}, "channels=0 must be at least 1"),
        ({"levels": ("c3",)}, "reads c3, but there are only c4, c5"),
        ({"levels": ()}, "reads , but there are only c4, c5"),
    ],
)
def test_wrong_values_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        ObjectLocalization(SPECS, classes=["a"], **options)
