from __future__ import annotations

import threading
import time

import pytest

from visionkit.read_ahead import Behind, ahead


def test_results_are_in_order_and_no_more_than_asked_for_are_held():
    taken, asked = [], []

    def items():
        for k in range(20):
            asked.append(k)
            yield k

    def slow(k):
        time.sleep(0.002 * (k % 3))
        return k * k

    for result in ahead(slow, items(), most=4, threads=3):
        taken.append(result)
        assert len(asked) <= len(taken) + 4
    assert taken == [k * k for k in range(20)]


def test_a_fault_comes_where_its_result_would():
    def half(k):
        return 4 // (k - 2)

    results = ahead(half, range(5), most=3)
    assert [next(results), next(results)] == [-2, -4]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_work_is_done_while_the_caller_works():
    started = threading.Event()

    def work(k):
        if k == 1:
            started.set()

    results = ahead(work, range(3), most=2)
    next(results)
    assert started.wait(5)
    results.close()


def test_calls_behind_are_done_at_the_end_and_their_faults_are_raised():
    done = []
    with Behind(most=2) as behind:
        for k in range(9):
            behind(done.append, k)
    assert sorted(done) == list(range(9))
    with pytest.raises(ZeroDivisionError), Behind(most=2) as behind:
        behind(lambda: 1 // 0)
