"""A copy of a model that answers faster: half precision, normalisations folded into convolutions, CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from visionkit.errors import UserError, did_you_mean
from visionkit.interfaces import Head
from visionkit.model import Corrected, VisionModel
from visionkit.ops.boxes import unwatched
from visionkit.ops.transfer import start_host_arrays
from visionkit.structures import Decoded, RawOutput

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Outputs = Callable[[Tensor, Tensor], dict[str, RawOutput]]
"""(B, C, H, W) images and (B, 2) sizes -> raw tensors by head, as `VisionModel.outputs`."""
_MOST_SHAPES = 8
"""Shapes of batches that have a graph; others are computed without."""
_MOST_IMAGES = 4
"""Of a batch whose decoding is recorded. Of more images the device is busy longer than the host launches, and
suppression that looks whether it is done takes fewer rounds."""


def accelerated(model: VisionModel, precision: str = "bf16", *, compile: bool = False) -> VisionModel:
    """Return a copy of `model` for inference alone, in eval mode, on the same device.

    What it says differs from the model's by rounding: some thousandths of a score, some hundredths of a pixel.

    Args:
        model: it is left alone.
        precision: of weights and arithmetic, fp32, bf16 or fp16; predictions are float32 in any case.
        compile: let torch.compile fuse what lies between the convolutions. It takes a while at the first batch of each
            shape; `docs/recipes.md` has times.

    Raises:
        UserError: there is no such precision.
    """
    if precision not in PRECISIONS:
        known = f"one of {', '.join(PRECISIONS)}{did_you_mean(precision, PRECISIONS)}"
        raise UserError(f"precision={precision}: {known} is wanted", code="choice-unknown")
    faster = copy.deepcopy(model).eval().requires_grad_(False)
    fold_norms(faster)
    faster.dtype = PRECISIONS[precision]
    for part in (faster.backbone, faster.neck, faster.heads):
        for module in part.modules() if part is not None else ():
            if not isinstance(module, nn.modules.batchnorm._BatchNorm):  # half's digits are too few for variances
                _to_dtype(module, faster.dtype)
    device = next(faster.parameters()).device
    if device.type == "cuda":
        faster.use_memory_format(torch.channels_last)
    network = faster.outputs

    def outputs(images: Tensor, sizes: Tensor) -> dict[str, RawOutput]:
        # Some heads compute parts of theirs in float32; autocast converts where the two meet.
        with torch.autocast(device.type, faster.dtype, enabled=faster.dtype != torch.float32):
            return network(images, sizes)

    fused: Outputs = torch.compile(outputs, dynamic=False) if compile else outputs
    # The instance's own attributes win over the class's methods.
    faster.outputs = Graphs(fused) if device.type == "cuda" else fused  # type: ignore[assignment, method-assign]
    heads = dict(faster.named_heads())
    # Whether a head of somebody's own waits for the device while it decodes is not known: then none is recorded.
    if device.type == "cuda" and all(type(head).__module__.startswith("visionkit.") for head in heads.values()):
        faster.start_decoded = DecodedGraphs(fused, heads, larger=faster.outputs)  # type: ignore[method-assign]
    return faster


def fold_norms(module: nn.Module) -> None:
    """Fold each BatchNorm of an `nn.Sequential` in eval mode into the convolution right before it, in place."""
    for child in module.children():
        fold_norms(child)
    if isinstance(module, nn.Sequential):
        for index in range(len(module) - 1):
            convolution, norm = module[index], module[index + 1]
            if type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
                module[index], module[index + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()


class Graphs:
    """`outputs`, recorded once a shape as a CUDA graph and replayed, so that the device never waits for the host.

    Args:
        outputs: it must not wait for the device.
    """

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs
        self.recorded = _Recordings(outputs)

    def __call__(self, images: Tensor, sizes: Tensor) -> dict[str, RawOutput]:
        raw = self.recorded(images, sizes)
        if raw is None:
            return self.outputs(images, sizes)
        given: dict[str, RawOutput] = _cloned(raw)
        return given


class DecodedGraphs:
    """`outputs` and what the heads decode from them in one CUDA graph a shape: `VisionModel.start_decoded`.

    Suppression is recorded without its looks at whether it is done (`visionkit.ops.boxes.unwatched`). The host looks
    once, at all heads together, when it has asked for all else; a head that was not done, which is rare, decodes again.

    Args:
        outputs, heads: they must not wait for the device, suppression excepted.
        larger: `outputs` of more images than have their decoding recorded; None: the same.
    """

    def __init__(self, outputs: Outputs, heads: Mapping[str, Head], *, larger: Outputs | None = None) -> None:
        self.outputs, self.heads, self.larger = outputs, heads, larger or outputs
        self.recorded = _Recordings(self._unwatched)

    @torch.inference_mode()
    def __call__(self, images: Tensor, sizes: Tensor) -> tuple[dict[str, Decoded], Corrected]:
        """(B, C, H, W) images, (B, 2) sizes -> decoded tensors by head, and what corrects them before the next call."""
        made = self.recorded(images, sizes) if len(images) <= _MOST_IMAGES else None
        if made is None:
            raw = self.larger(images, sizes)
            return {name: head.decode(raw[name], sizes) for name, head in self.heads.items()}, dict
        arrived = start_host_arrays({"again": made["again"].clone()})

        def corrected() -> dict[str, Decoded]:
            again = zip(made["looked"], arrived()["again"], strict=True)
            anew: dict[str, Decoded] = _cloned(
                {name: self.heads[name].decode(made["raw"][name], sizes) for name, unsettled in again if unsettled}
            )
            return anew

        return _cloned(made["decoded"]), corrected

    def _unwatched(self, images: Tensor, sizes: Tensor) -> dict[str, Any]:
        """raw and decoded tensors by head; looked: the heads that suppress; again (n,) bool: must they decode anew?"""
        raw = self.outputs(images, sizes)
        decoded, again = {}, {}
        for name, head in self.heads.items():
            with unwatched() as looks:
                decoded[name] = head.decode(raw[name], sizes)
            if looks:
                again[name] = torch.stack(looks).any()
        told = torch.stack([*again.values()]) if again else sizes.new_zeros(0)
        return {"raw": raw, "decoded": decoded, "looked": tuple(again), "again": told}


class _Recordings:
    """By shape of the images a function as a CUDA graph; what it gives lies where the next replay writes."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        self.function = function
        self.by_shape: dict[torch.Size, _Recorded] = {}

    def __call__(self, images: Tensor, sizes: Tensor) -> Any | None:
        """What the function gives, or None: there are as many graphs as may be."""
        shape = images.shape
        if shape not in self.by_shape:
            if len(self.by_shape) == _MOST_SHAPES:
                return None
            self.by_shape[shape] = _Recorded(self.function, images, sizes)
        return self.by_shape[shape](images, sizes)


class _Recorded:
    def __init__(self, function: Callable[[Tensor, Tensor], Any], images: Tensor, sizes: Tensor) -> None:
        self.images, self.sizes = images.clone(), sizes.clone()
        beside = torch.cuda.Stream(images.device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(beside):  # what only a first call makes must not be part of the graph
            for _ in range(3):
                function(self.images, self.sizes)
        torch.cuda.current_stream(images.device).wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may be sending the next images meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.given = function(self.images, self.sizes)

    def __call__(self, images: Tensor, sizes: Tensor) -> Any:
        self.images.copy_(images)
        self.sizes.copy_(sizes)
        self.graph.replay()
        return self.given


def _to_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)


def _cloned(given: Any) -> Any:
    """The same in memory of its own: the next replay writes into what was given."""
    return given.clone() if isinstance(given, Tensor) else {name: _cloned(value) for name, value in given.items()}
