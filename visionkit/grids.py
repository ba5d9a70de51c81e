"""The cells that a dense head speaks by: where they lie, level by level."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Table = TypeVar("Table")


class Grid(NamedTuple):
    """One level's anchor points: the centres of a height x width grid of cells of `stride` pixels, row by row."""

    height: int
    width: int
    stride: int


class Cells(NamedTuple):
    """Attributes:
    points: (A, 2) float32, the cells' centres (x, y) in canvas pixels, level after level.
    strides: (A, 1) float32, pixels.
    """

    points: Tensor
    strides: Tensor


def cells_of(grids: tuple[Grid, ...], device: torch.device) -> Cells:
    """The A cells of all levels, as they follow each other in a dense head's tensors."""
    points, strides = [], []
    for height, width, stride in grids:
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * stride
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * stride
        points.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1))
        strides.append(torch.full((height * width, 1), float(stride), device=device))
    return Cells(torch.cat(points), torch.cat(strides))


def kept(build: Callable[..., Table]) -> Callable[..., Table]:
    """Keep the tables that `build` makes, a few kB each: every training step asks for the same ones, and each op costs
    a launch. While a program is traced nothing is kept, since the tensors of a trace hold no numbers.
    """

    @functools.cache
    def remembered(*arguments: Hashable) -> Table:
        with torch.inference_mode(False):  # tensors of that mode could not be used in training later
            return build(*arguments)

    @functools.wraps(build)
    def given(*arguments: Hashable) -> Table:
        return build(*arguments) if torch.compiler.is_compiling() else remembered(*arguments)

    return given


class Windows(NamedTuple):
    """Cells around a place, on each of L levels: W of them, row by row.

    Attributes:
        strides: (L, 1, 1) float32, pixels.
        offsets: (W, 2) int64, columns and rows from the place's own cell.
        last: (L, 1, 2) int64, the highest column and row.
        steps: (L, 1, 2) int64, by how much a cell's number grows with its column and row.
        first: (L, 1) int64, the number of the level's first cell.
        home: (L, W, 1) bool, the place's own cell on the finest level.
    """

    strides: Tensor
    offsets: Tensor
    last: Tensor
    steps: Tensor
    first: Tensor
    home: Tensor


@kept
def windows(grids: tuple[Grid, ...], radius: int, device: torch.device) -> Windows:
    """The square windows that reach `radius` cells in each direction."""
    reach = range(-radius, radius + 1)
    offsets = [(column, row) for row in reach for column in reach]
    first = [sum(grid.height * grid.width for grid in grids[:level]) for level in range(len(grids))]
    home = [[level == 0 and offset == (0, 0) for offset in offsets] for level in range(len(grids))]
    return Windows(
        strides=_sent([grid.stride for grid in grids], device).float()[:, None, None],
        offsets=_sent(offsets, device),
        last=_sent([(grid.width - 1, grid.height - 1) for grid in grids], device)[:, None],
        steps=_sent([(1, grid.width) for grid in grids], device)[:, None],
        first=_sent(first, device)[:, None],
        home=_sent(home, device)[..., None],
    )


class Corners(NamedTuple):
    """Tables of L levels' cells, each of the size of the largest level and one cell more in each direction.

    Attributes:
        height, width: of a table.
        strides: (L, 1, 1) float32, pixels.
        sizes: (L, 1, 2) int64, columns and rows of the level's grid.
        first: (L, 1, 1) int64, the place of the level's table behind the others'.
        signs: (2, 2) int32, what a block adds at its corners, row and column, so that running sums fill it with ones.
    """

    height: int
    width: int
    strides: Tensor
    sizes: Tensor
    first: Tensor
    signs: Tensor


@kept
def corners(grids: tuple[Grid, ...], device: torch.device) -> Corners:
    """The tables in which blocks of cells are marked by their corners."""
    height, width = (max(lengths) + 1 for lengths in zip(*(grid[:2] for grid in grids), strict=True))
    return Corners(
        height,
        width,
        strides=_sent([grid.stride for grid in grids], device).float()[:, None, None],
        sizes=_sent([(grid.width, grid.height) for grid in grids], device)[:, None],
        first=_sent([level * height * width for level in range(len(grids))], device)[:, None, None],
        signs=_sent([(1, -1), (-1, 1)], device).int(),
    )


def _sent(values: Sequence[object], device: torch.device) -> Tensor:
    """The host does not wait for the device."""
    return torch.tensor(values).to(device, non_blocking=True)
