"""Where Pascal VOC's files lie below a data set's folder, and which images a list of ImageSets names."""

from __future__ import annotations

from pathlib import Path

from visionkit.data.decode import IMAGE_SUFFIXES
from visionkit.data.readers.lists import numbered_lines
from visionkit.data.validate import Problem
from visionkit.errors import DataError


def find_folder(root: Path, *names: str) -> Path:
    """Return the first of these folders that is there.

    Raises:
        DataError: none is.
    """
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(
        f"{root}: no folder {names[0]}; for Pascal VOC data.root holds Annotations and JPEGImages", code="set-unusable"
    )


def stems(folder: Path, pattern: str) -> list[str]:
    """Return the names, without endings and sorted, of the files that fit the pattern and are not hidden."""
    return sorted(entry.stem for entry in folder.glob(pattern) if not entry.name.startswith("."))


def images_by_stem(folder: Path) -> dict[str, list[str]]:
    """Return the image files of a folder by their name without its ending, which several may share."""
    files: dict[str, list[str]] = {}
    for entry in folder.iterdir():
        if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith("."):
            files.setdefault(entry.stem, []).append(entry.name)
    return files


def listed_names(file: Path) -> tuple[list[str], list[Problem]]:
    """Return the image names in a list of ImageSets, in its order, and a fault for each line that cannot be used.

    Whether there are such images is not looked at.

    Raises:
        DataError: the file cannot be read, or names nothing.
    """
    names: dict[str, int] = {}
    problems: list[Problem] = []
    for number, name in numbered_lines(file):
        where = f"line {number}"
        if name in names:
            fault = f"'{name}' stands in line {names[name]} already"
            problems.append(Problem(str(file), where, fault, "remove the line", "list-entry"))
        elif Path(name).is_absolute() or ".." in Path(name).parts:
            mend = "give a name inside Annotations"
            problems.append(Problem(str(file), where, f"'{name}' leaves the folder", mend, "path-outside"))
        else:
            names[name] = number
    if not names:
        raise DataError(
            f"{file}: the list is empty; write one image name per line, without its ending", code="split-empty"
        )
    return list(names), problems
