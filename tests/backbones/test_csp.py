"""Our own backbone: its sizes and its errors."""

from __future__ import annotations

import pytest
import torch

from visionkit.backbones import CSP
from visionkit.blocks import CSPBlock
from visionkit.errors import CheckpointError, ConfigError


def count(module):
    return sum(value.numel() for value in module.parameters())


def test_sizes_grow():
    counts = [count(CSP(size)) for size in ("nano", "small", "medium", "large")]
    assert counts == sorted(set(counts))
    assert 1.0e6 < counts[0] < 1.5e6
    assert [spec.channels for spec in CSP("nano").out_specs.values()] == [32, 64, 128, 256]


def test_width_scales_the_channels_in_steps_of_eight():
    assert [spec.channels for spec in CSP("nano", width=0.4).out_specs.values()] == [16, 24, 48, 104]
    assert [spec.channels for spec in CSP("nano", width=0.01).out_specs.values()] == [8, 8, 8, 8]


def test_an_unknown_size_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"size 'smal' is none of nano, small, medium, large.*'small'"):
        CSP("smal")


def test_weights_of_another_size_are_refused_with_the_shapes(tmp_path):
    path = tmp_path / "nano.pth"
    torch.save(CSP("nano", width=0.25).state_dict(), path)
    with pytest.raises(
        CheckpointError, match=r"nano\.pth do not fit CSP \(.*has another shape: .*\(8, 8, 3, 3\) for \(32"
    ):
        CSP("nano", weights=str(path))
    assert CSP("nano", width=0.25, weights=str(path))


def test_pyramid_pooling_lets_the_coarsest_level_see_twice_as_far():
    backbone = CSP("nano", width=0.25).double().eval()
    images = torch.rand(1, 3, 640, 64, dtype=torch.float64, requires_grad=True)
    backbone(images)["c5"][0, :, 10, 1].sum().backward()
    seen = torch.nonzero(images.grad.abs().sum((0, 1, 3)))[:, 0]
    assert seen.max() - seen.min() > 600  # without it 399


def shares(backbone):
    return [stage.drop_path for module in backbone.modules() if isinstance(module, CSPBlock) for stage in module.stages]


def test_drop_path_rises_linearly_from_0_and_adds_no_parameter():
    backbone = CSP("nano", width=0.25, drop_path=0.5)
    assert shares(backbone) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    without = CSP("nano", width=0.25)
    assert shares(without) == [0.0] * 6
    backbone.load_state_dict(without.state_dict())
    images = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone.eval()(images)["c5"], without.eval()(images)["c5"])


def test_drop_path_acts_in_training():
    backbone = CSP("nano", width=0.25, drop_path=0.5)
    images = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        first, second = backbone(images), backbone(images)
    assert torch.equal(first["c2"], second["c2"])  # the first bottleneck never drops
    assert not torch.equal(first["c5"], second["c5"])


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_drop_path_that_is_no_share_is_refused(share):
    with pytest.raises(ConfigError, match=r"drop_path .* is no share; give one from 0 to below 1"):
        CSP("nano", drop_path=share)
