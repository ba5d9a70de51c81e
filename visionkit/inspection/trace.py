"""One pass of one image through a model, written down: which layers and operations were called, and what each costs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from visionkit.errors import ConfigError
from visionkit.inspection.tracks import Axis, Operation, Track, follow, image_track
from visionkit.model import VisionModel

_VIEWS = ("_unsafe_view", "detach", "alias", "lift_fresh")
"""Operations that make no values, beside those whose schema says so."""
_SHOWN = 3
"""Names of operations in a row of several."""


@dataclass
class Call:
    """A call of a module, or what the operations did that a module does itself, between its parts.

    Attributes:
        name: the module's dotted path; "" for the model as a whole.
        kind: the module's class, or the operations' names.
        output: shape of what comes out, without the batch, a map as (channels, height, width); None: no tensor.
        strides: pixels of the image from one cell of the map to the next, down and across; None where there is no map.
        fields: height and width in pixels of the largest receptive field; None where all of the image is seen.
        parameters: its own, without its parts', and without those that an earlier call of the same module has counted.
        macs: its own multiplications followed by an addition, in convolutions and matrix products, biases left out.
        memory: bytes of the values that its own operations made for one image; views and in-place changes make none.
        parts: the calls inside of it, in order.
        is_module: False for operations between modules.
    """

    name: str
    kind: str
    output: tuple[int, ...] | None = None
    strides: tuple[Fraction | None, Fraction | None] = (None, None)
    fields: tuple[int | None, int | None] = (None, None)
    parameters: int = 0
    macs: int = 0
    memory: int = 0
    parts: list[Call] = field(default_factory=list)
    is_module: bool = True

    def calls(self) -> Iterator[Call]:
        """This call and all inside of it."""
        yield self
        for part in self.parts:
            yield from part.calls()


def trace_model(model: nn.Module, size: tuple[int, int], channels: int = 3) -> Call:
    """Pass one image through a model in eval mode, and return the call of the whole.

    Nothing is computed: a copy of the model without values is passed a tensor without values (torch's meta device),
    unless the model looks at values; then it computes, on zeros. A `VisionModel` is followed from the normalised image
    to the raw outputs of all heads; of any other module its forward is.

    Args:
        model: left as it is.
        size: (height, width) of the image.
        channels: of the image.

    Raises:
        ConfigError: the model cannot take an image of that size.
    """
    memo: dict[int, Any] = {id(one): _without_values(one) for one in (*model.parameters(), *model.buffers())}
    shape = (1, channels, *size)
    try:
        return _traced(copy.deepcopy(model, memo), torch.empty(shape, device="meta"))
    except (NotImplementedError, RuntimeError):
        try:
            return _traced(copy.deepcopy(model).cpu(), torch.zeros(shape))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            text = f"image_size=[{size[0]}, {size[1]}]: the model cannot take such an image ({reason})"
            raise ConfigError(f"{text}; give a larger one", code="value-unfit") from error


def _without_values(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _traced(model: nn.Module, images: Tensor) -> Call:
    recorder = Recorder(model.eval(), images)
    with torch.no_grad(), recorder:
        _run(model, images)
    return recorder.finished()


def _run(model: nn.Module, images: Tensor) -> None:
    if not isinstance(model, VisionModel):
        model(images)
        return
    levels = dict(model.backbone(images))
    if model.neck is not None:
        levels.update(model.neck(levels))
    sizes = torch.tensor(images.shape[-2:], device=images.device)[None]
    for head in model.heads.values():
        head(levels, sizes)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation of torch, and by hooks which module has asked for it.

    Args:
        model: its own to keep, since the hooks stay.
        images: (1, C, H, W), from which on everything is followed.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.stack = [Call("", type(model).__name__)]
        self.modules: list[nn.Module] = [model]
        self.tracks: MutableMapping[Tensor, Track] = WeakTensorKeyDictionary()
        self.tracks[images] = image_track(images)
        self.counted: set[int] = set()
        for name, module in model.named_modules():
            if name:
                module.register_forward_pre_hook(self._entering(name))
                module.register_forward_hook(self._leaving)

    def finished(self) -> Call:
        """The call of the whole model, with a part for the parameters that no answer asks for."""
        (whole,) = self.stack
        rest = sum(one.numel() for one in self.model.parameters() if id(one) not in self.counted)
        if rest:
            whole.parts.append(Call("training only", "", parameters=rest, is_module=False))
        return whole

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, _: Any) -> None:
            call = Call(name, type(module).__name__)
            self.stack[-1].parts.append(call)
            self.stack.append(call)
            self.modules.append(module)

        return enter

    def _leaving(self, module: nn.Module, inputs: Any, output: Any) -> None:
        call = self.stack.pop()
        self.modules.pop()
        call.parameters += self._own_parameters(module)
        self._describe(call, _shown_tensor(list(_tensors(output)), self.tracks))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let the operation happen, and note what it cost if it depends on the image."""
        out = func(*args, **(kwargs or {}))
        arguments = _bound(func, args, kwargs or {})
        inputs = [(one, self.tracks[one]) for one in _tensors(arguments) if one in self.tracks]
        made = list(_tensors(out))
        if inputs and made:
            name = func._schema.name.removeprefix("aten::")
            operations = [Operation(name, arguments, inputs, one) for one in made]
            for operation in operations:
                self.tracks[operation.out] = follow(operation)
            if not _is_view(func, name):
                self._count(operations[0], in_place=func._schema.returns[0].alias_info is not None)
        return out

    def _count(self, operation: Operation, *, in_place: bool) -> None:
        call = self._current(operation.name.strip("_"))
        call.macs += multiply_adds(operation)
        call.memory += 0 if in_place else operation.out.numel() * operation.out.element_size()
        if not call.is_module:
            self._describe(call, operation.out)

    def _current(self, operation: str) -> Call:
        """The call of the innermost module, or, where that has parts, of the operations since the last of them."""
        owner, module = self.stack[-1], self.modules[-1]
        if not any(True for _ in module.children()):
            return owner
        if owner.parts and not owner.parts[-1].is_module:
            call = owner.parts[-1]
            names = call.kind.split(" + ")
            if operation not in names and names[-1] != "…":
                call.kind = " + ".join([*names, operation if len(names) < _SHOWN else "…"])
            return call
        call = Call(owner.name, operation, parameters=self._own_parameters(module), is_module=False)
        owner.parts.append(call)
        return call

    def _own_parameters(self, module: nn.Module) -> int:
        new = [one for one in module.parameters(recurse=False) if id(one) not in self.counted]
        self.counted |= {id(one) for one in new}
        return sum(one.numel() for one in new)

    def _describe(self, call: Call, tensor: Tensor | None) -> None:
        if tensor is None:
            return
        track = self.tracks.get(tensor)
        call.output, call.strides = tuple(tensor.shape[1:]), (None, None)
        if track is None:
            return
        down, across = track
        if _is_map(track):
            order = [dim for dim in range(1, tensor.ndim) if dim not in (down.dim, across.dim)]
            call.output = tuple(tensor.shape[dim] for dim in [*order, down.dim, across.dim] if dim is not None)
            call.strides = (_stride(down), _stride(across))
        call.fields = (_field(down), _field(across))


def multiply_adds(operation: Operation) -> int:
    """How often a convolution or matrix product multiplies and adds; 0 for other operations."""
    name, arguments = operation.name, operation.arguments
    if name in ("convolution", "_convolution"):
        whole: Tensor = arguments["input"] if arguments["transposed"] else operation.out
        return whole.numel() * int(math.prod(arguments["weight"].shape[1:]))
    if name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "linear"):
        factors = [value for value in arguments.values() if isinstance(value, Tensor)]
        left = factors[0] if name == "linear" else factors[-2]
        return operation.out.numel() * int(left.shape[-1])
    return 0


def _stride(axis: Axis) -> Fraction | None:
    return None if axis.reach is None else axis.reach.stride


def _field(axis: Axis) -> int | None:
    return None if axis.whole or axis.reach is None else axis.reach.size


def _is_map(track: Track) -> bool:
    dims = {axis.dim for axis in track}
    return None not in dims and len(dims) == 2


def _shown_tensor(tensors: list[Tensor], tracks: Mapping[Tensor, Track]) -> Tensor | None:
    """The last map of what a module gives (the coarsest level), else its first tensor."""
    maps = [one for one in tensors if one in tracks and _is_map(tracks[one])]
    return maps[-1] if maps else tensors[0] if tensors else None


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of nested lists, tuples and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def _bound(func: Any, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by name, with the schema's defaults."""
    names = func._schema.arguments
    values = {one.name: one.default_value for one in names if one.has_default_value()}
    return {**values, **{one.name: value for one, value in zip(names, args, strict=False)}, **kwargs}


def _is_view(func: Any, name: str) -> bool:
    """Does it only look at its input in another way? An operation in place has an alias that is written to."""
    returned = func._schema.returns[0].alias_info
    return name in _VIEWS or (returned is not None and not returned.is_write)
