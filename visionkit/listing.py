"""`visionkit list`: what can be chosen, told from the code, its docstrings and `configs/`.

Telling means importing torch and building networks, so what was told is kept in the cache folder until visionkit or the
libraries that it was told of change.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path

from visionkit import __version__
from visionkit.cache_place import cache_folder
from visionkit.errors import CodedLine, ConfigError, did_you_mean, listed, printable
from visionkit.plain_arguments import plain_arguments

_WIDTH = 110
_LIBRARIES = ("torch", "torchvision", "timm")


@dataclass(frozen=True)
class Part:
    """choose: what to type. says: what it is. source: the paper or library. parameters: how many, where it has any.
    family: under which it is shown.
    """

    choose: str
    says: str
    source: str = ""
    parameters: int | None = None
    family: str = ""


KINDS: Mapping[str, tuple[str, str, str]] = {
    "tasks": ("visionkit.listing_choices", "tasks", "parameters: of the whole model for 80 classes"),
    "readers": ("visionkit.listing_choices", "readers", "with data.root=DIR; data.root=DIR alone is data=auto"),
    "backbones": ("visionkit.listing_networks", "backbones", "parameters: without the classifier"),
    "necks": ("visionkit.listing_networks", "necks", "parameters: behind csp_nano, for a detector"),
    "heads": ("visionkit.listing_networks", "heads", "parameters: behind csp_nano and pafpn, for 80 classes"),
    "optimizers": ("visionkit.listing_choices", "optimizers", "each has its own optim.lr and other keys"),
    "schedules": ("visionkit.listing_choices", "schedules", "of the learning rate"),
    "augmentations": ("visionkit.listing_choices", "augmentations", "each task has one that it takes by itself"),
    "weights": ("visionkit.listing_networks", "weights", "also weights=auto, FILE (a state dict) and RUN"),
    "metrics": ("visionkit.listing_choices", "metrics", "engine.select=HEAD/METRIC chooses the best checkpoint by it"),
}
"""Each kind's module and function, and a note on it."""


def list_parts(arguments: Sequence[str] = ()) -> int:
    """Print the parts of the kinds that are named, of all where none is; json=true (or --json) for machines.

    Raises:
        ConfigError: no such kind or key.
    """
    kinds = [text for text in arguments if "=" not in text and not text.startswith("-")]
    given = plain_arguments([text for text in arguments if text not in kinds], {"json": "false"})
    wrong = [kind for kind in kinds if kind not in KINDS]
    if wrong:
        told = [
            f"{kind}: there is no such kind{did_you_mean(kind, KINDS)}; known: {listed([*KINDS], 20)}" for kind in wrong
        ]
        raise ConfigError.of(CodedLine(printable(line), "choice-unknown") for line in told)
    found = {kind: parts_of(kind) for kind in dict.fromkeys(kinds or KINDS)}
    if given["json"] == "true":
        print(json.dumps({kind: [asdict(part) for part in parts] for kind, parts in found.items()}, indent=2))
    else:
        print("\n\n".join("\n".join([f"{kind} ({KINDS[kind][2]})", *table(found[kind])]) for kind in found))
    return 0


def parts_of(kind: str) -> list[Part]:
    """Return the parts of a kind, from the cache folder where they were told before by the same code."""
    file = cache_folder() / "list" / f"{kind}-{_state_of_code(kind)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return [Part(**one) for one in json.loads(file.read_text(encoding="utf-8"))]
    module, function, _ = KINDS[kind]
    tell: Callable[[], list[Part]] = getattr(importlib.import_module(module), function)
    parts = tell()
    with contextlib.suppress(OSError):  # a list that cannot be kept is told anew
        _keep(file, kind, json.dumps([asdict(part) for part in parts]))
    return parts


def table(parts: Sequence[Part]) -> list[str]:
    """Parts as aligned lines by family: what to type, parameters, what it is, source."""
    choose = min(60, max(len(part.choose) for part in parts))
    counted = any(part.parameters is not None for part in parts)
    lines = []
    for family, ones in groupby(parts, lambda part: part.family):
        lines += [f" {family}"] if family else []
        for part in ones:
            start = f"  {part.choose:<{choose}}  " + (f"{_short(part.parameters):>7}  " if counted else "")
            text = printable(part.says + (f" [{part.source}]" if part.source else ""))
            indent = " " * (choose + 4 + 9 * counted)
            if len(part.choose) > choose:
                lines, start = [*lines, f"  {part.choose}"], indent
            lines += textwrap.wrap(text, max(_WIDTH, len(indent) + 50), initial_indent=start, subsequent_indent=indent,
                                   break_on_hyphens=False, break_long_words=False) or [start.rstrip()]  # fmt: skip
    return lines


def _short(count: int | None) -> str:
    if not count:
        return "" if count is None else "0"
    return f"{count / 1e6:.1f} M" if count >= 999_500 else f"{count / 1e3:.0f} k"


def _state_of_code(kind: str) -> str:
    """What changes when the code or the configurations that a kind is told of do, or the libraries."""
    package = Path(__file__).resolve().parent
    configs = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    code = [package / "backbones", *package.glob("*.py")] if kind in ("backbones", "weights") else [package]
    files = {file for one in (*code, configs) for file in ([one] if one.is_file() else one.rglob("*.*"))}
    read = sorted(file for file in files if file.suffix in (".py", ".yaml"))
    stamps = [f"{file} {file.stat().st_mtime_ns} {file.stat().st_size}" for file in read]
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            stamps.append(f"{name} {metadata.version(name)}")
    return hashlib.sha256("\n".join([__version__, *stamps]).encode()).hexdigest()[:16]


def _keep(file: Path, kind: str, text: str) -> None:
    """Write whole or not at all, and forget what was told of older code."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as new:
        new.write(text)
    Path(name).replace(file)
    for old in file.parent.glob(f"{kind}-*.json"):
        if old != file:
            old.unlink(missing_ok=True)
