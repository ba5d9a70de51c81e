from __future__ import annotations

import pytest
import torch
from torch import nn

from visionkit.engine.freezing import Freezing, synchronised
from visionkit.engine.optim import create_optimizer
from visionkit.errors import ConfigError
from visionkit.heads import LinearClassification
from visionkit.model import VisionModel
from visionkit.preprocess import Preprocess
from visionkit.stages import backbone_stages
from visionkit.structures import FeatureSpec, Targets

LEVELS = ["c2", "c3", "c4"]


class Backbone(nn.Module):
    """Three stages, each a convolution, a batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.out_specs = {level: FeatureSpec(4, 2 ** (place + 2)) for place, level in enumerate(LEVELS)}
        self.stages = nn.ModuleDict(
            {
                level: nn.Sequential(
                    nn.Conv2d(4 if place else 3, 4, 3, 2 if place else 4, 1, bias=False),
                    nn.BatchNorm2d(4),
                    nn.Dropout(0.5),
                )
                for place, level in enumerate(LEVELS)
            }
        )

    def forward(self, images):
        features, x = {}, images
        for level, stage in self.stages.items():
            features[level] = x = stage(x)
        return features


def made():
    torch.manual_seed(0)
    backbone = Backbone()
    head = LinearClassification(backbone.out_specs, classes=("a", "b"), levels=("c4",), dropout=0.0)
    return VisionModel(backbone, None, {"classification": head}, preprocess=Preprocess(32))


def stages_of(model):
    return backbone_stages(model.backbone, 3, (32, 32))


def step(model, optimizer, freezing, epoch):
    """As the trainer makes one."""
    model.train()
    freezing.apply(epoch)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    scores = torch.eye(2)[torch.arange(4) % 2]
    model(images, Targets(sizes=torch.full((4, 2), 32), class_scores=scores))["total"].backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def changed(model, before):
    """The stages, and the head, of which anything has changed since `before`, statistics too."""
    names = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    return sorted({name.split(".")[2] if name.startswith("backbone") else "head" for name in names})


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# ------------------------------------------------------------------------------------------------- what is held still
@pytest.mark.parametrize("name", ["adamw", "momentum", "rmsprop", "muon"])
def test_stages_wake_up_one_after_the_other(name):
    """Weights, decay, L1, batch statistics: nothing of a frozen stage moves; when its epoch comes, all of it does."""
    model = made()
    optimizer = create_optimizer(name, model, lr=0.1, weight_decay=0.1, l1=0.01)
    freezing = Freezing(stages_of(model), freeze="backbone", unfreeze={"c4": 1, "all": 2.5})
    for epoch, wanted in ((0, ["head"]), (0.9, ["head"]), (1, ["c4", "head"]), (2.4, ["c4", "head"]),
                          (2.5, ["c2", "c3", "c4", "head"]), (9, ["c2", "c3", "c4", "head"])):  # fmt: skip
        before = copied(model)
        step(model, optimizer, freezing, epoch)
        assert changed(model, before) == wanted, epoch


def test_frozen_up_to_a_level_for_good():
    model = made()
    optimizer = create_optimizer("adamw", model, lr=0.1, weight_decay=0.1)
    freezing = Freezing(stages_of(model), freeze="c3")
    for epoch in (0, 100):
        before = copied(model)
        step(model, optimizer, freezing, epoch)
        assert changed(model, before) == ["c4", "head"]
    assert len(optimizer.state) == 3 + 2  # of the last stage and of the head alone


def test_what_is_frozen_behaves_as_in_evaluation():
    """Statistics that came with the weights are used, and dropout does nothing: the same images give the same maps."""
    model = made()
    freezing = Freezing(stages_of(model), freeze="c3", unfreeze={"c3": 5})
    images = torch.randn(8, 3, 32, 32)
    model.eval()
    frozen = model.backbone(images)["c3"]
    model.train()
    freezing.apply(0)
    assert torch.equal(model.backbone(images)["c3"], frozen)
    assert not torch.equal(*(model.backbone(images)["c4"] for _ in range(2))), "the last stage drops"
    freezing.apply(5)
    assert not torch.equal(model.backbone(images)["c3"], frozen)
    assert torch.equal(model.backbone(images)["c2"], model.backbone(images)["c2"])


def test_no_gradient_is_computed_for_a_frozen_beginning():
    model = made()
    freezing = Freezing(stages_of(model), freeze="c3", unfreeze={"all": 3})
    freezing.apply(0)
    features = model.backbone(torch.randn(1, 3, 32, 32))
    assert [level for level in LEVELS if features[level].requires_grad] == ["c4"]
    freezing.apply(3)
    assert model.backbone(torch.randn(1, 3, 32, 32))["c2"].requires_grad


def test_a_stage_that_wakes_within_an_epoch_is_in_training_at_once():
    """Between two epochs `model.train()` wakes all modules; within one, nobody else does."""
    model = made()
    freezing = Freezing(stages_of(model), freeze="backbone", unfreeze={"c4": 0.5})
    model.train()
    freezing.apply(0)
    norm, early = model.backbone.stages["c4"][1], model.backbone.stages["c3"][1]
    assert not norm.training
    freezing.apply(0.5)
    assert norm.training
    assert not early.training


def test_it_says_when_something_changes():
    freezing = Freezing(stages_of(made()), freeze="backbone", unfreeze={"c4": 1, "c3": 2})
    assert [freezing.apply(epoch) for epoch in (0, 0.5, 1, 1.5, 2, 2.5, 50)] == [
        True, False, True, False, True, False, False
    ]  # fmt: skip


def test_the_state_is_a_function_of_the_epoch_alone():
    """A run resumed at epoch 2.5 is where the first one was, which came there step by step."""
    whole, resumed = made(), made()
    freezings = [
        Freezing(stages_of(model), freeze="backbone", unfreeze={"c4": 1, "c3": 2}) for model in (whole, resumed)
    ]
    for epoch in (0, 1, 2, 2.25):
        freezings[0].apply(epoch)
    for model, freezing in zip((whole, resumed), freezings, strict=True):
        model.train()
        freezing.apply(2.5)
    assert [p.requires_grad for p in whole.parameters()] == [p.requires_grad for p in resumed.parameters()]
    assert [m.training for m in whole.modules()] == [m.training for m in resumed.modules()]
    assert freezings[0].frozen_at(2.5) == ["c2"]
    assert freezings[0].frozen_at(0) == LEVELS


def test_what_never_learned_does_not_begin_to():
    model = made()
    kept = model.backbone.stages["c4"][0].weight.requires_grad_(False)
    freezing = Freezing(stages_of(model), freeze="backbone", unfreeze={"all": 1})
    for epoch in (0, 1):
        freezing.apply(epoch)
    assert not kept.requires_grad
    assert model.backbone.stages["c4"][1].weight.requires_grad


# -------------------------------------------------------------------------------------------------------- batch norms
def test_frozen_norms_stand_still_while_their_stages_learn():
    model = made()
    freezing = Freezing(stages_of(model), norm="frozen")
    optimizer = create_optimizer("adamw", model, lr=0.1, weight_decay=0.1)
    before = copied(model)
    for epoch in (0, 1):
        step(model, optimizer, freezing, epoch)
    after = model.state_dict()
    for level in LEVELS:
        assert not torch.equal(before[f"backbone.stages.{level}.0.weight"], after[f"backbone.stages.{level}.0.weight"])
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            key = f"backbone.stages.{level}.1.{name}"
            assert torch.equal(before[key], after[key]), key
    assert model.backbone.stages["c2"][2].training, "dropout goes on"


def test_live_norms_follow_the_batches():
    model = made()
    optimizer = create_optimizer("adamw", model, lr=0.1, weight_decay=0.1)
    before = copied(model)
    step(model, optimizer, Freezing({}), 0)
    assert changed(model, before) == ["c2", "c3", "c4", "head"]
    assert int(model.backbone.stages["c4"][1].num_batches_tracked) == 1


def test_synchronised_norms_have_the_same_names_values_and_answers():
    model, plain = made().eval(), made().eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    synchronised(model, torch.device("cuda"))
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert [type(norm) for norm in norms] == [nn.SyncBatchNorm] * 3
    assert list(model.state_dict()) == list(plain.state_dict())
    assert torch.equal(model.outputs(images)["classification"], plain.outputs(images)["classification"])
    with pytest.raises(ConfigError, match=r"model.norm=sync: torch synchronises batch norms on GPUs, not on cpu;"):
        synchronised(made(), torch.device("cpu"))


def test_synchronising_keeps_the_activations_inside_of_timms_norms():
    pytest.importorskip("timm")
    from visionkit.backbones import Timm

    model = made()
    model.backbone = Timm("efficientnet_lite0").eval()
    images = torch.randn(1, 3, 64, 64)
    before = model.backbone(images)["c5"]
    synchronised(model, torch.device("cuda"))
    assert torch.equal(model.backbone(images)["c5"], before)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules()) > 10


# ----------------------------------------------------------------------------------------------------------- refusals
REFUSED = [
    ({"freeze": "c9"}, r"model.freeze=c9: one of none, backbone, c2, c3, c4 is wanted"),
    ({"freeze": "backbon"}, r"model.freeze=backbon: .*\(did you mean 'backbone'\?\)"),
    ({"unfreeze": {"c4": 1}}, r"model.unfreeze.c4: this is not frozen; nothing is; add model.freeze=backbone"),
    ({"unfreeze": {"all": 1}}, r"model.unfreeze.all: this is not frozen; nothing is; add model.freeze=backbone"),
    ({"freeze": "c3", "unfreeze": {"c4": 1}}, r"model.unfreeze.c4: .*; the frozen levels are c2, c3"),
    ({"freeze": "backbone", "unfreeze": {"c3": 1, "c4": 2, "all": 3}},
     r"model.unfreeze: c3 would learn after 1 epochs and c4, which comes behind it, after 2; the last stage must be"),
    ({"freeze": "backbone", "unfreeze": {"c3": 1}}, r"c3 would learn after 1 epochs and c4, .*, never;"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_what_cannot_be_is_refused_in_a_line(keys, message):
    with pytest.raises(ConfigError, match=message) as refused:
        Freezing(stages_of(made()), **keys)
    assert "\n" not in str(refused.value)
