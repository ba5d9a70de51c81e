"""The part of a model that is exported: normalise, forward and decode, from canvases to decoded tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from visionkit.errors import RunError
from visionkit.export.card import Card
from visionkit.finishing import READS
from visionkit.model import VisionModel

_EXAMPLES = 2
"""Images of the batch that is followed through the model: of one alone torch takes the number for a constant."""


class Program(nn.Module):
    """What `Card` says of a model is read of its heads' decoded tensors.

    Args:
        model: in eval mode.
        card: of this model.
    """

    def __init__(self, model: VisionModel, card: Card) -> None:
        super().__init__()
        self.model = model
        self.reads = {name: READS[head.finishing.kind] for name, head in card.heads.items()}

    def forward(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """By "head.tensor" what the head's predictions are made of.

        images: (B, C, H, W) canvases of the model's own size and dtype; sizes: (B, 2) int64, the part of each that
        holds image.
        """
        raw = self.model.outputs(images, sizes)
        decoded: dict[str, Mapping[str, Tensor]] = {
            name: head.decode(raw[name], sizes) for name, head in self.model.named_heads()
        }
        return {f"{name}.{key}": decoded[name][key] for name, keys in self.reads.items() for key in keys}


def exported(model: VisionModel, card: Card) -> ExportedProgram:
    """Follow a model on the CPU into a program for batches of any size, without the places in code that it came from.

    Raises:
        RunError: a part of it does something that cannot be followed.
    """
    program = Program(model, card).eval()
    preprocess = model.preprocess
    height, width = preprocess.canvas
    shape = (_EXAMPLES, preprocess.decoding.channels, height, width)
    images = torch.zeros(shape, dtype=getattr(torch, preprocess.decoding.dtype.name))
    sizes = torch.tensor([[height, width]] * _EXAMPLES)
    batch = Dim("batch", min=1)
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            followed = torch.export.export(program, (images, sizes), dynamic_shapes=({0: batch}, {0: batch}))
    except Exception as error:  # whatever torch meets in the code of a part
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        constant = "specialized it to be a constant" in str(error)
        mend = ": the number of images became a constant; in a part of your own write x.shape[0], not len(x)"
        raise RunError(
            f"the model cannot be exported ({type(error).__name__}: {reason}){mend * constant}", code="export-failed"
        ) from error
    for module in followed.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)  # tells folders of whoever exports
    return followed
