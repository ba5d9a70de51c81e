"""List files: which images a split has, one name a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from visionkit.data.decode import IMAGE_SUFFIXES
from visionkit.data.validate import Problem
from visionkit.errors import DataError, listed
from visionkit.plain_files import check_regular

_MEND = "correct the line, or remove it"


def listed_images(file: Path, images: Mapping[str, str]) -> tuple[list[str], list[Problem]]:
    """Return the names in a list file, in its order, and a fault for each line that names none or one again.

    A line is a path from the data's folder, the end of one (such as the bare file name), or a path with a foreign
    prefix, with or without the ending of an image; what follows a first word that fits is passed over.

    Args:
        file: text, UTF-8; empty lines are passed over.
        images: the name of each image -> its file, relative to the data's folder; either may stand in the list.

    Raises:
        DataError: the file cannot be read, or names nothing.
    """
    known = _Known(images)
    places: dict[str, int] = {}
    problems: list[Problem] = []
    for number, line in numbered_lines(file):
        found = known.find(line)
        if len(found) == 1 and found[0] not in places:
            places[found[0]] = number
            continue
        fault = f"'{line}' is no image of the data set"
        if len(found) == 1:
            fault = f"'{line}' stands in line {places[found[0]]} already"
        elif found:
            fault = f"'{line}' may be {listed([images[name] for name in found], 3)}; give the path"
        problems.append(Problem(str(file), f"line {number}", fault, _MEND, rule="list-entry"))
    if not places and not problems:
        raise DataError(f"{file}: the list is empty; write one image name per line", code="split-empty")
    return list(places), problems


def numbered_lines(file: Path) -> list[tuple[int, str]]:
    """Return the lines of a list file that are not empty, without blanks at their ends, each with its number.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        check_regular(file)
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise DataError(
            f"{file}: cannot be read ({fault}); it must be text with one image name per line", code="file-unreadable"
        ) from None
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


class _Known:
    """Images by what may stand for them in a list."""

    def __init__(self, images: Mapping[str, str]) -> None:
        self.images = images
        self.whole: dict[str, list[str]] = {}
        self.ends: dict[str, list[str]] = {}
        for name, image in images.items():
            for path in dict.fromkeys((_bare(name), _bare(image))):
                parts = path.split("/")
                _add(self.whole, path, name)
                for start in range(1, len(parts)):
                    _add(self.ends, "/".join(parts[start:]), name)

    def find(self, line: str) -> list[str]:
        """The names of the images that a line may mean."""
        for text in dict.fromkeys((line, line.split()[0])):
            given = str(PurePosixPath(text.replace("\\", "/")))
            parts = _bare(given).split("/")
            found = self.whole.get(_bare(given)) or self.ends.get(_bare(given)) or []
            tails = ("/".join(parts[start:]) for start in range(1, len(parts)))
            found = found or next((self.whole[tail] for tail in tails if tail in self.whole), [])
            exact = [name for name in found if self.images[name] == given or self.images[name].endswith(f"/{given}")]
            if found:
                return exact or found
        return []


def _add(places: dict[str, list[str]], path: str, name: str) -> None:
    names = places.setdefault(path, [])
    if name not in names:
        names.append(name)


def _bare(path: str) -> str:
    stem, dot, ending = path.rpartition(".")
    return stem if dot and f".{ending.lower()}" in IMAGE_SUFFIXES else path
