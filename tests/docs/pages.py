"""What stands in the documents: their fenced blocks, links, pictures and keys."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [name for name in ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
         if (ROOT / name).exists()]  # fmt: skip
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
_FILE = re.compile(r"`([\w./]+\.\w+)`(?:, [^`\n]*)?:\n\Z")


class Block(NamedTuple):
    """One fenced block. file: the name that the line before it gives to its content; not_run: the reason said there."""

    page: str
    section: str
    line: int
    language: str
    content: str
    file: str | None
    not_run: str | None

    @property
    def name(self):
        return f"{self.page}:{self.line}"


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page):
    text = text_of(page)
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        sections = re.findall(r"^##+ (.+)$", _FENCE.sub("", before), re.MULTILINE)
        file, not_run = _FILE.search(before.rstrip("\n") + "\n"), _NOT_RUN.search(before)
        section, line = sections[-1] if sections else "", before.count("\n") + 1
        found.append(Block(page, section, line, *match.groups(), file and file[1], not_run and not_run[1]))
    return found


def prose_of(page):
    """The page without its fenced blocks."""
    return _FENCE.sub("", text_of(page))


def commands_of(block):
    """The shell commands of a block, as lists of words; `a && b` are two, a line ending in \\ goes on in the next."""
    content = block.content.replace("\\\n", " ")
    return [shlex.split(part, comments=True) for line in content.splitlines() for part in line.split(" && ")]


def tool_of(words):
    """(tool, what is typed behind it) of a command that calls one of visionkit's tools; None of any other."""
    words = words[words.index("python") :] if "python" in words[:6] else words
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[:1] == ["visionkit"]:
        return words[1] if len(words) > 1 else "", words[2:]
    if words[:1] == ["python"] and len(words) > 1 and (match := re.fullmatch(r"tools/(\w+)\.py", words[1])):
        return match[1], words[2:]
    return None
