from __future__ import annotations

import logging

import pytest

from visionkit.data import loader_room
from visionkit.data.loader_room import batch_bytes, workers_with_room
from visionkit.preprocess import Preprocess

NO_LABELS = frozenset()
ONE = 4 * 64 * 64 * 3
"""Bytes of a batch of four 64 x 64 images."""


@pytest.fixture
def free(monkeypatch):
    """free(bytes): what /dev/shm has left."""

    def give(count: int) -> None:
        usage = type("Usage", (), {"free": count})
        monkeypatch.setattr(loader_room.shutil, "disk_usage", lambda folder: usage)

    return give


@pytest.mark.parametrize(
    ("batches", "workers"), [(1000, 4), (9, 4), (8.99, 3), (5, 2), (4.99, 1), (3, 1), (2.99, 0), (0, 0)]
)
def test_each_process_has_room_for_two_batches_beside_the_one_in_use(free, batches, workers, caplog):
    free(int(batches * ONE))
    with caplog.at_level(logging.WARNING, "visionkit"):
        assert workers_with_room(4, 4, Preprocess(64), NO_LABELS) == workers
    assert len(caplog.messages) == (workers < 4)


def test_that_it_is_fewer_is_said_with_the_mend(free, caplog):
    free(64 << 20)
    assert workers_with_room(8, 16, Preprocess(640), NO_LABELS) == 1
    assert caplog.messages == [
        "data.workers: 1 instead of 8, since /dev/shm has 64 MiB free and each takes 2 batches of 16 x 640 x 640 "
        "pixels (19 MiB each); give the container more (docker run --shm-size=8g)"
    ]


def test_the_processes_of_a_machine_share_it(free, monkeypatch):
    free(10 * ONE)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert workers_with_room(4, 4, Preprocess(64), NO_LABELS) == 2


def test_none_need_none_and_where_there_is_no_such_folder_none_is_counted(free, tmp_path, monkeypatch):
    free(0)
    assert workers_with_room(0, 4, Preprocess(64), NO_LABELS) == 0
    monkeypatch.setattr(loader_room, "SHARED_MEMORY", tmp_path / "none")
    assert workers_with_room(4, 4, Preprocess(64), NO_LABELS) == 4


def test_bytes_of_a_batch():
    deep = Preprocess(64, mean=(0.5,) * 4, std=(0.5,) * 4, bit_depth=16)
    assert batch_bytes(2, Preprocess(64), NO_LABELS) == 2 * 64 * 64 * 3
    assert batch_bytes(2, deep, NO_LABELS) == 2 * 64 * 64 * 4 * 2
    assert batch_bytes(2, Preprocess(64), frozenset({"semantic", "boxes"})) == 2 * 64 * 64 * 4
    assert batch_bytes(2, Preprocess(64), frozenset({"masks"})) == 2 * 64 * 64 * 5
