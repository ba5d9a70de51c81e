"""Runs without their page of pictures, and several processes as `torchrun` starts them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import pytest
import torch

from visionkit.engine import judging, training_run

_FORKS = multiprocessing.get_context("forkserver")
_ROOT = str(Path(__file__).parents[2])
_IMPORTED = [
    "visionkit.engine.run", "visionkit.engine.judging", "visionkit.config", "matplotlib.figure",
    "matplotlib.backends.backend_agg", "jinja2", "pytest",
]  # fmt: skip


@pytest.fixture(autouse=True)
def never_a_report(no_report):
    """Also where a test has no `runs`."""


class Ranks:
    """Processes as `torchrun` starts them, without its agent: the first one holds the store.

    They are forked from one that has imported everything, and so begin at once.
    """

    def __init__(self, folder: Path, world: int, report: bool, function, *arguments) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        folder.mkdir(exist_ok=True)
        self.outputs = [folder / f"rank-{rank}.txt" for rank in range(world)]
        self.processes = []
        for rank, output in enumerate(self.outputs):
            environment = {
                "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1,
            }  # fmt: skip
            environment |= {name: os.environ[name] for name in ("VISIONKIT_CACHE",) if name in os.environ}
            given = (str(output), str(Path.cwd()), environment, report, function, arguments)
            self.processes.append(_FORKS.Process(target=_run_rank, args=given))
        for process in self.processes:
            process.start()

    def wait(self, seconds: float = 60.0) -> list[int]:
        """The exit codes, by rank; a process that has not ended by then is an error."""
        until = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        assert None not in codes, f"{codes}: {self.said()}"
        return codes

    def said(self) -> list[str]:
        """What each has written on stdout and stderr, by rank."""
        return [output.read_text() if output.exists() else "" for output in self.outputs]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def _run_rank(output, folder, environment, report, function, arguments) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()})
    os.chdir(folder)
    with Path(output).open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    torch.set_num_threads(1)
    if not report:
        judging.write_result_report = training_run.write_result_report = lambda *given: None
    sys.exit(function(*arguments))


@pytest.fixture
def ranks(tmp_path, monkeypatch, request):
    """ranks(2, function, *arguments): start two processes; a function of a test module, and what can be pickled."""
    monkeypatch.syspath_prepend(_ROOT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")])))
    _FORKS.set_forkserver_preload(_IMPORTED)
    started = []

    def start(world, function, *arguments):
        folder, report = tmp_path / f"ranks-{len(started)}", "with_report" in request.fixturenames
        started.append(Ranks(folder, world, report, function, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.kill()
