"""What every reader of files asks first: is the folder there, and which classes are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from visionkit.data.validate import Problem, check_images
from visionkit.errors import DataError, did_you_mean, listed, printable
from visionkit.interfaces import Reader

_NEAR = 1.0
"""By how many pixels a box may reach over the image's edge untouched: the rounding of the tool that wrote it."""


def open_root(root: str | Path) -> Path:
    """Return `root` as a path if it is a folder.

    Raises:
        DataError: it is not there, or is a file.
    """
    path = Path(root).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"{path}: a file, not a folder; give the data set's folder as data.root", code="root-missing")
    parent = path.parent
    beside = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    raise DataError(
        f"{path}: no such folder{did_you_mean(path.name, beside)}; give the data set's folder as data.root",
        code="root-missing",
    )


def choose_classes(available: Sequence[str], wanted: Sequence[str] | None, where: object) -> tuple[str, ...]:
    """Return the class list: `wanted` in its order, or all that are available when it is None.

    Raises:
        DataError: a wanted class is not in the source, or is listed twice.
    """
    if wanted is None:
        return tuple(available)
    for name in wanted:
        if name not in available:
            hint = did_you_mean(name, available)
            raise DataError(
                f"{where}: no class '{name}'{hint}; it has {listed(available)}; correct data.classes",
                code="class-unknown",
            )
    twice = sorted({name for name in wanted if list(wanted).count(name) > 1})
    if twice or not wanted:
        fault = f"lists {listed(twice)} more than once" if twice else "is empty"
        raise DataError(f"data.classes {fault}; list each class once", code="class-unknown")
    return tuple(wanted)


def fit_box(box: Sequence[float], size: tuple[int, int]) -> tuple[tuple[float, float, float, float], bool] | str:
    """Return the xyxy box as it is used and whether it was clipped, or the fault of a box that cannot be used.

    A box that reaches over the image's edge by at most 1 px stays as it is, so that scores agree with those of other
    tools on the same file; one that reaches further is clipped; one that is wholly outside is a fault.

    Args:
        box: four finite numbers.
        size: (height, width) of the image.
    """
    x1, y1, x2, y2 = box
    height, width = size
    if x2 <= x1 or y2 <= y1:
        return "the box has no area"
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return f"the box is outside the image of {width} x {height}"
    if x1 >= -_NEAR and y1 >= -_NEAR and x2 <= width + _NEAR and y2 <= height + _NEAR:
        return (x1, y1, x2, y2), False
    return (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))), True


def box_rule(box: Sequence[float]) -> str:
    """Return the code of the rule that a box which `fit_box` refuses breaks."""
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        return "box-inverted"
    return "box-zero-area" if x2 == x1 or y2 == y1 else "box-outside"


def left_out(what: str, unlisted: Mapping[str, int]) -> list[str]:
    """Return the note on the objects (or images: `what`) per class name that `data.classes` does not list, if any."""
    if not unlisted:
        return []
    counts = listed([f"{printable(name)} {count}" for name, count in sorted(unlisted.items())])
    return [f"{what} of classes that data.classes does not list were left out: {counts}"]


def clipped_boxes(count: int) -> list[str]:
    """Return the note on boxes that `fit_box` clipped, if any."""
    return [f"boxes that reach over the image's edge by more than {_NEAR:g} px were clipped: {count}"] if count else []


def whole_images(paths: Sequence[Path]) -> tuple[list[int], np.ndarray, list[Problem]]:
    """Return which of the files are whole images, their sizes (N, 2) int64 (height, width), and the others' faults."""
    found = list(check_images(paths, [None] * len(paths), lambda i: (str(paths[i]), "")))
    kept = [i for i, result in enumerate(found) if not isinstance(result, Problem)]
    sizes = np.array([found[i] for i in kept], np.int64).reshape(-1, 2)
    return kept, sizes, [result for result in found if isinstance(result, Problem)]


def semantic_category_ids(reader: Reader) -> Sequence[int | str]:
    """Return the source's own id of each of the reader's `semantic_classes`, numbers from 1 where it has none."""
    own: Sequence[int | str] = getattr(reader, "semantic_category_ids", range(1, len(reader.semantic_classes) + 1))
    return own
