"""Real processes, killed with SIGKILL at any time, from outside; the parts of a run that a forked test cannot show."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TRAIN = Path(__file__).parents[2] / "tools" / "train.py"
TYPED = (
    "image_size=64", "model.width=0.25", "device=cpu", "data.batch_size=3", "engine.precision=fp32",
    "data.reader.count={train: 24, val: 8, test: 5}", "engine.epochs=3", "engine.log_steps=3", "engine.save_steps=2",
    "engine.ema={decay: 0.9, warmup: 5}", "optim.lr=0.002", "augment.mosaic={p: 0.5, until: 0.6}",
    "augment.transforms=[{HorizontalFlip: {p: 0.5}}]",
)  # fmt: skip
SEVERAL = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def started(*arguments: str, log: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *arguments], stdout=file, stderr=file, env=environment, start_new_session=True
        )


def family(process: int) -> list[int]:
    """A process and all below it; torchrun's agent puts each of its own into a session of its own."""
    try:
        files = Path(f"/proc/{process}/task").glob("*/children")
        children = [int(one) for file in files for one in file.read_text().split()]
    except OSError:
        children = []
    return [process, *(one for child in children for one in family(child))]


def kill(process: subprocess.Popen) -> None:
    """The process and all that it has started, at once, as when a machine is taken away."""
    for one in family(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    process.wait()


def steps_of(run: Path) -> int:
    """The step of a run's last checkpoint."""
    last = run / "checkpoints" / "last"
    return int(last.readlink().name[5:]) if last.is_symlink() else 0


def killed_on_and_on(command: tuple[str, ...], run: Path, times: random.Random, *, kills: int) -> None:
    """Start a run and kill it at some time after one of its next checkpoints, so often; then let it come to its end."""
    for number in range(kills):
        log = run.with_suffix(f".{number}.log")
        process, before = started(*command, f"run_dir={run}", "resume=auto", log=log), steps_of(run)
        aim = before + times.randint(1, 4)
        while process.poll() is None and steps_of(run) < aim:
            time.sleep(0.005)
        time.sleep(times.random() * 0.2)
        assert process.poll() is None, f"too late to kill it: {log.read_text()}"
        kill(process)
    log = run.with_suffix(".log")
    assert started(*command, f"run_dir={run}", "resume=auto", log=log).wait() == 0, log.read_text()
    assert "resumed" in log.read_text()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("task", ["detect", "semantic"])
def test_a_process_killed_at_any_time_and_started_again_ends_as_if_nothing_had_been(runs, assert_equal_runs, task):
    command = (str(TRAIN), f"task={task}", *TYPED, "data.workers=1")
    assert started(*command, "run_dir=whole", log=Path("whole.log")).wait() == 0, Path("whole.log").read_text()
    killed_on_and_on(command, Path("broken"), random.Random(7), kills=4)
    assert_equal_runs("whole", "broken")


@pytest.mark.timeout(1200)
def test_two_processes_killed_and_started_again_end_as_if_nothing_had_been(runs, assert_equal_runs):
    """The random numbers of each are its own: dropout tells them apart."""
    typed = ("task=classify", *TYPED, "head.classification.dropout=0.5", "data.workers=0")
    command = (*SEVERAL, str(TRAIN), *typed)
    assert started(*command, "run_dir=whole", log=Path("whole.log")).wait() == 0, Path("whole.log").read_text()
    killed_on_and_on(command, Path("broken"), random.Random(8), kills=2)
    assert_equal_runs("whole", "broken")
    status = started(str(TRAIN), *typed, "resume=broken", log=Path("log")).wait()
    assert status == 2
    assert "(processes: 2 -> 1)" in Path("log").read_text()
