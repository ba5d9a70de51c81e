"""False headers of .safetensors files, in a checkpoint and as weights."""

from __future__ import annotations

import json
import struct

import pytest
from safetensors import safe_open

import visionkit
from visionkit.backbones.weights import read_state_dict
from visionkit.errors import CheckpointError

TENSOR = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def tensors(header, data=b"\0" * 16, length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


HEADERS = {
    "empty": b"",
    "eight_exabytes": tensors({}, length=2**63),
    "past_the_end": tensors({}, length=10**6),
    "negative_length": tensors({}, length=2**64 - 1),
    "outside": tensors({"a": {**TENSOR, "data_offsets": [0, 10**9]}}),
    "backwards": tensors({"a": {**TENSOR, "data_offsets": [16, 0]}}),
    "overlapping": tensors({"a": TENSOR, "b": TENSOR}),
    "twice": tensors(json.dumps({"a": TENSOR})[:-1].encode() + b", " + json.dumps({"a": TENSOR})[1:].encode()),
    "negative_shape": tensors({"a": {**TENSOR, "shape": [-2, -2]}}),
    "nan_shape": tensors(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 16]}}'),
    "overflowing_shape": tensors({"a": {**TENSOR, "shape": [2**62, 2**62]}}),
    "object_dtype": tensors({"a": {**TENSOR, "dtype": "O"}}),
    "deep": tensors(b'{"a": ' + b"[" * 200_000),
    "metadata_of_objects": tensors({"__metadata__": {"a": {"__reduce__": "os.system"}}, "a": TENSOR}),
    "metadata_bomb": tensors(
        b'{"__metadata__": {' + b", ".join(b'"k%d": ""' % i for i in range(1_200_000)) + b"}}", b""
    ),
    "a_list": tensors([TENSOR]),
    "no_text": tensors(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_false_header_is_refused(name, checkpoint, put, bounded, tmp_path):
    put(checkpoint, "ema.safetensors", HEADERS[name])
    with bounded(), pytest.raises(CheckpointError, match=r"ema\.safetensors: not readable \(") as error:
        visionkit.load(checkpoint, "cpu")
    assert len(str(error.value)) < 600
    file = tmp_path / "weights.safetensors"
    file.write_bytes(HEADERS[name])
    with bounded(), pytest.raises(CheckpointError, match="not a readable state dict"):
        read_state_dict(file)


def test_tools_refuse_a_false_header(checkpoint, put, refused, image):
    put(checkpoint, "ema.safetensors", HEADERS["overlapping"])
    assert "ema.safetensors: " in refused("evaluate", f"checkpoint={checkpoint}", "device=cpu")
    typed = ("predict", f"checkpoint={checkpoint}", f"source={image}", "out=out", "device=cpu")
    assert "ema.safetensors: " in refused(*typed)


def test_the_library_itself_would_take_the_double(tmp_path):
    """Why the header is looked at here, too: the last of two wins, and another reader may take the first."""
    file = tmp_path / "a.safetensors"
    file.write_bytes(HEADERS["twice"])
    with safe_open(file, "pt") as opened:
        assert list(opened.keys()) == ["a"]
