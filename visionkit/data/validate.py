"""What is wrong with a data set, said so that its maker can mend it, and before anything is trained on it.

The readers judge their label files and look at each image file (there, whole, of the recorded size) when they are
built, and settle what they find by `data.on_error`; `fast_check` adds what only the finished reader shows, and
`visionkit.data.check` what takes a look at every pixel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visionkit.data.decode import check_file, stored_size
from visionkit.data.rules import is_of_object
from visionkit.errors import ConfigError, DataError, did_you_mean, listed, printable
from visionkit.interfaces import Reader

ON_ERROR = ("stop", "skip")
_SHOWN = 10
_THREADS = 8
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]|<[/!?a-zA-Z]")
"""Control characters, line ends, changes of the writing direction, bytes that are no text, and HTML."""


@dataclass(frozen=True)
class Problem:
    """One fault of a data set.

    Attributes:
        file: the file that holds it.
        where: the element inside the file (a JSON or XML path, a line), or an empty string for the file as a whole.
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
        """One line, whatever the names in it hold."""
        place = f"{self.file}: {self.where}" if self.where else self.file
        return printable(f"{place}: {self.fault}; {self.mend}")


def errors_of(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems without the warnings."""
    return [problem for problem in problems if not problem.warning]


def warnings_of(problems: Iterable[Problem]) -> list[Problem]:
    """Return the warnings alone."""
    return [problem for problem in problems if problem.warning]


def refusal(problem: Problem) -> DataError:
    """Return the error for a fault with which nothing of a source can be used."""
    return DataError(str(problem), [problem])


def found_in(error: DataError) -> list[Problem]:
    """Return the faults that an error tells of, as it carries them or else as its message says them."""
    if error.findings:
        return list(error.findings)
    said, _, mend = str(error).partition("; ")
    file, colon, fault = said.partition(": ")
    file, fault = (file, fault) if colon else ("", said)
    return [Problem(file, "", fault, mend or "correct it", rule=error.code)]


def report(problems: Sequence[Problem], *, most: int = _SHOWN) -> str:
    """Return the count and one line per problem with its rule, cut after `most`."""
    lines = [f"{_count(len(problems), 'problem')} in the data:"]
    lines += [f"  {problem}{f' [{problem.rule}]' if problem.rule else ''}" for problem in problems[:most]]
    if len(problems) > most:
        lines.append(f"  … and {len(problems) - most} more")
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def check_on_error(on_error: str) -> None:
    """Refuse a value other than those of `ON_ERROR`."""
    if on_error not in ON_ERROR:
        raise ConfigError(
            f"data.on_error={on_error}: must be stop or skip{did_you_mean(on_error, ON_ERROR)}", code="choice-unknown"
        )


def settle(problems: Sequence[Problem], on_error: str) -> None:
    """Raise one DataError for all problems when `on_error` is "stop"; with "skip" the caller has left them out.

    Warnings stop nothing.
    """
    errors = errors_of(problems)
    if errors and on_error == "stop":
        raise DataError(f"{report(errors)}\n  mend them, or leave these out with data.on_error=skip", problems)


def check_skipped(reader: Reader, most: float) -> None:
    """Refuse a reader that has left out more than the share `most` (0 to 1) of its images, or of its objects.

    Raises:
        DataError: it has.
    """
    errors = errors_of(getattr(reader, "problems", ()))
    of_objects = sum(is_of_object(problem.rule) for problem in errors)
    counts = class_counts(reader)
    kept = {"images": len(reader), "objects": 0 if counts is None else int(counts.sum())}
    for what, lost in (("images", len(errors) - of_objects), ("objects", of_objects)):
        share = lost / max(lost + kept[what], 1)
        if share > most:
            fault = f"{lost} of {lost + kept[what]} {what} ({share:.1%}) would be left out, more than data.max_skipped"
            mend = "mend them (tools/check_data.py lists all), or raise data.max_skipped"
            raise DataError(f"{_name(reader)}: {fault}={most:g} allows; {mend}\n{report(errors)}", errors)


def check_images(
    paths: Sequence[Path],
    recorded: Sequence[tuple[int, int] | None],
    where: Callable[[int], tuple[str, str]],
) -> Iterator[tuple[int, int] | Problem]:
    """Yield for each image file its (height, width), or the problem that makes it unusable. Nothing is decoded.

    The size of an image that EXIF orientation turns is that before it, where that is what is recorded: the labels were
    drawn on the image as it is stored, and `Decoding.recorded` keeps it so.

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
            elif tuple(wanted) == found[::-1] == stored_size(paths[index]):
                yield found[::-1]
            else:
                yield _size_problem(paths[index], found, wanted, *where(index))


def _size_problem(path: Path, size: tuple[int, int], recorded: tuple[int, int], file: str, where: str) -> Problem:
    """The problem of an image that is not of the recorded size (both height, width), said of `file`."""
    (height, width), name = size, path.name
    fault = f"the recorded size is {recorded[1]} x {recorded[0]} but {name} is {width} x {height}"
    mend = "correct the size, or restore the image that was labelled"
    if tuple(recorded) == (width, height):
        fault, mend = f"{fault}, turned by EXIF or by hand", "turn the labels with the image, or the image back"
    return Problem(file, where, fault, mend, "size-differs")


def _checked(path: Path) -> tuple[int, int] | Problem:
    fault = unsafe(path.name)
    if fault:
        return Problem(str(path), "", fault, "rename the file", "name-unsafe")
    try:
        return check_file(path)
    except DataError as error:
        said, _, mend = str(error).removeprefix(f"{path}: ").partition("; ")
        return Problem(str(path), "", said, mend, error.code)


def unsafe(name: str) -> str:
    """Return what in a name would harm a terminal or a page, or an empty string."""
    found = _UNSAFE.search(name)
    return f"the name '{name}' holds '{found[0]}'" if found else ""


def fast_check(reader: Reader) -> list[Problem]:
    """Find what would make training on this reader pointless or harmful: no images, no classes, no example at all,
    names that would harm a page or a terminal.

    Milliseconds: the readers have looked at the files already. Readers without `class_counts` are not counted.
    """
    where = _name(reader)
    if not len(reader):
        return [_pointless(where, "the split holds no usable image", "choose another data.split or data.root")]
    if not reader.classes and not reader.semantic_classes:
        return [_pointless(where, "there are no classes", "add labels, or list the classes in data.classes")]
    problems = [
        Problem(where, f"class {place}", fault, "rename it in the source", "name-unsafe")
        for place, name in enumerate([*reader.classes, *reader.semantic_classes])
        if (fault := unsafe(name))
    ]
    if _UNSAFE.search("".join(reader.file_names)):
        faults = [unsafe(name) for name in reader.file_names]
        problems += [Problem(where, "", fault, "rename the folder or file", "name-unsafe") for fault in faults if fault]
    counts = class_counts(reader)
    if counts is not None and len(counts) and not counts.any():
        fault = f"none of {len(reader)} images has an object"
        problems.append(_pointless(where, fault, "choose another split, or label it"))
    return problems


def _pointless(where: str, fault: str, mend: str) -> Problem:
    return Problem(where, "", fault, mend, "split-empty")


def class_warnings(reader: Reader) -> list[Problem]:
    """Return a warning that names the classes without an example in the split, if any. Seldom meant, but no fault."""
    counts = class_counts(reader)
    absent = [] if counts is None else [name for name, count in zip(reader.classes, counts, strict=True) if not count]
    return [absent_classes(_name(reader), absent)] if absent else []


def absent_classes(where: str, absent: Sequence[str]) -> Problem:
    """Return the warning that a split, `where`, has no example of the classes `absent`."""
    fault = f"no example of {listed(absent)}"
    return Problem(where, "", fault, "what is absent cannot be learned or judged", "class-absent", warning=True)


def class_counts(reader: Reader) -> np.ndarray | None:
    """(C,) int64: objects (or whole images) per class, where the reader can tell without making labels, else None."""
    count = getattr(reader, "class_counts", None)
    return None if count is None else count()


def _name(reader: Reader) -> str:
    root, split = getattr(reader, "root", type(reader).__name__), getattr(reader, "split", None)
    return str(root) if split is None else f"{root} ({split})"
