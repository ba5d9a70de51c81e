"""The networks of an ONNX graph in half precision; what prepares pixels and decodes answers stays in float32."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable
from typing import Any

_NETWORK = ("Conv", "ConvTranspose")


def halved(proto: Any) -> Any:
    """Return an ONNX model whose convolutions, and all that lies between them, compute in float16.

    Boxes are told in pixels, of which float16 holds no fractions beyond 1024: so whatever follows the last convolution
    is computed in float32, as is the normalisation before the first one.
    """
    convert = importlib.import_module("onnxruntime.transformers.float16").convert_float_to_float16
    for place, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{place}"
    nodes = list(proto.graph.node)
    after = _reached(nodes)
    before = _reached(reversed(nodes), backwards=True)
    outside = [node.name for node in nodes if node.name not in after & before]
    with warnings.catch_warnings(action="ignore"):  # of weights that are 0 in float16
        made = convert(proto, keep_io_types=True, disable_shape_infer=True, node_block_list=outside)
    # A value that several nodes outside read is cast for each of them, by casts of one name.
    kept: list[Any] = []
    leaving: set[str] = set()
    for node in made.graph.node:
        if not leaving.intersection(node.output):
            kept.append(node)
            leaving.update(node.output)
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return made


def _reached(nodes: Iterable[Any], *, backwards: bool = False) -> set[str]:
    """The names of convolutions, and of what depends on one (backwards: what one depends on); nodes in this order."""
    values: set[str] = set()
    names: set[str] = set()
    for node in nodes:
        entering, leaving = (node.output, node.input) if backwards else (node.input, node.output)
        if node.op_type in _NETWORK or values.intersection(entering):
            values.update(value for value in leaving if value)
            names.add(node.name)
    return names
