from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from visionkit.backbones import CSP, Timm, Torchvision
from visionkit.stages import backbone_stages
from visionkit.structures import FeatureSpec

CASES = {
    "csp": lambda: CSP("nano", width=0.25),
    "resnet18": lambda: Torchvision("resnet18"),
    "mobilenet_v2": lambda: Torchvision("mobilenet_v2"),
    "convnext_tiny": lambda: Torchvision("convnext_tiny"),
    "timm efficientnet": lambda: Timm("efficientnet_lite0"),
}


@pytest.fixture(params=CASES)
def backbone(request):
    if request.param.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return CASES[request.param]()


def test_every_parameter_and_acting_module_is_in_one_stage(backbone):
    stages = backbone_stages(backbone, 3, (64, 64))
    assert list(stages) == list(backbone.out_specs)
    parameters = [id(parameter) for stage in stages.values() for parameter in stage.parameters]
    assert sorted(parameters) == sorted(id(parameter) for parameter in backbone.parameters())
    modules = [id(module) for stage in stages.values() for module in stage.modules]
    assert len(modules) == len(set(modules))
    kinds = (nn.modules.batchnorm._BatchNorm, nn.Dropout, StochasticDepth, nn.Conv2d)
    assert {id(module) for module in backbone.modules() if isinstance(module, kinds)} <= set(modules)


def test_a_level_needs_its_stage_and_those_before_it_and_no_other(backbone):
    stages = backbone_stages(backbone, 3, (64, 64))
    images = torch.randn(1, 3, 64, 64)
    backbone.eval()
    with torch.no_grad():
        before = backbone(images)
        for number, stage in enumerate(stages.values()):
            changed = copy.deepcopy([parameter.data for parameter in stage.parameters])
            for parameter in stage.parameters:
                parameter.add_(0.05 * torch.randn_like(parameter))
            after = backbone(images)
            for place, level in enumerate(before):
                assert torch.equal(before[level], after[level]) == (place < number), level
            for parameter, value in zip(stage.parameters, changed, strict=True):
                parameter.copy_(value)


def test_the_backbone_is_left_as_it_was(backbone):
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    random = torch.get_rng_state()
    backbone_stages(backbone, 3, (64, 64))
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(module.training for module in backbone.modules())
    assert all(value.requires_grad and value.grad is None for value in backbone.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert not any(module._forward_pre_hooks for module in backbone.modules())


class Branched(nn.Module):
    """The stem serves both levels; dropout belongs to the layer before it; one layer serves none."""

    def __init__(self) -> None:
        super().__init__()
        self.unread = nn.Conv2d(4, 4, 1)
        self.late = nn.Conv2d(4, 4, 3, 2, 1)
        self.late_dropout = nn.Dropout(0.5)
        self.stem = nn.Conv2d(5, 4, 3, 4, 1)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.stem_dropout = nn.Dropout(0.5)
        self.out_specs = {"c2": FeatureSpec(4, 4), "c3": FeatureSpec(4, 8)}

    def forward(self, images):
        c2 = self.stem_dropout(self.stem(images))
        return {"c2": c2, "c3": self.scale * self.late_dropout(self.late(c2))}


def test_by_hand():
    backbone = Branched()
    stages = backbone_stages(backbone, 5, (32, 16))
    assert set(stages["c2"].parameters) == {backbone.stem.weight, backbone.stem.bias}
    assert set(stages["c3"].parameters) == {backbone.late.weight, backbone.late.bias, backbone.scale}
    assert list(stages["c2"].modules) == [backbone.stem, backbone.stem_dropout]
    assert set(stages["c3"].modules) == {backbone, backbone.late, backbone.late_dropout}
