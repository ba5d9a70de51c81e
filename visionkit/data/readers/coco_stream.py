"""A large JSON file, handed on a few thousand list elements at a time, so that it never stands in memory as objects."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from visionkit.errors import DataError
from visionkit.plain_files import check_regular

_CHUNK = 4096
_SPACE = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")

Take = Callable[[list[Any], int], None]
"""Takes the next elements of a list, and the place of the first of them."""


def stream(file: Path, lists: Mapping[str, Take]) -> tuple[dict[str, Any], str]:
    """Parse a file that holds one JSON object, and return its members and the SHA-256 of its bytes.

    lists: by key, what takes the elements of the member of that name; where that member is a list, an empty list is
        returned in its place.

    Raises:
        DataError: the file cannot be read, is not JSON, is not an object, or has one of `lists` twice.
    """
    try:
        check_regular(file)
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        text = content.decode(json.detect_encoding(content), "surrogatepass")
        del content
        start = _space(text, 0)
        if text[start : start + 1] != "{":
            json.loads(text)
            mend = "give the annotation file with images and categories, not a result file"
            raise DataError(f"{file}: not a JSON object; {mend}", code="file-format")
        with _uncollected():
            return _members(file, text, lists), digest
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror}); check the path and its permissions", code="file-unreadable"
        ) from None
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON ({error}); write the file again", code="file-unreadable") from None


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Let nobody look for cycles meanwhile: JSON has none, and the search takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _members(file: Path, text: str, lists: Mapping[str, Take]) -> dict[str, Any]:
    decode = json.JSONDecoder().raw_decode
    members: dict[str, Any] = {}
    position = _space(text, _space(text, 0) + 1)
    if text[position : position + 1] == "}":
        _ended(text, position + 1)
        return members
    while True:
        if text[position : position + 1] != '"':
            raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, position)
        key, position = decode(text, position)
        colon = _COLON.match(text, position)
        if colon is None:
            raise json.JSONDecodeError("Expecting ':' delimiter", text, position)
        position = colon.end()
        if key in lists and key in members:
            raise DataError(f"{file}: '{key}' stands there twice; join the two lists", code="file-format")
        if key in lists and text[position : position + 1] == "[":
            members[key], position = [], _elements(text, position, lists[key])
        else:
            members[key], position = decode(text, position)
        comma = _COMMA.match(text, position)
        if comma is None:
            break
        position = comma.end()
    _closed(text, position, "}")
    return members


def _elements(text: str, position: int, take: Take) -> int:
    """Hand on the elements of the list at `position`, and return where it ends."""
    decode, comma = json.JSONDecoder().raw_decode, _COMMA.match
    place, elements = 0, []
    position = _space(text, position + 1)
    if text[position : position + 1] == "]":
        return position + 1
    while True:
        element, position = decode(text, position)
        elements.append(element)
        after = comma(text, position)
        if after is None:
            break
        position = after.end()
        if len(elements) == _CHUNK:
            take(elements, place)
            place, elements = place + _CHUNK, []
    take(elements, place)
    position = _space(text, position)
    if text[position : position + 1] != "]":
        raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
    return position + 1


def _closed(text: str, position: int, bracket: str) -> None:
    position = _space(text, position)
    if text[position : position + 1] != bracket:
        raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
    _ended(text, position + 1)


def _ended(text: str, position: int) -> None:
    position = _space(text, position)
    if position != len(text):
        raise json.JSONDecodeError("Extra data", text, position)


def _space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    assert space is not None
    return space.end()
