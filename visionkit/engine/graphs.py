"""CUDA graphs of the network in training: the device never waits for the host to launch kernel after kernel."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from visionkit.model import Learned, VisionModel
from visionkit.recording import WaitsError, warm_up

LOGGER = logging.getLogger("visionkit")
_MOST_SHAPES = 4
"""Shapes of batches that have a graph; others are computed without."""
_NO_NEWS = "The CUDA Graph is empty"
"""Nothing is learned where all of the network is frozen."""
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
        refused: why the network is launched kernel by kernel; None where it is not.
    """

    def __init__(self, model: VisionModel) -> None:
        self.model = model
        self.recorded: dict[torch.Size, _Recorded] = {}
        self.refused: str | None = None

    def __call__(self, images: Tensor) -> Learned:
        """(B, C, H, W) uint8 images on the device -> as `VisionModel.network`; only training is recorded."""
        if not self.model.training or not torch.is_grad_enabled():
            return VisionModel.network(self.model, images)
        shape = images.shape
        if shape not in self.recorded:
            if self.refused is not None or len(self.recorded) == _MOST_SHAPES:
                return VisionModel.network(self.model, images)
            try:
                with _as_before(self.model, images.device), warnings.catch_warnings():
                    warnings.filterwarnings("ignore", _NO_NEWS)
                    self.recorded[shape] = _Recorded(self.model, images)
            except WaitsError as error:
                self.refused = str(error)
                why = f"the network waits for the GPU ({error})"
                LOGGER.info(f"{why}, so no CUDA graph of it is made (engine.cuda_graphs)")
                return VisionModel.network(self.model, images)
        return self.recorded[shape](images)


class _Recorded:
    """The two graphs of one shape of batch, and the memory that they read and write.

    Gradients are those of other tensors in the parameters' memory: what autograd keeps for the parameters themselves
    belongs to the stream on which they were used first, and must not become part of a recording on another.
    """

    def __init__(self, model: VisionModel, images: Tensor) -> None:
        device = images.device
        self.images = images.clone()
        self.network = _Network(model)
        named = dict(self.network.named_parameters())
        self.leaves = {name: p.detach().requires_grad_(p.requires_grad) for name, p in named.items()}
        chosen = [name for name, parameter in named.items() if parameter.requires_grad]
        beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(device))
        # A cast of a weight that autocast keeps for later would be of one replay, and wrong in the next.
        precision = torch.autocast(
            "cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), cache_enabled=False
        )
        with precision:
            with torch.cuda.stream(beside):
                warm_up(lambda: self._once(chosen))
            self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            # Threads that load data call the device meanwhile.
            with torch.cuda.graph(self.forward, stream=beside, capture_error_mode="thread_local"):
                outputs = self._outputs()
            self.asked = [torch.zeros_like(output) for output in outputs]
            pool = self.forward.pool()
            with torch.cuda.graph(self.backward, pool=pool, stream=beside, capture_error_mode="thread_local"):
                gradients = self._gradients(outputs, self.asked, chosen)
        torch.cuda.current_stream(device).wait_stream(beside)
        reached = {name: one for name, one in zip(chosen, gradients, strict=True) if one is not None}
        self.learned, self.gradients = [named[name] for name in reached], list(reached.values())
        self.given = [output.detach() for output in outputs]

    def __call__(self, images: Tensor) -> Learned:
        given = iter(_Replay.apply(self, images, *self.learned))
        leaves = [next(given) if own is None else own for own in self.constants]
        result: Learned = trees.tree_unflatten(leaves, self.tree)
        return result

    def _once(self, chosen: Sequence[str]) -> None:
        outputs = self._outputs()
        self._gradients(outputs, [torch.zeros_like(output) for output in outputs], chosen)

    def _outputs(self) -> list[Tensor]:
        """The tensors to which gradients come back; the others and the form of it all are kept."""
        learned = torch.func.functional_call(self.network, self.leaves, (self.images,))
        leaves, self.tree = trees.tree_flatten(learned)
        self.constants = [None if leaf.requires_grad else leaf for leaf in leaves]
        return [leaf for leaf in leaves if leaf.requires_grad]

    def _gradients(
        self, outputs: Sequence[Tensor], asked: Sequence[Tensor], chosen: Sequence[str]
    ) -> Sequence[Tensor | None]:
        return torch.autograd.grad(outputs, [self.leaves[name] for name in chosen], asked, allow_unused=True)


class _Network(nn.Module):
    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Learned:
        return VisionModel.network(self.model, images)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recorded: _Recorded, images: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        ctx.recorded = recorded
        recorded.images.copy_(images, non_blocking=True)
        recorded.forward.replay()
        return tuple(output.detach() for output in recorded.given)

    @staticmethod
    def backward(ctx: Any, *asked: Tensor) -> tuple[Tensor | None, ...]:
        recorded: _Recorded = ctx.recorded
        del ctx.recorded  # a loss that somebody still holds must not hold the graphs' memory
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
        torch.cuda.synchronize(device)  # what was begun on another stream, too
        with torch.no_grad():
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)
        torch.cuda.set_rng_state(random, device)
