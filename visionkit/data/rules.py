"""The rules that data are held to, by the code that a finding names."""

from __future__ import annotations

from collections.abc import Mapping

from visionkit.error_codes.data import DATA

RULES: Mapping[str, str] = {rule: code.meaning for rule, code in DATA.items()}
"""What each rule asks for."""

_OF_OBJECTS = ("annotation", "area", "box", "category", "flag", "iscrowd", "label", "polygon", "rle", "segmentation")


def is_of_object(rule: str) -> bool:
    """Whether what breaks the rule is one object; otherwise it is a whole image or more."""
    return rule.split("-")[0] in _OF_OBJECTS or rule == "image-unknown"
