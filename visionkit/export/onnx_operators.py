"""How ONNX says what torch's exporter has no words for. Imports onnxscript, which reads these functions as graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18

import visionkit.ops.suppression  # noqa: F401  defines the operator that is translated

op: Any = opset18
_FLOAT, _UINT8, _INT32, _BOOL = 1, 2, 6, 9
"""ONNX's numbers of these types."""


def translations() -> dict[Any, Callable[..., Any]]:
    """By torch's operator, what stands for it."""
    return {torch.ops.visionkit.suppress.default: suppress, torch.ops.aten.sort.stable: sort}


def suppress(boxes: Any, labels: Any, candidates: Any, threshold: float, most: int) -> Any:
    """Suppress class by class with NonMaxSuppression: to a class, boxes of others are no candidates.

    The boxes come best first, so that their order serves for scores.
    """
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    classes = op.Range(zero, op.Add(op.ReduceMax(labels, keepdims=0), one), one)
    own = op.Equal(op.Unsqueeze(labels, op.Constant(value_ints=[1])), op.Reshape(classes, _shape(1, -1, 1)))
    own = op.And(own, op.Unsqueeze(candidates, op.Constant(value_ints=[1])))
    count = op.Shape(boxes, start=1, end=2)
    falling = op.Range(op.Squeeze(count), zero, op.Constant(value_int=-1))
    scores = op.Where(own, op.Reshape(op.Cast(falling, to=_FLOAT), _shape(1, 1, -1)), op.Constant(value_float=0.0))
    chosen = op.NonMaxSuppression(
        boxes, scores, count, op.Constant(value_floats=[threshold]), op.Constant(value_floats=[0.5])
    )
    places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
    none = op.Expand(zero, op.Shape(candidates))
    kept = op.ScatterND(none, places, op.Expand(one, op.Shape(places, start=0, end=1)))
    within = op.LessOrEqual(op.CumSum(kept, one), op.Constant(value_int=most))
    return op.And(op.Cast(kept, to=_BOOL), within)


def sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:  # noqa: ARG001
    """Sort stably: of equal values, TopK gives the earlier one first. It takes no bytes, which are widened."""
    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    if values.dtype != _UINT8:
        return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)
    ordered, places = op.TopK(op.Cast(values, to=_INT32), count, axis=dim, largest=int(descending), sorted=1)
    return op.Cast(ordered, to=_UINT8), places


def _shape(*sides: int) -> Any:
    return op.Constant(value_ints=list(sides))
