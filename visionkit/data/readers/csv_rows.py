"""CSV files with a row per labelled object: found, and read row by row."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from visionkit.data.readers.objects import Box
from visionkit.data.readers.splits import USUAL_SPLITS, unknown_split
from visionkit.errors import ConfigError, DataError, did_you_mean, listed

SIDES = ("x1", "y1", "x2", "y2")
_NAMES: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "filename", "file_name", "image", "image_path", "path"),
    "x1": ("x1", "xmin", "x_min", "left"),
    "y1": ("y1", "ymin", "y_min", "top"),
    "x2": ("x2", "xmax", "x_max", "right"),
    "y2": ("y2", "ymax", "y_max", "bottom"),
    "label": ("label", "class", "class_name", "category"),
    "split": ("split", "subset"),
}
_WITH_BOX = ("file", *SIDES, "label")
_WITHOUT_BOX = ("file", "label")

Columns = Sequence[str] | Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """One row; what is not there is empty, or None; `image` is empty too where it is the fault."""

    file: Path
    line: int
    image: str
    label: str = ""
    box: Box | None = None
    split: str = ""
    fault: str = ""


def find_files(
    root: Path, split: str, pattern: str | None, annotations: str | Path | None
) -> tuple[list[Path], list[Path], bool]:
    """Return the files to read for a split, those of the other splits, and whether the former hold this split alone.

    Raises:
        DataError: there is none, or none for this split.
    """
    if annotations is not None:
        for file in (root / Path(annotations).expanduser(), Path(annotations)):
            if file.is_file():
                return [file], [], True
        raise DataError(f"{annotations}: no such file, seen from {root}; correct data.annotations.{split}")
    if pattern is None:
        folders = [root, root / "annotations"]
        files = next((found for folder in folders if (found := sorted(folder.glob("*.csv")))), [])
        if not files:
            raise DataError(f"{root}: no *.csv there or in annotations/; say data.reader.files=PATTERN")
        if USUAL_SPLITS.isdisjoint(file.stem for file in files):
            return files, [], False
        pattern = f"{files[0].parent.relative_to(root).as_posix()}/{{split}}.csv".removeprefix("./")
    if "{split}" not in pattern:
        files = sorted(root.glob(pattern))
        if not files:
            raise DataError(f"{root}: no file fits data.reader.files={pattern}; correct it")
        return files, [], False
    own = sorted(root.glob(pattern.replace("{split}", split)))
    others = [file for file in sorted(root.glob(pattern.replace("{split}", "*"))) if file not in own]
    if not own:
        name = re.compile(re.escape(pattern).replace(r"\{split\}", "(.+)").replace(r"\*", ".*"))
        matches = [name.fullmatch(file.relative_to(root).as_posix()) for file in others]
        raise unknown_split(split, {match[1] for match in matches if match}, root)
    return own, others, True


def read_rows(file: Path, columns: Columns | None) -> tuple[list[Row], bool]:
    """Return the rows of a file, and whether it has columns for boxes. `columns`: see `Csv`.

    Raises:
        DataError: the file cannot be read, or its columns are not known.
        ConfigError: `columns` names no file or label.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        raise DataError(f"{file}: cannot be read ({fault}); save it as UTF-8 text") from None
    first = text.lstrip().partition("\n")[0]
    lines = csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    try:
        cells = [(lines.line_num, [cell.strip() for cell in row]) for row in lines if any(map(str.strip, row))]
    except csv.Error as fault:
        raise DataError(f"{file}: line {lines.line_num}: {fault}; write the file again") from None
    if not cells:
        raise DataError(f"{file}: there are no rows; write one per labelled object, or remove the file")
    places, has_header = _places(cells[0][1], columns, file)
    rows = [_row(file, line, row, places) for line, row in cells[has_header:]]
    return rows, "x1" in places


def _places(first: Sequence[str], columns: Columns | None, file: Path) -> tuple[dict[str, int], bool]:
    """Return the column of each meaning, and whether the first row is a header."""
    lowered = [cell.lower() for cell in first]
    if isinstance(columns, Mapping):
        for meaning in columns:
            if meaning not in _NAMES:
                hint = did_you_mean(meaning, _NAMES)
                raise ConfigError(f"data.reader.columns.{meaning}: no such meaning{hint}; known: {listed([*_NAMES])}")
        missing = [name for name in columns.values() if name not in first]
        if missing:
            fault = f"no column '{missing[0]}'{did_you_mean(missing[0], first)}; it has {listed(first)}"
            raise DataError(f"{file}: {fault}; correct data.reader.columns")
        places = {meaning: first.index(name) for meaning, name in columns.items()}
        has_header = True
    elif columns is not None:
        places = {name: place for place, name in enumerate(columns) if name in _NAMES}
        has_header = "file" in places and places["file"] < len(first) and lowered[places["file"]] in _NAMES["file"]
    else:
        found = {
            meaning: [lowered.index(name) for name in names if name in lowered] for meaning, names in _NAMES.items()
        }
        has_header = bool(found["file"])
        if has_header:
            places = {meaning: there[0] for meaning, there in found.items() if there}
        elif len(first) in (len(_WITH_BOX), len(_WITHOUT_BOX)):
            order = _WITH_BOX if len(first) == len(_WITH_BOX) else _WITHOUT_BOX
            places = {meaning: place for place, meaning in enumerate(order)}
        else:
            fault = f"{len(first)} columns without names; {listed(_WITH_BOX)} or {listed(_WITHOUT_BOX)} are known"
            raise DataError(f"{file}: {fault}; say what they are with data.reader.columns=[file, …]")
    lacking = [name for name in _WITHOUT_BOX if name not in places]
    lacking += [side for side in SIDES if side not in places and any(one in places for one in SIDES)]
    if lacking:
        raise DataError(f"{file}: no column for {listed(lacking)}; say which it is with data.reader.columns")
    return places, has_header


def _row(file: Path, line: int, cells: Sequence[str], places: Mapping[str, int]) -> Row:
    """One row; a row that is too short has empty cells at its end."""
    values = {meaning: cells[place] if place < len(cells) else "" for meaning, place in places.items()}
    image, label, split = values["file"].replace("\\", "/"), values["label"], values.get("split", "")
    path = PurePosixPath(image)
    sides = [values[side] for side in SIDES if side in values]
    fault, box = "", None
    if not image:
        fault = "the row names no image"
    elif path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":"):
        image, fault = "", f"'{image}' leaves the folder"
    elif any(sides):
        numbers = [_number(side) for side in sides]
        strange = [text for text, number in zip(sides, numbers, strict=True) if not math.isfinite(number)]
        if strange:
            fault = f"'{strange[0]}' is not a number" if strange[0] else "a number of the box is missing"
        elif not label:
            fault = "the box has no label"
        else:
            box = (numbers[0], numbers[1], numbers[2], numbers[3])
    elif sides and label:
        fault = f"'{label}' has no box"
    elif not sides and not label:
        fault = "the row has no label"
    return Row(file, line, image, label, box, split, fault)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
