"""Ids of a COCO file with which this toolkit does well, and others do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from visionkit.data.readers.coco_json import Images
from visionkit.data.validate import Problem
from visionkit.structures import ImageId

_MEND = "number them from 1 (tools/check_data.py fix=OUT.json does)"


def harmless_ids(
    file: Path, images: Images, rows: np.ndarray, categories: Mapping[str, Sequence[ImageId]]
) -> list[Problem]:
    """Return the faults of ids that are 0 or strings, one for each list and rule; only the full check tells of them.

    Args:
        file: that has them.
        images: the usable ones.
        rows: (N,) int64, which of them are used.
        categories: the ids of each list of categories, in the file's order.
    """
    zero = rows[(images.ids.numbers[rows] == 0) & ~images.ids.is_text[rows]]
    problems = [_zero(file, "images", int(images.places[row]), "no image") for row in zero[:1].tolist()]
    texts = rows[images.ids.is_text[rows]]
    if len(texts):
        problems.append(_text(file, "images", int(images.places[texts[0]]), images.ids[int(texts[0])], len(texts)))
    for key, ids in categories.items():
        if 0 in ids:
            problems.append(_zero(file, key, list(ids).index(0), "the background"))
        places = [place for place, number in enumerate(ids) if isinstance(number, str)]
        if places:
            problems.append(_text(file, key, places[0], ids[places[0]], len(places)))
    return problems


def _zero(file: Path, key: str, place: int, what: str) -> Problem:
    return Problem(str(file), f"{key}[{place}].id", f"0 is taken for {what} by some tools", _MEND, "id-zero")


def _text(file: Path, key: str, place: int, number: ImageId, count: int) -> Problem:
    also = f" (and so are those of {count - 1} more)" if count > 1 else ""
    fault = f'"{number}" is a string{also}, but COCO\'s ids are numbers'
    return Problem(str(file), f"{key}[{place}].id", fault, _MEND, "id-string")
