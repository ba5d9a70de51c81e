"""What is removed from the cache folder, and what never."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from visionkit.data import cache_room, index_cache
from visionkit.data.cache_room import UNUSED, note_use, prune
from visionkit.data.index_cache import load, save

DAY = 86400.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def entry(root: Path, name: str, days: float, length: int = 10) -> Path:
    """An entry last used so many days ago."""
    path = root / "index" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * length)
    last_used(path, days)
    return path


def last_used(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * DAY,) * 2)


def pruned(root: Path, above: float = 1e9, down_to: float = 1e9, **arguments) -> tuple[list[str], int]:
    left = prune(root, "index/*.flat", above=above, down_to=down_to, **arguments)
    return sorted(path.name for path in root.glob("index/*")), left


def test_what_nobody_used_for_long_goes(root: Path) -> None:
    assert UNUSED == 90 * DAY
    entry(root, "old.flat", 91)
    (root / "index/old.times").write_text("[]")
    entry(root, "young.flat", 89)
    entry(root, "other.kind", 500)
    assert pruned(root) == (["other.kind", "young.flat"], 10)


def test_where_room_is_short_those_used_longest_ago_go_first(root: Path) -> None:
    for days in (4, 1, 3, 2):
        entry(root, f"{days}.flat", days, length=100)
    assert pruned(root, above=400, down_to=200) == (["1.flat", "2.flat", "3.flat", "4.flat"], 400)
    assert pruned(root, above=399, down_to=200) == (["1.flat", "2.flat"], 200)
    kept = {root / "index/2.flat"}
    assert pruned(root, above=100, down_to=0, keep=lambda: kept) == (["2.flat"], 100)


def test_nothing_is_asked_for_where_nothing_must_go(root: Path) -> None:
    entry(root, "a.flat", 1)

    def never() -> set[Path]:
        raise AssertionError

    assert pruned(root, keep=never) == (["a.flat"], 10)


def test_what_this_process_used_stays_unless_it_says_otherwise(root: Path) -> None:
    path = entry(root, "a.flat", 91)
    note_use(root, path)
    assert time.time() - path.stat().st_mtime < 10
    entry(root, "b.flat", 1)
    assert pruned(root, above=0, down_to=0) == (["a.flat"], 10)
    assert pruned(root, above=0, down_to=0, own=False) == ([], 0)


def test_what_another_running_process_used_stays(root: Path) -> None:
    path = entry(root, "a.flat", 5)
    entry(root, "b.flat", 5)
    code = f"""
import sys
sys.path.insert(0, {str(Path(cache_room.__file__).parent)!r})  # alone: the package takes seconds to import
from cache_room import Path, note_use
note_use(Path({str(root)!r}), Path({str(path)!r}))
print("used", flush=True)
input()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout.readline() == "used\n"
        assert pruned(root, above=0, down_to=0, own=False) == (["a.flat"], 10)
        process.kill()
    assert len(list((root / "running").glob("*.process"))) == 2
    assert pruned(root, above=0, down_to=0, own=False) == ([], 0)
    assert len(list((root / "running").iterdir())) == 1  # that of the dead process is gone


def test_a_cache_that_cannot_be_written_to_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    note_use(tmp_path / "file", tmp_path / "file/index/a.flat")
    assert prune(tmp_path / "file", "index/*", above=0, down_to=0) == 0


def test_a_new_entry_of_the_index_makes_room(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"a": np.arange(100)}
    for name, days in (("old", 91), ("used", 89), ("new", 0)):
        save(root / f"index/{name}.flat", {}, arrays)
        last_used(root / f"index/{name}.flat", days)
    assert load(root / "index/used.flat") is not None
    length = (root / "index/new.flat").stat().st_size
    monkeypatch.setattr(index_cache, "MOST_BYTES", 2 * length)
    save(root / "index/other.flat", {}, arrays)
    there = sorted(path.stem for path in (root / "index").iterdir())
    assert there == ["new", "other", "used"]  # used and new since this process began, however little room there is
