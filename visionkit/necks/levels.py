"""What necks share: reading level names, and refusing levels that cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from visionkit.errors import ConfigError
from visionkit.necks.pixels import PIXELS
from visionkit.structures import FeatureSpec


def level_number(name: str) -> int:
    """3 for "p3" or "c3"."""
    if len(name) < 2 or not name[1:].isdigit():
        raise ConfigError(f"feature level '{name}': a letter and a number are wanted, such as p3", code="name-unfit")
    return int(name[1:])


def pyramid_levels(neck: str, in_specs: Mapping[str, FeatureSpec], out_levels: Sequence[str]) -> tuple[list[int], int]:
    """The backbone's levels that a pyramid with `out_levels` reads, as numbers, and the coarsest level that it makes.

    Maps of the backbone that are not named by a letter and a number, since their cells are no pyramid's, are passed
    over. The level "pixels" is made from the finest of the others, or from p3 where it is the only one.

    Raises:
        ConfigError: when `out_levels` asks for a level finer than the backbone's finest or not named p and a number, or
            two input levels that should double in stride do not; both sides are named.
    """
    strange = [name for name in out_levels if not name.startswith("p")]
    if strange:
        raise ConfigError(
            f"{neck} makes levels named pixels, p2, p3, …; a head reads {', '.join(strange)}, which it cannot make",
            code="levels-unfit",
        )
    if not out_levels:
        raise ConfigError(f"{neck}: out_levels is empty; no head reads the neck, use neck=none", code="levels-unfit")
    given = {level_number(name): spec for name, spec in in_specs.items() if name[1:].isdigit()}
    if not given:
        raise ConfigError(
            f"{neck}: a head reads {', '.join(out_levels)}, made from c2, c3, …, but {_told(in_specs)}",
            code="levels-unfit",
        )
    wanted = sorted(level_number(name) for name in out_levels if name != PIXELS) or [max(3, min(given))]
    have = _told(in_specs)
    if wanted[0] < min(given) or any(level not in given for level in range(wanted[0], max(given))):
        raise ConfigError(
            f"{neck}: a head reads p{wanted[0]}, but {have}; read coarser levels or use another backbone",
            code="levels-unfit",
        )
    read = [level for level in sorted(given) if level >= min(wanted[0], max(given))]
    for finer, coarser in pairwise(read):
        if given[coarser].stride != 2 * given[finer].stride:
            raise ConfigError(
                f"{neck}: c{coarser} must have twice the stride of c{finer}, but {have}", code="levels-unfit"
            )
    return read, wanted[-1]


def _told(in_specs: Mapping[str, FeatureSpec]) -> str:
    return f"the backbone gives {', '.join(f'{name} (stride {spec.stride})' for name, spec in in_specs.items())}"
