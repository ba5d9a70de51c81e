"""What comes to the host is what was on the device."""

from __future__ import annotations

import numpy as np
import torch

from visionkit.ops.transfer import arrival, host_buffer, start_host_arrays


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
    arrival(device)()
    assert (buffer.shape, buffer.dtype, buffer.device) == ((2, 0, 3), torch.uint8, device)
