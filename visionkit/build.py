"""From a checked configuration to built parts. Only here do configuration and parts meet."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from visionkit.config import build, reader_arguments
from visionkit.errors import ConfigError
from visionkit.interfaces import Head, Metric, Reader
from visionkit.metrics import CocoDetection, TopK
from visionkit.model import VisionModel


def describe_model(cfg: DictConfig, reader: Reader) -> dict[str, Any]:
    """Return what a checkpoint keeps of its model: each part's `_target_` and arguments, and the class names.

    The class list of a head is `head.<name>.classes` where given, else the reader's.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    heads = {name: {"classes": list(reader.classes), **plain["head"][name]} for name in plain["heads"]}
    preprocess = dict(plain["preprocess"])
    backbone = {key: value for key, value in plain["model"]["backbone"].items() if key != "weights"}
    weights = plain["weights"]
    if isinstance(weights, Mapping):
        channels = len(preprocess["mean"])
        for name in ("mean", "std"):
            value = weights.get(name, preprocess[name])
            preprocess[name] = [value] * channels if isinstance(value, int | float) else list(value)
    return {"backbone": backbone, "neck": plain["model"]["neck"], "heads": heads, "preprocess": preprocess}


def build_model(
    description: Mapping[str, Any], *, weights: str | None = None, allow: Sequence[str] | None = ()
) -> VisionModel:
    """Build a model with random weights, or with the backbone's `weights`.

    Args:
        description: see `describe_model`.
        weights: published weights or the path of a state dict, for the backbone.
        allow: the packages beside visionkit whose parts may be built; None: any (the user's own configuration).

    Raises:
        ConfigError: when parts do not fit each other.
        CheckpointError: when a part is not allowed.
    """
    backbone = build(description["backbone"], allow=allow, **({} if weights is None else {"weights": weights}))
    partials = {name: build(node, allow=allow) for name, node in description["heads"].items()}
    neck = None
    given = dict(backbone.out_specs)
    if description["neck"] is not None:
        wanted = _neck_levels(partials, given)
        if not wanted:
            raise ConfigError("model.neck: no head reads a level of the neck; choose neck=none")
        neck = build(description["neck"], backbone.out_specs, out_levels=wanted, allow=allow)()
        given.update(neck.out_specs)
    heads = {name: partial(given) for name, partial in partials.items()}
    if neck is None and hasattr(backbone, "trim"):
        read = {level for head in heads.values() for level in head.levels}
        backbone.trim([level for level in backbone.out_specs if level in read][-1])
    return VisionModel(backbone, neck, heads, preprocess=build(description["preprocess"], allow=allow))


def backbone_weights(weights: Any) -> str | None:
    """The `weights` of a configuration as a backbone takes them: None for none, and for auto as long as none ship."""
    if isinstance(weights, Mapping):
        if "path" not in weights:
            raise ConfigError("weights={…}: path is missing; give weights={path: FILE, mean: 0.5, std: 0.5}")
        return str(weights["path"])
    return None if weights in ("none", "auto", None) else str(weights)


def build_reader(data: Mapping[str, Any], split: str, *, allow: Sequence[str] | None = None) -> Reader:
    """Open one split, a role (train, val, test) or one of the source's own lists."""
    reader: Reader = build(data["reader"], allow=allow)(**reader_arguments(data, split))
    return reader


def build_metrics(model: VisionModel) -> dict[str, Metric]:
    """A fresh metric for each head, by the labels that it needs: a head is judged on what it learns from."""
    metrics: dict[str, Metric] = {}
    for name, module in model.heads.items():
        head = cast(Head, module)
        if "boxes" in head.needs:
            metrics[name] = cast(Metric, CocoDetection(head.classes))
        else:
            multi_label = bool(getattr(module, "multi_label", False))
            metrics[name] = cast(Metric, TopK(head.classes, multi_label=multi_label))
    return metrics


def category_ids(model: VisionModel, reader: Reader) -> dict[str, list[int | str | None]]:
    """Per head, the source's id of each of the head's classes; None for a class that the source lacks."""
    known = dict(zip(reader.classes, reader.category_ids, strict=True))
    return {name: [known.get(label) for label in cast(Head, head).classes] for name, head in model.heads.items()}


def _neck_levels(partials: Mapping[str, Any], backbone: Mapping[str, Any]) -> list[str]:
    """The levels that heads read and the backbone does not give: heads say it in their argument `levels`."""
    read = [inspect.signature(partial).parameters["levels"].default for partial in partials.values()]
    levels = [level for one in read for level in one]
    return [level for level in dict.fromkeys(levels) if level not in backbone]
