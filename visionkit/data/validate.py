"""What is wrong with a data set, said so that its maker can mend it, and before anything is trained on it.

The readers judge their label files and look at each image file (there, whole, of the recorded size) when they are
built, and settle what they find by `data.on_error`; `fast_check` adds what only the finished reader shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visionkit.data.decode import check_file
from visionkit.errors import ConfigError, DataError, did_you_mean, listed
from visionkit.interfaces import Reader

ON_ERROR = ("stop", "skip")
_SHOWN = 10
_THREADS = 8


@dataclass(frozen=True)
class Problem:
    """One fault of a data set.

    Attributes:
        file: the file that holds it.
        where: the element inside the file (a JSON or XML path), or an empty string for the file as a whole.
        fault: what is wrong, with the value found.
        mend: what to do about it.
        rule: the code of the rule that it breaks, one of `visionkit.data.rules.RULES`.
        warning: it is worth knowing, but nothing need be mended.
    """

    file: str
    where: str
    fault: str
    mend: str
    rule: str = ""
    warning: bool = False

    def __str__(self) -> str:
        place = f"{self.file}: {self.where}" if self.where else self.file
        return f"{place}: {self.fault}; {self.mend}"


def report(problems: Sequence[Problem], *, most: int = _SHOWN) -> str:
    """Return the count and one line per problem, cut after `most`."""
    lines = [f"{len(problems)} problem{'s' if len(problems) != 1 else ''} in the data:"]
    lines += [f"  {problem}" for problem in problems[:most]]
    if len(problems) > most:
        lines.append(f"  … and {len(problems) - most} more")
    return "\n".join(lines)


def check_on_error(on_error: str) -> None:
    """Refuse a value other than those of `ON_ERROR`."""
    if on_error not in ON_ERROR:
        raise ConfigError(f"data.on_error={on_error}: must be stop or skip{did_you_mean(on_error, ON_ERROR)}")


def settle(problems: Sequence[Problem], on_error: str) -> None:
    """Raise one DataError for all problems when `on_error` is "stop"; with "skip" the caller has left them out."""
    if problems and on_error == "stop":
        raise DataError(f"{report(problems)}\n  mend them, or leave these out with data.on_error=skip")


def check_images(
    paths: Sequence[Path], recorded: Sequence[tuple[int, int] | None], where: Callable[[int], tuple[str, str]]
) -> Iterator[tuple[int, int] | Problem]:
    """Yield for each image file its (height, width), or the problem that makes it unusable. Nothing is decoded.

    Args:
        paths: the image files.
        recorded: (height, width) as the labels say, None where they say nothing.
        where: gives, for an index, the file and the element that hold the recorded size.
    """
    with ThreadPoolExecutor(_THREADS) as threads:  # for disks and networks that answer slowly
        for index, found in enumerate(threads.map(_checked, paths, chunksize=64)):
            wanted = recorded[index]
            if isinstance(found, Problem) or wanted is None or tuple(wanted) == found:
                yield found
                continue
            (height, width), file = found, paths[index].name
            fault = f"the recorded size is {wanted[1]} x {wanted[0]} but {file} is {width} x {height}"
            mend = "correct the size, or restore the image that was labelled"
            if wanted == (width, height):
                fault += ", turned by EXIF or by hand"
                mend = "turn the labels with the image, or save the image as it was labelled, without EXIF orientation"
            yield Problem(*where(index), fault, mend)


def _checked(path: Path) -> tuple[int, int] | Problem:
    try:
        return check_file(path)
    except DataError as fault:
        said, _, mend = str(fault).removeprefix(f"{path}: ").partition("; ")
        return Problem(str(path), "", said, mend)


def fast_check(reader: Reader) -> list[Problem]:
    """Find what would make training on this reader pointless: no images, no classes, or no example at all.

    Milliseconds: the readers have looked at the files already. Readers without `class_counts` are not counted.
    """
    where = _name(reader)
    if not len(reader):
        return [Problem(where, "", "the split holds no usable image", "choose another data.split or data.root")]
    if not reader.classes and not reader.semantic_classes:
        return [Problem(where, "", "there are no classes", "add labels, or list the classes in data.classes")]
    counts = class_counts(reader)
    if counts is not None and len(counts) and not counts.any():
        return [Problem(where, "", f"none of {len(reader)} images has an object", "choose another split, or label it")]
    return []


def class_warnings(reader: Reader) -> list[str]:
    """Return a line that names the classes without an example in the split, if any. Seldom meant, but no fault."""
    counts = class_counts(reader)
    absent = [] if counts is None else [name for name, count in zip(reader.classes, counts, strict=True) if not count]
    if not absent:
        return []
    return [f"{_name(reader)}: no example of {listed(absent)}; what is absent cannot be learned or judged"]


def class_counts(reader: Reader) -> np.ndarray | None:
    """(C,) int64: objects (or whole images) per class, where the reader can tell without making labels, else None."""
    count = getattr(reader, "class_counts", None)
    return None if count is None else count()


def _name(reader: Reader) -> str:
    root, split = getattr(reader, "root", type(reader).__name__), getattr(reader, "split", None)
    return str(root) if split is None else f"{root} ({split})"
