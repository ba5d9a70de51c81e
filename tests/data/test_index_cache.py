from __future__ import annotations

import os
import time

import numpy as np
import pytest

from visionkit.data import index_cache
from visionkit.data.index_cache import Stamped, content_hash, load, save, stamp

ARRAYS = {
    "a": np.arange(7, dtype=np.int32),
    "empty": np.zeros((0, 4)),
    "b": np.array([[1.5, np.nan]]),
    "c": np.array([True]),
}


@pytest.fixture
def path(tmp_path):
    save(tmp_path / "in/one.flat", {"version": 1, "names": ["ü"]}, ARRAYS)
    return tmp_path / "in/one.flat"


def test_entry_comes_back_mapped_and_read_only(path):
    entry = load(path)
    assert entry.header == {"version": 1, "names": ["ü"]}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(entry.arrays[name], array)
        assert entry.arrays[name].dtype == array.dtype and not entry.arrays[name].flags.writeable
    assert [file.name for file in path.parent.iterdir()] == ["one.flat"]


@pytest.mark.parametrize("place", [3, 30, 100, -1])
def test_flipped_byte_makes_it_absent(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert load(path) is None


@pytest.mark.parametrize("length", [0, 10, 40, -1])
def test_cut_entry_is_absent(path, length):
    path.write_bytes(path.read_bytes()[:length])
    assert load(path) is None
    assert load(path.with_name("other.flat")) is None


def test_killed_writer_leaves_the_old_entry(path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(index_cache.Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save(path, {"version": 2}, {})
    assert load(path).header["version"] == 1
    monkeypatch.undo()
    (part,) = path.parent.glob("*.part")
    os.utime(part, (time.time() - 7200,) * 2)
    save(path, {"version": 3}, {})
    assert load(path).header["version"] == 3 and not part.exists()


def test_folder_that_cannot_be_written_is_no_fault(tmp_path):
    (tmp_path / "file").write_text("")
    save(tmp_path / "file/one.flat", {}, ARRAYS)
    assert load(tmp_path / "file/one.flat") is None


@pytest.fixture
def stamped(tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "labels.json"
    file.write_text("one")
    cache = Stamped("test", file, version=4)
    cache.save({"told": 1}, ARRAYS, stamp(file), content_hash(file))
    return cache


def hashed(monkeypatch):
    """Count how often the content is read."""
    calls = []
    monkeypatch.setattr(index_cache, "content_hash", lambda file: calls.append(file) or content_hash(file))
    return calls


def test_new_times_are_settled_by_the_content_once(stamped, monkeypatch):
    calls = hashed(monkeypatch)
    monkeypatch.setattr(index_cache, "_RECENT", 0)
    os.utime(stamped.file, (1e9, 1e9))
    assert stamped.load().header["told"] == 1 and len(calls) == 1
    assert stamped.load().header["told"] == 1 and len(calls) == 1


def test_changed_content_is_noticed_at_the_same_size_and_time(stamped):
    times = stamped.file.stat().st_mtime_ns
    stamped.file.write_text("two")
    os.utime(stamped.file, ns=(times, times))
    assert stamped.load() is None
    stamped.file.write_text("longer")
    assert stamped.load() is None


def test_a_file_as_young_as_its_entry_is_not_trusted_by_its_time(stamped, monkeypatch):
    calls = hashed(monkeypatch)
    assert stamped.load() is not None and stamped.load() is not None
    assert len(calls) == 2


def test_other_version_is_absent(stamped):
    assert Stamped("test", stamped.file, version=5).load() is None
