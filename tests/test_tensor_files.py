"""What is meant is read as it stands; hostile files are in tests/security."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from visionkit.plain_files import Unreadable
from visionkit.tensor_files import read_safetensors, read_saved

STATE = {
    "a": torch.arange(6.0).reshape(2, 3),
    "n": torch.tensor(3),
    "none": torch.zeros(0, 4),
    "half": torch.ones(2).half(),
}


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors", metadata={"format": "pt"})
    read = read_safetensors(tmp_path / "a.safetensors")
    assert {name: value.dtype for name, value in read.items()} == {name: value.dtype for name, value in STATE.items()}
    assert all(torch.equal(value, STATE[name]) for name, value in read.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_read(zipped, tmp_path):
    """An optimizer's state, with views of one storage among it: a row, a transposed matrix, one tensor twice."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    whole = torch.arange(12.0).reshape(3, 4)
    content = {"optimizer": optimizer.state_dict(), "row": whole[1], "turned": whole.T, "both": [whole, whole],
               "plain": (1, "a", None, {2.5, 3.5}, b"x"), "none": torch.zeros(0).expand(5, 0)}  # fmt: skip
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    read = read_saved(tmp_path / "a.pt")
    assert torch.equal(read["row"], whole[1])
    assert torch.equal(read["turned"], whole.T)
    assert read["plain"] == content["plain"]
    assert torch.equal(read["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


@pytest.mark.parametrize("tensor", [torch.ones(1).expand(3), torch.ones(3, device="meta"), torch.eye(3).to_sparse()])
def test_tensors_that_are_no_plain_numbers_are_refused(tensor, tmp_path):
    torch.save([{"a": (tensor,)}], tmp_path / "a.pt")
    with pytest.raises(Unreadable, match=r"a tensor \(3,.* repeats its values, or has none"):
        read_saved(tmp_path / "a.pt")


@pytest.mark.parametrize("read", [read_safetensors, read_saved])
def test_what_is_no_file_of_tensors(read, tmp_path):
    with pytest.raises(Unreadable, match="no such file"):
        read(tmp_path)
    (tmp_path / "text").write_text("hello, this is some text")
    with pytest.raises(Unreadable) as error:
        read(tmp_path / "text")
    assert len(str(error.value).splitlines()) == 1
