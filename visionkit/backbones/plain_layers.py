"""A network as a list of layers, such as [{conv: {filters: 32, kernel: 3}}, pool, flatten, dense, softmax]: read,
checked and followed from size to size, before anything is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, NoReturn

from visionkit.errors import ConfigError, did_you_mean, listed
from visionkit.structures import FeatureSpec

ACTIVATIONS = ("none", "relu", "sigmoid", "tanh")
PADDINGS = ("same", "valid")
POOLS = ("max", "average")
KEY = "model.backbone.layers"


@dataclass(frozen=True)
class Conv:
    """`filters` square kernels. padding: same (see `SamePadding`), valid (none), or pixels on every side."""

    filters: int
    kernel: int = 3
    stride: int = 1
    padding: str | int = "same"
    activation: str = "none"


@dataclass(frozen=True)
class Pool:
    """stride None: `size`, so that the windows do not overlap. padding: valid (what is left over at the end of a side
    is dropped) or same (it makes a last, smaller window).
    """

    kind: str = "max"
    size: int = 2
    stride: int | None = None
    padding: str = "valid"


@dataclass(frozen=True)
class BatchNorm:
    """Of each channel, or of each value behind `flatten`."""

    activation: str = "none"


@dataclass(frozen=True)
class Dropout:
    """share: of the values set to 0 in training."""

    share: float


@dataclass(frozen=True)
class Flatten:
    """From a map to its values: what follows is the classification head."""


@dataclass(frozen=True)
class Dense:
    """units None or "classes": as many as there are classes, which the last one has anyway."""

    units: int | str | None = None
    activation: str = "none"


@dataclass(frozen=True)
class Softmax:
    """From logits to probabilities: applied when decoding, not in training."""


Layer = Conv | Pool | BatchNorm | Dropout | Flatten | Dense | Softmax
LAYERS: Mapping[str, type[Layer]] = {
    "conv": Conv,
    "pool": Pool,
    "batchnorm": BatchNorm,
    "dropout": Dropout,
    "flatten": Flatten,
    "dense": Dense,
    "softmax": Softmax,
}
Size = tuple[int, ...]
"""(height, width, channels) of a map, or (values,) behind `flatten`."""


@dataclass(frozen=True)
class Step:
    """One layer in its place: number from 1, `before` and `after` of the image for which the list was followed, and the
    stride in that image's pixels (behind `flatten` that of the last map).
    """

    number: int
    layer: Layer
    before: Size
    after: Size
    stride: int

    @property
    def kind(self) -> str:
        """The layer's name in the list."""
        return next(name for name, kind in LAYERS.items() if isinstance(self.layer, kind))


def follow(
    layers: Sequence[Any], image: Size, *, start: str | None = None, classes: int | None = None
) -> tuple[Step, ...]:
    """Read the list and follow an image's size through it.

    Args:
        layers: names, or one-key mappings {name: {argument: value}}; a single value is the first argument.
        image: (height, width, channels); with `start` those of the map that the layer of this name is given.
        start: what stands before the first layer of this name is passed over.
        classes: how many there are; None: not known yet, and behind the last dense layer there are 0 values.

    Raises:
        ConfigError: one line that names the first layer that cannot be, its input and the mend.
    """
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise ConfigError(
            f"{KEY}: a list of layers such as [conv: {{filters: 32}}, pool, flatten, dense, softmax]",
            code="layers-unfit",
        )
    given = [_named(item, number) for number, item in enumerate(layers, 1)]
    kinds = [kind for kind, _ in given]
    if start is not None and start not in kinds:
        raise ConfigError(
            f"{KEY}: there is no {start} in it; add {start}, dense and softmax, or leave the head out",
            code="layers-unfit",
        )
    steps: list[Step] = []
    size, stride = image, 1
    for number in range(1 if start is None else kinds.index(start) + 1, len(kinds) + 1):
        kind, options = given[number - 1]
        refuse = _refusal(number, kind, size)
        layer = _layer(kind, options, refuse)
        if start is None and kind == "flatten" and "conv" not in kinds[: number - 1]:
            refuse("no conv stands before it; put at least one there")
        _check_place(kinds, number, size, refuse)
        after, factor = _after(layer, size, refuse, classes if number == last_dense(kinds) else -1)
        stride *= factor
        steps.append(Step(number, layer, size, after, stride))
        size = after
    _check_end(steps)
    return tuple(steps)


def canvas_of(image_size: Any) -> tuple[int, int]:
    """Return (height, width) of one number for a square, or of the two.

    Raises:
        ConfigError: it is neither.
    """
    sides = list(image_size) if isinstance(image_size, Sequence) else [image_size] * 2
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ConfigError(
            f"image_size={image_size}: a whole number above 0, or [height, width], is wanted", code="value-unfit"
        )
    return sides[0], sides[1]


def last_dense(kinds: Sequence[str]) -> int:
    """The number of the last dense layer, whose units are the classes; 0 where there is none."""
    return max((number for number, kind in enumerate(kinds, 1) if kind == "dense"), default=0)


def stages(steps: Sequence[Step]) -> dict[str, list[Step]]:
    """The layers before `flatten`, by the feature level that the last of them gives: one level a stride.

    A level is c0, c1, c2, … where its stride is 1, 2, 4, … and its map has ceil(side / stride) cells on each side,
    which necks and heads rely on; any other map is map<stride>, for heads that are told so.
    """
    before = [step for step in steps if len(step.after) == 3]
    found: dict[str, list[Step]] = {}
    for stride in dict.fromkeys(step.stride for step in before):
        mine = [step for step in before if step.stride == stride]
        sides, cells = before[0].before[:2], mine[-1].after[:2]
        regular = stride & (stride - 1) == 0 and cells == tuple(-(-side // stride) for side in sides)
        found[f"c{stride.bit_length() - 1}" if regular else f"map{stride}"] = mine
    return found


def level_specs(steps: Sequence[Step]) -> dict[str, FeatureSpec]:
    """The feature levels of a list, fine to coarse."""
    return {name: FeatureSpec(mine[-1].after[2], mine[-1].stride) for name, mine in stages(steps).items()}


def refuse_step(step: Step, said: str) -> NoReturn:
    """Raise a ConfigError that names the layer and its input."""
    _refusal(step.number, step.kind, step.before)(said)


# ------------------------------------------------------------------------------------------------------------- reading
Refuse = Callable[[str], NoReturn]


def _named(item: Any, number: int) -> tuple[str, Any]:
    """Return the layer's name and what is given to it."""
    if isinstance(item, Mapping) and len(item) == 1:
        ((kind, options),) = item.items()
    elif isinstance(item, Mapping):
        mend = "a line of its own for each layer; arguments stand in braces, as in conv: {filters: 32}"
        raise ConfigError(
            f"{KEY}, layer {number} ({listed(list(item))}): one name is wanted, not {len(item)}; {mend}",
            code="layers-unfit",
        )
    else:
        kind, options = item, None
    if not isinstance(kind, str) or kind not in LAYERS:
        hint = did_you_mean(str(kind), LAYERS)
        raise ConfigError(
            f"{KEY}, layer {number} ({kind}): there is no such layer{hint}; known: {listed([*LAYERS])}",
            code="layers-unfit",
        )
    return kind, options


def _layer(kind: str, options: Any, refuse: Refuse) -> Layer:
    known = {field.name: field for field in fields(LAYERS[kind])}
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        if not known:
            refuse(f"it takes no argument, not {options}; write {kind} alone")
        options = {next(iter(known)): options}
    for name in options:
        if name not in known:
            mend = f"it has {listed(list(known))}" if known else f"it has none; write {kind} alone"
            refuse(f"there is no argument '{name}'{did_you_mean(str(name), known)}; {mend}")
    for name, field in known.items():
        if name in options:
            _check_value(field, options[name], refuse)
        elif field.default is MISSING:
            refuse(f"{name} is missing; write {kind}: {{{name}: {_EXAMPLES[name]}}}")
    if "activation" in options and options["activation"] is None:
        options = {**options, "activation": "none"}
    return LAYERS[kind](**options)


_EXAMPLES = {"filters": 32, "share": 0.5}
_CHOICES: Mapping[str, tuple[str, ...]] = {"activation": ACTIVATIONS, "kind": POOLS}


def _check_value(field: Field[Any], value: Any, refuse: Refuse) -> None:
    name = field.name
    if name in _CHOICES or (name == "padding" and (isinstance(value, str) or field.default == "valid")):
        choices = _CHOICES.get(name, PADDINGS)
        if value not in choices and not (name == "activation" and value is None):
            or_number = ", or a whole number" if name == "padding" and field.default == "same" else ""
            refuse(f"{name} {value} is none of {listed(choices)}{or_number}{did_you_mean(str(value), choices)}")
    elif name == "share":
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            refuse(f"{name} {value}: a share from 0 to below 1 is wanted")
    elif not (value is None and field.default is None) and not (name == "units" and value == "classes"):
        least = 0 if name == "padding" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            given = "null" if value is None else value
            refuse(f"{name} {given}: a whole number, {least} or more, is wanted")


# ----------------------------------------------------------------------------------------------------------- following
def _after(layer: Layer, size: Size, refuse: Refuse, classes: int | None) -> tuple[Size, int]:
    """Return the size behind a layer, and the factor by which it widens the stride.

    classes: of the last dense layer, None where they are not known; -1 for any other layer.
    """
    if isinstance(layer, Conv):
        sides = _sides(size, layer.kernel, layer.stride, layer.padding, "kernel", refuse)
        return (*sides, layer.filters), layer.stride
    if isinstance(layer, Pool):
        stride = layer.stride or layer.size
        return (*_sides(size, layer.size, stride, layer.padding, "size", refuse), size[2]), stride
    if isinstance(layer, Flatten):
        height, width, channels = size
        return (height * width * channels,), 1
    if isinstance(layer, Dense):
        return (_units(layer, refuse, classes),), 1
    return size, 1


def _sides(size: Size, kernel: int, stride: int, padding: str | int, name: str, refuse: Refuse) -> tuple[int, int]:
    """Return height and width behind a window that slides over a map."""
    side = min(size[:2])
    around = 0 if padding == "valid" else padding
    # VGG on images of 32 pixels has 3x3 kernels on a map of 2x2; with padding around it each of their weights counts.
    if kernel > side and not (kernel == 3 and side == 2 and around):
        mend = f"give {name} {side} or less, leave out a pool or stride before it, or raise image_size"
        refuse(f"its {name} of {kernel} is larger than its map of {size[0]}x{size[1]}; {mend}")
    if isinstance(around, str):
        return -(-size[0] // stride), -(-size[1] // stride)
    height, width = ((one + 2 * around - kernel) // stride + 1 for one in size[:2])
    return height, width


def _units(layer: Dense, refuse: Refuse, classes: int | None) -> int:
    if classes == -1:
        if not isinstance(layer.units, int):
            refuse("its units are missing, and only the last dense layer has one a class; write dense: {units: 128}")
        return layer.units
    if isinstance(layer.units, int) and classes is not None and layer.units != classes:
        mend = f"leave units out of the last dense layer, or give {classes}"
        refuse(f"its {layer.units} units cannot be the scores of {classes} classes; {mend}")
    return layer.units if isinstance(layer.units, int) else classes or 0


def _check_place(kinds: Sequence[str], number: int, size: Size, refuse: Refuse) -> None:
    """Refuse a layer that cannot stand where it stands."""
    kind, before = kinds[number - 1], kinds[: number - 1]
    if kind in ("conv", "pool") and len(size) == 1:
        mend = "move flatten behind the last conv and pool"
        refuse(f"it wants a map, and flatten (layer {kinds.index('flatten') + 1}) stands before it; {mend}")
    if kind in ("dense", "softmax") and len(size) == 3:
        refuse("it wants values, not a map; put flatten before it")
    if kind == "flatten" and kind in before:
        refuse(f"flatten is layer {before.index(kind) + 1} already; leave one of them out")
    if kind == "softmax" and number < len(kinds):
        refuse(f"layer {number + 1} ({kinds[number]}) stands behind it; softmax must be the last, leave out the rest")
    if kind == "softmax" and before[-1] != "dense":
        refuse(f"it wants the logits of a dense layer before it, not {before[-1]}; write dense, then softmax")


def _check_end(steps: Sequence[Step]) -> None:
    """Refuse a list that ends behind `flatten` with no class scores, or squashes them before its softmax."""
    last = steps[-1]
    if len(last.after) == 3:
        return
    if isinstance(last.layer, Softmax):
        logits = steps[-2]
        if isinstance(logits.layer, Dense) and (name := logits.layer.activation) != "none":
            mend = "leave its activation out; or leave softmax out and use activation: sigmoid with "
            refuse_step(logits, f"{name} under a softmax cross-entropy; {mend}loss=binary_cross_entropy")
    elif not (isinstance(last.layer, Dense) and last.layer.activation == "sigmoid"):
        mend = "end in dense, softmax (one class an image) or in dense: {activation: sigmoid} (several)"
        refuse_step(last, f"the list ends here without class scores; {mend}")


def _refusal(number: int, kind: str, size: Size) -> Refuse:
    shown = "x".join(map(str, size)) if len(size) == 3 else f"{size[0]} values"

    def refuse(said: str) -> NoReturn:
        raise ConfigError(f"{KEY}, layer {number} ({kind}), input {shown}: {said}", code="layers-unfit")

    return refuse
