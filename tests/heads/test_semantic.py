"""Our light semantic head."""

from __future__ import annotations

import pytest
import torch

from visionkit.config import build, compose
from visionkit.errors import ConfigError
from visionkit.heads import FCN, DeepLabV3Plus, SemanticSegmentation
from visionkit.structures import FeatureSpec

SPECS = {"c4": FeatureSpec(24, 16), "pixels": FeatureSpec(16, 4)}


def test_without_depth_it_is_linear_in_each_cell():
    head = SemanticSegmentation(SPECS, classes=["a", "b"], depth=0, channels=99).eval()
    x = torch.randn(2, 16, 5, 7)
    logits = head({"pixels": x}, torch.tensor([[20, 28]] * 2))
    wanted = torch.einsum("bihw,oi->bohw", x, head.score.weight[:, :, 0, 0]) + head.score.bias[:, None, None]
    assert torch.allclose(logits, wanted, atol=1e-5)


def test_depth_channels_and_width():
    head = SemanticSegmentation(SPECS, classes=["a", "b"], depth=3, channels=64, width=0.5)
    assert [layer[0].out_channels for layer in head.tower] == [32, 32, 32]
    assert [layer[0].in_channels for layer in head.tower] == [16, 32, 32]
    assert head.score.in_channels == 32
    assert SemanticSegmentation(SPECS, classes=["a"], width=0.5).score.in_channels == 16


def test_it_can_read_any_one_level():
    head = SemanticSegmentation(SPECS, classes=["a", "b"], levels=["c4"])
    assert head.levels == ("c4",)
    assert head.stride == 16


def test_dropout_is_for_training_only():
    head = SemanticSegmentation(SPECS, classes=["a", "b"], dropout=0.5)
    x, sizes = {"pixels": torch.randn(2, 16, 5, 7)}, torch.tensor([[20, 28]] * 2)
    assert not torch.equal(head(x, sizes), head(x, sizes))
    head.eval()
    assert torch.equal(head(x, sizes), head(x, sizes))


def test_a_negative_depth_is_refused():
    with pytest.raises(ConfigError, match="SemanticSegmentation: depth=-1 must be at least 0"):
        SemanticSegmentation(SPECS, classes=["a"], depth=-1)


@pytest.mark.parametrize(
    ("typed", "wanted", "levels"),
    [
        ([], SemanticSegmentation, ("pixels", "c4")),
        (["semantic_head=fcn", "neck=none"], FCN, ("c5", "c4")),
        (["semantic_head=deeplabv3plus", "neck=none"], DeepLabV3Plus, ("c2", "c5", "c4")),
    ],
)
def test_the_head_is_chosen_by_configuration(typed, wanted, levels):
    cfg = compose("train", ["task=semantic", "data=masks", "data.root=/x", "head.semantic.hardest=0.5", *typed])
    specs = {f"c{k}": FeatureSpec(16, 2**k) for k in range(2, 6)} | {"pixels": FeatureSpec(16, 4)}
    head = build(cfg.head.semantic)(specs, classes=["a", "b"])
    assert type(head) is wanted
    assert head.levels == levels
    assert head.criterion.hardest == 0.5
