"""CUDA graphs of the network in training: the device never waits for the host to launch kernel after kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from visionkit.model import Learned, VisionModel

_MOST_SHAPES = 4
"""Shapes of batches that have a graph; others are computed without."""
_WARM_UP = 3
_KNOWN = ("visionkit", "torch", "torchvision", "timm")
"""Packages none of whose parts does in Python what differs from step to step, which a graph would not repeat."""


def can_record(wanted: bool | str, model: nn.Module, device: torch.device) -> bool:
    """Whether training on `device` is to replay graphs; auto: on a GPU, unless a part of the model is one's own."""
    if device.type != "cuda" or wanted is False:
        return False
    own = any(type(module).__module__.partition(".")[0] not in _KNOWN for module in model.modules())
    return wanted is True or not own


class TrainingGraphs:
    """`model.network` in training, recorded once a shape of batch, forward and backward, and replayed.

    A small network's kernels take less time than launching them one by one. What is recorded is fixed: which parameters
    are learned, what is in training mode. Where that changes, make it anew. Whatever the recording itself changes is
    put back: the statistics of batch norms and the random numbers are as before it.

    Args:
        model: on a GPU, in training mode, with the layout that it keeps.

    Attributes:
        refused: why the network is computed without a graph; None where it is not.
    """

    def __init__(self, model: VisionModel) -> None:
        self.model = model
        self.recorded: dict[torch.Size, _Recorded] = {}
        self.refused: str | None = None

    def __call__(self, images: Tensor) -> Learned:
        """(B, C, H, W) uint8 images on the device -> as `VisionModel.network`."""
        shape = images.shape
        if shape not in self.recorded:
            if self.refused is not None or len(self.recorded) == _MOST_SHAPES or not torch.is_grad_enabled():
                return VisionModel.network(self.model, images)
            self.refused = self._why_not(images)
            if self.refused is not None:
                return VisionModel.network(self.model, images)
            with _as_before(self.model, images.device):
                self.recorded[shape] = _Recorded(self.model, images)
        return self.recorded[shape](images)

    def _why_not(self, images: Tensor) -> str | None:
        """Why the network cannot be recorded: a part of it waits for the device."""
        before = torch.cuda.get_sync_debug_mode()
        with _as_before(self.model, images.device):
            VisionModel.network(self.model, images)  # what only a first call does may wait
            torch.cuda.set_sync_debug_mode("error")
            try:
                VisionModel.network(self.model, images)
            except RuntimeError as error:
                if "synchronizing" not in str(error):
                    raise
                return str(error).splitlines()[0]
            finally:
                torch.cuda.set_sync_debug_mode(before)
        return None


class _Recorded:
    """The two graphs of one shape of batch, and the memory that they read and write."""

    def __init__(self, model: VisionModel, images: Tensor) -> None:
        device = images.device
        self.images = images.clone()
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(device))
        # A cast of a weight that autocast keeps for later would be of one replay, and wrong in the next.
        precision = torch.autocast(
            "cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), cache_enabled=False
        )
        with precision:
            with torch.cuda.stream(beside):
                for _ in range(_WARM_UP):
                    outputs = self._flat(VisionModel.network(model, self.images))
                    self._gradients(outputs, [torch.zeros_like(output) for output in outputs])
            torch.cuda.current_stream(device).wait_stream(beside)
            del outputs
            self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            # Threads that load data call the device meanwhile.
            with torch.cuda.graph(self.forward, stream=beside, capture_error_mode="thread_local"):
                self.outputs = self._flat(VisionModel.network(model, self.images))
            self.asked = [torch.zeros_like(output) for output in self.outputs]
            pool = self.forward.pool()
            with torch.cuda.graph(self.backward, pool=pool, stream=beside, capture_error_mode="thread_local"):
                gradients = self._gradients(self.outputs, self.asked)
        pairs = zip(self.parameters, gradients, strict=True)
        self.learned, self.gradients = zip(*((one, own) for one, own in pairs if own is not None), strict=True)
        self.outputs = [output.detach() for output in self.outputs]

    def __call__(self, images: Tensor) -> Learned:
        given = iter(_Replay.apply(self, images, *self.learned))
        leaves = [next(given) if own is None else own for own in self.constants]
        result: Learned = trees.tree_unflatten(leaves, self.tree)
        return result

    def _flat(self, learned: Learned) -> list[Tensor]:
        """The tensors that gradients come back to; the others and the form of it all are kept."""
        leaves, self.tree = trees.tree_flatten(learned)
        self.constants = [None if leaf.requires_grad else leaf for leaf in leaves]
        return [leaf for leaf in leaves if leaf.requires_grad]

    def _gradients(self, outputs: Sequence[Tensor], asked: Sequence[Tensor]) -> list[Tensor | None]:
        return list(torch.autograd.grad(outputs, self.parameters, asked, allow_unused=True))


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recorded: _Recorded, images: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        ctx.recorded = recorded
        recorded.images.copy_(images, non_blocking=True)
        recorded.forward.replay()
        return tuple(output.detach() for output in recorded.outputs)

    @staticmethod
    def backward(ctx: Any, *asked: Tensor) -> tuple[Tensor | None, ...]:
        recorded: _Recorded = ctx.recorded
        torch._foreach_copy_(recorded.asked, list(asked))
        recorded.backward.replay()
        # Copies: the next replay writes into the same memory, which by then may be a parameter's sum of gradients.
        return (None, None, *torch._foreach_add(recorded.gradients, 0))


@contextlib.contextmanager
def _as_before(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Leave buffers and random numbers as they are on entry."""
    buffers = list(model.buffers())
    kept, random = [buffer.clone() for buffer in buffers], torch.cuda.get_rng_state(device)
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)
        torch.cuda.set_rng_state(random, device)
