from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from visionkit.backbones import CSP
from visionkit.engine.optim import OPTIMIZERS, Schedule, create_optimizer
from visionkit.errors import ConfigError
from visionkit.stages import Stage, backbone_stages


def one_weight(weight: float = 2.0, bias: float = 2.0, gradient: float = 0.0) -> nn.Linear:
    model = nn.Linear(1, 1)
    model.weight.data.fill_(weight)
    model.bias.data.fill_(bias)
    model.weight.grad, model.bias.grad = torch.full((1, 1), gradient), torch.full((1,), gradient)
    return model


def test_norms_and_biases_neither_decay_nor_shrink():
    model = CSP("nano", width=0.25)
    model.extra = nn.Linear(2, 2)
    model.frozen = nn.Parameter(torch.zeros(3, 3), requires_grad=False)
    decayed, kept = create_optimizer("adamw", model, lr=0.1, weight_decay=0.05, l1=0.01).param_groups
    assert (decayed["weight_decay"], decayed["l1"]) == (0.05, 0.01)
    assert (kept["weight_decay"], kept["l1"]) == (0.0, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    kinds = {name: module for name, module in model.named_modules()}
    for parameter in decayed["params"]:
        owner, _, leaf = names[id(parameter)].rpartition(".")
        assert leaf == "weight"
        assert isinstance(kinds[owner], nn.Conv2d | nn.Linear)
    for parameter in kept["params"]:
        owner, _, leaf = names[id(parameter)].rpartition(".")
        assert leaf == "bias" or isinstance(kinds[owner], nn.BatchNorm2d)
    together = [id(parameter) for group in (decayed, kept) for parameter in group["params"]]
    assert sorted(together) == sorted(id(p) for p in model.parameters() if p.requires_grad)


# A gradient of −0.5 beside a weight of 2 and a decay of 0.5: together 0.5, so that L2 turns the step around.
STEPS = {
    "sgd": (2 - 0.1 * 0.5, 2 + 0.1 * 0.5),
    "momentum": (2 - 0.1 * (0.5 + 0.8 * 0.5), 2 + 0.1 * (0.5 + 0.8 * 0.5)),  # Nesterov looks ahead
    "adam": (2 - 0.1, 2 + 0.1),
    "adamw": (2 * (1 - 0.1 * 0.5) + 0.1, 2 + 0.1),
    "rmsprop": (2 - 0.1 / 0.5, 2 + 0.1 / 0.5),  # the mean square is a quarter of the square
}


@pytest.mark.parametrize("name", STEPS)
def test_a_first_step_by_hand(name):
    model = one_weight(gradient=-0.5)
    taken = {"momentum": {"momentum": 0.8}, "rmsprop": {"alpha": 0.75}, "adamw": {"betas": [0.9, 0.99]}}
    optimizer = create_optimizer(name, model, lr=0.1, weight_decay=0.5, **taken.get(name, {}))
    optimizer.step()
    assert (model.weight.item(), model.bias.item()) == pytest.approx(STEPS[name])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_l1_draws_weights_to_zero_and_no_further(name):
    """Without any gradient of the loss: a weight moves by lr * l1 = 0.3, and one that is nearer becomes 0."""
    for weight, wanted in ((2.0, 1.7), (-2.0, -1.7), (0.2, 0.0), (-0.3, 0.0)):
        model = one_weight(weight)
        create_optimizer(name, model, lr=0.1, weight_decay=0.0, l1=3.0).step()
        assert (model.weight.item(), model.bias.item()) == pytest.approx((wanted, 2.0), abs=1e-6)
        assert wanted != 0 or model.weight.item() == 0
    model = one_weight(0.2)
    create_optimizer(name, model, lr=0.1, weight_decay=0.0).step()
    assert model.weight.item() == pytest.approx(0.2)


def test_l1_and_l2_together():
    for name, decayed in (("sgd", 2 - 0.1 * 0.5 * 2), ("adamw", 2 * (1 - 0.1 * 0.5))):
        model = one_weight()
        create_optimizer(name, model, lr=0.1, weight_decay=0.5, l1=3.0).step()
        assert model.weight.item() == pytest.approx(decayed - 0.3)


def test_l1_empties_what_the_answer_does_not_need():
    """Of eight inputs two matter: L1 finds them, L2 and no penalty keep all."""
    torch.manual_seed(0)
    inputs = torch.randn(256, 8)
    wanted = inputs[:, :1] - inputs[:, 3:4] + 0.1 * torch.randn(256, 1)
    zeros = {}
    for name, penalty in (("l1", {"l1": 0.2}), ("l2", {"weight_decay": 0.2}), ("none", {})):
        torch.manual_seed(1)
        model = nn.Linear(8, 1)
        optimizer = create_optimizer("momentum", model, lr=0.02, **({"weight_decay": 0.0} | penalty))
        for _ in range(200):
            optimizer.zero_grad()
            (model(inputs) - wanted).square().mean().backward()
            optimizer.step()
        zeros[name] = torch.where(model.weight[0] == 0)[0].tolist()
    assert zeros == {"l1": [1, 2, 4, 5, 6, 7], "l2": [], "none": []}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_not_finite_is_not_taken_and_draws_nothing(name):
    """As the trainer marks it on a GPU; the fused kernels honour the mark on a CPU, too."""
    model = one_weight(gradient=1.0)
    optimizer = create_optimizer(name, model, lr=0.1, weight_decay=0.1, l1=0.5)
    optimizer.step()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    states = [{key: value.clone() for key, value in state.items()
               if torch.is_tensor(value)} for state in optimizer.state.values()]  # fmt: skip
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.found_inf, optimizer.grad_scale = torch.tensor(1.0), None
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    for old, new in zip(states, optimizer.state.values(), strict=True):
        assert all(torch.equal(value, new[key]) for key, value in old.items() if key != "step")
    optimizer.found_inf = torch.tensor(0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(bool((old > new).all()) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_has_no_gradient_is_left_alone(name):
    model = nn.Sequential(one_weight(gradient=1.0), one_weight(gradient=1.0))
    model[0].weight.grad = model[0].bias.grad = None
    optimizer = create_optimizer(name, model, lr=0.1, weight_decay=0.5, l1=0.5)
    optimizer.step()
    assert (model[0].weight.item(), model[0].bias.item()) == (2.0, 2.0)
    assert model[1].weight.item() < 2.0
    assert set(optimizer.state) == {model[1].weight, model[1].bias} or name == "sgd"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_saved_state_goes_on_as_if_nothing_had_been(name):
    def made(model):
        stages = {"c5": Stage((model[0].weight, model[0].bias), ())}
        return create_optimizer(name, model, lr=0.1, weight_decay=0.1, l1=0.2, layer_decay=0.5, stages=stages)

    whole, halved = (nn.Sequential(one_weight(), one_weight()) for _ in range(2))
    optimizers = [made(whole), made(halved)]
    for step in range(4):
        for index, model in enumerate((whole, halved)):
            if (step, index) == (2, 1):
                file = io.BytesIO()
                torch.save(optimizers[1].state_dict(), file)
                file.seek(0)
                optimizers[1] = made(halved)
                optimizers[1].load_state_dict(torch.load(file, weights_only=True))
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 0.3 * step - 0.2)
            optimizers[index].step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halved.parameters(), strict=True))


# ----------------------------------------------------------------------------------------------------- rates by stage
class TwoStages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"c4": one_weight(gradient=1.0), "c5": one_weight(gradient=1.0)})
        self.head = one_weight(gradient=1.0)

    @property
    def stages(self) -> dict[str, Stage]:
        return {level: Stage(tuple(layer.parameters()), ()) for level, layer in self.backbone.items()}


def test_rates_fall_from_the_last_stage_to_the_first():
    model = TwoStages()
    optimizer = create_optimizer("sgd", model, lr=0.1, weight_decay=0.0, layer_decay=0.5, stages=model.stages)
    optimizer.step()
    for layer, rate in ((model.head, 0.1), (model.backbone["c5"], 0.05), (model.backbone["c4"], 0.025)):
        assert (layer.weight.item(), layer.bias.item()) == pytest.approx((2 - rate, 2 - rate))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    plain = create_optimizer("sgd", model, lr=0.1, weight_decay=0.0, stages=model.stages)
    assert [group["lr"] for group in plain.param_groups] == [0.1, 0.1]


def test_muon_has_the_rates_too_and_l1_follows_them():
    model = TwoStages()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = create_optimizer("muon", model, lr=0.1, weight_decay=0.0, l1=1.0, layer_decay=0.5, stages=model.stages)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.05, 0.025] * 2)
    optimizer.step()
    weights = [layer.weight.item() for layer in (model.head, model.backbone["c5"], model.backbone["c4"])]
    assert weights == pytest.approx([1.9, 1.95, 1.975])


def test_every_trained_parameter_is_in_one_group():
    model = CSP("nano", width=0.25)
    stages = backbone_stages(model, 3, (64, 64))
    for name in OPTIMIZERS:
        groups = create_optimizer(name, model, lr=0.1, weight_decay=0.1, layer_decay=0.7, stages=stages).param_groups
        grouped = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
        assert sorted({group["lr"] for group in groups}) == pytest.approx([0.1 * 0.7**depth for depth in (4, 3, 2, 1)])


# ------------------------------------------------------------------------------------------------------------ schedules
def test_cosine_by_hand():
    schedule = Schedule("cosine", total_steps=12, warmup_steps=2, final=0.1)
    assert [schedule.factor(step) for step in (0, 1, 2)] == pytest.approx([0.5, 1.0, 1.0])
    assert schedule.factor(7) == pytest.approx(0.55)  # half-way down
    assert schedule.factor(12) == pytest.approx(0.1)
    assert schedule.factor(50) == pytest.approx(0.1)
    factors = [schedule.factor(step) for step in range(2, 13)]
    assert factors == sorted(factors, reverse=True)


def test_flat_cosine_by_hand():
    schedule = Schedule("flat_cosine", total_steps=20, warmup_steps=4, final=0.0, flat=0.5)
    assert [schedule.factor(step) for step in (0, 3, 4, 9, 10)] == pytest.approx([0.25, 1, 1, 1, 1])
    assert schedule.factor(15) == pytest.approx(0.5)
    assert schedule.factor(20) == pytest.approx(0.0)


def test_warmup_takes_at_most_a_third():
    schedule = Schedule("cosine", total_steps=9, warmup_steps=1000)
    assert [schedule.factor(step) for step in (0, 2)] == pytest.approx([1 / 3, 1.0])
    assert Schedule("cosine", total_steps=1, warmup_steps=5).factor(0) == 1.0


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"optim.name=adamx is none of adam, .*, sgd \(did you mean 'adam'\?\)"):
        create_optimizer("adamx", nn.Linear(1, 1), lr=0.1, weight_decay=0)
    with pytest.raises(ConfigError, match=r"schedule.name=cosin is none of .*\(did you mean 'cosine'\?\)"):
        Schedule("cosin", total_steps=1, warmup_steps=0)
