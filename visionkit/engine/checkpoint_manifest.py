"""The list of a checkpoint's files with their sizes and checksums, by which damage is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionkit.engine.checkpoint_versions import KNOWN, SCHEMA
from visionkit.errors import CheckpointError, printable
from visionkit.plain_files import Unreadable, read_json

MANIFEST = "manifest.json"
ASIDE = ".replaced"
NEEDED = frozenset({"config.yaml", "ema.safetensors", "model.json", "model.safetensors", "state.json", "training.pt"})
_LONGEST_NAME = 200


class DamagedError(CheckpointError):
    """A checkpoint lacks something or is not what was written; the message is the fault alone, without a mend."""

    usual_code = "checkpoint-damaged"


def write_manifest(folder: Path) -> None:
    """Write the manifest of the files that lie in `folder`."""
    files = {path.name: fingerprint(path) for path in sorted(folder.iterdir())}
    content = {"schema": SCHEMA, "files": files}
    write_json(folder / MANIFEST, {**content, "sha256": _own_sum(content)})


def verify(folder: Path) -> int:
    """Compare every file with the manifest; return the checkpoint's schema.

    Raises:
        DamagedError: naming the file that is missing or damaged.
        CheckpointError: a later version wrote it.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise DamagedError(f"{file}: is missing")
    manifest = read_part(file)
    schema, files = manifest.get("schema"), manifest.get("files")
    # The first schema had no checksum of its own.
    if (schema != 1 or "sha256" in manifest) and manifest.pop("sha256", None) != _own_sum(manifest):
        raise DamagedError(f"{file}: damaged (its checksum is not its own)")
    if schema not in KNOWN:
        known = f"this version knows {SCHEMA}"
        raise CheckpointError(
            f"{file}: schema {printable(str(schema))} is not known ({known}); update visionkit",
            code="checkpoint-version",
        )
    if not isinstance(files, dict) or not set(files) >= NEEDED:
        raise DamagedError(f"{file}: damaged")
    for name, expected in files.items():
        part = folder / name
        if len(name) > _LONGEST_NAME or Path(name).name != name or not part.is_file():
            raise DamagedError(printable(f"{folder / name[:_LONGEST_NAME]}: is in the manifest but not there"))
        if part.is_symlink() and not part.resolve().is_relative_to(folder.resolve()):
            raise DamagedError(f"{part}: is a link that leads out of the checkpoint")
        if fingerprint(part) != expected:
            raise DamagedError(printable(f"{part}: damaged (size or sha256 is not the manifest's)"))
    return int(schema)


def set_aside(checkpoint: Path) -> Path:
    """Return where a checkpoint is kept while another one of its step takes its place."""
    return checkpoint.with_name(f".{checkpoint.name}{ASIDE}")


def fingerprint(path: Path) -> dict[str, Any]:
    """Return the size in bytes and the sha256 of a file.

    Raises:
        DamagedError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise DamagedError(f"{path}: not readable ({error.strerror})") from error


def read_part(file: Path) -> dict[str, Any]:
    """Return the mapping that a JSON file of a checkpoint holds.

    Raises:
        DamagedError: it is missing or holds something else.
    """
    try:
        value = read_json(file)
    except Unreadable as error:
        raise DamagedError(printable(f"{file}: not readable ({error})")) from error
    if not isinstance(value, dict):
        raise DamagedError(f"{file}: damaged (no mapping)")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _own_sum(content: Mapping[str, Any]) -> str:
    """Of a manifest's values, however they are laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
