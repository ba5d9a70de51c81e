"""Which number (or colour) of the source's files stands for which class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visionkit import plain_files
from visionkit.errors import ConfigError, DataError, UserError

Names = Sequence[str] | Mapping[str, Any] | Mapping[int, str] | str
"""[cat, dog] counts from 0; {cat: 3, dog: 7} and {3: cat, 7: dog} say the number; a string is a file that does."""

_KEY = "data.reader.names"


def class_numbers(names: Names, root: Path) -> dict[str, Any]:
    """Return the number (or what else stands there, such as a colour) of each class name.

    Args:
        names: see `Names`.
        root: a file is looked for here first, then as it is.

    Raises:
        DataError: the file cannot be read, has no names, or has a name or a number twice.
        ConfigError: so have `names` themselves.
    """
    where = _KEY
    if isinstance(names, str):
        file = next((place for place in (root / names, Path(names).expanduser()) if place.is_file()), None)
        if file is None:
            raise DataError(f"{names}: no such file, seen from {root}; correct {_KEY}", code="file-missing")
        where, found = str(file), read_names(file)
        if found is None:
            raise DataError(f"{file}: no names or classes in it; add names: [cat, dog]", code="file-format")
        names = found
    refused: type[UserError] = ConfigError if where == _KEY else DataError
    if isinstance(names, Mapping):
        pairs = [(value, key) if isinstance(key, int) else (key, value) for key, value in names.items()]
    else:
        pairs = [(name, number) for number, name in enumerate(names)]
    if not pairs:
        raise refused(
            f"{where}: no names; give them as [cat, dog], in the order of their numbers", code="category-name"
        )
    numbers: dict[str, Any] = {}
    for name, number in pairs:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise refused(f"{where}: '{name}' is no name; put it in quotes if it is meant", code="category-name")
        if str(name) in numbers or number in numbers.values():
            raise refused(
                f"{where}: '{name}' or its number {number} stands there twice; list each class once",
                code="category-duplicate",
            )
        numbers[str(name)] = number
    return numbers


def read_names(file: Path) -> Sequence[str] | Mapping[int, str] | None:
    """Return the names of a YAML file (`names` or `classes`: a list, or {number: name}) or of a text file's lines.

    None where a YAML file has no such key.
    """
    if file.suffix.lower() not in (".yaml", ".yml"):
        try:
            plain_files.check_regular(file)
            return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as fault:
            raise DataError(
                f"{file}: cannot be read ({fault}); it must be text with one class name per line",
                code="file-unreadable",
            ) from None
    document = read_yaml(file)
    for key in ("names", "classes"):
        if isinstance(document.get(key), list | dict) and document[key]:
            found: Sequence[str] | Mapping[int, str] = document[key]
            return found
    return None


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        document = plain_files.read_yaml(file)
    except plain_files.Unreadable as fault:
        raise DataError(f"{file}: cannot be read ({fault}); correct the YAML", code="file-unreadable") from None
    if not isinstance(document, dict):
        raise DataError(f"{file}: no mapping; write one such as names: [cat, dog]", code="file-format")
    return document
