"""Assignment worked by hand, and against a plain loop over objects and cells."""

from __future__ import annotations

import pytest
import torch

from visionkit.assigners import TaskAligned, covered_cells, one_for_each_place
from visionkit.errors import ConfigError
from visionkit.grids import Grid
from visionkit.ops import boxes as box_ops

GRID = [Grid(4, 4, 8)]
"""One level of 16 cells on a canvas of 32 px; cell 5 is line 1, column 1, its centre at (12, 12)."""


def assign(boxes, labels=None, positive=None, *, predicted=None, logits=None, grids=GRID, **options):
    """One image; predictions that are not given lie outside of everything, and scores are all one half."""
    boxes = torch.as_tensor(boxes, dtype=torch.float32).view(-1, 4)
    cells = sum(height * width for height, width, _ in grids)
    if isinstance(predicted, dict):
        table = torch.full((cells, 4), -100.0)
        for cell, box in predicted.items():
            table[cell] = torch.tensor(box, dtype=torch.float32)
        predicted = table
    labels = torch.zeros(len(boxes), dtype=torch.long) if labels is None else torch.as_tensor(labels)
    positive = torch.ones(len(boxes), dtype=torch.bool) if positive is None else torch.as_tensor(positive)
    logits = torch.zeros(cells, 3) if logits is None else logits
    assignment = TaskAligned(**options)(grids, logits[None], predicted[None], boxes[None], labels[None], positive[None])
    return assignment.row[0], assignment.quality[0]


def positives(row):
    return {cell: int(value) for cell, value in enumerate(row) if value >= 0}


def test_three_objects_by_hand():
    boxes = [[0, 0, 16, 16], [25, 1, 27, 3], [0, 0, 16, 24]]
    predicted = {
        0: [0, 0, 16, 16],  # IoU 1 with object 0, 2/3 with object 2
        1: [0, 0, 16, 8],  # 1/2 and 1/3
        4: [0, 0, 8, 8],  # 1/4 and 1/6
        3: [24, 0, 28, 4],  # 1/4 with object 1
        8: [0, 0, 16, 24],  # 1 with object 2
    }
    row, quality = assign(boxes, [0, 1, 2], predicted=predicted, top=2)
    # Object 0 takes cells 0 and 1, its best two; object 2 wants 8 and 0, but cell 0 overlaps object 0 more; the two
    # pixels of object 1 hold no cell's centre, yet it has the cell that it lies in.
    assert positives(row) == {0: 0, 1: 0, 3: 1, 8: 2}
    # The best cell of an object has its IoU; the others fall with score^0.5 * IoU^6: (1/2)^6 of it.
    assert torch.allclose(quality[[0, 1, 3, 8]], torch.tensor([1, 1 / 64, 1 / 4, 1]), atol=1e-6)
    assert float(quality.sum()) == pytest.approx(1 + 1 / 64 + 1 / 4 + 1, abs=1e-6)


def test_the_score_of_the_objects_own_class_decides_between_equal_boxes():
    box = [0, 0, 16, 16]
    logits = torch.zeros(16, 3)
    logits[1, 2] = 3.0  # surer of class 2
    logits[4, 0] = 9.0  # surer of another class
    predicted = dict.fromkeys((0, 1, 4, 5), box)
    row, quality = assign([box], [2], predicted=predicted, logits=logits, top=1)
    assert positives(row) == {1: 0}
    assert float(quality[1]) == pytest.approx(1)
    row, quality = assign([box], [2], predicted=predicted, logits=logits, top=4)
    weaker = (0.5 / torch.tensor(3.0).sigmoid()) ** 0.5
    assert torch.allclose(quality[[0, 1, 4, 5]], torch.stack([weaker, torch.tensor(1.0), weaker, weaker]))


def test_a_contested_cell_goes_to_the_larger_overlap_and_then_to_the_first_row():
    first, second = [0, 0, 16, 16], [0, 0, 16, 20]
    predicted = dict.fromkeys((0, 1, 4, 5), (0, 0, 16, 19))
    row, _ = assign([first, second], predicted=predicted, top=4)
    assert positives(row) == {0: 1, 1: 1, 4: 1, 5: 1}
    row, quality = assign([first, first, first], [1, 0, 2], predicted=dict.fromkeys((0, 1, 4, 5), first), top=4)
    assert positives(row) == {0: 0, 1: 0, 4: 0, 5: 0}
    assert torch.allclose(quality[[0, 1, 4, 5]], torch.ones(4))


def test_who_loses_a_tie_leaves_no_quality_behind():
    box = [0, 0, 16, 16]
    logits = torch.zeros(16, 3)
    logits[0, 0] = -4.0  # the winner, of class 0, is less sure of cell 0 than of the others; the loser is not
    row, quality = assign([box, box], [0, 1], predicted=dict.fromkeys((0, 1, 4, 5), tuple(box)), logits=logits)
    assert positives(row) == {0: 0, 1: 0, 4: 0, 5: 0}
    assert float(quality[0]) == pytest.approx(float((torch.tensor(-4.0).sigmoid() / 0.5) ** 0.5), abs=1e-5)


def test_an_object_that_nothing_overlaps_still_has_its_cells():
    row, quality = assign([[0, 0, 16, 16]], predicted={}, top=10)
    assert positives(row) == {0: 0, 1: 0, 4: 0, 5: 0}
    assert not quality.any()


@pytest.mark.parametrize("box", [[15, 15, 17, 17], [0, 0, 1, 1], [31, 31, 32, 32], [9, 9, 9, 9]])
def test_a_tiny_object_has_the_cell_that_it_lies_in_on_the_finest_level_only(box):
    grids = [Grid(4, 4, 8), Grid(2, 2, 16)]
    column, line = (int((box[0] + box[2]) / 2 // 8), int((box[1] + box[3]) / 2 // 8))
    row, _ = assign([box], predicted={}, grids=grids)
    assert positives(row) == {line * 4 + column: 0}


@pytest.mark.parametrize("box", [[-7, 2, -1, 8], [2, -5, 6, -1], [33, 4, 40, 8], [1e4, 1e4, 2e4, 2e4]])
def test_an_object_whose_centre_is_off_the_canvas_has_no_cell(box):
    assert positives(assign([box], predicted={})[0]) == {}


def test_rows_that_are_not_positive_take_nothing():
    boxes = [[0, 0, 16, 16], [0, 0, 16, 16], [16, 16, 32, 32]]
    predicted = dict.fromkeys(range(16), (0, 0, 32, 32))
    row, quality = assign(boxes, [0, -1, 1], [False, False, True], predicted=predicted)
    assert set(positives(row).values()) == {2}
    assert not quality[row < 0].any()


def test_no_object_at_all():
    row, quality = assign(torch.zeros(0, 4), predicted=torch.zeros(16, 4))
    assert row.tolist() == [-1] * 16
    assert row.dtype == torch.int64
    assert quality.tolist() == [0.0] * 16


def test_the_window_bounds_the_candidates():
    predicted = dict.fromkeys(range(16), (0, 0, 32, 32))
    row, _ = assign([[0, 0, 32, 32]], predicted=predicted, radius=0, top=16)
    assert positives(row) == {10: 0}  # the centre (16, 16) lies in the cell of line 2, column 2
    row, _ = assign([[0, 0, 32, 32]], predicted=predicted, radius=1, top=16)
    assert sorted(positives(row)) == [5, 6, 7, 9, 10, 11, 13, 14, 15]


def _centres(height, width, stride):
    """(height * width, 2) as (x, y), row by row."""
    x = ((torch.arange(width) + 0.5) * stride).repeat(height)
    y = ((torch.arange(height) + 0.5) * stride).repeat_interleave(width)
    return torch.stack([x, y], -1)


def slow_assignment(grids, logits, predicted, boxes, labels, positive, top, alpha, beta, radius):
    """The same in plain loops, cell by cell."""
    cells = []
    for level, (height, width, stride) in enumerate(grids):
        cells += [(level, line, column, stride) for line in range(height) for column in range(width)]
    claims: dict[int, list[tuple[float, int, float]]] = {}
    for number, box in enumerate(boxes):
        if not positive[number]:
            continue
        centre_x, centre_y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
        ranked = []
        for cell, (level, line, column, stride) in enumerate(cells):
            x, y = (column + 0.5) * stride, (line + 0.5) * stride
            home_column, home_line = int(centre_x // stride), int(centre_y // stride)
            near = abs(column - home_column) <= radius and abs(line - home_line) <= radius
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            home = level == 0 and (column, line) == (home_column, home_line)
            if near and (inside or home):
                overlap = float(box_ops.iou(predicted[cell], box))
                score = float(logits[cell, labels[number]].sigmoid())
                ranked.append((score**alpha * overlap**beta + 1e-12, overlap, cell))
        for alignment, overlap, cell in sorted(ranked, reverse=True)[:top]:
            claims.setdefault(cell, []).append((overlap, -number, alignment))
    row, quality = torch.full((len(cells),), -1), torch.zeros(len(cells))
    won: dict[int, list[tuple[int, float, float]]] = {}
    for cell, wanted in claims.items():
        overlap, number, alignment = max(wanted)
        row[cell] = -number
        won.setdefault(-number, []).append((cell, alignment, overlap))
    for mine in won.values():
        strongest, best = max(a for _, a, _ in mine), max(o for _, _, o in mine)
        for cell, alignment, _ in mine:
            quality[cell] = alignment / strongest * best
    return row, quality


@pytest.mark.parametrize("seed", range(6))
def test_equals_plain_loops_on_random_scenes(seed):
    torch.manual_seed(seed)
    grids = [Grid(6, 8, 8), Grid(3, 4, 16), Grid(2, 2, 32)]
    cells, objects = 48 + 12 + 4, 9
    boxes = torch.rand(2, objects, 2) * torch.tensor([64.0, 48.0])
    boxes = torch.cat([boxes - torch.rand(2, objects, 2) * 16, boxes + torch.rand(2, objects, 2) * 16], -1)
    labels, positive = torch.randint(0, 3, (2, objects)), torch.rand(2, objects) < 0.8
    logits = torch.randn(2, cells, 3)
    # Predictions hold their cell's centre, as those of a network do; where nothing overlaps, ties would leave a choice.
    points = torch.cat([_centres(*grid) for grid in grids])
    predicted = torch.cat([points - torch.rand(2, cells, 2) * 20, points + torch.rand(2, cells, 2) * 20], -1)
    options = {"top": 4, "alpha": 0.5, "beta": 6.0, "radius": 1 + seed % 3}
    assignment = TaskAligned(**options)(grids, logits, predicted, boxes, labels, positive)
    for i in range(2):
        row, quality = slow_assignment(
            grids, logits[i], predicted[i], boxes[i], labels[i], positive[i], *options.values()
        )
        assert torch.equal(assignment.row[i], row)
        assert torch.allclose(assignment.quality[i], quality, atol=1e-5)
        assert (row >= 0).sum() > 5


def test_candidates_do_not_grow_with_the_canvas():
    boxes = torch.rand(2, 7, 4) * 100
    for size in (8, 80):
        grids = [Grid(size, size, 8), Grid(size // 2, size // 2, 16)]
        index, inside = TaskAligned(radius=2)._candidates(grids, boxes)
        assert index.shape == inside.shape == (2, 7, 2 * 25)
        assert int(index.max()) < size**2 + (size // 2) ** 2


@pytest.mark.parametrize("options", [{"top": 0}, {"radius": -1}])
def test_wrong_numbers_are_refused(options):
    with pytest.raises(ConfigError, match=r"top=.* radius="):
        TaskAligned(**options)


def test_what_a_claim_gains_is_the_cells_quality():
    boxes = torch.tensor([[[0.0, 0, 16, 16], [0, 0, 16, 24], [0, 0, 8, 8]]])
    predicted = torch.tensor([0.0, 0, 16, 18]).repeat(1, 16, 1)
    labels, positive = torch.tensor([[0, 1, 2]]), torch.tensor([[True, True, False]])
    row, quality, claimed, gained = TaskAligned(top=6)(GRID, torch.zeros(1, 16, 3), predicted, boxes, labels, positive)
    # Object 0 overlaps what is predicted by 8/9 and gets its four cells; object 1, by 3/4, those that are left of six.
    claims = [
        {int(cell): float(gain) for cell, gain in zip(claimed[0, i : i + 6], gained[0, i : i + 6], strict=True) if gain}
        for i in (0, 6, 12)
    ]
    assert claims[0] == pytest.approx(dict.fromkeys((0, 1, 4, 5), 8 / 9))
    assert claims[1] == pytest.approx(dict.fromkeys((8, 9), 3 / 4))
    assert claims[2] == {}
    assert {cell: float(value) for cell, value in enumerate(quality[0]) if row[0, cell] >= 0} == claims[0] | claims[1]


# ----------------------------------------------------------------------------------------- several objects at one place
SQUARE = [0.0, 0, 100, 100]


def places(boxes, labels, rows=None):
    """One image, four classes: which objects speak, and for the classes of whom."""
    rows = [True] * len(boxes) if rows is None else rows
    speaks, named = one_for_each_place(torch.tensor([boxes]), torch.tensor([labels]), torch.tensor([rows]), 4)
    return speaks[0].tolist(), [row.nonzero()[:, 0].tolist() for row in named[0]]


def test_the_first_of_equal_boxes_speaks_for_the_classes_of_all():
    speaks, named = places([SQUARE, [50.0, 0, 90, 90], SQUARE, SQUARE], [2, 1, 0, 2])
    assert speaks == [True, True, False, False]
    assert named[:2] == [[0, 2], [1]]


def test_a_twentieth_of_difference_is_one_place_still():
    # 96 and 94 of 100 lines: IoU 0.96 and 0.94 with the first, and 0.98 with each other.
    speaks, named = places([SQUARE, [0.0, 0, 100, 96], [0.0, 0, 100, 94]], [0, 1, 2])
    assert speaks == [True, False, True]  # the last is like the second only, which speaks for nobody
    assert [named[0], named[2]] == [[0, 1], [2]]


def test_crowds_and_padding_neither_speak_nor_are_spoken_for():
    speaks, named = places([SQUARE, SQUARE, SQUARE], [3, 1, -1], [False, True, False])
    assert speaks == [False, True, False]
    assert named[1] == [1]


def test_boxes_without_area_stand_for_themselves():
    assert places([[5.0, 5, 5, 9]] * 2, [1, 2]) == ([True, True], [[1], [2]])


def test_images_do_not_speak_for_each_other_and_many_boxes_are_compared_in_parts(monkeypatch):
    torch.manual_seed(0)
    boxes = torch.rand(2, 30, 2).mul(3).floor().repeat(1, 1, 2) * 8 + torch.tensor([0.0, 0, 8, 8])
    labels, rows = torch.randint(4, (2, 30)), torch.rand(2, 30) < 0.8
    speaks, named = one_for_each_place(boxes, labels, rows, 4)
    for i in range(2):
        alone = one_for_each_place(boxes[i : i + 1], labels[i : i + 1], rows[i : i + 1], 4)
        assert torch.equal(alone[0][0], speaks[i])
        assert torch.equal(alone[1][0], named[i])
        for box in boxes[i][rows[i]].unique(dim=0):
            here = (boxes[i] == box).all(-1) & rows[i]
            (speaker,) = (here & speaks[i]).nonzero()[:, 0].tolist()
            assert set(named[i, speaker].nonzero()[:, 0].tolist()) == set(labels[i][here].tolist())
    monkeypatch.setattr("visionkit.assigners._ROWS", 7)
    in_parts = one_for_each_place(boxes, labels, rows, 4)
    assert torch.equal(in_parts[0], speaks)
    assert torch.equal(in_parts[1], named)


def test_no_object_speaks_for_none():
    speaks, named = one_for_each_place(
        torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0, dtype=torch.bool), 3
    )
    assert (speaks.shape, named.shape) == ((2, 0), (2, 0, 3))


@pytest.mark.parametrize("seed", range(4))
def test_covered_cells_equals_brute_force(seed):
    torch.manual_seed(seed)
    grids = [Grid(13, 17, 8), Grid(7, 9, 16)]
    boxes = torch.rand(3, 20, 4) * 180 - 30
    boxes[:, ::3, 2:] = boxes[:, ::3, :2] + torch.rand(3, 7, 2) * 40  # the others are inverted as often as not
    boxes[:, 4] = torch.tensor([4.0, 4.0, 12.0, 20.0])  # edges on the centres of cells
    boxes[:, 5] = torch.tensor([-1e4, 30.0, 1e4, 31.0])
    rows = torch.rand(3, 20) < 0.2
    rows[:, 4] = True
    expected = []
    for grid in grids:
        point = _centres(*grid)[None, None]
        inside = ((point >= boxes[:, :, None, :2]) & (point < boxes[:, :, None, 2:])).all(-1)
        expected.append((inside & rows[..., None]).any(1))
    covered = covered_cells(grids, boxes, rows)
    assert torch.equal(covered, torch.cat(expected, 1))
    assert 0 < covered.sum() < covered.numel()


def test_nothing_is_covered_by_no_box():
    assert not covered_cells(GRID, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool)).any()
