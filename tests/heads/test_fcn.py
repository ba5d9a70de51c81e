"""The FCN head against torchvision's."""

from __future__ import annotations

import torch
from torchvision.models.segmentation.fcn import FCNHead

from visionkit.heads import FCN
from visionkit.structures import FeatureSpec

CLASSES = [str(number) for number in range(21)]


def test_equals_torchvision():
    reference = FCNHead(2048, 21).eval()
    head = FCN({"c5": FeatureSpec(2048, 8)}, classes=CLASSES).eval()
    head.layers.load_state_dict(reference.state_dict())
    x = torch.randn(2, 2048, 5, 6)
    with torch.no_grad():
        assert torch.equal(head({"c5": x}, torch.tensor([[40, 48]] * 2)), reference(x))


def test_the_auxiliary_branch_equals_torchvision():
    reference = FCNHead(1024, 21).eval()
    specs = {"c4": FeatureSpec(1024, 8), "c5": FeatureSpec(8, 8)}
    head = FCN(specs, classes=CLASSES, auxiliary="c4").eval()
    head.criterion.auxiliary.load_state_dict(reference.state_dict())
    x = torch.randn(2, 1024, 5, 6)
    with torch.no_grad():
        assert torch.equal(head.criterion.auxiliary(x), reference(x))
