"""Where the code makes errors, read from its syntax trees: with which code, and with what message."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

EXITS: Mapping[str, int] = {"UserError": 2, "ConfigError": 2, "DataError": 2, "CheckpointError": 2, "RunError": 1}
"""The errors that are made for people, and what the tools exit with."""
_LINES: Mapping[str, int] = {"CodedLine": 1, "Problem": 4}
"""What becomes a line of such an error, and at which place among its arguments the code stands."""
_TRANSPARENT = ("listed", "shown", "printable", "len")
"""Functions of a single value, which is what a message is about."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Site:
    """A place where an error, or a line of one, is made.

    Attributes:
        file, line: the place.
        maker: the class that is called.
        message: its words, values as {name}; empty where they come from elsewhere.
        code: its code; None where it says none, an empty string where it is told at run time.
        exit: what the tools exit with.
    """

    file: Path
    line: int
    maker: str
    message: str
    code: str | None
    exit: int


def sites(files: Iterable[Path]) -> Iterator[Site]:
    """Yield the sites of Python files, in order."""
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(files)}
    kinds = {name: kind for tree in trees.values() for name, kind in _kinds(tree)}
    exits = {**EXITS, **{name: exit_code for name, (_, exit_code) in kinds.items()}}
    for file, tree in trees.items():
        functions = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]
        inside = {id(node): outer for outer in functions for node in ast.walk(outer)}
        constants = _words(tree.body)
        for call in sorted((one for one in ast.walk(tree) if isinstance(one, ast.Call)), key=lambda one: one.lineno):
            maker = ast.unparse(call.func).rpartition(".")[2]
            if maker not in exits and maker not in _LINES:
                continue
            around = inside.get(id(call))
            words = constants if around is None else constants | _words(ast.walk(around), call.lineno)
            usual, _ = kinds.get(maker, (None, 0))
            code = usual if usual and maker not in EXITS else _code(call, maker)
            yield Site(file, call.lineno, maker, _message(call, maker, words), code, exits.get(maker, 2))


def _kinds(tree: ast.Module) -> Iterator[tuple[str, tuple[str, int]]]:
    """The classes that are one kind of fault by themselves: name, code and what the tools exit with."""
    for node in ast.walk(tree):
        bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
        if isinstance(node, ast.ClassDef) and EXITS.keys() & bases and node.name not in EXITS:
            said = _words(node.body).get("usual_code")
            if isinstance(said, ast.Constant):
                yield node.name, (str(said.value), EXITS[bases[0]])


def _code(call: ast.Call, maker: str) -> str | None:
    place = _LINES.get(maker)
    given = [word.value for word in call.keywords if word.arg in ("code", "rule")]
    given += [] if place is None else call.args[place : place + 1]
    if given:
        return given[0].value if isinstance(given[0], ast.Constant) and isinstance(given[0].value, str) else ""
    has_findings = maker == "DataError" and len(call.args) > 1  # whose codes it takes
    return "" if has_findings or any(word.arg is None for word in call.keywords) else None


def _words(nodes: Iterable[ast.AST], before: float = math.inf) -> dict[str, ast.expr]:
    """What stands in variables, by their names, of the statements among `nodes` that come before a line."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and node.lineno <= before and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
    return found


def _message(call: ast.Call, maker: str, words: Mapping[str, ast.expr]) -> str:
    if maker == "Problem":
        fault, mend = (_template(one, words) for one in (*call.args, None, None, None, None)[2:4])
        return f"{fault or '{…}'}; {mend or '{…}'}" if fault or mend else ""
    return _template(call.args[0] if call.args else None, words)


def _template(told: ast.expr | None, words: Mapping[str, ast.expr]) -> str:
    """The words of a text in one line, each value in it by a short name."""
    if isinstance(told, ast.Call) and ast.unparse(told.func) == "printable" and told.args:
        told = told.args[0]
    if isinstance(told, ast.Name):
        told = words.get(told.id)
    if isinstance(told, ast.Constant) and isinstance(told.value, str):
        return " ".join(told.value.split())
    if isinstance(told, ast.JoinedStr):
        return " ".join("".join(_in_words(part, words) for part in told.values).split())
    return ""


def _in_words(part: ast.expr, words: Mapping[str, ast.expr]) -> str:
    """A part of a text: itself, a constant's value, or a short name for what is put in."""
    value = part.value if isinstance(part, ast.FormattedValue) else part
    if isinstance(value, ast.Name) and value.id.isupper():
        value = words.get(value.id, value)
    return str(value.value) if isinstance(value, ast.Constant) else f"{{{_name(value)}}}"


def _name(value: ast.expr) -> str:
    """A short name for a value: the last word of what gives it, or … where it has none."""
    if isinstance(value, ast.Call):
        function = ast.unparse(value.func)
        if function == "did_you_mean":
            return "hint"
        return _name(value.args[0]) if value.args and (function in _TRANSPARENT or function.endswith(".join")) else "…"
    names = re.findall(r"[A-Za-z]\w*", ast.unparse(value)) if isinstance(value, ast.Name | ast.Attribute) else []
    return names[-1].lower() if names else "…"
