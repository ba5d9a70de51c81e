"""Worlds whose scenes differ in how hard, how full and how near they are: ranges from which each scene draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from visionkit.data.scene_objects import Knobs
from visionkit.data.scenes import SPLITS
from visionkit.errors import DataError

Range = tuple[float, float]
_VARIETY_STREAM = 1
"""Sets what is drawn here apart from what the scene itself draws."""
_FILLED = 1.0
"""Squares of a scene's usual extent, one an object, take at most this share of a square image."""
_NEAR = 1.6
"""Within a scene, extents lie within its usual one divided and multiplied by this."""


@dataclass(frozen=True)
class Variety:
    """What is one for all scenes of a world, and the ranges, both ends included, from which each scene draws.

    Attributes:
        knobs: by name of `Knobs`, a value or (low, high).
        objects: a number; (least, most); None: as `render_scene` draws it.
        extent: objects' longer extents as shares of the image's shorter side; None: as `render_scene` draws them.
    """

    knobs: Mapping[str, float | Range]
    objects: int | tuple[int, int] | None = None
    extent: Range | None = None

    def of_scene(self, seed: int, split: str, index: int) -> tuple[int | None, Knobs, Range | None]:
        """The number of objects, the knobs and the range of extents of one scene; the same each time.

        A scene of n objects draws its usual extent, small ones as often as large ones on a logarithmic scale, within
        `extent` and at most √(1 / n), so that a crowd has room; its own range is about that.
        """
        rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index, _VARIETY_STREAM]))
        shares = dict(zip(self.knobs, rng.random(len(self.knobs)).tolist(), strict=True))
        knobs = Knobs(**{name: _between(value, shares[name]) for name, value in self.knobs.items()})
        crowding, nearness = rng.random(2).tolist()
        objects = self.objects
        if isinstance(objects, tuple):
            objects = objects[0] + int(crowding * (objects[1] - objects[0] + 1))
        if self.extent is None:
            return objects, knobs, None
        low, high = self.extent
        room = max(low, min(high, math.sqrt(_FILLED / (objects or 1))))
        usual = low * (room / low) ** nearness
        return objects, knobs, (max(low, usual / _NEAR), min(high, usual * _NEAR))


def _between(value: float | Range, share: float) -> float:
    return value[0] + share * (value[1] - value[0]) if isinstance(value, tuple) else value


# ------------------------------------------------------------------------------------------------------------ checking
def checked_variety(
    *,
    objects: int | Sequence[int] | None,
    extent: Sequence[float] | None,
    **knobs: float | Sequence[float],
) -> Variety:
    """What `Shapes` was given, in its types.

    Raises:
        DataError: a value is out of range, or a range does not rise.
    """
    assert set(knobs) == {field.name for field in fields(Knobs)}
    checked: dict[str, float | Range] = {}
    for name, value in knobs.items():
        low, high = _ends(value)
        if not (_is_number(low) and _is_number(high) and 0 <= low <= high <= 1):
            raise _unfit(name, value, "a number from 0 (tidy) to 1 (hard), or [low, high],")
        checked[name] = (float(low), float(high)) if isinstance(value, Sequence) else float(low)
    return Variety(checked, _checked_objects(objects), _checked_extent(extent))


def _checked_objects(value: int | Sequence[int] | None) -> int | tuple[int, int] | None:
    if value is None:
        return None
    low, high = _ends(value)
    if not (_is_number(low, int) and _is_number(high, int) and 1 <= low <= high):
        raise _unfit("objects", value, "a whole number from 1 on, or [least, most],")
    return (low, high) if isinstance(value, Sequence) else value


def _checked_extent(value: Sequence[float] | None) -> Range | None:
    if value is None:
        return None
    low, high = _ends(value)
    if not (isinstance(value, Sequence) and _is_number(low) and _is_number(high) and 0 < low <= high <= 1):
        raise _unfit("extent", value, "[low, high] of shares above 0 and at most 1")
    return float(low), float(high)


def _ends(value: Any) -> tuple[Any, Any]:
    """The two ends of a range; a single value is both, and what is neither gives ends that are no numbers."""
    if not isinstance(value, Sequence):
        return value, value
    return (value[0], value[1]) if len(value) == 2 else (None, None)


def _is_number(value: Any, kind: Any = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def _unfit(name: str, value: object, wanted: str) -> DataError:
    return DataError(f"data=shapes: {name}={value!r}: {wanted} is wanted", code="value-unfit")
