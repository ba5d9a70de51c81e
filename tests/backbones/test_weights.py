"""State dicts from files: what is refused, and how it is said."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from visionkit.backbones.weights import load_weights, read_state_dict
from visionkit.errors import CheckpointError


def network(classes=3):
    torch.manual_seed(classes)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, classes))


def saved(path, state):
    torch.save(state, path)
    return path


def test_floats_become_float32_and_counts_stay(tmp_path):
    state = {"a": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3)}
    given = read_state_dict(saved(tmp_path / "half.pth", state))
    assert (given["a"].dtype, given["n"].dtype) == (torch.float32, torch.int64)
    save_file(state, tmp_path / "half.safetensors")
    assert torch.equal(read_state_dict(tmp_path / "half.safetensors")["a"], torch.ones(2))


def test_what_is_no_state_dict_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "gone.pth"):
        with pytest.raises(CheckpointError, match=r"there is no such file; .*weights=none"):
            read_state_dict(path)
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("text.pth", "text.safetensors"):
        with pytest.raises(CheckpointError, match=rf"{name}: not a readable state dict .*save it anew"):
            read_state_dict(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"a dict of tensors is wanted; save model\.state_dict\(\)"):
        read_state_dict(saved(tmp_path / "nested.pth", {"state_dict": {"a": torch.ones(1)}}))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    with pytest.raises(CheckpointError, match="not a readable state dict"):
        read_state_dict(saved(tmp_path / "trap.pth", {"a": Trap()}))
    assert not (tmp_path / "sprung").exists()


def test_names_and_shapes_that_do_not_fit_are_all_named(tmp_path):
    state = network().state_dict()
    state["extra"] = state.pop("0.bias")
    state["0.weight"] = torch.zeros(4, 1, 1, 1)
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(CheckpointError) as raised:
        load_weights(target, saved(tmp_path / "own.pth", state))
    said = str(raised.value)
    assert "lacks: 0.bias" in said
    assert "does not know: extra" in said
    assert "has another shape: 0.weight (4, 1, 1, 1) for (4, 3, 1, 1)" in said
    assert "\n" not in said
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_classifier_may_miss_and_is_left_alone(tmp_path):
    given, target = network(5), network(3)
    before = target[2].weight.clone()
    path = saved(tmp_path / "own.pth", given.state_dict())
    with pytest.raises(CheckpointError, match=r"another shape: 2\.bias"):
        load_weights(target, path)
    load_weights(target, path, may_miss=("2.",))
    assert torch.equal(target[0].weight, given[0].weight)
    assert torch.equal(target[2].weight, before)


def test_counts_of_batches_may_lack(tmp_path):
    state = {name: value for name, value in network(5).state_dict().items() if not name.endswith("num_batches_tracked")}
    target = network(3)
    load_weights(target, saved(tmp_path / "old.pth", state), may_miss=("2.",))
    assert torch.equal(target[1].weight, state["1.weight"])
