"""What comes to the host is what was on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visionkit.ops.transfer import host_buffer, start_copies, start_host_arrays, to_device


def test_arrays_keep_their_names_shapes_dtypes_and_values():
    tensors = {
        "a": torch.randn(2, 3).half(),
        "b": torch.arange(12).view(3, 4)[:, 1:3],
        "c": torch.tensor([True, False]),
        "d": torch.zeros(0, 4),
    }
    arrays = start_host_arrays(tensors)()
    assert list(arrays) == ["a", "b", "c", "d"]
    assert [array.dtype for array in arrays.values()] == [np.float16, np.int64, np.bool_, np.float32]
    for name, value in tensors.items():
        assert np.array_equal(arrays[name], value.numpy())
    assert start_host_arrays({})() == {}


def test_a_buffer_is_on_the_host():
    device = torch.device("cpu")
    buffer = host_buffer((2, 0, 3), torch.uint8, device)
    assert (buffer.shape, buffer.dtype, buffer.device) == ((2, 0, 3), torch.uint8, device)


def test_copies_are_there_once_waited_for():
    values = [torch.arange(6).view(2, 3), torch.tensor([True, False])]
    targets = [torch.zeros(3, 2, dtype=torch.int64).T, torch.zeros(2, dtype=torch.bool)]
    start_copies(zip(targets, values, strict=True), torch.device("cpu"))()
    assert all(torch.equal(target, value) for target, value in zip(targets, values, strict=True))
    start_copies([], torch.device("cpu"))()
    assert torch.equal(to_device(values[0], torch.device("cpu")), values[0])


@pytest.mark.gpu
def test_a_gpu_copies_beside_its_other_work_what_it_was_given():
    device = torch.device("cuda", torch.cuda.current_device())
    for i in range(20):
        made = torch.full((8 << 20,), float(i), device=device).cumsum(0)  # the copy must wait for it
        arrived = start_host_arrays({"made": made, "twice": 2 * made})
        del made
        torch.full((8 << 20,), -1.0, device=device)  # must not take the memory before it is copied
        torch.full((8 << 20,), -1.0, device=device)
        arrays = arrived()
        wanted = np.full(8 << 20, float(i)).cumsum()
        assert np.allclose(arrays["made"], wanted, rtol=1e-3)
        assert np.allclose(arrays["twice"], 2 * wanted, rtol=1e-3)
    assert to_device(torch.arange(5), device).tolist() == [0, 1, 2, 3, 4]
