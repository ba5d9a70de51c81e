from __future__ import annotations

import pytest
import torch
from torch import nn

from visionkit.backbones import CSP
from visionkit.engine.optim import Schedule, create_optimizer, parameter_groups
from visionkit.errors import ConfigError


def test_norms_and_biases_do_not_decay():
    model = CSP("nano", width=0.25)
    model.extra = nn.Linear(2, 2)
    model.frozen = nn.Parameter(torch.zeros(3, 3), requires_grad=False)
    decayed, kept = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.05, 0.0)
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


def test_optimizers_take_one_known_step():
    model = nn.Linear(1, 1)
    model.weight.data.fill_(1.0)
    model.bias.data.fill_(1.0)
    optimizer = create_optimizer("adamw", model, lr=0.1, weight_decay=0.5, betas=(0.9, 0.99))
    model.weight.grad, model.bias.grad = torch.full((1, 1), 3.0), torch.full((1,), -3.0)
    optimizer.step()
    assert model.weight.item() == pytest.approx(1 - 0.1 * 0.5 - 0.1)
    assert model.bias.item() == pytest.approx(1.1)
    optimizer = create_optimizer("sgd", model, lr=0.1, weight_decay=0.0, momentum=0.5)
    before = model.weight.item()
    optimizer.step()
    assert model.weight.item() == pytest.approx(before - 0.1 * (3 + 0.5 * 3))  # Nesterov looks ahead
    create_optimizer("sgd", model, lr=0.1, weight_decay=0.0, momentum=0.0).step()


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
    with pytest.raises(ConfigError, match=r"optim.name=adam is none of adamw, muon, sgd \(did you mean 'adamw'\?\)"):
        create_optimizer("adam", nn.Linear(1, 1), lr=0.1, weight_decay=0)
    with pytest.raises(ConfigError, match=r"schedule.name=cosin is none of .*\(did you mean 'cosine'\?\)"):
        Schedule("cosin", total_steps=1, warmup_steps=0)
