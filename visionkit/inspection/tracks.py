"""From the fields of an operation's inputs to those of its output, for the operations that convolutional networks use.

Statistics that a normalisation takes over a map are no part of a receptive field, as everywhere in the literature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from visionkit.inspection.reach import (
    Reach,
    Span,
    bins,
    convolution,
    enlargement,
    transposed_convolution,
)


@dataclass(frozen=True)
class Axis:
    """What a tensor's cells see along one axis of the image.

    reach: of its cells; None where it has none left, as after a global pooling.
    whole: do its cells also see all of the image, through a global pooling that is joined in?
    dim: the tensor's dimension along which the cells lie, both axes in one when it is flattened; None: no longer any.
    cells: how many.
    """

    reach: Reach | None
    whole: bool
    dim: int | None
    cells: int


Track = tuple[Axis, Axis]
"""Height and width."""


@dataclass(frozen=True)
class Operation:
    """A call of one of torch's operations.

    name: in torch's `aten`, such as "convolution". arguments: by the names of its schema, defaults filled in. inputs:
    those tensors among them that depend on the image. out: its result, or one of several.
    """

    name: str
    arguments: Mapping[str, Any]
    inputs: Sequence[tuple[Tensor, Track]]
    out: Tensor


def image_track(images: Tensor) -> Track:
    """The track of (B, C, H, W) images."""
    return Axis(Reach(), False, 2, images.shape[2]), Axis(Reach(), False, 3, images.shape[3])


def follow(operation: Operation) -> Track:
    """Return the track of an operation's output.

    An operation that is not known here is taken for one that works cell by cell, as long as the cells stay where they
    are; otherwise its output has no cells any more.
    """
    for names, rule in _RULES.items():
        if operation.name in names:
            return rule(operation)
    return _by_cell(operation)


# ------------------------------------------------------------------------------------------------------------ windows
def _windowed(operation: Operation) -> Track:
    """Convolutions, poolings, resizing and padding: each output cell sees a window of input cells."""
    tensor, track = operation.inputs[0]
    if [axis.dim for axis in track] != [tensor.ndim - 2, tensor.ndim - 1]:
        return _by_cell(operation)
    height, width = (
        _through(axis, _windows(operation, side, axis.cells), operation.out.ndim - 2 + side, operation.out)
        for side, axis in enumerate(track)
    )
    return height, width


def _through(axis: Axis, windows: tuple[Sequence[Span], int] | None, dim: int, out: Tensor) -> Axis:
    cells = out.shape[dim]
    if windows is None:
        return axis if axis.cells == cells else Axis(None, True, None, 1)
    reach = None if axis.reach is None else axis.reach.through(*windows)
    return Axis(reach, axis.whole, dim, cells)


def _windows(operation: Operation, side: int, cells: int) -> tuple[Sequence[Span], int] | None:
    """The windows along one side (0 height, 1 width) of so many cells; None for a single one over all of them."""
    name, arguments, wanted = operation.name, operation.arguments, operation.out.shape[side - 2]
    if "convolution" in name:
        kernel = arguments["weight"].shape[2 + side]
        make = transposed_convolution if arguments["transposed"] else convolution
        return make(kernel, *(_of(arguments[key], side) for key in ("stride", "padding", "dilation")))
    if "adaptive" in name:
        return bins(cells, wanted) if wanted > 1 or cells == 1 else None
    if "pool" in name:
        kernel = _of(arguments["kernel_size"], side)
        stride = _of(arguments["stride"] or arguments["kernel_size"], side)
        return convolution(kernel, stride, _of(arguments["padding"], side), _of(arguments.get("dilation", 1), side))
    if "upsample" in name:
        return enlargement(cells, wanted, smooth=2 if "bicubic" in name else int("linear" in name))
    if "shuffle" in name:
        factor = arguments.get("upscale_factor") or arguments["downscale_factor"]
        return enlargement(1, factor) if name == "pixel_shuffle" else ([(0, factor - 1)], factor)
    pad = arguments.get("pad") or arguments["padding"]
    before = pad[2 * (1 - side)] if len(pad) > 2 * (1 - side) else 0
    return [(-before, -before)], 1


def _of(value: Any, side: int) -> int:
    """One number, or one a side, of which one may stand for both."""
    return int(value[side] if len(value) > 1 else value[0]) if isinstance(value, list | tuple) else int(value)


# --------------------------------------------------------------------------------------------------- shapes and order
def _permuted(operation: Operation) -> Track:
    tensor, track = operation.inputs[0]
    dims = list(range(tensor.ndim))
    if operation.name == "permute":
        dims = [dim % tensor.ndim for dim in operation.arguments["dims"]]
    else:
        first, second = (operation.arguments.get(key, k) % tensor.ndim for k, key in enumerate(("dim0", "dim1")))
        dims[first], dims[second] = dims[second], dims[first]
    return _moved(track, {old: new for new, old in enumerate(dims)})


def _viewed(operation: Operation) -> Track:
    """Follow the cells into a dimension merged with others, out of it again, and into blocks of them."""
    tensor, track = operation.inputs[0]
    groups = _groups(tensor.shape, operation.out.shape)
    height, width = (_placed(track, side, groups, operation.out.shape) for side in (0, 1))
    return height, width


def _placed(track: Track, side: int, groups: Sequence[tuple[list[int], list[int]]], shape: Sequence[int]) -> Axis:
    """One axis of the track (0 height, 1 width) after its group of dimensions has become another."""
    axis, other = track[side], track[1 - side]
    (old, new) = next((group for group in groups if axis.dim in group[0]), ([], []))
    sizes = [shape[dim] for dim in new]
    if len(new) == 1:
        alone = sizes[0] == axis.cells
        return replace(axis, dim=new[0] if alone or other.dim in old else None)  # mixed with what are no cells: lost
    merged = axis.dim == other.dim
    wanted = [one.cells for one in track] if merged else [axis.cells]
    for k in reversed(range(len(new))):
        if sizes[k : k + len(wanted)] == wanted:
            return replace(axis, dim=new[k + side * merged])
    if len(new) == 2 and sizes[0] * sizes[1] == axis.cells and axis.reach is not None:
        return Axis(axis.reach.through([(0, sizes[1] - 1)], sizes[1]), axis.whole, new[0], sizes[0])
    return replace(axis, dim=None)


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The dimensions of two shapes of the same number of values that hold the same values, group by group."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        left, right = [i], [j]
        many, wanted = old[i], new[j]
        while many != wanted:
            if many < wanted:
                i += 1
                many *= old[i]
                left.append(i)
            else:
                j += 1
                wanted *= new[j]
                right.append(j)
        groups.append((left, right))
        i, j = i + 1, j + 1
    return groups


def _sliced(operation: Operation) -> Track:
    tensor, track = operation.inputs[0]
    dim = operation.arguments["dim"] % tensor.ndim
    if operation.name in ("select", "unbind"):
        return _moved(track, {old: old - (old > dim) for old in range(tensor.ndim) if old != dim})
    start, step = operation.arguments["start"] or 0, operation.arguments["step"]
    first = max(start + tensor.shape[dim], 0) if start < 0 else start
    height, width = (
        _through(axis, ([(first, first)], step), dim, operation.out)
        if axis.dim == dim and track[0].dim != track[1].dim
        else axis
        for axis in track
    )
    return height, width


def _concatenated(operation: Operation) -> Track:
    new = operation.arguments["dim"] % operation.out.ndim if operation.name == "stack" else operation.out.ndim
    places = {dim: dim + (dim >= new) for dim in range(operation.out.ndim)}
    return _join([_moved(track, places) for _, track in operation.inputs], operation.out)


def _moved(track: Track, places: Mapping[int, int]) -> Track:
    height, width = (replace(axis, dim=None if axis.dim is None else places.get(axis.dim)) for axis in track)
    return height, width


# ----------------------------------------------------------------------------------------------------- cells together
def _reduced(operation: Operation) -> Track:
    """Sums, means and softmax over dimensions: where these hold cells, the whole map is seen."""
    tensor, track = operation.inputs[0]
    given = operation.arguments.get("dim")
    dims = range(tensor.ndim) if given in (None, []) else given if isinstance(given, list | tuple) else [given]
    gone = {dim % tensor.ndim for dim in dims}
    kept = [dim for dim in range(tensor.ndim) if dim not in gone]
    places = {dim: dim if operation.out.ndim == tensor.ndim else kept.index(dim) for dim in kept}
    return _moved(_mixed(track, gone), places)


def _multiplied(operation: Operation) -> Track:
    """Matrix products: rows of the first factor stay rows, columns of the second stay columns, the others are summed.

    Where both factors depend on the image, one is the attention over the other's cells: all of them are seen.
    """
    factors = [value for value in operation.arguments.values() if isinstance(value, Tensor)]
    left, right = factors[:2] if operation.name == "linear" else factors[-2:]
    tracks = []
    for tensor, track in operation.inputs:
        summed = tensor.ndim - 1 if tensor is left else max(0, right.ndim - 2)
        if tensor is not left and tensor is not right:
            summed = -1  # a bias
        kept = {dim: dim for dim in range(tensor.ndim) if dim != summed}
        tracks.append(_moved(_mixed(track, {summed}), kept))
    height, width = _join(tracks, operation.out)
    attention = len(operation.inputs) > 1 and all(
        any(one is tensor for tensor, _ in operation.inputs) for one in (left, right)
    )
    return replace(height, whole=height.whole or attention), replace(width, whole=width.whole or attention)


def _mixed(track: Track, dims: set[int]) -> Track:
    """The track after all cells along `dims` were taken together; a single cell stays what it is."""
    height, width = (Axis(None, True, None, 1) if axis.dim in dims and axis.cells > 1 else axis for axis in track)
    return height, width


def _by_cell(operation: Operation) -> Track:
    """Operations on the values of a place, of several tensors by torch's rules of broadcasting."""
    out, tracks = operation.out, []
    for tensor, track in operation.inputs:
        more = out.ndim - tensor.ndim
        dims = [dim for dim in range(tensor.ndim) if dim + more >= 0]
        places = {dim: dim + more for dim in dims if tensor.shape[dim] == out.shape[dim + more]}
        spread = {dim for dim in dims if tensor.shape[dim] == 1 != out.shape[dim + more]}
        height, width = (Axis(None, True, None, 1) if axis.dim in spread else axis for axis in track)
        tracks.append(_moved((height, width), places))
    return _join(tracks, out)


def _join(tracks: Sequence[Track], out: Tensor) -> Track:
    height, width = (_joined(axes) for axes in zip(*tracks, strict=True))
    if height.dim != width.dim:
        height, width = (
            axis if axis.dim is None else replace(axis, cells=out.shape[axis.dim]) for axis in (height, width)
        )
    return height, width


def _joined(axes: Sequence[Axis]) -> Axis:
    """Maps that lie on cells of the output give its cells; what has none left, such as a gate, only its `whole`."""
    lying = [axis for axis in axes if axis.dim is not None] or axes
    result = lying[0]
    for axis in lying[1:]:
        if result.reach is None or axis.reach is None:
            result = replace(result, reach=result.reach or axis.reach)
        else:
            result = replace(result, reach=result.reach.joined(axis.reach))
    return replace(result, whole=any(axis.whole for axis in axes))


_Rule = Callable[[Operation], Track]
_WINDOWED = (
    "convolution", "_convolution", "max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "_adaptive_avg_pool2d",
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_nearest2d", "_upsample_nearest_exact2d",
    "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d", "pixel_shuffle", "pixel_unshuffle",
    "constant_pad_nd", "reflection_pad2d", "replication_pad2d",
)  # fmt: skip
_REDUCED = (
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "logsumexp", "linalg_vector_norm", "norm",
    "argmax", "_softmax", "_log_softmax", "softmax", "log_softmax", "topk", "sort",
)  # fmt: skip
_RULES: Mapping[tuple[str, ...], _Rule] = {
    _WINDOWED: _windowed,
    ("permute", "transpose", "t"): _permuted,
    ("view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "flatten", "unflatten"): _viewed,
    ("slice", "select", "unbind"): _sliced,
    ("cat", "stack"): _concatenated,
    _REDUCED: _reduced,
    ("addmm", "mm", "bmm", "baddbmm", "linear", "mv", "addmv", "dot"): _multiplied,
}
