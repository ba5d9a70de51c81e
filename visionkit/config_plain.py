"""What a configuration says of classes: the head that a list of layers ends in, the loss and the metrics by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visionkit.config_checks import leaves, shown
from visionkit.errors import CodedLine, ConfigError

_PLAIN, _HEAD = "visionkit.backbones.Plain", "visionkit.heads.PlainClassification"
_POOLED = ("levels", "channels", "dropout")
"""What the linear head is told of the map that it pools; a head of dense layers reads it from the list."""
_OF_CLASSES = ("loss", "metrics")
"""Keys of the whole configuration that only the classification head reads."""


def lay_plain_head(values: dict[str, Any]) -> list[CodedLine]:
    """Put the head that the backbone's list of layers ends in where the linear one stands; return the list's faults.

    values: a training run's configuration as plain containers, with its heads chosen; `head.classification` is changed.
    A list without `flatten`, or another head than the linear one, leaves it as it is.
    """
    backbone = values["model"]["backbone"]
    if not isinstance(backbone, Mapping) or backbone.get("_target_") != _PLAIN:
        return []
    from visionkit.backbones.plain_layers import canvas_of, follow, stages

    channels = backbone.get("in_channels", values["data"]["channels"])
    try:
        canvas = canvas_of(backbone.get("image_size", values["image_size"]))
        steps = follow(backbone.get("layers", []), (*canvas, channels))
    except ConfigError as error:
        return list(error.faults)
    node = values["head"].get("classification")
    if len(steps[-1].after) == 3 or not node or node["_target_"] != "visionkit.heads.LinearClassification":
        return []
    level, mine = list(stages(steps).items())[-1]
    own = {"_target_": _HEAD, "layers": backbone["layers"], "map_size": list(mine[-1].after[:2]), "levels": [level]}
    values["head"]["classification"] = {key: one for key, one in node.items() if key not in _POOLED} | own
    return []


def class_faults(typed: Mapping[str, Any], cfg: Mapping[str, Any]) -> list[CodedLine]:
    """Return a line per typed key that no classification head of the configuration reads."""
    heads = cfg.get("heads")  # missing where what was typed is no list
    node = cfg["head"].get("classification")
    faults: list[CodedLine] = []
    if heads is not None and "classification" not in heads:
        faults += [
            CodedLine(
                f"{key}={shown(typed[key])}: only the head 'classification' takes it (heads={shown(list(heads))})",
                "key-not-taken",
            )
            for key in _OF_CLASSES
            if key in typed
        ]
    if node is not None and node["_target_"] == _HEAD:
        keys = [key for key, _ in leaves(typed)]
        faults += [
            CodedLine(
                f"{key}: the head is what the list of layers has from flatten on; change it in model.backbone.layers",
                "key-not-taken",
            )
            for key in keys
            if key in {f"head.classification.{name}" for name in _POOLED}
        ]
    return faults
