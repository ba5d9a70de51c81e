"""A copy of a model that answers faster: half precision, normalisations folded into convolutions, CUDA graphs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from visionkit.errors import UserError, did_you_mean
from visionkit.model import VisionModel
from visionkit.recording import WaitsError, warm_up
from visionkit.structures import Decoded, RawOutput

LOGGER = logging.getLogger("visionkit")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Outputs = Callable[[Tensor, Tensor], dict[str, RawOutput]]
"""(B, C, H, W) images and (B, 2) sizes -> raw tensors by head, as `VisionModel.outputs`."""
Function = Callable[[Tensor, Tensor], dict[str, Any]]
"""As `Outputs`, or as `VisionModel.decoded`."""
_MOST_SHAPES = 8
"""Shapes of batches that have a graph; others are computed without."""


def accelerated(model: VisionModel, precision: str = "bf16", *, compile: bool = False) -> VisionModel:
    """Return a copy of `model` for inference alone, in eval mode, on the same device.

    What it says differs from the model's by rounding: some thousandths of a score, some hundredths of a pixel. On a GPU
    it keeps the thresholds and the like that its heads had at the first batch of a shape.

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
    # A head of somebody's own may do in Python what differs from one call to the next: then no decoding is recorded.
    if device.type == "cuda" and all(type(head).__module__.startswith("visionkit.") for head in heads.values()):

        def decoded(images: Tensor, sizes: Tensor) -> dict[str, Decoded]:
            raw = fused(images, sizes)
            return {name: head.decode(raw[name], sizes) for name, head in heads.items()}

        faster.decoded = Graphs(decoded, otherwise=faster.decoded)  # type: ignore[method-assign]
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
    """A function of images and sizes, recorded once a shape as a CUDA graph and replayed: the device never waits.

    More than `_MOST_SHAPES` shapes are computed without a graph. What is given are tensors of inference mode.

    Args:
        function: it gives tensors, or mappings of such, by head.
        otherwise: called if `function` waits for the device, which a graph cannot; None: `function`.
    """

    def __init__(self, function: Function, otherwise: Function | None = None) -> None:
        self.function, self.otherwise = function, otherwise or function
        self.recorded: dict[torch.Size, _Recorded] = {}
        self.refused = False

    @torch.inference_mode()
    def __call__(self, images: Tensor, sizes: Tensor) -> dict[str, Any]:
        shape, sizes = images.shape, sizes.to(images.device)
        if shape not in self.recorded and not self.refused and len(self.recorded) < _MOST_SHAPES:
            try:
                self.recorded[shape] = _Recorded(self.function, images, sizes)
            except WaitsError as error:
                LOGGER.info(f"no CUDA graph is made of what waits for the GPU ({error})")
                self.refused = True
        if self.refused:
            return self.otherwise(images, sizes)
        made = self.recorded.get(shape)
        return self.function(images, sizes) if made is None else made(images, sizes)


class _Recorded:
    def __init__(self, function: Function, images: Tensor, sizes: Tensor) -> None:
        self.images, self.sizes = images.clone(), sizes.clone()
        beside = torch.cuda.Stream(images.device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(beside):
            warm_up(lambda: function(self.images, self.sizes))
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may be sending the next images meanwhile.
        with torch.cuda.graph(self.graph, stream=beside, capture_error_mode="thread_local"):
            self.given = function(self.images, self.sizes)
        torch.cuda.current_stream(images.device).wait_stream(beside)

    def __call__(self, images: Tensor, sizes: Tensor) -> dict[str, Any]:
        self.images.copy_(images)
        self.sizes.copy_(sizes)
        self.graph.replay()
        # The next replay writes into the same memory.
        return {head: _cloned(value) for head, value in self.given.items()}


def _to_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)


def _cloned(given: Tensor | Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
    return given.clone() if isinstance(given, Tensor) else {name: value.clone() for name, value in given.items()}
