"""YAML and JSON files that somebody else may have made: plain values, read in bounded time and memory.

Tags that would make objects are refused by YAML's safe loader. What would grow while it is read, such as aliases of
aliases (a "billion laughs"), is refused before anything is made of it, and so are deep nesting and huge files.
"""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MOST_YAML_BYTES = 4 << 20
MOST_JSON_BYTES = 64 << 20
MOST_VALUES = 200_000
"""Values of a YAML file, those that aliases repeat counted each time; ImageNet's 21,841 names by number are 43,684."""
DEEPEST = 50
_LONGEST = 1000
"""Characters of a YAML value without quotes; longer numbers cost time that grows with the square of their length."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Unreadable(ValueError):
    """A file cannot be read as plain values; the message is the reason alone, in one line."""


def read_yaml(file: Path) -> Any:
    """Return what a YAML file holds; None where it is empty.

    Raises:
        Unreadable: it is missing, no file, no YAML of plain values, or larger or deeper than any that is meant.
    """
    try:
        text = _content(file, MOST_YAML_BYTES).decode("utf-8-sig")
        _check_growth(text)
        return yaml.load(text, Loader=_LOADER)
    except Unreadable:
        raise
    except (yaml.YAMLError, ValueError) as fault:
        raise Unreadable(" ".join(str(fault).split())) from None
    except Exception as fault:  # what the loader's constructors meet in a value of another tag
        raise Unreadable(f"a value does not fit its tag ({type(fault).__name__})") from None


def read_json(file: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        Unreadable: it is missing, no file, no JSON, or larger or deeper than any that is meant.
    """
    try:
        value = json.loads(_content(file, MOST_JSON_BYTES))
    except Unreadable:
        raise
    except RecursionError:
        raise Unreadable(f"nested deeper than {DEEPEST}") from None
    except ValueError as fault:
        raise Unreadable(" ".join(str(fault).split())) from None
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise Unreadable(f"nested deeper than {DEEPEST}")


def check_regular(file: Path) -> None:
    """Refuse a pipe or a device, which would be read for ever.

    Raises:
        OSError: it is one, or there is no such file.
    """
    mode = file.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "a pipe or a device, no file")


def _content(file: Path, most: int) -> bytes:
    try:
        check_regular(file)
        with file.open("rb") as opened:
            content = opened.read(most + 1)
    except OSError as fault:
        raise Unreadable(fault.strerror or str(fault)) from None
    if len(content) > most:
        raise Unreadable(f"more than {most >> 20} MiB")
    return content


def _inside(value: Any) -> Iterator[Any]:
    """The values inside a list or mapping that may hold further ones."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (item for item in items if isinstance(item, dict | list))


def _check_growth(text: str) -> None:
    """Refuse a YAML text whose aliases written out, depth or numbers are too large, while nothing is made of it yet."""
    finished: dict[str, int] = {}
    levels: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            levels.append((event.anchor, 1))
            if len(levels) > DEEPEST:
                raise Unreadable(f"nested deeper than {DEEPEST}")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, values = levels.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, values = event.anchor, 1
            if len(event.value) > _LONGEST and event.implicit != (False, True):
                raise Unreadable(f"a value without quotes of more than {_LONGEST} characters")
        elif isinstance(event, yaml.AliasEvent):
            anchor, values = None, finished.get(event.anchor, 0)
            if not values:
                raise Unreadable(f"the alias *{event.anchor} stands for nothing, or for what it is in")
        else:
            continue
        if anchor is not None:
            finished[anchor] = values
        outer, so_far = levels[-1]
        levels[-1] = (outer, so_far + values)
        if so_far + values > MOST_VALUES:
            raise Unreadable(f"more than {MOST_VALUES} values, those that aliases repeat counted each time")
