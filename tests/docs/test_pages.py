"""README.md and docs/: links lead somewhere, pictures are there, keys exist, numbers agree, commands can be read."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from visionkit import cli
from visionkit.config import compose, groups

PARSER = runpy.run_path(str(Path(__file__).parent / "pages.py"))
PAGES, ROOT = PARSER["PAGES"], PARSER["ROOT"]
blocks_of, commands_of, prose_of, text_of, tool_of = (
    PARSER[name] for name in ("blocks_of", "commands_of", "prose_of", "text_of", "tool_of")
)
GENERATED = ("docs/errors.md",)
NOT_TOOLS = {
    ".",
    "python",
    "pip",
    "pytest",
    "torchrun",
    "srun",
    "ruff",
    "bash",
    "grep",
    "exit",
    "run=runs/detect/coco",
    "code=$?",
}
"""Commands that are not visionkit's: they are run by nobody here."""
LINES = [(f"{block.name} {' '.join(words)[:70]}", *tool)
         for page in PAGES for block in blocks_of(page) if block.language == "sh" and "#!" not in block.content
         for words in commands_of(block) if (tool := tool_of(words))]  # fmt: skip


def anchors(page):
    heads = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_somewhere(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        there = (folder / file).resolve() if file else ROOT / page
        assert there.is_file(), f"{page}: {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there.relative_to(ROOT).as_posix()), f"{page}: {target}"


def test_every_page_is_in_the_index_and_every_picture_in_a_page():
    index = text_of("docs/index.md")
    for page in PAGES:
        assert page in ("README.md", "docs/index.md") or f"]({page.removeprefix('docs/')})" in index, page
    text = "".join(map(text_of, PAGES))
    for file in (ROOT / "docs" / "pictures").iterdir():
        assert f"pictures/{file.name})" in text, file.name
        assert file.stat().st_size < 200_000, file.name


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_not_too_long(page):
    for number, line in enumerate(prose_of(page).splitlines(), 1):
        assert len(line) <= 160 or line.startswith("|") or page in GENERATED, f"{page}:{number}"


def known_keys():
    keys = set()
    for tool in ("train", "evaluate", "predict", "export", "demo", "check_data", "inspect_model", "probe"):
        needed = {"predict": ["checkpoint=a", "source=a", "out=a"], "export": ["checkpoint=a", "out=a"],
                  "evaluate": ["checkpoint=a"], "demo": ["checkpoint=a"]}.get(tool, [])  # fmt: skip
        found = [OmegaConf.to_container(compose(tool, needed))]
        if tool == "train":
            found += [OmegaConf.to_container(compose("train", [f"task={task}"])) for task in groups()["task"]]
        for one in found:
            keys |= {".".join(path) for path in _paths(one)}
    return keys


def _paths(node, path=()):
    for key, value in node.items() if isinstance(node, dict) else ():
        yield (*path, str(key))
        yield from _paths(value, (*path, str(key)))


OPEN = ("data.reader.", "data.sets.", "data.annotations.", "head.", "model.backbone.", "metric.", "hydra.")
"""Below these stand names of the user's, or arguments that the test of the commands looks at."""


def test_every_key_that_is_told_is_there():
    known = known_keys()
    first = {key.split(".")[0] for key in known}
    for page in PAGES:
        if page in GENERATED:
            continue
        for key in re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)+)(?:=[^`]*)?`", prose_of(page)):
            if key.split(".")[0] in first and not re.search(r"\.(md|py|yaml|json|jsonl|html|png|log|txt)$", key):
                assert key in known or key.startswith(OPEN), f"{page}: {key}"


@pytest.mark.parametrize(("tool", "typed"), [line[1:] for line in LINES], ids=[line[0] for line in LINES])
def test_every_command_has_keys_that_exist(tool, typed):
    if "--help" in typed or "--multirun" in typed or tool in (*cli.COMMANDS, "help"):
        assert tool in {**cli.TOOLS, **cli.COMMANDS}
        return
    if typed[:1] == ["loader"]:
        tool, typed = "benchmark loader", typed[1:]
    own = [one for one in typed if "._target_=my" in one or re.match(r"(head\.votes|metric)\.", one)]
    places = {one.split("._target_")[0] for one in own}
    typed = [one for one in typed if one not in own and not any(one.startswith(f"{place}.") for place in places)
             and one not in ("…", "$MORE")]  # fmt: skip
    compose(tool, [re.sub(r"(?<=seed=)S$", "0", one.replace(",votes", "")) for one in typed])


def test_other_commands_are_known_and_extras_are_declared():
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    for page in PAGES:
        for block in blocks_of(page):
            for words in commands_of(block) if block.language == "sh" and "#!" not in block.content else ():
                if not words or tool_of(words):
                    continue
                program = words[0] if words[0] != "sudo" else words[1]
                assert program in NOT_TOOLS, f"{block.name}: {words}"
                for names in re.findall(r"\[([\w,-]+)\]", " ".join(words)) if program == "pip" else ():
                    assert set(names.split(",")) <= set(extras), f"{block.name}: {names}"


def test_the_numbers_of_the_readme_stand_where_they_are_explained():
    told = "".join(text_of(f"docs/{name}.md") for name in ("benchmarks", "recipes"))
    numbers = re.findall(r"(?<![\d\w.])\.\d{2,3}\b", prose_of("README.md"))
    assert len(numbers) > 10
    assert [number for number in numbers if number not in told] == []
