"""Whatever lies in a folder, read by the reader of its format."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from visionkit.data.readers.coco import Coco
from visionkit.data.readers.csv import Csv
from visionkit.data.readers.folder import Folder
from visionkit.data.readers.masks import Masks
from visionkit.data.readers.names import Names
from visionkit.data.readers.panoptic import CocoPanoptic
from visionkit.data.readers.recognise import Evidence, Listing, evidence
from visionkit.data.readers.source import open_root
from visionkit.data.readers.splits import Lists, Positions, UnknownSplit
from visionkit.data.readers.voc import Voc
from visionkit.data.readers.yolo import Yolo
from visionkit.errors import ConfigError, DataError, listed, printable
from visionkit.interfaces import Reader

READERS: Mapping[str, Callable[..., Any]] = {
    "coco": Coco, "coco_panoptic": CocoPanoptic, "voc": Voc, "yolo": Yolo, "masks": Masks, "csv": Csv, "folder": Folder,
}  # fmt: skip
_RANK = {"coco": 0, "voc": 0, "yolo": 0, "masks": 0, "coco_panoptic": 1, "csv": 2, "folder": 3}
_NEEDS: Mapping[str, frozenset[str]] = {
    "classify": frozenset({"class_scores"}),
    "localize": frozenset({"boxes"}),
    "detect": frozenset({"boxes"}),
    "semantic": frozenset({"semantic"}),
    "instance": frozenset({"boxes", "masks"}),
    "panoptic": frozenset({"boxes", "masks", "semantic"}),
}
_SAME = (("train", "training"), ("val", "valid", "validation"), ("test", "testing"))


class Auto:
    """One split of a folder in any format; what is made is the reader of that format, whose first note says why.

    The format is told from names (`visionkit.data.readers.recognise`): COCO JSON, Pascal VOC, YOLO, mask images, COCO
    panoptic, CSV, folders by class. Of several that are there, those count that the task can learn from; of these,
    label files come before panoptic ones, then CSV, then folders; two equal ones are refused. A split called val is
    looked for as valid and validation, too, and the like.

    Args:
        root: the folder.
        split: the name of the split.
        task: as in `task=detect`; None means any.
        classes, names, ignore_index, annotations: handed to the reader.
        lists, positions, fractions, seed: the same, see `visionkit.data.readers.splits.Division`.
        on_error, channels, bit_depth: the same.

    Raises:
        DataError: no format or several fit; or from the reader.
        ConfigError: the reader does not take one of the arguments; or from the reader.
    """

    def __new__(  # type: ignore[misc]  # the parts of a configuration are classes, and which one is settled here
        cls,
        root: str | Path,
        split: str,
        *,
        task: str | None = None,
        classes: Sequence[str] | None = None,
        names: Names | None = None,
        ignore_index: int | None = None,
        annotations: str | Path | None = None,
        lists: Lists | None = None,
        positions: Positions | None = None,
        fractions: Mapping[str, float] | None = None,
        on_error: str = "stop",
        seed: int = 0,
        channels: int = 3,
        bit_depth: int | str = 8,
    ) -> Reader:
        folder = open_root(root)
        chosen, others = _decide(folder, task, annotations)
        given: dict[str, Any] = {
            "classes": classes,
            "names": names,
            "ignore_index": ignore_index,
            "annotations": annotations,
            "lists": lists,
            "positions": positions,
            "fractions": fractions,
        }
        make = READERS[chosen.format]
        taken = inspect.signature(make).parameters
        wanted = {key: value for key, value in given.items() if value is not None}
        for key in wanted:
            if key not in taken:
                where = "data" if key in ("classes", "ignore_index", "annotations") else "data.reader"
                raise ConfigError(
                    f"{where}.{key}: {folder} is read as data={chosen.format}, which takes no {key}",
                    code="key-not-taken",
                )
        usual: dict[str, Any] = {"on_error": on_error, "seed": seed, "channels": channels, "bit_depth": bit_depth}
        wanted |= {key: value for key, value in usual.items() if key in taken}
        reader = _open(make, folder, split, {**chosen.arguments, **wanted})
        note = f"{folder} is read as data={chosen.format}{_shown(chosen)}, because there is {chosen.seen}"
        if others:
            unread = listed([f"{one.format} ({one.seen})" for one in others])
            note += f"; not read, unless data= names it: {unread}"
        reader.notes.insert(0, printable(note))  # type: ignore[attr-defined]  # the readers of files all have notes
        return reader


def _decide(root: Path, task: str | None, annotations: str | Path | None) -> tuple[Evidence, list[Evidence]]:
    """The format to read, and the others that are there."""
    if annotations is not None:
        kind = "csv" if str(annotations).lower().endswith(".csv") else "coco"
        return Evidence(kind, f"{annotations} in data.annotations", frozenset()), []
    listing = Listing(root)
    found = evidence(listing, task)
    if not found:
        raise DataError(_unknown(root, listing, task), code="format-unclear")
    needs = _NEEDS.get(task or "", frozenset())
    fitting = [one for one in found if needs <= one.fields] or found
    best = [one for one in fitting if _RANK[one.format] == min(_RANK[other.format] for other in fitting)]
    if len(best) > 1:
        seen = "; ".join(f"{one.format}, because there is {one.seen}" for one in best)
        choice = " or ".join(f"data={one.format}" for one in best)
        raise DataError(f"{root}: several formats fit: {seen}; say which is meant with {choice}", code="format-unclear")
    return best[0], [one for one in found if one is not best[0]]


def _unknown(root: Path, listing: Listing, task: str | None) -> str:
    """What to say of a folder in no format that is known."""
    holds = [f"{name}/" for name in listing.folders()] + listing.files()
    said = f"{root}: no known format; it holds {listed(holds)}" if holds else f"{root}: the folder is empty"
    if listing.outside:
        said += f"; links that leave it are not followed: {listed(listing.outside, 3)}"
    for name in listing.folders():
        below = evidence(Listing(root / name), task)
        if below:
            return f"{said}; {name}/ looks like {below[0].format} ({below[0].seen}): give data.root={root / name}"
    tables = [name for name in holds if name.endswith((".json", ".csv"))]
    if tables:
        kind = "coco" if tables[0].endswith(".json") else "csv"
        return f"{said}; if {tables[0]} holds labels, give data={kind} data.annotations.train={tables[0]}"
    formats = listed([f"data={name}" for name in READERS])
    return f"{said}; say what it is with {formats}, and where the files are with data.reader.images and the like"


def _open(make: Callable[..., Any], root: Path, split: str, arguments: Mapping[str, Any]) -> Reader:
    """The split, or one that is called otherwise and means the same."""
    names = [split, *(name for same in _SAME if split in same for name in same if name != split)]
    divided = any(key in arguments for key in ("lists", "positions", "fractions"))
    first: UnknownSplit | None = None
    for name in names[:1] if divided else names:
        filled = dict(arguments)
        if isinstance(filled.get("annotations"), str) and "{split}" in filled["annotations"]:
            filled["annotations"] = filled["annotations"].replace("{split}", name)
            if not (root / filled["annotations"]).is_file():
                first = first or UnknownSplit(f"{root}: no {filled['annotations']}; choose a split with data.splits")
                continue
        try:
            reader: Reader = make(root, name, **filled)
            return reader
        except UnknownSplit as fault:
            first = first or fault
    assert first is not None
    raise first


def _shown(chosen: Evidence) -> str:
    kind = chosen.arguments.get("kind")
    return "" if kind is None else f" (data.reader.kind={kind})"
