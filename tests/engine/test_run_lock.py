"""One run at a time in a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from visionkit.engine import run_lock as module
from visionkit.engine.run_lock import LOCK, refuse_if_running, run_lock
from visionkit.errors import UserError

HERE = socket.gethostname()


@contextlib.contextmanager
def another_process(action):
    """`action` in a forked process, which then waits; it gives the process's number."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            action()
            os.write(writing, b"!")
            time.sleep(60)
        os._exit(1)
    os.close(writing)
    try:
        os.read(reading, 1)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)


def left_behind(folder: Path, **changes) -> None:
    """The lock file of a process that was killed."""
    with run_lock(folder):
        told = json.loads((folder / LOCK).read_text())
    (folder / LOCK).write_text(json.dumps({**told, **changes}))


@pytest.fixture(params=["locks", "no locks"])
def file_system(request, monkeypatch):
    """Where the system knows locks, and where it does not."""
    if request.param == "no locks":

        def refused(*args):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refused)
    return request.param


def test_a_second_run_is_refused_with_the_first_ones_process_and_host(tmp_path, file_system):
    held = contextlib.ExitStack()
    with another_process(lambda: held.enter_context(run_lock(tmp_path))) as first:
        before = (tmp_path / LOCK).read_text()
        for attempt in (lambda: run_lock(tmp_path).__enter__(), lambda: refuse_if_running(tmp_path)):
            with pytest.raises(UserError) as refused:
                attempt()
            said = str(refused.value)
            assert said.startswith(f"{tmp_path}: process {first} on {HERE} is training here since 20")
            assert said.endswith("; wait for it, end it, or give another run_dir")
        assert (tmp_path / LOCK).read_text() == before
    with run_lock(tmp_path) as said:
        assert said == f"{tmp_path / LOCK}: left behind by process {first} on {HERE}, which is gone; taken over"
    with run_lock(tmp_path) as said:
        assert said is None, "a run that ends takes its lock away"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_nobody_is_free(tmp_path):
    refuse_if_running(tmp_path)
    left_behind(tmp_path)
    before = (tmp_path / LOCK).read_text()
    refuse_if_running(tmp_path)
    assert (tmp_path / LOCK).read_text() == before, "looking changes nothing"
    refuse_if_running(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "fate"),
    [
        ({"boot": "another"}, "ran before this machine was started anew"),
        ({"process": 2**22 + 1}, "is gone"),
        ({"process": 2**70}, "is gone"),
        ({"began": "12345"}, "is gone, and its number another process's"),
    ],
)
def test_a_stale_lock_is_recognised_and_said(tmp_path, file_system, changes, fate):
    left_behind(tmp_path, **changes)
    process = changes.get("process", os.getpid())
    with run_lock(tmp_path) as said:
        assert said == f"{tmp_path / LOCK}: left behind by process {process} on {HERE}, which {fate}; taken over"
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"process": "x", "host": 3}', "\0\xff", "[" * 9999])
def test_a_lock_file_that_says_nothing_is_taken_over(tmp_path, file_system, content):
    (tmp_path / LOCK).write_text(content)
    with run_lock(tmp_path) as said:
        assert said is None
        assert json.loads((tmp_path / LOCK).read_text())["host"] == HERE


def test_a_lock_of_another_machine(tmp_path, file_system):
    """Where the file system knows locks, one that nobody holds is free, whoever wrote it; else nobody can tell."""
    left_behind(tmp_path, host="node-7", process=31)
    if file_system == "locks":
        with run_lock(tmp_path) as said:
            assert said == f"{tmp_path / LOCK}: left behind by process 31 on node-7, which holds it no more; taken over"
        return
    with pytest.raises(
        UserError, match=rf"process 31 on node-7 is training .*; if it is gone, remove {tmp_path}/{LOCK}$"
    ):
        run_lock(tmp_path).__enter__()
    (tmp_path / LOCK).unlink()
    with run_lock(tmp_path) as said:
        assert said is None


def test_processes_that_load_data_do_not_hold_the_lock_of_a_run_that_was_killed(tmp_path):
    """Forked ones live some seconds longer than their parent."""
    reading, writing = os.pipe()
    held = contextlib.ExitStack()

    def run() -> None:
        held.enter_context(run_lock(tmp_path))
        if os.fork() == 0:
            os.write(writing, f"{os.getpid():>10}".encode())
            time.sleep(60)
            os._exit(1)

    with another_process(run):
        orphan = int(os.read(reading, 10))
        with pytest.raises(UserError):
            refuse_if_running(tmp_path)
    os.kill(orphan, 0)  # it lives
    with run_lock(tmp_path) as said:
        assert "which is gone; taken over" in said
    os.kill(orphan, signal.SIGKILL)


def test_a_lock_whose_file_was_removed_in_the_moment_of_taking_it_is_taken_anew(tmp_path, monkeypatch):
    lock, removed = module._lock, []

    def slowly(descriptor):
        result = lock(descriptor)
        if not removed:
            removed.append((tmp_path / LOCK).unlink())
        return result

    monkeypatch.setattr(module, "_lock", slowly)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
        with pytest.raises(UserError, match=re.escape(f"process {os.getpid()} on {HERE}")):
            refuse_if_running(tmp_path)


def test_a_second_whole_run_is_refused_before_it_writes_anything(train, runs, finished, capsys):
    """Into its folder, to go on with it, and as the latest one of the same configuration."""
    latest = runs / "runs" / "detect" / "latest"
    shutil.copytree(finished, latest, symlinks=True)
    (latest / "status.json").write_text('{"status": "running"}')
    held = contextlib.ExitStack()
    with another_process(lambda: held.enter_context(run_lock(latest))) as first:
        before = sorted((path, path.stat().st_mtime_ns) for path in runs.rglob("*"))
        capsys.readouterr()
        for typed in (
            ("resume=auto",),
            (f"resume={latest}",),
            (f"run_dir={latest}",),
            (f"run_dir={latest}", "resume=auto"),
        ):
            assert train(*typed) == 2
            line, _mend = capsys.readouterr().err.splitlines()
            assert f"process {first} on {HERE} is training here since" in line
        assert sorted((path, path.stat().st_mtime_ns) for path in runs.rglob("*")) == before


def test_a_killed_run_leaves_a_lock_that_the_next_one_takes_over(train, runs, in_child, killed_by, capsys):
    status = in_child(lambda: train("task=classify", "run_dir=a", "debug.fault=kill@step2"))
    assert killed_by(status) == "SIGKILL"
    capsys.readouterr()
    assert train("task=classify", "run_dir=a", "resume=auto", "engine.max_steps=1") == 0
    assert f"a/{LOCK}: left behind by process " in capsys.readouterr().out
    assert "left behind" in Path("a/train.log").read_text()
    assert not (Path("a") / LOCK).exists()
