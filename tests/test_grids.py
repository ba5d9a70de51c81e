"""Tables of cells: what they hold by hand, and that they are made once."""

from __future__ import annotations

import torch

from visionkit.grids import Grid, cells_of, corners, windows

GRIDS = (Grid(2, 3, 8), Grid(1, 2, 16))
CPU = torch.device("cpu")


def test_cells_by_hand():
    cells = cells_of(GRIDS, CPU)
    assert cells.points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8]]
    assert cells.strides.tolist() == [[8]] * 6 + [[16]] * 2


def test_a_windows_cells_are_numbered_by_steps_from_the_levels_first():
    window = windows(GRIDS, 1, CPU)
    assert window.offsets.tolist()[:4] == [[-1, -1], [0, -1], [1, -1], [-1, 0]]
    last = (window.last * window.steps).sum(-1) + window.first
    assert last[:, 0].tolist() == [5, 7]
    assert window.home.nonzero().tolist() == [[0, 4, 0]]


def test_tables_of_corners_lie_behind_each_other():
    table = corners(GRIDS, CPU)
    assert (table.height, table.width) == (3, 4)
    assert table.first.flatten().tolist() == [0, 12]
    assert table.signs.sum() == 0


def test_tables_are_made_once_and_can_be_used_in_training():
    grids = (Grid(7, 5, 4),)
    with torch.inference_mode():
        first = windows(grids, 2, CPU)
    assert windows(grids, 2, CPU) is first
    assert windows(grids, 3, CPU) is not first
    assert not first.strides.is_inference()
