"""Backbones, necks, heads and published weights with their parameters, for `visionkit list`.

Those of torchvision are built without memory for their weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torchvision
from omegaconf import OmegaConf
from torch import nn
from torch.overrides import TorchFunctionMode

from visionkit.backbones import CSP, Plain, Timm
from visionkit.backbones.torchvision import NAMES
from visionkit.config import compose, configs_folder, groups
from visionkit.listing import Part
from visionkit.listing_choices import first_comment, papers, summary
from visionkit.model import VisionModel
from visionkit.targets import locate
from visionkit.targets import parameters as parameters_of

_CLASSES = [f"class {number}" for number in range(80)]
_CLASSIFIERS = ("fc.", "classifier.")


def backbones() -> list[Part]:
    """Every backbone, ours first."""
    tell = {"Torchvision": _of_torchvision, "CSP": _csp, "Plain": _plain, "Timm": _timm}
    parts = []
    for name in groups()["backbone"]:
        node = _own("backbone", name)
        while "_target_" not in node:
            node = _own("backbone", node["defaults"][0])
        parts.append(tell[node["_target_"].rpartition(".")[2]](name, node))
    order = ("visionkit", "torchvision", "timm (extra timm)")
    return sorted(parts, key=lambda part: (order.index(part.family), _numbered(part.choose)))


def _of_torchvision(name: str, node: Mapping[str, Any]) -> Part:
    title, number = torchvision_paper(node["name"])
    return Part(f"backbone={name}", title, number, _torchvision_parameters(node["name"]), "torchvision")


def _csp(name: str, node: Mapping[str, Any]) -> Part:
    says = f"{summary(CSP)}; size {node['size']}"
    return Part(f"backbone={name}", says, "", parameters(CSP(node["size"])), "visionkit")


def _plain(name: str, node: Mapping[str, Any]) -> Part:
    count = parameters(Plain(node["layers"], image_size=64))
    says = f"{first_comment('backbone', name)}; model.backbone.layers=[…] makes another"
    return Part(f"backbone={name}", says, "", count, "visionkit")


def _timm(name: str, _: Mapping[str, Any]) -> Part:
    says = f"{summary(Timm)}: model.backbone.name=NAME"
    return Part(f"backbone={name}", says, "timm", None, "timm (extra timm)")


def necks() -> list[Part]:
    """The necks, as they are behind csp_nano for a detector."""
    parts = []
    for name in groups()["neck"]:
        if name == "none":
            parts.append(Part("neck=none", "Heads read the backbone's own levels", "", 0))
            continue
        target = locate(_own("neck", name)["_target_"])
        count = parameters(model_of("detect", f"neck={name}"), "neck")
        parts.append(Part(f"neck={name}", summary(target), papers(target), count))
    return parts


def heads() -> list[Part]:
    """The heads by name, the other networks that a head of that name may be, and the merges."""
    parts = []
    tasks = {"classification": "classify", "localization": "localize", "detection": "detect", "instance": "instance"}
    for name, task in tasks.items():
        model = model_of(task)
        target, count = type(model.heads[name]), parameters(model, f"heads.{name}")
        parts.append(Part(f"heads=[{name}]", summary(target), papers(target), count))
    for name in groups()["semantic_head"]:
        typed = f"semantic_head={name}"
        levels = parameters_of(locate(_own("semantic_head", name)["_target_"]))["levels"].default
        alone = [] if any(level.startswith("p") for level in levels) else ["neck=none"]
        model = model_of("semantic", typed, *alone)
        target, count = type(model.heads["semantic"]), parameters(model, "heads.semantic")
        parts.append(Part(f"heads=[semantic] {typed}", summary(target), papers(target), count))
    for name in groups()["merge"]:
        target = locate(_own("merge", name)["_target_"])
        parts.append(Part(f"merges=[{name}]", summary(target), papers(target), 0))
    return parts


def weights() -> list[Part]:
    """torchvision's published weights of each backbone."""
    parts = []
    for name in sorted(NAMES, key=_numbered):
        for member in torchvision.models.get_model_weights(name):
            numbers = next(iter(member.meta["_metrics"].values()))
            accuracy = f"top-1 {numbers['acc@1']:.1f} %, " if "acc@1" in numbers else ""
            licence = f", licence {member.meta['license']}" if "license" in member.meta else ""
            says = f"{accuracy}{member.meta['_file_size']:.0f} MB{licence}"
            family = "ImageNet, by torchvision, which downloads them"
            parts.append(Part(f"backbone={name} weights={member.name}", says, "", None, family))
    return parts


def model_of(task: str, *typed: str) -> VisionModel:
    """The model of a task for 80 classes."""
    from visionkit.build import build_model, describe_model  # which takes seconds, and backbones are told of without

    cfg = compose("train", [f"task={task}", "data=coco", "data.root=.", *typed])
    cfg.heads = cfg.heads or groups()["head"]
    classes: Any = SimpleNamespace(classes=_CLASSES, semantic_classes=_CLASSES)
    return build_model(describe_model(cfg, classes), allow=None)


def parameters(module: nn.Module, part: str = "") -> int:
    """The parameters of a module, or of its part such as "heads.detection"."""
    return sum(parameter.numel() for parameter in module.get_submodule(part).parameters())


def torchvision_paper(name: str) -> tuple[str, str]:
    """What torchvision's docstring names as a network's source: the title of a paper and its arXiv number, or else the
    words themselves and nothing.
    """
    text = " ".join((torchvision.models.get_model_builder(name).__doc__ or "").split())
    found = re.search(r"`([^`]+?)\s*<https?://(?:www\.)?arxiv\.org/(?:abs|pdf)/([\d.]+\d)[^>]*>`", text)
    if found:
        return found[1], f"arXiv:{found[2]}"
    return re.split(r"\.(?=\s|$)", re.sub(r"`([^`<]+?)\s*<[^`]*>`_+", r"\1", text))[0], ""


def _torchvision_parameters(name: str) -> int:
    with _weightless():
        network = torchvision.models.get_model(name)
    return sum(one.numel() for key, one in network.named_parameters() if not key.startswith(_CLASSIFIERS))


class _OnMeta(TorchFunctionMode):
    """Weights are made on the device "meta"; what constructors compute by tensors (RegNet's widths) is computed."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        more = {"device": "meta"} if func in (torch.empty, torch.zeros, torch.ones) else {}
        return func(*args, **{**(kwargs or {}), **more})


@contextmanager
def _weightless() -> Iterator[None]:
    """Build networks without memory for their weights, and without the time to draw them."""
    drawing = {name: _undrawn for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")}
    with mock.patch.dict(vars(nn.init), drawing), _OnMeta():
        yield


def _undrawn(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return tensor


def _own(group: str, name: str) -> dict[str, Any]:
    """What a file of a configuration group says itself."""
    node: Any = OmegaConf.to_container(OmegaConf.load(configs_folder() / group / f"{name}.yaml"))
    return dict(node)


def _numbered(name: str) -> list[Any]:
    """For sorting by name with numbers in their order: b2 before b10."""
    return [int(one) if one.isdecimal() else one for one in re.split(r"(\d+)", name)]
