"""Parts of the user's own in a configuration: model.backbone._target_=mymodule.MyBackbone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

_PARTIAL = re.compile(r"(head|merge|metric)\.[^.]+|model\.neck|data(\.sets\.[^.]+)?\.reader")
"""The places of parts that are given more arguments when the model, the reader or the metric is made."""


def make_room(cfg: DictConfig, values: Mapping[str, Any]) -> None:
    """Clear the place of each part for which another `_target_` was typed: the arguments of the one that stood there
    are not its own.

    values: what was typed, by dotted key. `_partial_` is set where such a part is made in two steps.
    """
    for key, value in values.items():
        place, target = (key[: -len("._target_")], value) if key.endswith("._target_") else (key, None)
        if target is None:
            target = value.get("_target_") if isinstance(value, Mapping) else None
        if not isinstance(target, str):
            continue
        former = OmegaConf.select(cfg, place)
        if isinstance(former, DictConfig) and former.get("_target_") == target:
            continue
        room = {"_partial_": True} if _PARTIAL.fullmatch(place) else {}
        OmegaConf.update(cfg, place, room, merge=False, force_add=True)
