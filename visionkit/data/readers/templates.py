"""Files found by a template such as "images/{split}/{name}": where a source keeps its images, and what belongs to them.

`{split}` is part of a folder's name. `{name}` is what an image and its labels share; it may hold folders
("leftImg8bit/{split}/{name}_leftImg8bit.png"). `*` stands for anything but a slash; a whole folder's name that it
stands for is part of the name, too, so that "leftImg8bit/{split}/*/{name}_leftImg8bit.png" finds the same images by the
same names. A template without an ending takes any ending that is looked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

from visionkit.data.decode import IMAGE_SUFFIXES
from visionkit.data.readers.splits import unknown_split
from visionkit.errors import ConfigError, DataError, listed


def check_template(template: str, key: str) -> None:
    """Refuse a template without {name}, with other placeholders, or that leaves the folder; `key` names it."""
    example = "a path in the folder with {name}, such as images/{split}/{name}, is wanted"
    parts = template.split("/")
    placeholders = re.findall(r"\{(.*?)\}", template)
    known = set(placeholders) <= {"split", "name"} and placeholders.count("name") == 1
    if not known or ".." in parts or template.startswith("/") or "{split}" in parts[-1] or "**" in template:
        raise ConfigError(f"{key}={template}: {example}", code="value-unfit")
    if "*" in "/".join(parts[: next((i + 1 for i, part in enumerate(parts) if "{split}" in part), 0)]):
        raise ConfigError(
            f"{key}={template}: * must come after the folder of {{split}}; write that folder's path out",
            code="value-unfit",
        )
    if "{name}" in "/".join(parts[:-1]):
        raise ConfigError(
            f"{key}={template}: {{name}} belongs to the last part; it may itself hold folders", code="value-unfit"
        )


def folder_of(template: str, split: str) -> str:
    """Return the folder, relative to the root, below which the template's files lie; "" for the root itself."""
    return re.split(r"\{name\}|\*", template.replace("{split}", split))[0].rpartition("/")[0]


def splits_of(root: Path, templates: Sequence[str]) -> list[str]:
    """Return the splits, sorted, for which each template with {split} has its folder."""
    found: set[str] | None = None
    for template in templates:
        if "{split}" in template:
            here = _splits(root, template)
            found = here if found is None else found & here
    return sorted(found or ())


def choose_layout(root: Path, layouts: Sequence[Sequence[str]], split: str | None) -> Sequence[str]:
    """Return the first of the layouts (templates that belong together) whose folders are there.

    split: None means any.

    Raises:
        DataError: none is; or one is, but not for `split`.
    """
    for layout in layouts:
        by_split = any("{split}" in template for template in layout)
        splits = splits_of(root, layout)
        if split in splits or (splits and split is None):
            return layout
        if not by_split and all((root / folder_of(one, "")).is_dir() for one in layout):
            return layout
        if splits and split is not None:
            raise unknown_split(split, splits, root)
    looked = "; ".join(" with ".join(f"{folder_of(one, '<split>')}/" for one in layout) for layout in layouts)
    keys = listed(["data.reader.images", "data.reader.masks", "data.reader.labels"][: len(layouts[0])])
    raise DataError(
        f"{root}: no folders that are known; looked for {looked}; say where the files are with {keys}",
        code="set-unusable",
    )


def files_of(root: Path, template: str, split: str, suffixes: Collection[str] = IMAGE_SUFFIXES) -> dict[str, list[str]]:
    """Return the files, relative to `root` with forward slashes, that fit the template, by name and sorted by it.

    More than one file has a name where the template has no ending and several fit.
    """
    ending = PurePosixPath(f"x{template.partition('{name}')[2]}").suffix.lower()
    any_ending = ending not in suffixes
    pattern = _pattern(template.replace("{split}", split))
    found: dict[str, list[str]] = {}
    for file in sorted(_walk(root, folder_of(template, split))):
        stem, own = os.path.splitext(file)  # noqa: PTH122 - PurePath would cost more than all else here
        if any_ending and own.lower() not in suffixes:
            continue
        match = pattern.fullmatch(stem if any_ending else file)
        if match:
            found.setdefault("/".join(match.groups()), []).append(file)
    return dict(sorted(found.items()))


def files_of_splits(root: Path, template: str, splits: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of several splits, see `files_of`; names begin with the split: "train/aachen/1"."""
    return {f"{split}/{name}": files for split in splits for name, files in files_of(root, template, split).items()}


def folder_stars(template: str) -> int:
    """Return how many folders of any name a template has; those of an image and of its labels must be as many."""
    return template.split("/").count("*")


def path_of(template: str, split: str, name: str) -> str:
    """Return where the file of a name belongs, relative to the root; without ending where the template has none."""
    path = template.replace("{split}", split)
    *folders, rest = name.split("/", folder_stars(template))
    parts = iter(folders)
    filled = "/".join(next(parts, part) if part == "*" else part for part in path.split("/"))
    return filled.replace("{name}", rest)


def _pattern(template: str) -> re.Pattern[str]:
    """Capture the folders that a lone * stands for, and {name}."""
    parts = []
    for part in template.split("/"):
        words = {"{name}": "(.+)", "*": "[^/]*"}
        pieces = re.split(r"(\{name\}|\*)", part)
        parts.append("([^/]+)" if part == "*" else "".join(words.get(piece, re.escape(piece)) for piece in pieces))
    return re.compile("/".join(parts))


def _splits(root: Path, template: str) -> set[str]:
    parts = template.split("/")[:-1]
    place = next(i for i, part in enumerate(parts) if "{split}" in part)
    parent = root.joinpath(*parts[:place])
    pattern = re.compile(re.escape(parts[place]).replace(re.escape("{split}"), "(.+)", 1))
    found = set()
    for entry in parent.iterdir() if parent.is_dir() else ():
        match = pattern.fullmatch(entry.name)
        if match and not entry.name.startswith(".") and (root / folder_of(template, match[1])).is_dir():
            found.add(match[1])
    return found


def _walk(root: Path, folder: str) -> Iterable[str]:
    for place, folders, files in os.walk(root / folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = Path(place).relative_to(root).as_posix()
        for name in files:
            if not name.startswith("."):
                yield name if prefix == "." else f"{prefix}/{name}"
