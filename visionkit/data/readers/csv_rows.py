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
from visionkit.data.validate import Problem, refusal
from visionkit.errors import ConfigError, DataError, did_you_mean, listed
from visionkit.plain_files import check_regular

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
    """One row; what is not there is empty, or None; `image` is empty too where it is the fault.

    split: what the row says, or the split that its file is of. rule: the code of the rule that `fault` is of.
    """

    file: Path
    line: int
    image: str
    label: str = ""
    box: Box | None = None
    split: str = ""
    fault: str = ""
    rule: str = ""


@dataclass(frozen=True)
class CsvFiles:
    """The files of a source, each with the split that it holds alone, or "" where it holds several."""

    own: list[tuple[Path, str]]
    others: list[tuple[Path, str]]

    @property
    def splits(self) -> list[str]:
        """The splits that have a file of their own."""
        return sorted({split for _, split in (*self.own, *self.others) if split})


def find_files(root: Path, split: str | None, pattern: str | None, annotations: str | Path | None) -> CsvFiles:
    """Return the files to read for a split (None: for all), and those of the other splits.

    Raises:
        DataError: there is none, or none for this split.
    """
    if annotations is not None:
        for file in (root / Path(annotations).expanduser(), Path(annotations)):
            if file.is_file():
                return CsvFiles([(file, split or "")], [])
        raise DataError(f"{annotations}: no such file, seen from {root}; correct data.annotations", code="file-missing")
    if pattern is None:
        folders = [root, root / "annotations"]
        files = next((found for folder in folders if (found := sorted(folder.glob("*.csv")))), [])
        if not files:
            raise DataError(
                f"{root}: no *.csv there or in annotations/; say data.reader.files=PATTERN", code="file-missing"
            )
        if USUAL_SPLITS.isdisjoint(file.stem for file in files):
            return CsvFiles([(file, "") for file in files], [])
        pattern = f"{files[0].parent.relative_to(root).as_posix()}/{{split}}.csv".removeprefix("./")
    if "{split}" not in pattern:
        files = sorted(root.glob(pattern))
        if not files:
            raise DataError(f"{root}: no file fits data.reader.files={pattern}; correct it", code="file-missing")
        return CsvFiles([(file, "") for file in files], [])
    name = re.compile(re.escape(pattern).replace(r"\{split\}", "(.+)").replace(r"\*", ".*"))
    matches = {file: name.fullmatch(file.relative_to(root).as_posix()) for file in sorted(root.glob(_any(pattern)))}
    splits = {file: match[1] for file, match in matches.items() if match}
    if not splits or (split is not None and split not in splits.values()):
        raise unknown_split(split or "{split}", set(splits.values()), root)
    own = [(file, one) for file, one in splits.items() if split in (None, one)]
    return CsvFiles(own, [(file, one) for file, one in splits.items() if split not in (None, one)])


def _any(pattern: str) -> str:
    return pattern.replace("{split}", "*")


def has_boxes(file: Path) -> bool | None:
    """Return whether the first row tells of columns for boxes; None where it is of no use as labels."""
    try:
        check_regular(file)
        with file.open(encoding="utf-8-sig") as text:
            first = next((line for line in text if line.strip()), "")
        cells = next(csv.reader([first], delimiter=max(",;\t", key=first.count)), [])
        return "x1" in _places([cell.strip() for cell in cells], None, file)[0]
    except (OSError, UnicodeDecodeError, csv.Error, DataError):
        return None


def read_rows(file: Path, columns: Columns | None, split: str = "") -> tuple[list[Row], bool]:
    """Return the rows of a file, and whether it has columns for boxes.

    Args:
        file: the file.
        columns: see `Csv`.
        split: the one that the file is of, whatever its rows say; "" where it is of several.

    Raises:
        DataError: the file cannot be read, or its columns are not known.
        ConfigError: `columns` names no file or label.
    """
    try:
        check_regular(file)
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        problem = Problem(str(file), "", f"cannot be read ({fault})", "save it as UTF-8 text", "file-unreadable")
        raise refusal(problem) from None
    first = text.lstrip().partition("\n")[0]
    lines = csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    try:
        cells = [(lines.line_num, [cell.strip() for cell in row]) for row in lines if any(map(str.strip, row))]
    except csv.Error as fault:
        where = f"line {lines.line_num}"
        raise refusal(Problem(str(file), where, str(fault), "write the file again", "file-format")) from None
    if not cells:
        mend = "write one per labelled object, or remove the file"
        raise refusal(Problem(str(file), "", "there are no rows", mend, "file-format"))
    places, has_header = _places(cells[0][1], columns, file)
    rows = [_row(file, line, row, places, split) for line, row in cells[has_header:]]
    return rows, "x1" in places


def _places(first: Sequence[str], columns: Columns | None, file: Path) -> tuple[dict[str, int], bool]:
    """Return the column of each meaning, and whether the first row is a header."""
    lowered = [cell.lower() for cell in first]
    if isinstance(columns, Mapping):
        for meaning in columns:
            if meaning not in _NAMES:
                hint = did_you_mean(meaning, _NAMES)
                raise ConfigError(
                    f"data.reader.columns.{meaning}: no such meaning{hint}; known: {listed([*_NAMES])}",
                    code="key-unknown",
                )
        missing = [name for name in columns.values() if name not in first]
        if missing:
            fault = f"no column '{missing[0]}'{did_you_mean(missing[0], first)}; it has {listed(first)}"
            raise DataError(f"{file}: {fault}; correct data.reader.columns", code="value-unfit")
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
            mend = "say what they are with data.reader.columns=[file, …]"
            raise refusal(Problem(str(file), "line 1", fault, mend, "file-format"))
    lacking = [name for name in _WITHOUT_BOX if name not in places]
    lacking += [side for side in SIDES if side not in places and any(one in places for one in SIDES)]
    if lacking:
        mend = "say which it is with data.reader.columns"
        raise refusal(Problem(str(file), "line 1", f"no column for {listed(lacking)}", mend, "file-format"))
    return places, has_header


def _row(file: Path, line: int, cells: Sequence[str], places: Mapping[str, int], split: str) -> Row:
    """One row; a row that is too short has empty cells at its end."""
    values = {meaning: cells[place] if place < len(cells) else "" for meaning, place in places.items()}
    image, label, split = values["file"].replace("\\", "/"), values["label"], split or values.get("split", "")
    path = PurePosixPath(image)
    sides = [values[side] for side in SIDES if side in values]
    fault, rule, box = "", "", None
    if not image:
        fault, rule = "the row names no image", "file-format"
    elif path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":"):
        image, fault, rule = "", f"'{image}' leaves the folder", "path-outside"
    elif any(sides):
        numbers = [_number(side) for side in sides]
        strange = [text for text, number in zip(sides, numbers, strict=True) if not math.isfinite(number)]
        if strange:
            fault, rule = _number_fault(strange[0])
        elif not label:
            fault, rule = "the box has no label", "label-missing"
        else:
            box = (numbers[0], numbers[1], numbers[2], numbers[3])
    elif sides and label:
        fault, rule = f"'{label}' has no box", "box-missing"
    elif not sides and not label:
        fault, rule = "the row has no label", "label-missing"
    return Row(file, line, image, label, box, split, fault, rule)


def _number_fault(text: str) -> tuple[str, str]:
    if not text:
        return "a number of the box is missing", "box-format"
    is_number = text.lower().lstrip("+-") in ("nan", "inf", "infinity")
    return f"'{text}' is not a number", "box-not-finite" if is_number else "box-format"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
