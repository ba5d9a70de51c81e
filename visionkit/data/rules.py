"""The rules that data are held to, by the code that a finding names."""

from __future__ import annotations

from collections.abc import Mapping

RULES: Mapping[str, str] = {
    # files
    "image-missing": "the image file is there",
    "image-unreadable": "the image file is whole and of a kind that can be decoded",
    # sizes
    "size-differs": "the recorded size is that of the image",
    # splits
    "split-empty": "a split holds at least one usable image with an object",
}
