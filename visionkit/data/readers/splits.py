"""Which images belong to which split: by lists, by positions or by fractions, the same for every source.

A source's own lists or folders count where none of these is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from visionkit.data.readers.lists import listed_images
from visionkit.data.validate import Problem
from visionkit.errors import ConfigError, DataError, did_you_mean, listed

Positions = Mapping[str, Sequence[int | None] | str]
"""Per split, [start, stop] or [start, stop, step] among the sorted names, as Python's slices (null: open), or "rest":
{train: [0, 120], val: [120, null]}, or {val: [0, null, 5], train: rest} for every fifth image."""

Lists = Mapping[str, str] | str
"""Per split, the file that lists its images, seen from the data's folder: {train: lists/train.txt, val: lists/val.txt};
or, for all of them, a path with {split}: ImageSets/{split}.txt."""

REST = "rest"

USUAL_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Names by which a folder or file is taken for a split's."""

DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.8, "val": 0.2}
"""How a source without splits is divided where nothing is said."""


class UnknownSplit(DataError):
    """The source has no such split."""

    usual_code = "split-unknown"


def unknown_split(split: str, available: Iterable[str], where: object) -> UnknownSplit:
    """Return the error for a split that a source does not have, with the ones that it has."""
    names = sorted(set(available))
    has = f"it has {listed(names)}" if names else "it has none"
    return UnknownSplit(f"{where}: no split '{split}'{did_you_mean(split, names)}; {has}; choose one with data.splits")


def check_fractions(fractions: Mapping[str, float], split: str) -> None:
    """Refuse fractions that are not shares of one whole, or that do not name `split`."""
    bad = [f"{name}: {share}" for name, share in fractions.items() if not 0 < share <= 1]
    if bad or not fractions or sum(fractions.values()) > 1 + 1e-9:
        shown = dict(fractions)
        raise ConfigError(
            f"data.reader.fractions={shown}: shares above 0 that sum to at most 1, as {{train: 0.8, val: 0.2}}",
            code="value-unfit",
        )
    if split not in fractions:
        raise unknown_split(split, fractions, "data.reader.fractions")


def split_of(name: str, fractions: Mapping[str, float], seed: int) -> str | None:
    """Return the split that the image `name` falls into, or None for the rest when the shares sum to less than 1.

    It hangs on the name and the seed alone: not on the order, nor on which other images there are, so an image never
    changes sides when others come or go. The shares hold on average.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    for split, share in fractions.items():
        if position < share:
            return split
        position -= share
    # The shares may sum to 1 less a rounding error.
    return split if abs(sum(fractions.values()) - 1) < 1e-9 else None


def members(names: Sequence[str], split: str, fractions: Mapping[str, float], seed: int, where: object) -> list[str]:
    """Return those of `names` that fall into `split`, in their order.

    Raises:
        DataError: none does.
    """
    chosen = [name for name in names if split_of(name, fractions, seed) == split]
    if not chosen:
        mend = "change data.reader.fractions or data.seed" if names else "check data.root"
        raise DataError(f"{where}: none of {len(names)} images falls into split '{split}'; {mend}", code="split-empty")
    return chosen


def check_positions(positions: Positions, split: str) -> None:
    """Refuse positions that are no slices, or that do not name `split`."""
    for name, value in positions.items():
        if value == REST:
            continue
        parts = [] if isinstance(value, str) else list(value)
        whole = all(part is None or type(part) is int for part in parts)
        if not whole or len(parts) not in (2, 3) or (parts[2:] or [None])[0] == 0:
            wanted = "[start, stop], [start, stop, step] or rest is wanted, as in {train: [0, 120], val: [120, null]}"
            raise ConfigError(f"data.reader.positions.{name}={value}: {wanted}", code="value-unfit")
    if list(positions.values()).count(REST) > 1:
        raise ConfigError(
            f"data.reader.positions={dict(positions)}: only one split can be the rest", code="value-unfit"
        )
    if split not in positions:
        raise unknown_split(split, positions, "data.reader.positions")


def at_positions(names: Sequence[str], split: str, positions: Positions, where: object) -> list[str]:
    """Return those of the sorted `names` that stand at the positions of `split`.

    Raises:
        ConfigError: two splits share a name.
        DataError: none stands there.
    """
    owner: dict[int, str] = {}
    for name, value in positions.items():
        for place in () if isinstance(value, str) else range(len(names))[slice(*value)]:
            if owner.setdefault(place, name) != name:
                both = f"{owner[place]} and {name} both hold image {place} ('{names[place]}')"
                raise ConfigError(f"data.reader.positions: {both}; give each image to one split", code="value-unfit")
    wanted = None if positions[split] == REST else split
    chosen = [name for place, name in enumerate(names) if owner.get(place) == wanted]
    if not chosen:
        mend = "change data.reader.positions" if names else "check data.root"
        raise DataError(f"{where}: none of {len(names)} images stands in split '{split}'; {mend}", code="split-empty")
    return chosen


@dataclass(frozen=True)
class Division:
    """How the user divides a source's images; at most one of `lists`, `positions` and `fractions` is given.

    What is given counts for all images of the source, whatever splits it has of its own.

    Attributes:
        split: the split that is wanted.
        lists: see `Lists`; lines name images by their path from the data's folder, their file name, or either without
            ending. A path may have a foreign prefix, and what follows the first word is passed over.
        positions: see `Positions`.
        fractions: the share of each split; images fall by name and seed.
        seed: draws another division by fractions.

    Raises:
        ConfigError: several are given, or one cannot be meant.
        UnknownSplit: what is given does not name the split.
    """

    split: str
    lists: Lists | None = None
    positions: Positions | None = None
    fractions: Mapping[str, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        given = [name for name in ("lists", "positions", "fractions") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(
                f"data.reader: {' and '.join(given)} both divide the images; give one of them", code="keys-contradict"
            )
        if self.lists is not None:
            _check_lists(self.lists, self.split)
        if self.positions is not None:
            check_positions(self.positions, self.split)
        if self.fractions is not None:
            check_fractions(self.fractions, self.split)

    @property
    def is_given(self) -> bool:
        """Whether the user divides the images; else a source's own splits count."""
        return self.lists is not None or self.positions is not None or self.fractions is not None

    def choose(self, images: Mapping[str, str], root: Path) -> Chosen:
        """Return which of all images of a source the split has; by `DEFAULT_FRACTIONS`, with a note, if none is given.

        Args:
            images: the name by which an image is divided -> its file, relative to `root`.
            root: the data's folder, from which list files are seen.

        Raises:
            ConfigError: two splits share a position.
            DataError: a list cannot be read, or the split is empty.
        """
        if self.lists is not None:
            return self._listed(self.lists, images, root)
        everything = sorted(images)
        if self.positions is not None:
            return Chosen(at_positions(everything, self.split, self.positions, root))
        fractions, notes = self.fractions, []
        if fractions is None:
            fractions = DEFAULT_FRACTIONS
            check_fractions(fractions, self.split)
            notes.append(f"{root}: no splits of its own; divided by name into {dict(fractions)}")
        return Chosen(members(everything, self.split, fractions, self.seed, root), notes)

    def _listed(self, lists: Lists, images: Mapping[str, str], root: Path) -> Chosen:
        given = Path((lists if isinstance(lists, str) else lists[self.split]).replace("{split}", self.split))
        file = root / given.expanduser()
        if not file.is_file() and isinstance(lists, str):
            there = [entry.stem for entry in file.parent.glob(f"*{file.suffix}")]
            raise unknown_split(self.split, there, file.parent)
        if not file.is_file() and not given.is_file():
            raise DataError(
                f"{given}: no such file, seen from {root}; correct data.reader.lists.{self.split}", code="file-missing"
            )
        names, problems = listed_images(file if file.is_file() else given, images)
        return Chosen(names, problems=problems)


def unused_splits(splits: Sequence[str]) -> list[str]:
    """Return the note on a source's own splits that a `Division` which is given sets aside, if there are any."""
    return [f"the source's own splits are not used: {listed(splits)}"] if splits else []


@dataclass(frozen=True)
class Chosen:
    """The names of a split's images, sorted or in a list's order; what to say of it, and the faults of its list."""

    names: list[str]
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def _check_lists(lists: Lists, split: str) -> None:
    if isinstance(lists, str):
        if "{split}" not in lists:
            raise ConfigError(
                f"data.reader.lists={lists}: a path with {{split}}, or {{train: FILE, …}}, is wanted",
                code="value-unfit",
            )
        return
    strange = [f"{name}: {file}" for name, file in lists.items() if not isinstance(file, str) or not file]
    if strange or not lists:
        raise ConfigError(
            f"data.reader.lists={dict(lists)}: a file per split, as {{train: train.txt}}, is wanted", code="value-unfit"
        )
    if split not in lists:
        raise unknown_split(split, lists, "data.reader.lists")
