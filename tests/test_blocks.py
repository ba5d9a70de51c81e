"""The shared blocks: stochastic depth."""

from __future__ import annotations

import pytest
import torch

from visionkit.blocks import Bottleneck, CSPBlock, drop_path


def test_a_share_of_the_samples_is_dropped_whole_and_the_others_make_up_for_it():
    torch.manual_seed(0)
    branch = torch.full((20_000, 2, 1, 2), 3.0)
    dropped = drop_path(branch, 0.25)
    assert dropped.flatten(1).unique(dim=0).tolist() == [[0.0] * 4, [4.0] * 4]  # 3 / (1 − 0.25)
    assert (dropped[:, 0, 0, 0] == 0).float().mean() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean() == pytest.approx(3, abs=0.04)


def test_torchs_generator_decides():
    torch.manual_seed(3)
    first = drop_path(torch.ones(64, 1), 0.5)
    second = drop_path(torch.ones(64, 1), 0.5)
    torch.manual_seed(3)
    assert torch.equal(drop_path(torch.ones(64, 1), 0.5), first)
    assert not torch.equal(first, second)


def test_share_0_draws_nothing():
    before = torch.get_rng_state()
    branch = torch.ones(4, 1)
    assert drop_path(branch, 0.0) is branch
    assert torch.equal(torch.get_rng_state(), before)


def test_a_bottleneck_drops_its_convolutions_in_training_and_never_its_input():
    torch.manual_seed(1)
    block = Bottleneck(8, drop_path=0.5)
    with torch.no_grad():
        x = torch.randn(64, 8, 4, 4)
        passed = (block(x) == x).flatten(1).all(1)
        assert 16 < passed.sum() < 48
        block.eval()
        assert torch.equal(block(x), x + block.convs(x))


def test_a_block_hands_each_bottleneck_its_share():
    assert [stage.drop_path for stage in CSPBlock(8, 8, 2, drop_path=(0.1, 0.2)).stages] == [0.1, 0.2]
    assert [stage.drop_path for stage in CSPBlock(8, 8, 2).stages] == [0.0, 0.0]
    with pytest.raises(ValueError):
        CSPBlock(8, 8, 2, drop_path=(0.1,))
