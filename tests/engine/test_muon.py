from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from visionkit.config import compose
from visionkit.engine.muon import Muon, hidden_matrices, orthogonalised
from visionkit.engine.optim import create_optimizer


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 6, 3, groups=2)
    )


def give_gradients(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        # In the layout of the parameter, as autograd gives it.
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator)).detach()


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 8, 72), (3, 40, 12), (1, 1, 5)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalised(matrices)
    assert result.dtype == torch.float32
    assert result.shape == shape
    for matrix, made in zip(matrices, result, strict=True):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        kept = left.T @ made @ right.T
        well = values > 0.05 * values.norm()
        assert ((torch.diag(kept) > 0.6) & (torch.diag(kept) < 1.3))[well].all()
        assert (kept - torch.diag(torch.diag(kept))).abs().max() < 0.1


def test_no_gradient_at_all_gives_no_direction():
    assert torch.equal(orthogonalised(torch.zeros(1, 4, 9)), torch.zeros(1, 4, 9))


def test_one_step_by_hand():
    weight = nn.Parameter(torch.full((1, 4), 2.0))
    bias = nn.Parameter(torch.ones(1))
    hidden = {"params": [weight], "weight_decay": 0.5}
    optimizer = Muon([hidden], [{"params": [bias], "weight_decay": 0.0}], lr=0.1)
    weight.grad, bias.grad = torch.tensor([[3.0, 0, 0, -4.0]]), torch.full((1,), 7.0)
    optimizer.step()
    value = 1.0  # of the one singular value, through five iterations
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    length = 0.1 * 0.2 * math.sqrt(4) * value
    wanted = 2 * (1 - 0.1 * 0.5) - length * torch.tensor([[0.6, 0, 0, -0.8]])
    assert torch.allclose(weight, wanted, atol=1e-3)  # bfloat16 on some processors
    assert bias.item() == pytest.approx(0.9)  # AdamW's first step


def test_momentum_carries_on():
    weight = nn.Parameter(torch.zeros(1, 2))
    optimizer = Muon([{"params": [weight], "weight_decay": 0.0}], [], lr=1.0)
    weight.grad = torch.tensor([[1.0, 0.0]])
    optimizer.step()
    before = weight.detach().clone()
    weight.grad = torch.tensor([[0.0, 0.0]])
    optimizer.step()
    assert (weight - before)[0, 0] < 0
    assert optimizer.state[weight]["momentum"][0, 0].item() == pytest.approx(0.05 * 0.95)


@pytest.mark.parametrize("last", [False, True])
def test_the_layout_in_memory_does_not_matter(last):
    model = small_model()
    if last:
        model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer("muon", model, lr=0.01, weight_decay=0.1, momentum=0.9)
    for seed in range(3):
        give_gradients(model, seed)
        optimizer.step()
    plain = small_model()
    other = create_optimizer("muon", plain, lr=0.01, weight_decay=0.1, momentum=0.9)
    for seed in range(3):
        give_gradients(plain, seed)
        other.step()
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_hidden_matrices_are_the_layers_between_image_and_answer():
    cfg = compose("train", ["task=multitask", "heads=[detection,semantic]", "model.width=0.25", "image_size=64"])
    from visionkit.build import build_model, build_reader, describe_model

    model = build_model(describe_model(cfg, build_reader(cfg.data, "train")))
    chosen = {id(weight) for weight in hidden_matrices(model)}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in chosen}
    assert "backbone.stem.0.weight" in names
    assert "neck.pixels.context.weight" in names
    assert "heads.detection.score_tower.convs.0.weight" in names
    for answer in ("heads.detection.score", "heads.detection.distance", "heads.semantic.score"):
        assert f"{answer}.weight" not in names
    assert all(parameter.ndim > 1 for parameter in model.parameters() if id(parameter) in chosen)
    frozen = small_model()
    frozen[0].weight.requires_grad_(False)
    assert [tuple(weight.shape) for weight in hidden_matrices(frozen)] == [(6, 8, 1, 1)]


def test_every_trained_parameter_is_in_one_group():
    model = small_model()
    optimizer = create_optimizer("muon", model, lr=0.01, weight_decay=0.1, momentum=0.9)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]
    nothing_hidden = create_optimizer("muon", nn.BatchNorm2d(4), lr=0.01, weight_decay=0.1, momentum=0.9)
    assert isinstance(nothing_hidden, torch.optim.AdamW)


def test_each_group_of_matrices_has_its_own_rate():
    """Matrices of one shape are orthogonalised together, whatever group they are in."""
    torch.manual_seed(0)
    alone, together = [], []
    weights = [nn.Parameter(torch.randn(4, 6)) for _ in range(2)]
    gradients = [torch.randn(4, 6) for _ in range(2)]
    for chosen in ([0], [1], [0, 1]):
        copies = {index: nn.Parameter(weights[index].detach().clone()) for index in chosen}
        rates = (0.1, 0.02)
        groups = [{"params": [copies[index]], "lr": rates[index], "weight_decay": 0.5} for index in chosen]
        optimizer = Muon(groups, [], lr=0.1)
        for index in chosen:
            copies[index].grad = gradients[index].clone()
        optimizer.step()
        (together if len(chosen) == 2 else alone).extend(copies[index].detach() for index in chosen)
    for index, rate in ((0, 0.1), (1, 0.02)):
        torch.testing.assert_close(together[index], alone[index], rtol=0.02, atol=1e-3)
        moved = weights[index].detach() * (1 - rate * 0.5) - together[index]
        assert 0.5 < float(moved.norm()) / (rate * 0.2 * math.sqrt(6) * math.sqrt(4)) < 1.3


def test_the_schedule_reaches_every_parameter():
    model = small_model()
    optimizer = create_optimizer("muon", model, lr=0.01, weight_decay=0.1, momentum=0.9)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [parameter.detach().clone() for parameter in model.parameters()]
    give_gradients(model)
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_a_resumed_run_goes_on_as_if_nothing_had_been(tmp_path):
    whole, halved = small_model(), small_model()
    optimizers = [create_optimizer("muon", model, lr=0.01, weight_decay=0.1, momentum=0.9) for model in (whole, halved)]
    for step in range(4):
        for index, model in enumerate((whole, halved)):
            if step == 2 and index == 1:
                torch.save(optimizers[1].state_dict(), tmp_path / "state.pt")
                optimizers[1] = create_optimizer("muon", model, lr=0.5, weight_decay=0.0, momentum=0.1)
                optimizers[1].load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
            give_gradients(model, step)
            optimizers[index].step()
    for mine, theirs in zip(whole.parameters(), halved.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_step_that_is_not_finite_leaves_everything_as_it_was():
    # On a CPU the trainer does not ask; the fused kernel of AdamW honours `found_inf` there, too.
    model = small_model()
    optimizer = create_optimizer("muon", model, lr=0.01, weight_decay=0.1, momentum=0.9)
    give_gradients(model)
    optimizer.step()
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    momenta = [state["momentum"].clone() for state in optimizer.state.values() if "momentum" in state]
    for parameter in model.parameters():
        parameter.grad.fill_(math.nan)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))
    kept = [state["momentum"] for state in optimizer.state.values() if "momentum" in state]
    assert all(torch.equal(old, new) for old, new in zip(momenta, kept, strict=True))
    optimizer.found_inf = torch.tensor(0.0)
    give_gradients(model)
    optimizer.step()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert not any(torch.equal(old, new) for old, new in zip(weights, model.parameters(), strict=True))


def test_it_finds_what_is_asked_of_it():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    inputs = torch.randn(64, 6)
    wanted = (inputs[:, :1] * inputs[:, 1:2]).sin()
    optimizer = create_optimizer("muon", model, lr=0.02, weight_decay=0.0, momentum=0.95)
    losses = []
    for _ in range(150):
        loss = (model(inputs) - wanted).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.05 * losses[0]


def test_it_is_chosen_by_name():
    cfg = compose("train", ["task=detect", "optim=muon"])
    assert (cfg.optim.name, cfg.optim.momentum, list(cfg.optim.betas)) == ("muon", 0.95, [0.9, 0.999])
