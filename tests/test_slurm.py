"""What docs/slurm.md says is what happens: its scripts are run, with a Slurm that is made of a few lines of shell."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "slurm.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
TINY = (
    "task=classify image_size=64 model.width=0.25 device=cpu data.workers=0 data.batch_size=2 engine.precision=fp32 "
    "'data.reader.count={train: 4, val: 2, test: 2}' engine.epochs=2 augment=none engine.train_slice=0"
)


def programs(folder: Path, **scripts: str) -> dict[str, str]:
    """An environment in whose PATH programs of these names come first."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}


def directives(script: str) -> set[str]:
    return set(re.findall(r"^#SBATCH (.*)$", script, flags=re.MULTILINE))


def test_the_page_has_two_scripts_and_a_sweep():
    one, several, sweep = BLOCKS
    for script, told in ((one, "USR1"), (several, "TERM")):
        assert script.startswith("#!/bin/bash\n#SBATCH ")
        assert {f"--signal={told}@120", "--requeue", "--open-mode=append"} <= directives(script)
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert sweep.startswith("python tools/train.py --multirun hydra/launcher=submitit_slurm")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(("status", "queued"), [("preempted", True), ("finished", False)])
def test_a_job_goes_to_the_queue_again_if_the_run_was_ended(tmp_path, number, status, queued):
    """srun notes what it was to start, and leaves the status file of a run that ended so."""
    run = tmp_path / "runs/detect/coco"
    run.mkdir(parents=True)
    environment = programs(
        tmp_path / "bin",
        srun=f'echo "$@" > {tmp_path}/started; echo \'{{"status": "{status}"}}\' > {run}/status.json',
        scontrol=f'echo "$@" > {tmp_path}/queued',
    )
    environment |= {"SLURM_JOB_ID": "77", "SLURM_GPUS_ON_NODE": "8"}
    done = subprocess.run(["bash", "-c", BLOCKS[number]], env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0
    typed = "tools/train.py task=detect data=coco data.root=/data/coco run_dir=runs/detect/coco resume=auto"
    launcher = ("python", "torchrun --standalone --nproc-per-node=8")[number]
    assert (tmp_path / "started").read_text() == f"{launcher} {typed}\n"
    assert (tmp_path / "queued").exists() == queued
    if queued:
        assert (tmp_path / "queued").read_text() == "requeue 77\n"


@pytest.mark.slow
def test_a_job_that_is_told_of_its_limit_is_finished_by_the_next(tmp_path):
    """`engine.max_hours` ends the first as a signal does; then the same script is run again, as Slurm would."""
    script = BLOCKS[0].replace("task=detect data=coco data.root=/data/coco", f"{TINY} $MORE")
    script = script.replace("python tools", f"{sys.executable} {ROOT}/tools")
    environment = programs(tmp_path / "bin", srun='exec "$@"', scontrol=f'echo "$@" >> {tmp_path}/queued')
    environment |= {"SLURM_JOB_ID": "77", "VISIONKIT_CACHE": str(tmp_path / "cache")}
    status = tmp_path / "runs/detect/coco/status.json"
    for more, told in (("engine.max_hours=1e-9", "preempted"), ("", "finished")):
        subprocess.run(["bash", "-c", script], env={**environment, "MORE": more}, cwd=tmp_path, check=True)
        assert json.loads(status.read_text())["status"] == told
    assert (tmp_path / "queued").read_text() == "requeue 77\n"


# ------------------------------------------------------------------------------------------------- a sweep, by submitit
needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="needs hydra-submitit-launcher (extra slurm)"
)


def sweep(folder: Path, environment: dict[str, str], *changed: str) -> subprocess.CompletedProcess[str]:
    """The sweep of the page, in a folder, of two tiny runs."""
    command = (
        BLOCKS[2].replace("task=detect data=coco data.root=/data/coco", TINY).replace(",0.002 seed=0,1", " seed=0,1")
    )
    command = command.replace("python tools", f"{sys.executable} {ROOT}/tools").rstrip() + " " + " ".join(changed)
    environment = {**environment, "VISIONKIT_CACHE": str(folder / "cache")}
    return subprocess.run(
        ["bash", "-c", command], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


@needs_plugin
def test_the_script_that_the_plugin_writes(tmp_path):
    environment = programs(
        tmp_path / "bin", srun="exit 1", sbatch=f'cp "$1" {tmp_path}/script; echo no such partition >&2; exit 1'
    )
    done = sweep(tmp_path, environment)
    assert done.returncode == 1, done.stderr
    script = (tmp_path / "script").read_text()
    wanted = {"--array=0-1%2", "--cpus-per-task=16", "--gpus-per-node=1", "--partition=gpu", "--time=240",
              "--signal=USR2@120", "--open-mode=append", "--ntasks-per-node=1", "--nodes=1"}  # fmt: skip
    assert wanted <= directives(script), script
    assert re.search(r"^srun --unbuffered .* -m submitit.core._submit ", script, flags=re.MULTILINE)


ARRAY = r"""
(for task in 0 1; do
  export SLURM_JOB_ID=$((70 + task)) SLURM_ARRAY_JOB_ID=70 SLURM_ARRAY_TASK_ID=$task SLURM_NTASKS=1 SLURM_PROCID=0
  export SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_LOCALID=0
  bash "$1" >> jobs.log 2>&1
  touch "done-$task"
done) < /dev/null > /dev/null 2>&1 &
echo Submitted batch job 70
"""
"""Jobs begin after sbatch has told their number: the plugin names their files by it."""
STATES = """
echo 'JobID|State|NodeList'
for task in 0 1; do
  [[ -e done-$task ]] && state=COMPLETED || state=RUNNING
  echo "70_$task|$state|here"
done
"""


@needs_plugin
@pytest.mark.slow
def test_a_sweep_runs(tmp_path):
    environment = programs(
        tmp_path / "bin",
        sbatch=ARRAY,
        srun='while [[ "$1" == --* ]]; do case $1 in --output|--error) shift 2;; *) shift;; esac; done; exec "$@"',
        sacct=STATES,
    )
    done = sweep(tmp_path, environment)
    log = (tmp_path / "jobs.log").read_text() if (tmp_path / "jobs.log").exists() else ""
    folders = [tmp_path / f"runs/sweep/lr-0.001-seed-{seed}" for seed in (0, 1)]
    assert done.returncode == 0, done.stderr + log
    assert [json.loads((one / "status.json").read_text())["status"] for one in folders] == ["finished"] * 2
