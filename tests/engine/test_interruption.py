from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from visionkit.engine import interruption as module
from visionkit.engine.interruption import SIGNALS, Interruption


@pytest.fixture(autouse=True)
def usual_handlers():
    """Whatever a test leaves behind."""
    taken = (*SIGNALS, signal.SIGUSR2)
    before = {one: signal.getsignal(one) for one in taken}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("one", SIGNALS)
def test_a_signal_is_remembered_and_ends_nothing(one):
    before = signal.getsignal(one)
    with Interruption() as interruption:
        assert interruption.reason is None
        os.kill(os.getpid(), one)
        assert interruption.reason == one.name
    assert signal.getsignal(one) is before


def test_the_second_ctrl_c_quits(monkeypatch, capfd):
    monkeypatch.setattr(module, "_SAME_KEY", 0.0)
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # between the two changes nothing
        assert interruption.reason == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == "ends after this step, and is saved; Ctrl-C again quits at once\n"


def test_a_ctrl_c_that_comes_twice_at_once_is_one():
    """From the terminal, and from torchrun that has heard it there as well."""
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert interruption.reason == "SIGINT"


def test_only_the_first_process_answers_ctrl_c(monkeypatch, capfd):
    monkeypatch.setenv("RANK", "1")
    with Interruption():
        os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == ""


def test_max_hours():
    limited = Interruption(0.1 / 3600)
    assert limited.reason is None
    time.sleep(0.15)
    assert limited.reason == "engine.max_hours=2.77778e-05"
    assert Interruption(1.0).reason is None


@pytest.mark.parametrize("one", [signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize("obeyed", [True, False])
def test_who_waited_for_the_signal_gets_it_once_the_run_has_ended_for_it(one, obeyed):
    heard = []
    signal.signal(one, lambda number, frame: heard.append(number))
    with Interruption() as interruption:
        os.kill(os.getpid(), one)
        assert (interruption.reason, heard) == (one.name, [])
        interruption.obeyed = obeyed
    assert heard == ([one] if obeyed else [])


def test_sigusr2_is_left_alone_where_nobody_waits_for_it():
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    with Interruption():
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def test_ctrl_c_and_sigterm_are_not_passed_on():
    signal.signal(signal.SIGTERM, lambda *_: pytest.fail("called"))
    for one in (signal.SIGTERM, signal.SIGINT):
        with Interruption() as interruption:
            os.kill(os.getpid(), one)
            interruption.obeyed = True


def test_in_a_thread_no_handlers_are_set():
    seen = []

    def work():
        with Interruption(1.0) as interruption:
            seen.append((signal.getsignal(signal.SIGTERM), interruption.reason))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(signal.getsignal(signal.SIGTERM), None)]
