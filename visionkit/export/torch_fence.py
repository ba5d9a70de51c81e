"""What a package of torch.export may hold: tensors and operators. All through which torch would run code is refused.

Torch looks operators up by dotted names that lead anywhere (torch.os.system), evaluates expressions and guards, and
unpickles what is marked as pickled. Here each of these is held against what an export of visionkit writes.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from visionkit.plain_files import DEEPEST, Unreadable

MOST_JSON_BYTES = 256 << 20
_PARTS = re.compile(
    r"[^/]+/(models/model\.json|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    r"|\.format_version|\.storage_alignment|version"
    r"|data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+)"
    r"|data/sample_inputs/model\.pt|extra/visionkit\.json)"
)
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|visionkit)\.\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge)"
    r"|torch\.(sym_int|sym_float|sym_max|sym_min|sym_not|sym_sum)"
)
_TENSOR = re.compile(r"(weight|tensor)_\d+")
_SIZE = r"L\['(images|sizes)'\]\.size\(\)\[\d\]"
_GUARD = re.compile(rf"({_SIZE}|\d+)( [<>=!]=? ({_SIZE}|\d+))+")
_EXPRESSION = re.compile(
    r"(Symbol\('[su]\d+', (positive|nonnegative|integer)=True(, (positive|nonnegative|integer)=True)?\)"
    r"|Integer\(|Mul\(|Add\(|Mod\(|FloorDiv\(|Max\(|Min\(|Pow\(|[su]\d+|[\d+*/(), -])+"
)
_TREE = re.compile(r'"type": "([^"]*)"|"(enum_object|default_factory\w*)"')
_CONTAINERS = {"builtins.dict", "builtins.list", "builtins.tuple"}


def check_package(file: Path) -> None:
    """Look through a .pt2 file.

    Raises:
        Unreadable: it is no such file, or holds something that an export of visionkit does not.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_parts(archive, file.stat().st_size)
            for part in archive.namelist():
                if part.endswith("_config.json"):
                    _check_tensors(_json(archive, part))
                elif part.endswith("/models/model.json"):
                    _check_program(_json(archive, part))
                elif part.endswith("/sample_inputs/model.pt"):
                    _check_samples(archive.read(part))
    except Unreadable:
        raise
    except OSError as fault:
        raise Unreadable(f"not readable ({fault.strerror or fault})") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, RecursionError):
        raise Unreadable("damaged, or no package of torch.export") from None


def _check_parts(archive: zipfile.ZipFile, size: int) -> None:
    parts = archive.infolist()
    names = [part.filename for part in parts]
    strange = [name for name in names if not _PARTS.fullmatch(name)]
    if strange:
        raise Unreadable(f"holds {strange[0][:100]}, which no export of visionkit has")
    if len(set(names)) < len(names) or len({name.partition("/")[0] for name in names}) != 1:
        raise Unreadable("holds a part twice")
    if sum(part.file_size for part in parts) > size or any(part.compress_type for part in parts):
        raise Unreadable("compressed, which torch.export never does")
    if not any(name.endswith("/extra/visionkit.json") for name in names):
        raise Unreadable("was not exported by visionkit (no extra file visionkit.json)")


def _json(archive: zipfile.ZipFile, part: str) -> Any:
    if archive.getinfo(part).file_size > MOST_JSON_BYTES:
        raise Unreadable(f"{part}: more than {MOST_JSON_BYTES >> 20} MiB")
    return json.loads(archive.read(part))


def _check_tensors(told: Any) -> None:
    config = told.get("config") if isinstance(told, dict) else None
    for one in config.values() if isinstance(config, dict) else [None]:
        meta = one if isinstance(one, dict) else {}
        plain = meta.get("use_pickle") is False and isinstance(meta.get("tensor_meta"), dict)
        if not plain or not _TENSOR.fullmatch(str(meta.get("path_name"))):
            raise Unreadable("holds a pickled object, which is refused")


def _check_program(told: Any) -> None:
    """Every operator, expression, guard and container that the program names."""
    for key, value in _items(told):
        if key == "target" and not _OPERATOR.fullmatch(str(value)):
            raise Unreadable(f"calls {str(value)[:100]}, which is refused")
        if key == "expr_str" and not _EXPRESSION.fullmatch(str(value)):
            raise Unreadable(f"computes {str(value)[:100]}, which is refused")
        if key == "guards_code" and not all(_GUARD.fullmatch(str(one)) for one in value or []):
            raise Unreadable(f"guards by {str(value)[:100]}, which is refused")
        if key in ("in_spec", "out_spec") and not _plain_tree(str(value)):
            raise Unreadable("takes or gives other things than tensors")
        if key in ("as_custom_obj", "as_graph", "as_operator") and value is not None:
            raise Unreadable(f"holds a value {key[3:]}, which is refused")


def _plain_tree(text: str) -> bool:
    found = _TREE.findall(text)
    return all(kind in _CONTAINERS and not other for kind, other in found)


def _check_samples(content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), "cpu", weights_only=True)
    except Exception:
        raise Unreadable("holds a pickled object, which is refused") from None


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, of mappings inside mappings and lists."""
    level = [value]
    for _ in range(2 * DEEPEST):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                yield from one.items()
                inner += [item for item in one.values() if isinstance(item, dict | list)]
            else:
                inner += [item for item in one if isinstance(item, dict | list)]
        if not inner:
            return
        level = inner
    raise Unreadable("nested too deep")
