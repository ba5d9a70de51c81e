"""Files found by a template such as "images/{split}/{name}": where a source keeps its images, and what belongs to them.

`{split}` is part of a folder's name. `{name}` is what an image and its labels share; it may hold folders
("leftImg8bit/{split}/{name}_leftImg8bit.png"). A template without an ending takes any ending that is looked for.
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
    if not known or ".." in parts or template.startswith("/") or "{split}" in parts[-1]:
        raise ConfigError(f"{key}={template}: {example}")
    if "{name}" in "/".join(parts[:-1]):
        raise ConfigError(f"{key}={template}: {{name}} belongs to the last part; it may itself hold folders")


def folder_of(template: str, split: str) -> str:
    """Return the folder, relative to the root, below which the template's files lie; "" for the root itself."""
    return template.replace("{split}", split).partition("{name}")[0].rpartition("/")[0]


def splits_of(root: Path, templates: Sequence[str]) -> list[str]:
    """Return the splits, sorted, for which each template with {split} has its folder."""
    found: set[str] | None = None
    for template in templates:
        if "{split}" in template:
            here = _splits(root, template)
            found = here if found is None else found & here
    return sorted(found or ())


def choose_layout(root: Path, layouts: Sequence[Sequence[str]], split: str) -> Sequence[str]:
    """Return the first of the layouts (templates that belong together) whose folders are there.

    Raises:
        DataError: none is; or one is, but not for `split`.
    """
    for layout in layouts:
        by_split = any("{split}" in template for template in layout)
        splits = splits_of(root, layout)
        if split in splits or (not by_split and all((root / folder_of(one, split)).is_dir() for one in layout)):
            return layout
        if splits:
            raise unknown_split(split, splits, root)
    looked = "; ".join(" with ".join(f"{folder_of(one, '<split>')}/" for one in layout) for layout in layouts)
    keys = listed(["data.reader.images", "data.reader.masks", "data.reader.labels"][: len(layouts[0])])
    raise DataError(f"{root}: no folders that are known; looked for {looked}; say where the files are with {keys}")


def files_of(root: Path, template: str, split: str, suffixes: Collection[str] = IMAGE_SUFFIXES) -> dict[str, list[str]]:
    """Return the files, relative to `root` with forward slashes, that fit the template, by name and sorted by it.

    More than one file has a name where the template has no ending and several fit.
    """
    front, _, back = template.replace("{split}", split).partition("{name}")
    any_ending = PurePosixPath(f"x{back}").suffix.lower() not in suffixes
    found: dict[str, list[str]] = {}
    for file in sorted(_walk(root, folder_of(template, split))):
        stem, ending = os.path.splitext(file)  # noqa: PTH122 - PurePath would cost more than all else here
        if any_ending and ending.lower() not in suffixes:
            continue
        whole = stem if any_ending else file
        if whole.startswith(front) and whole.endswith(back) and len(whole) > len(front) + len(back):
            found.setdefault(whole[len(front) : len(whole) - len(back)], []).append(file)
    return dict(sorted(found.items()))


def listed_names(file: Path, known: Collection[str]) -> list[str]:
    """Return the names in a list file, one a line, in its order; a line may be a path, and a second word is ignored.

    A path counts by its last parts that make one of `known`, so that a foreign prefix or another ending does no harm;
    a line that fits none is returned as it is.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise DataError(f"{file}: cannot be read ({fault}); it must be text with one image name per line") from None
    names = [_known_name(line.strip(), known) for line in lines if line.strip()]
    if not names:
        raise DataError(f"{file}: the list is empty; write one image name per line")
    return list(dict.fromkeys(names))


def _known_name(line: str, known: Collection[str]) -> str:
    for text in (line, line.split()[0]):
        path = PurePosixPath(text.replace("\\", "/"))
        bare = path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path
        for start in range(len(bare.parts)):
            name = "/".join(bare.parts[start:])
            if name in known:
                return name
    return line


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
