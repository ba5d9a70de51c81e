from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from torch.distributed import HashStore

from visionkit.engine import watch as module
from visionkit.engine.watch import Watch


@pytest.fixture
def watches(monkeypatch):
    """watches(3, timeout=1): the watches of three processes, which are threads here; they end nothing hard."""
    ended = []
    monkeypatch.setattr(Watch, "_end_hard", lambda self, ending: ended.append((self.rank, ending)))
    made = []

    def make(world, timeout=60.0, grace=0.5):
        store = HashStore()
        made.extend(Watch(store, rank, world, timeout, period=0.02, grace=grace) for rank in range(world))
        for one in made:
            one.start()
        made[0].ended = ended
        return made

    yield make
    for one in made:
        one._stopped.set()


def endings(watches, seconds=5.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(one.ending is None for one in watches):
        time.sleep(0.01)
    return [one.ending for one in watches]


def test_nothing_is_amiss_while_all_are_there_and_one_leaves(watches):
    one, two, three = watches(3)
    three.stop()
    time.sleep(0.2)
    assert one.ending is two.ending is None


def test_an_error_of_one_process_is_known_to_all_and_the_first_one_says_it(watches):
    one, two, three = watches(3)
    assert two.fail("a.jpg cannot be read", 2, "image-unreadable") is True
    found = endings([one, two, three])
    assert {ending.message for ending in found} == {"process 1: a.jpg cannot be read"}
    assert {(ending.code, ending.speaker, ending.fault) for ending in found} == {(2, 0, "image-unreadable")}


class Leaving:
    """A store that is gone as soon as the process that holds it has left."""

    def __init__(self):
        self.store, self.left = HashStore(), threading.Event()

    def set(self, *given):
        self.open().set(*given)

    def multi_get(self, *given):
        return self.open().multi_get(*given)

    def open(self):
        if self.left.is_set():
            raise RuntimeError("Connection reset by peer")
        return self.store


@pytest.mark.parametrize("both", [False, True], ids=["one error", "an error in each"])
def test_the_first_one_keeps_the_store_until_the_other_knows_that_it_says_the_error(monkeypatch, both):
    """It learns of the error long before the other one reads that: each would say it."""
    monkeypatch.setattr(Watch, "_end_hard", lambda self, ending: None)
    store, said = Leaving(), []
    one, two = (Watch(store, rank, 2, 60.0, period=period, grace=5.0) for rank, period in enumerate((0.01, 0.4)))
    for watch in (one, two):
        watch.start()
    failing = threading.Thread(target=lambda: said.append(two.fail("a.jpg cannot be read", 2)))
    failing.start()
    if both:
        one.fail("b.jpg cannot be read", 2)
    else:
        endings([one])
        one.until_heard()
    store.left.set()
    failing.join(10)
    for watch in (one, two):
        watch._stopped.set()
    assert said == [True]


def test_a_process_that_others_wait_for_too_long_is_named(watches):
    one, two, three = watches(3, timeout=0.3)
    for waiting in (one, three):
        waiting.come()
    found = endings([one, two, three])
    assert {ending.message.split(":")[0] for ending in found} == {"process 1 did not answer for 0.3 s (engine.timeout)"}
    assert {ending.speaker for ending in found} == {0}


def test_where_the_first_hangs_the_second_says_it(watches):
    one, two = watches(2, timeout=0.2)
    two.come()
    assert {(ending.message[:9], ending.speaker) for ending in endings([one, two])} == {("process 0", 1)}


def test_working_alone_for_longer_than_the_time_out_is_no_fault(watches):
    one, two = watches(2, timeout=0.1)
    for each in (one, two):
        each.come()
    time.sleep(0.4)
    assert one.ending is two.ending is None


def test_a_process_that_is_no_more_is_named_at_once(watches):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    one, two, three = watches(3)
    three._stopped.set()
    three._thread.join()
    three._own = replace(three._own, pid=gone.pid)
    three._tell()
    found = endings([one, two], seconds=2)
    assert {ending.message.split(":")[0] for ending in found} == {"process 2 died"}


def test_a_process_of_another_machine_is_never_taken_for_dead_by_its_number(watches):
    one, two = watches(2)
    two._own = replace(two._own, place="elsewhere", pid=2**22 + 1)
    time.sleep(0.2)
    assert one.ending is None


def test_signs_that_stop_are_noticed_after_the_time_out(watches, monkeypatch):
    one, two = watches(2, timeout=0.3)
    two._stopped.set()
    assert "process 1 gave no sign of life for 0.3 s" in endings([one])[0].message


def test_a_process_that_cannot_come_back_is_ended_with_last_words(monkeypatch, capsys):
    codes, words = [], []
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), one._stopped.set()))
    store = HashStore()
    one, two = (Watch(store, rank, 2, 60.0, period=0.02, grace=0.1) for rank in range(2))
    one.kept, one.last_words = (lambda: "; step-9 is saved"), words.append
    for each in (one, two):
        each._end_hard = module.Watch._end_hard.__get__(each)
    two._stopped.set()
    one.start()
    two._tell(error=("process 1: gone wrong", 1, 0, "loss-not-finite"))
    one._thread.join(5)
    assert codes == [1]
    assert words == ["process 1: gone wrong; step-9 is saved"]
    line, mend = capsys.readouterr().err.splitlines()
    assert line == "process 1: gone wrong; step-9 is saved"
    assert mend.startswith("  [loss-not-finite] ")


def test_a_store_that_is_gone_ends_the_processes(watches):
    one, two = watches(2)
    time.sleep(0.1)

    class Gone:
        def set(self, *args):
            raise RuntimeError("Connection reset by peer")

    two.store = Gone()
    assert "the launcher" in endings([two])[0].message
    assert one.ending is None
