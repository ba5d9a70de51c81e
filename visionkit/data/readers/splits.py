"""Which images belong to which split, for sources that have lists or folders of their own and for those without."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from visionkit.errors import ConfigError, DataError, did_you_mean, listed

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
