"""Files of tensors that somebody else may have made, read without running code or growing beyond their size."""

from __future__ import annotations

import json
import math
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from visionkit.plain_files import Unreadable

MOST_HEADER_BYTES = 16 << 20
"""Of a .safetensors file; a tensor takes about a hundred."""


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file, on the CPU.

    Raises:
        Unreadable: it is missing, or no such file.
    """
    _check_header(file)
    try:
        return load_file(file)
    except Exception as fault:  # a SafetensorError, which tells what is wrong, or what torch meets
        raise Unreadable(_reason(fault)) from None


def read_saved(file: Path) -> Any:
    """Return what `torch.save` wrote, tensors on the CPU; only tensors and plain containers are taken, never objects.

    Raises:
        Unreadable: it is missing, holds something else, or would take more memory than the file.
    """
    if not file.is_file():
        raise Unreadable("no such file")
    _check_archive(file)
    try:
        with warnings.catch_warnings(action="ignore"):  # they explain how to run the code
            value = torch.load(file, "cpu", weights_only=True)
        grown = [tensor for tensor in _tensors([value]) if _grows(tensor)]
    except Exception as fault:  # torch raises what it meets
        raise Unreadable(_reason(fault)) from None
    if grown:
        raise Unreadable(f"a tensor {tuple(grown[0].shape)} repeats its values, or has none")
    return value


def _check_header(file: Path) -> None:
    """Refuse a header that is larger than any that is meant, or names a tensor twice; the library checks the rest."""
    if not file.is_file():
        raise Unreadable("no such file")
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > MOST_HEADER_BYTES:
                raise Unreadable(f"a header of {length} bytes; no .safetensors file")
            json.loads(opened.read(length), object_pairs_hook=_once)
    except OSError as fault:
        raise Unreadable(fault.strerror or str(fault)) from None
    except RecursionError:
        raise Unreadable("its header is nested too deep") from None
    except Unreadable:
        raise
    except ValueError:
        raise Unreadable("no .safetensors file") from None


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Unreadable(f"'{key[:100]}' stands twice in its header")
        found[key] = value
    return found


def _check_archive(file: Path) -> None:
    """Refuse an archive whose parts are larger than itself: compressed, or the same bytes under several names.

    `torch.save` compresses nothing. Its files from before PyTorch 1.6 are no archives.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    except zipfile.BadZipFile:
        return
    except (OSError, ValueError, NotImplementedError) as fault:
        raise Unreadable(_reason(fault)) from None
    total = sum(max(part.file_size, part.compress_size) for part in parts)
    if total > file.stat().st_size or any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise Unreadable("compressed, or of parts larger than the file, which torch.save never writes")


def _tensors(values: list[Any]) -> Iterator[Tensor]:
    """Every tensor inside plain containers, each container once."""
    seen: set[int] = set()
    while values:
        value = values.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            values += value.values() if isinstance(value, Mapping) else value


def _grows(tensor: Tensor) -> bool:
    """Whether a copy would take more memory than the tensor itself, or it is none of plain numbers."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return True
    return math.prod(tensor.shape) * tensor.element_size() > tensor.untyped_storage().nbytes()


def _reason(fault: Exception) -> str:
    """One line; torch's own explanations go on about how to run the code."""
    said = (str(fault).strip().splitlines() or [""])[0]
    if "weights only" in said.lower() or "weights_only" in said:
        return "it holds more than tensors and plain values"
    return f"{type(fault).__name__}: {said[:200]}"
