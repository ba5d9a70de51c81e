"""DeepLabv3+, its pyramid pooling against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.segmentation.deeplabv3 import ASPP

from visionkit.errors import ConfigError
from visionkit.heads import DeepLabV3Plus
from visionkit.heads.deeplab import AtrousPyramidPooling
from visionkit.structures import FeatureSpec


def specs(stride=32):
    return {"c2": FeatureSpec(8, 4), "c5": FeatureSpec(24, stride)}


def test_the_pyramid_pooling_equals_torchvision():
    reference = ASPP(24, [12, 24, 36], 32)
    ours = AtrousPyramidPooling(24, 32, [12, 24, 36])
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(2, 24, 15, 19)
    with torch.no_grad():
        for mode in (True, False):  # in training mode the statistics of BatchNorm move alike, too
            torch.manual_seed(0)
            wanted = reference.train(mode)(x)
            torch.manual_seed(0)
            assert torch.allclose(ours.train(mode)(x), wanted, atol=1e-6)
    wanted = reference.state_dict()
    assert all(torch.allclose(value, wanted[name], atol=1e-6) for name, value in ours.state_dict().items())


def test_a_single_image_can_be_trained_on():
    pooling = AtrousPyramidPooling(24, 16, [1]).train()
    norm = pooling.convs[-1][2]
    norm.running_mean.fill_(0.25)
    before = norm.state_dict()["running_mean"].clone()
    pooling(torch.randn(1, 24, 4, 4)).sum().backward()
    assert torch.equal(norm.running_mean, before)
    assert all(parameter.grad is not None for parameter in pooling.parameters())
    pooling(torch.randn(2, 24, 4, 4))
    assert not torch.equal(norm.running_mean, before)


@pytest.mark.parametrize(("stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [6, 12, 18])])
def test_rates_follow_the_stride_of_the_coarse_level(stride, rates):
    head = DeepLabV3Plus(specs(stride), classes=["a"], channels=8)
    assert [branch[0].dilation[0] for branch in head.pooling.convs[1:-1]] == rates
    given = DeepLabV3Plus(specs(stride), classes=["a"], channels=8, rates=[2])
    assert [branch[0].dilation[0] for branch in given.pooling.convs[1:-1]] == [2]


def test_its_logits_have_the_size_of_the_fine_level():
    head = DeepLabV3Plus(specs(), classes=["a", "b"], channels=8).eval()
    features = {"c2": torch.randn(2, 8, 23, 31), "c5": torch.randn(2, 24, 3, 4)}
    assert head(features, torch.tensor([[90, 122]] * 2)).shape == (2, 2, 23, 31)
    assert head.stride == 4
    assert head.low[0].out_channels == 48


@pytest.mark.parametrize("options", [{"rates": [0, 6]}, {"rates": []}, {"channels": 0}])
def test_wrong_numbers_are_refused(options):
    with pytest.raises(ConfigError, match="numbers of at least 1 are wanted"):
        DeepLabV3Plus(specs(), classes=["a"], **options)
