"""Which images belong to which split, for sources that have lists or folders of their own and for those without."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from visionkit.errors import ConfigError, DataError, did_you_mean, listed

Positions = Mapping[str, Sequence[int | None] | str]
"""Per split, [start, stop] or [start, stop, step] among the sorted names, as Python's slices (null: open), or "rest":
{train: [0, 120], val: [120, null]}, or {val: [0, null, 5], train: rest} for every fifth image."""

REST = "rest"

USUAL_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Names by which a folder or file is taken for a split's."""

DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.8, "val": 0.2}
"""How a source without splits is divided where nothing is said."""


def unknown_split(split: str, available: Iterable[str], where: object) -> DataError:
    """Return the error for a split that a source does not have, with the ones that it has."""
    names = sorted(available)
    has = f"it has {listed(names)}" if names else "it has none"
    return DataError(f"{where}: no split '{split}'{did_you_mean(split, names)}; {has}; choose one with data.splits")


def check_fractions(fractions: Mapping[str, float], split: str) -> None:
    """Refuse fractions that are not shares of one whole, or that do not name `split`."""
    bad = [f"{name}: {share}" for name, share in fractions.items() if not 0 < share <= 1]
    if bad or not fractions or sum(fractions.values()) > 1 + 1e-9:
        shown = dict(fractions)
        raise ConfigError(
            f"data.reader.fractions={shown}: shares above 0 that sum to at most 1, as {{train: 0.8, val: 0.2}}"
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
        raise DataError(f"{where}: none of {len(names)} images falls into split '{split}'; {mend}")
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
            raise ConfigError(f"data.reader.positions.{name}={value}: {wanted}")
    if list(positions.values()).count(REST) > 1:
        raise ConfigError(f"data.reader.positions={dict(positions)}: only one split can be the rest")
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
                raise ConfigError(f"data.reader.positions: {both}; give each image to one split")
    wanted = None if positions[split] == REST else split
    chosen = [name for place, name in enumerate(names) if owner.get(place) == wanted]
    if not chosen:
        mend = "change data.reader.positions" if names else "check data.root"
        raise DataError(f"{where}: none of {len(names)} images stands in split '{split}'; {mend}")
    return chosen


def check_division(fractions: Mapping[str, float] | None, positions: Positions | None, split: str) -> None:
    """Refuse a division that cannot be meant: see `check_fractions` and `check_positions`; or both at once."""
    if fractions is not None and positions is not None:
        raise ConfigError("data.reader: fractions and positions both divide the images; give one of them")
    if positions is not None:
        check_positions(positions, split)
    if fractions is not None:
        check_fractions(fractions, split)


def divided(
    names: Iterable[str],
    split: str,
    *,
    fractions: Mapping[str, float] | None,
    positions: Positions | None,
    seed: int,
    where: object,
) -> tuple[list[str], list[str]]:
    """Return the sorted names of the split, of a source that has none of its own, and notes.

    By `positions` or `fractions`, which have been checked, else by `DEFAULT_FRACTIONS`, of which a note tells.
    """
    everything = sorted(names)
    if positions is not None:
        return at_positions(everything, split, positions, where), []
    notes = []
    if fractions is None:
        fractions = DEFAULT_FRACTIONS
        check_fractions(fractions, split)
        notes.append(f"{where}: no splits of its own; divided by name into {dict(fractions)}")
    return members(everything, split, fractions, seed, where), notes
