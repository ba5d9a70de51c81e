"""The contract of every neck. A new one is a row of `CASES`."""

from __future__ import annotations

import pytest
import torch

from visionkit.errors import ConfigError
from visionkit.interfaces import Neck
from visionkit.necks import FPN, PAFPN
from visionkit.structures import FeatureSpec

CASES = {"FPN": FPN, "PAFPN": PAFPN}
SPECS = {
    "c2": FeatureSpec(8, 4),
    "c3": FeatureSpec(16, 8),
    "c4": FeatureSpec(24, 16),
    "c5": FeatureSpec(40, 32),
}
WANTED = [
    ("p3", "p4", "p5"),
    ("p2", "p3", "p4", "p5"),
    ("p3",),
    ("p5",),
    ("p4", "p6"),
    ("p6", "p7"),
    ("p2", "p5", "p7"),
    ("pixels",),
    ("pixels", "p3", "p4", "p5"),
    ("pixels", "p2"),
]


def features(size=(64, 96), batch=2, specs=SPECS):
    return {
        name: torch.randn(batch, spec.channels, *(-(-side // spec.stride) for side in size))
        for name, spec in specs.items()
    }


@pytest.fixture(params=CASES)
def kind(request):
    torch.manual_seed(0)
    return CASES[request.param]


def test_has_the_members_of_the_protocol(kind):
    assert isinstance(kind(SPECS, out_levels=("p3",), channels=16), Neck)


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("size", [(64, 96), (97, 130)])
def test_gives_the_levels_asked_for_and_no_others(kind, wanted, size):
    neck = kind(SPECS, out_levels=wanted, channels=16)
    assert tuple(neck.out_specs) == wanted
    given = neck(features(size))
    assert tuple(given) == wanted
    for name, spec in neck.out_specs.items():
        if name == "pixels":
            assert spec.stride == 4
        else:
            assert spec == FeatureSpec(16, 2 ** int(name[1:]))
        assert given[name].shape == (2, spec.channels, *(-(-side // spec.stride) for side in size))
        assert given[name].isfinite().all()


@pytest.mark.parametrize("wanted", WANTED)
def test_builds_only_what_some_head_reads(kind, wanted):
    neck = kind(SPECS, out_levels=wanted, channels=16)
    sum(level.square().mean() for level in neck(features((128, 128))).values()).backward()
    without = [name for name, value in neck.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


def test_levels_come_out_fine_to_coarse_in_whatever_order_they_are_asked_for(kind):
    neck = kind(SPECS, out_levels=("p5", "p3", "p4"), channels=16)
    assert list(neck.out_specs) == list(neck(features())) == ["p3", "p4", "p5"]


def test_what_a_coarse_level_sees_reaches_the_finest(kind):
    neck = kind(SPECS, out_levels=("p3",), channels=16).eval()
    first = features()
    second = {**first, "c5": first["c5"] + 1}
    with torch.no_grad():
        assert not torch.allclose(neck(first)["p3"], neck(second)["p3"])
        unread = {**first, "c2": first["c2"] + 1}
        assert torch.equal(neck(first)["p3"], neck(unread)["p3"])


def test_what_a_fine_level_sees_reaches_the_coarsest_of_a_path_aggregation():
    first = features()
    second = {**first, "c3": first["c3"] + 1}
    with torch.no_grad():
        down = FPN(SPECS, out_levels=("p3", "p5"), channels=16).eval()
        assert torch.equal(down(first)["p5"], down(second)["p5"])
        both = PAFPN(SPECS, out_levels=("p3", "p5"), channels=16).eval()
        assert not torch.allclose(both(first)["p5"], both(second)["p5"])


def test_state_dict_round_trip(kind):
    first, second = (kind(SPECS, out_levels=("p3", "p6"), channels=16).eval() for _ in range(2))
    second.load_state_dict(first.state_dict())
    given = features()
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(first(given).values(), second(given).values(), strict=True))


def test_a_level_that_the_backbone_cannot_feed_is_refused_with_both_sides(kind):
    coarse = {name: SPECS[name] for name in ("c4", "c5")}
    with pytest.raises(
        ConfigError, match=rf"{kind.__name__}: a head reads p3, but the backbone gives c4 \(stride 16\), c5"
    ):
        kind(coarse, out_levels=("p3", "p4"), channels=16)


def test_strides_that_do_not_double_are_refused_with_both_sides(kind):
    dilated = {**SPECS, "c5": FeatureSpec(40, 16)}
    with pytest.raises(
        ConfigError, match=r"c5 must have twice the stride of c4, but the backbone gives .*c5 \(stride 16\)"
    ):
        kind(dilated, out_levels=("p3",), channels=16)


def test_no_level_at_all_is_refused(kind):
    with pytest.raises(ConfigError, match=r"out_levels is empty.*neck=none"):
        kind(SPECS, out_levels=(), channels=16)


@pytest.mark.parametrize("name", ["c3", "q3", "pixel"])
def test_a_level_of_another_name_is_refused(kind, name):
    with pytest.raises(ConfigError, match=f"{name}|'{name}'"):
        kind(SPECS, out_levels=("p3", name), channels=16)


def test_autocast_is_finite(kind):
    neck = kind(SPECS, out_levels=("p3", "p6"), channels=16)
    with torch.autocast("cpu", torch.bfloat16):
        given = neck(features())
    sum(level.float().square().mean() for level in given.values()).backward()
    assert all(value.grad.isfinite().all() for value in neck.parameters())
