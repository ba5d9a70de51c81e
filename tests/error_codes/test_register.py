"""Every error that a person meets has a code of the register, and every code of the register is met."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from visionkit.error_codes import CODES, GROUPS, mend_lines, mend_of
from visionkit.error_codes.sites import EXITS, sites

ROOT = Path(__file__).parents[2]
FILES = [file for folder in ("visionkit", "tools") for file in sorted((ROOT / folder).rglob("*.py"))]
PARTS = re.compile(r"[a-z]+(-[a-z]+)+")
MADE = re.compile(r"\{\w*\}-[a-z]+")
"""Codes that are put together, such as f"{what}-missing"."""


def test_every_error_has_a_code_of_the_register() -> None:
    found = list(sites(FILES))
    assert len(found) > 500
    without = [f"{site.file.relative_to(ROOT)}:{site.line}: {site.maker}" for site in found if site.code is None]
    unknown = [f"{site.file.relative_to(ROOT)}:{site.line}: {site.code}" for site in found if site.code not in CODES]
    assert not without, "name a code of visionkit.error_codes: code=…"
    assert [told for told in unknown if not told.endswith(": ")] == []


def texts(tree: ast.AST) -> set[str]:
    """The texts of a file; of those with values in them, {} for each."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values))
    return found


def test_every_code_is_used() -> None:
    own = ROOT / "visionkit" / "error_codes"
    said = set().union(*(texts(ast.parse(file.read_text())) for file in FILES if own not in file.parents))
    made = [text.removeprefix("{}") for text in said if MADE.fullmatch(text)]
    assert [code for code in CODES if code not in said and not code.endswith(tuple(made))] == []


def test_codes_are_words_of_one_group_with_a_meaning_and_a_mend() -> None:
    assert sum(map(len, GROUPS.values())) == len(CODES)
    for name, code in CODES.items():
        assert PARTS.fullmatch(name) or name == "unexpected"
        for text in (code.meaning, code.mend):
            assert text and "\n" not in text
        assert not code.mend.endswith(".") and len(code.mend) <= 120, name


@pytest.mark.parametrize("name", sorted(EXITS))
def test_the_usual_codes_are_of_the_register(name: str) -> None:
    import visionkit.errors

    assert getattr(visionkit.errors, name)("told").code in CODES


def test_mends_are_said_once_and_of_known_codes_alone() -> None:
    said = mend_lines(["tool-unknown", "their-own", "tool-unknown"])
    assert said == ["  [tool-unknown] visionkit --help names the tools"]
    assert mend_of("their-own") == ""
