"""What the hostile files of these tests hold. Each payload makes the folder `marker` when it is run."""

from __future__ import annotations

import collections
import io
import os
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path

import torch


class Trap:
    """Unpickling it makes a folder; a second time nothing happens."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.makedirs, (str(self.marker), 0o777, True)


def yaml_code(kind: str, marker: Path) -> str:
    """A YAML node that has Python do something; the first makes the marker under `yaml.unsafe_load`."""
    return {
        "apply": f"!!python/object/apply:os.makedirs ['{marker}']",
        "object": f"!!python/object:pathlib.PosixPath {{args: ['{marker}']}}",
        "new": f"!!python/object/new:os.makedirs ['{marker}']",
        "name": "!!python/name:os.system",
        "module": "!!python/module:os",
    }[kind]


def _laughs(levels: int) -> str:
    """Each level is the one before ten times: 10^levels values in some hundred characters."""
    lines = ["names: [cat]", "train: images/train", "l0: &l0 [a, a, a, a, a, a, a, a, a, a]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


def _merged(levels: int) -> str:
    """The same by merge keys, which PyYAML writes out while it loads."""
    lines = ["names: [cat]", "train: images/train", "l0: &l0 {a: 1, b: 2, c: 3}"]
    lines += [f"l{i}: &l{i} {{<<: [{', '.join([f'*l{i - 1}'] * 10)}]}}" for i in range(1, levels)]
    return "\n".join(lines)


YAML_BOMBS = {
    "laughs": _laughs(30),
    "merged": _merged(9),
    "recursive": "names: [cat]\ntrain: images/train\nx: &x [*x]",
    "recursive_mapping": "names: [cat]\ntrain: images/train\nx: &x {y: *x}",
    "deep_lists": "names: [cat]\ntrain: images/train\nx: " + "[" * 500_000,
    "deep_mappings": "names: [cat]\ntrain: images/train\nx: " + "{a: " * 500_000,
    "huge": "names: [cat]\ntrain: images/train\nx: '" + "x" * (20 << 20) + "'",
    "many_values": "names: [cat]\ntrain: images/train\nx:\n" + "- a\n" * 900_000,
    "base_60": "names: [cat]\ntrain: images/train\nx: " + "1:" * 1_000_000 + "1",
    "long_number": "names: {" + "9" * 900 * 6 + ": cat}\ntrain: images/train",
}


# ------------------------------------------------------------------------------------------- what torch.load is given
def zipped(trap) -> bytes:
    buffer = io.BytesIO()
    torch.save({"optimizer": trap}, buffer)
    return buffer.getvalue()


def nested(trap) -> bytes:
    buffer = io.BytesIO()
    torch.save(collections.OrderedDict(optimizer=[{"state": (1, {"a": trap})}], x=torch.zeros(2)), buffer)
    return buffer.getvalue()


def beside_tensors(trap) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.nn.Parameter(torch.zeros(2)), "hook": trap}, buffer)
    return buffer.getvalue()


def before_1_6(trap) -> bytes:
    buffer = io.BytesIO()
    torch.save({"optimizer": trap}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def before_0_1(trap) -> bytes:
    """The tar archives of PyTorch's first versions."""
    buffer, content = io.BytesIO(), pickle.dumps(trap)
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def bare(trap) -> bytes:
    return pickle.dumps({"optimizer": trap}, protocol=2)


def newest_protocol(trap) -> bytes:
    return pickle.dumps({"optimizer": trap}, protocol=5)


PICKLES = {one.__name__: one for one in (zipped, nested, beside_tensors, before_1_6, before_0_1, bare, newest_protocol)}


def script() -> bytes:
    """A TorchScript program."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # of its old age
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


def inflating() -> bytes:
    """Half a gigabyte of zeros in half a megabyte."""
    plain, squeezed = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(16 << 20)}, plain)
    with zipfile.ZipFile(plain) as given, zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for name in given.namelist():
            made.writestr(name, given.read(name))
    return squeezed.getvalue()


def repeating() -> bytes:
    """A terabyte that is one number."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1, dtype=torch.float16).expand(1 << 39)}, buffer)
    return buffer.getvalue()


class Large:
    def __reduce__(self):
        return bytearray, (1 << 40,)


def allocating() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": Large()}, buffer)
    return buffer.getvalue()


BOMBS = {one.__name__: one for one in (script, inflating, repeating, allocating)}
