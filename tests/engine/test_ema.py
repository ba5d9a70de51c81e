from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from visionkit.engine.ema import EMA


def test_two_steps_by_hand():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    ema = EMA(model, decay=0.9, warmup=2.0)
    first, second = 0.9 * (1 - math.exp(-0.5)), 0.9 * (1 - math.exp(-1.0))
    model.weight.data.fill_(2.0)
    ema.update()
    expected = first * 1.0 + (1 - first) * 2.0
    assert ema.model.weight.item() == pytest.approx(expected)
    model.weight.data.fill_(-3.0)
    ema.update()
    assert ema.model.weight.item() == pytest.approx(second * expected - (1 - second) * 3.0)
    assert ema.updates == 2


@pytest.mark.parametrize(("decay", "warmup", "expected"), [(0.0, 10.0, 5.0), (0.75, 0, 2.0), (1.0, 0, 1.0)])
def test_no_decay_is_the_model_and_no_warmup_is_the_full_decay(decay, warmup, expected):
    model = nn.Linear(1, 1)
    model.weight.data.fill_(1.0)
    ema = EMA(model, decay=decay, warmup=warmup)
    model.weight.data.fill_(5.0)
    ema.update()
    assert ema.model.weight.item() == pytest.approx(expected)


def test_statistics_follow_and_whole_numbers_are_copied():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).train()
    ema = EMA(model, decay=0.5, warmup=0)
    model(torch.randn(8, 2) + 4)
    ema.update()
    before, after = torch.ones(3), model[1].running_var
    torch.testing.assert_close(ema.model[1].running_var, (before + after) / 2)
    assert ema.model[1].num_batches_tracked.item() == 1
    assert list(ema.model.state_dict()) == list(model.state_dict())


def test_the_average_is_for_evaluation_and_apart():
    model = nn.Linear(2, 2).train()
    ema = EMA(model)
    assert not ema.model.training
    assert model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    before = ema.model.weight.clone()
    model.weight.data.zero_()
    assert torch.equal(ema.model.weight, before)
