from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from visionkit import cli
from visionkit.engine.checkpoint import open_checkpoint
from visionkit.engine.joining import joined
from visionkit.errors import ConfigError, RunError

ROOT = Path(__file__).parents[2]
TINY = (
    "task=classify", "image_size=64", "model.width=0.25", "device=cpu", "data.batch_size=2", "engine.epochs=2",
    "data.reader.count={train: 8, val: 3, test: 3}", "engine.precision=fp32", "data.workers=1",
)  # fmt: skip


def test_without_a_launcher_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu", 1.0) as (processes, device):
        assert (processes.rank, processes.world, device) == (0, 1, torch.device("cpu"))
        with processes.together(), processes.as_one():
            processes.check()
        values = torch.ones(2)
        assert processes.sum(values) is processes.take_mean_gradients(torch.nn.Linear(1, 1), values) is values
        assert processes.gathered("x") == processes.gathered_on_first("x") == ["x"]
        assert processes.told("x") == "x"
        assert processes.exchanging(torch.nn.Linear(1, 1)).__class__ is torch.nn.Linear


def test_what_torchrun_sets_must_be_there_whole(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"^WORLD_SIZE=2: .*RANK expected, but not set; start with torchrun"):
        joined("cpu", 1.0).__enter__()


def test_a_port_of_zero_is_refused_and_not_waited_at(monkeypatch):
    """What `torchrun --master-port=0` sets: each process would wait at a port of its own."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", "0")
    with pytest.raises(ConfigError, match=r"^MASTER_PORT=0: is no port to meet at; start with torchrun --standalone"):
        joined("cpu", 300.0).__enter__()


def test_a_process_that_never_comes_is_waited_for_no_longer_than_the_time_out(ranks, runs):
    first = ranks(2, come, 3.0)
    assert first.wait() == [0, 0]
    assert first.said()[0].startswith("not all of 2 processes came to 127.0.0.1:")
    assert "within 3 s (engine.timeout): " in first.said()[0]


def come(timeout: float) -> None:
    if os.environ["RANK"] == "0":
        try:
            joined("cpu", timeout).__enter__()
        except RunError as error:
            print(error)


def want(*devices: str) -> int:
    """Each process wants a device of its own, as on machines that differ."""
    return cli.main(["train", *TINY, f"device={devices[int(os.environ['RANK'])]}", "run_dir=a"])


def test_a_device_that_one_of_them_lacks_is_told_once(ranks, runs):
    both = ranks(2, want, "cpu", "cuda:7")
    assert both.wait() == [2, 2]
    first, second = both.said()
    assert second == ""
    assert first.startswith("process 1: device=cuda:7: this machine has")
    assert first.count("\n") == 2  # what, and how to mend it
    assert not Path("a").exists()


def test_a_wrong_key_is_told_once(ranks, runs):
    both = ranks(2, cli.main, ["train", "task=clasify"])
    assert both.wait() == [2, 2]
    first, second = both.said()
    assert (second, "did you mean 'classify'" in first) == ("", True)


# -------------------------------------------------------------------------------------------------- torchrun itself
def torchrun(count: int, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return subprocess.run(
        [*launcher, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["tools/train.py", "visionkit train"])
def test_torchrun_needs_no_other_configuration(runs, tool):
    """A process that loads data each; `visionkit` is the file that an installed wheel puts there."""
    installed = Path("visionkit")
    installed.write_text("import sys\nfrom visionkit.cli import main\nsys.exit(main())\n")
    command = [str(installed), "train"] if tool == "visionkit train" else [str(ROOT / tool)]
    done = torchrun(2, *command, *TINY, "run_dir=a", folder=runs)
    assert done.returncode == 0, done.stderr
    assert "(2 images x 1 accumulated x 2 processes)" in done.stdout
    assert "Warning" not in done.stderr
    assert "Exception ignored" not in done.stderr, "the processes that load data ended with the run"
    judged = torchrun(3, str(ROOT / "tools" / "evaluate.py"), "checkpoint=a", "device=cpu", "run_dir=b", folder=runs)
    assert judged.returncode == 0, judged.stderr
    ours, theirs = (json.loads(Path(folder, "metrics.json").read_text()) for folder in ("a", "b"))
    assert [ours[name] for name in ours if "/" in name] == [theirs[name] for name in ours if "/" in name]


@pytest.mark.slow
@pytest.mark.parametrize("one", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_ends_the_run_saved(runs, one):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, str(ROOT / "tools" / "train.py"), *TINY, "engine.epochs=10000", "run_dir=a"]
    with Path("log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        until = time.monotonic() + 200
        while not Path("a/metrics.jsonl").exists():
            assert process.poll() is None, Path("log").read_text()
            assert time.monotonic() < until
            time.sleep(0.2)
        process.send_signal(one)
        process.wait(60)
    told = json.loads(Path("a/status.json").read_text())
    assert told["status"] == "preempted", Path("log").read_text()
    assert open_checkpoint("a", "last").step == told["step"]
