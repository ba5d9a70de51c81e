from __future__ import annotations

import multiprocessing
import time

import pytest

from visionkit.engine.waiting import BEARABLE, Loading, advice, seconds_of_children

ALL_THERE = {"workers": 8, "cores": 8, "cache": "ram", "reduced_decoding": True}


@pytest.mark.parametrize(
    ("busy", "loading", "said"),
    [
        (None, {"workers": 0}, "data.workers=auto loads in other processes while this one trains (8 cores are there)"),
        (0.9, {"workers": 2}, "the 2 processes that load compute 90% of the time; data.workers=4 (8 cores are there)"),
        (0.9, {"workers": 7}, "the 7 processes that load compute 90% of the time; data.workers=8 (8 cores are there)"),
        (0.9, {"cache": "none"}, "90% of the time; data.cache=ram keeps decoded images for the next epoch (data"),
        (None, {"cache": "none", "reduced_decoding": False}, "are many), or data.reduced_decoding=auto decodes large"),
        (0.9, {}, "90% of the time; a lighter augment (`augment=<task>_light`) or a smaller image_size makes a sample"),
        (None, {"workers": 0, "cores": 1}, "40% of the training time went to waiting for data: a lighter augment"),
        (0.2, {}, "compute 20% of the time, and wait for a disk or network; put the images on a local disk, or "),
        (0.2, {"cache": "none"}, "wait for a disk or network; data.cache=ram keeps decoded images for the next epoch"),
    ],
)  # fmt: skip
def test_what_is_said_depends_on_what_was_measured(busy, loading, said):
    line = advice(0.4, busy, Loading(**{**ALL_THERE, **loading}))
    assert line is not None and said in line
    assert "\n" not in line


def test_nothing_is_said_without_need():
    """Up to a third is borne, and a cache is filled in the first epoch."""
    loading = Loading(**ALL_THERE)
    assert advice(BEARABLE, 0.9, loading) is None
    assert advice(0.9, 0.9, loading, first_epoch=True) is None
    assert advice(0.9, 0.9, Loading(**{**ALL_THERE, "cache": "none"}), first_epoch=True) is not None


def compute(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    time.sleep(60)


def test_the_work_of_living_children_is_counted():
    before = seconds_of_children()
    if before is None:
        pytest.skip("no /proc here")
    child = multiprocessing.get_context("fork").Process(target=compute, args=(0.3,), daemon=True)
    child.start()
    until = time.monotonic() + 20
    while seconds_of_children() < before + 0.25 and time.monotonic() < until:
        time.sleep(0.02)
    counted = seconds_of_children() - before
    child.kill()
    child.join()
    assert 0.25 <= counted < 1
