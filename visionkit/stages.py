"""Which parts of a backbone make which feature level: what is frozen, thawed or taught more slowly, level by level."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visionkit.structures import Features


@dataclass(frozen=True)
class Stage:
    """What a level needs beyond the levels before it.

    Attributes:
        parameters: those that reach this level and none before it.
        modules: those with parameters or buffers of their own, and those without any parts (dropout, drop path,
            activations): all that behave by their own `training`.
    """

    parameters: tuple[nn.Parameter, ...]
    modules: tuple[nn.Module, ...]


def backbone_stages(backbone: nn.Module, in_channels: int, canvas: tuple[int, int]) -> dict[str, Stage]:
    """Divide any backbone into the stages of its levels, fine to coarse.

    An image without content goes through a copy without memory (torch's "meta" device): a parameter belongs to the
    first level that has a gradient to it, a module without parameters to the stage of the module called before it. So
    what comes before the first level, the stem, belongs to that level. Parameters and modules that reach no level are
    in no stage.

    Args:
        backbone: any; it is left as it is.
        in_channels: of the images that it takes.
        canvas: (height, width) of the images.
    """
    twin = copy.deepcopy(backbone).to("meta").eval().requires_grad_(True)
    called: list[str] = []
    names = {module: name for name, module in twin.named_modules() if _acts_itself(module)}
    for module in names:
        module.register_forward_pre_hook(lambda module, _: called.append(names[module]))
    with torch.enable_grad():
        levels: Features = twin(torch.zeros(1, in_channels, *canvas, device="meta"))
    of_parameter = _first_levels(levels, dict(twin.named_parameters()))
    of_module = _levels_in_order(called, twin, of_parameter, list(levels))
    parameters, modules = dict(backbone.named_parameters()), dict(backbone.named_modules())
    return {
        level: Stage(
            tuple(parameters[name] for name, own in of_parameter.items() if own == level),
            tuple(modules[name] for name, own in of_module.items() if own == level),
        )
        for level in levels
    }


def _acts_itself(module: nn.Module) -> bool:
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return bool(own) or not any(True for _ in module.children())


def _first_levels(levels: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """By parameter, the first level that it takes part in."""
    found: dict[str, str] = {}
    for level, features in levels.items():
        rest = [name for name in parameters if name not in found]
        if rest:
            wanted = [parameters[name] for name in rest]
            gradients = torch.autograd.grad(features.sum(), wanted, retain_graph=True, allow_unused=True)
            found |= {name: level for name, gradient in zip(rest, gradients, strict=True) if gradient is not None}
    return found


def _levels_in_order(
    called: list[str], backbone: nn.Module, of_parameter: Mapping[str, str], levels: list[str]
) -> dict[str, str]:
    """By module that was called, the latest level of its own parameters, else of the last module that had some."""
    modules = dict(backbone.named_modules())
    found: dict[str, str] = {}
    current = levels[0]
    for name in called:
        prefix = f"{name}." if name else ""
        own = [of_parameter.get(prefix + leaf) for leaf, _ in modules[name].named_parameters(recurse=False)]
        reached = [levels.index(level) for level in own if level is not None]
        if reached:
            current = levels[max(reached)]
        latest = max(levels.index(current), levels.index(found.get(name, current)))
        found[name] = levels[latest]
    return found
