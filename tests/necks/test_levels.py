"""Which levels a pyramid reads."""

from __future__ import annotations

import pytest

from visionkit.errors import ConfigError
from visionkit.necks.levels import level_number, pyramid_levels
from visionkit.structures import FeatureSpec

SPECS = {f"c{level}": FeatureSpec(8, 2**level) for level in range(2, 6)}


def test_level_numbers():
    assert level_number("p3") == level_number("c3") == 3
    assert level_number("p10") == 10


@pytest.mark.parametrize("name", ["pixels", "p", "", "3"])
def test_names_that_are_no_level_are_refused(name):
    with pytest.raises(ConfigError, match=f"feature level '{name}'.*such as p3"):
        level_number(name)


@pytest.mark.parametrize(
    ("out_levels", "read", "coarsest"),
    [
        (("p3", "p4", "p5"), [3, 4, 5], 5),
        (("p4",), [4, 5], 4),  # what lies above comes down through the pyramid
        (("p2", "p7"), [2, 3, 4, 5], 7),
        (("p7", "p6"), [5], 7),
    ],
)
def test_reads_from_the_finest_wanted_level_up(out_levels, read, coarsest):
    assert pyramid_levels("FPN", SPECS, out_levels) == (read, coarsest)


def test_a_hole_in_the_backbone_is_refused():
    holed = {name: SPECS[name] for name in ("c2", "c4", "c5")}
    with pytest.raises(ConfigError, match=r"a head reads p2, but the backbone gives c2 .*c4 .*c5"):
        pyramid_levels("FPN", holed, ("p2",))
    assert pyramid_levels("FPN", holed, ("p4",)) == ([4, 5], 4)


def test_only_the_strides_that_are_read_must_double():
    odd = {**SPECS, "c2": FeatureSpec(8, 8)}
    assert pyramid_levels("FPN", odd, ("p3",)) == ([3, 4, 5], 3)
    with pytest.raises(ConfigError, match="c3 must have twice the stride of c2"):
        pyramid_levels("FPN", odd, ("p2",))
