"""Runs that are interrupted, preempted or changed, and go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from visionkit import cli
from visionkit.engine import training_run
from visionkit.engine.checkpoint import open_checkpoint

DETECT = ("task=detect", "engine.save_steps=3")
CLASSIFY = ("task=classify", "optim=adamw", "engine.save_steps=3")


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def status(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "status.json").read_text())


# ---------------------------------------------------------------------------------------------------- equal to the bit
MIXES = (
    "task=instance", "engine.save_steps=3", "augment.mosaic.p=0.5", "augment.copy_paste={p: 0.5, until: 0.6}",
    "augment.mixup={p: 0.5, until: 1}", "data.repeat_factor=0.9", "data.workers=1",
)  # fmt: skip


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(train, runs, interrupt, assert_equal_runs):
    """7 steps an epoch; saved at 9, logged at 8 and 10, interrupted before step 11; the mixes stop in mid-run."""
    assert train(*MIXES, "run_dir=whole") == 0
    interrupt(11)
    assert train(*MIXES, "run_dir=broken") == 130
    assert status("broken")["status"] == "interrupted"
    assert Path("broken/checkpoints/last").resolve().name == "step-9"
    with Path("broken/metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "to')  # a line that the interrupted run did not finish
    assert train(*MIXES, "resume=broken") == 0
    assert status("broken")["status"] == "finished"
    assert_equal_runs("whole", "broken")


def test_a_run_preempted_again_and_again_equals_an_uninterrupted_one(train, runs, monkeypatch, assert_equal_runs):
    """SIGTERM in a step, in the evaluation of an epoch (made up for on resume), and in the last one."""
    typed, scored = (*CLASSIFY, "head.classification.dropout=0.5", "engine.train_slice=0"), training_run.scored
    assert train(*typed, "run_dir=whole") == 0

    def ask_in_evaluation(number: int) -> None:
        evaluations = iter(range(1, 9))

        def judged(*args, **more):
            if next(evaluations) == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return scored(*args, **more)

        monkeypatch.setattr(training_run, "scored", judged)

    assert train(*typed, "run_dir=broken", "debug.fault=term@step5") == 0
    assert status("broken") == {"status": "preempted", "step": 5, "reason": "SIGTERM"}
    assert Path("broken/checkpoints/last").resolve().name == "step-5"
    # The second time in the evaluation that is made up for; then in those that come after it.
    for evaluation, step, due in ((1, 7, True), (1, 7, True), (2, 14, True), (2, 14, False)):
        ask_in_evaluation(evaluation)
        assert train(*typed, "run_dir=broken", "resume=auto") == 0
        assert status("broken") == {"status": "preempted", "step": step, "reason": "SIGTERM"}
        found = open_checkpoint("broken", "last")
        assert (found.step, found.state["evaluation_due"]) == (step, due)
        assert len([line for line in lines("broken") if "epoch" in line]) == step // 7 - due
    ask_in_evaluation(0)
    assert train(*typed, "run_dir=broken", "resume=auto") == 0
    assert status("broken")["status"] == "finished"
    assert_equal_runs("whole", "broken")


# ---------------------------------------------------------------------------------------------------- resume=auto, =DIR
def test_auto_takes_up_the_unfinished_latest_and_else_begins_anew(train, runs, interrupt, capsys):
    interrupt(5)
    assert train(*CLASSIFY, "resume=auto") == 130
    assert train(*CLASSIFY, "resume=auto", "data.workers=1", "data.cache=ram") == 0
    assert lines(Path("runs/classify/latest"))[-1]["step"] == 14
    assert [path.name for path in sorted(Path("runs/classify").iterdir())] == ["classify-001", "latest"]
    assert train(*CLASSIFY, "resume=auto", "engine.max_steps=1") == 0  # finished, so a new one
    interrupt(5)
    assert train(*CLASSIFY, "resume=auto") == 130
    capsys.readouterr()
    assert train(*CLASSIFY, "resume=auto", "engine.max_steps=1", "seed=1") == 0  # another configuration
    said = "a new run begins, since the last one was another: engine.max_steps: None -> 1, seed: 0 -> 1"
    assert said in capsys.readouterr().out
    names = [path.name for path in sorted(Path("runs/classify").iterdir())]
    assert names == ["classify-001", "classify-002", "classify-003", "classify-004", "latest"]
    assert Path("runs/classify/latest").resolve().name == "classify-004"


def test_auto_begins_anew_in_a_folder_whose_run_has_no_checkpoint(train, runs, interrupt):
    interrupt(2)
    assert train(*CLASSIFY, "run_dir=a", "resume=auto") == 130
    assert not Path("a/checkpoints").exists()
    assert train(*CLASSIFY, "run_dir=a", "resume=auto", "engine.max_steps=2") == 0
    assert [line["step"] for line in lines(Path("a"))] == [2, 2]


def test_a_finished_run_that_is_resumed_stays_as_it_is(train, runs, finished):
    shutil.copytree(finished, "a", symlinks=True)
    before = {path: path.read_bytes() for path in Path("a").rglob("*") if path.suffix in (".json", ".jsonl", ".pt")}
    assert train("resume=a") == 0
    for path, content in before.items():
        if path.name != "env.json":
            assert path.read_bytes() == content, path


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("run_dir=a",), "run_dir=a: is not empty; resume=auto continues a run, else give another folder"),
        (("resume=a", "optim.lr=0.5", "seed=3"), "optim.lr: 0.002 -> 0.5, seed: 0 -> 3"),
        (("run_dir=a", "resume=auto", "optim.lr=0.5"), "optim.lr: 0.002 -> 0.5"),
        (("resume=b",), "resume=b: no run with a checkpoint is there; give the folder of a run, or resume=auto"),
        (("resume=a/checkpoints/last",), "resume=a/checkpoints/last: no run with a checkpoint is there"),
        (("resume=a", "run_dir=b"), "run_dir=b: the run goes on in its own folder, a; leave run_dir out"),
        (("resume=a", "resume_allow=[engine.epoch]"), "resume_allow=engine.epoch: there is no such name (did you mean"),
        (("run_dir=b", "resume_allow=[proceses]"), "resume_allow=proceses: there is no such name (did you mean 'proc"),
        (("resume=a", "resume_allow=[seed]", "optim.lr=0.5", "seed=3"), "resume_allow=[seed,optim.lr]"),
        (("resume=a", "debug.images=9"), "(data.train: 20 images -> 9 images); resume it as it was, start a new run"),
        (("resume=a", "data.seed=1"), "(data.seed: 0 -> 1, data.test: other labels, data.train: other labels, data"),
    ],
)  # fmt: skip
def test_what_cannot_be_resumed_is_refused_in_a_line(train, runs, finished, capsys, typed, said):
    shutil.copytree(finished, "a", symlinks=True)
    before = sorted(path.stat().st_mtime_ns for path in Path("a").rglob("*"))
    capsys.readouterr()
    assert train(*typed) == 2
    line, _mend = capsys.readouterr().err.splitlines()
    assert said in line
    assert sorted(path.stat().st_mtime_ns for path in Path("a").rglob("*")) == before
    assert [path.name for path in runs.iterdir()] == ["a"]


# ---------------------------------------------------------------------------------------------------- allowed changes
def test_what_is_named_may_change_and_takes_effect(train, runs, capsys):
    """A run is made longer, at another rate and with other validation images; then all of `optim` may change."""
    assert train(*CLASSIFY, "run_dir=a", "optim.betas=[0.8, 0.9]") == 0
    before = open_checkpoint("a", "last").state
    capsys.readouterr()
    longer = ("engine.epochs=3", "optim.lr=0.001", "data.reader.count={train: 20, val: 4, test: 5}")
    allowed = "resume_allow=[engine.epochs, optim.lr, data.val, data.reader.count]"
    assert train(*CLASSIFY, *longer, "run_dir=a", "resume=auto", "optim.betas=[0.8, 0.9]", allowed) == 0
    said = capsys.readouterr().out
    assert (
        "resumed with changes that resume_allow names: data.reader.count.val: 6 -> 4, engine.epochs: 2 -> 3, " in said
    )
    assert ", data.val: 6 images -> 4 images" in said
    assert "was judged otherwise: the best of what follows will be kept" in said
    assert [line["step"] for line in lines("a") if "epoch" in line] == [7, 14, 21]
    state = open_checkpoint("a", "last").state
    assert (state["best_step"], state["data"]["val"]["images"]) == (21, 4)
    assert state["data"]["train"] == before["data"]["train"]
    # 21 steps at the highest rate of 0.001: step 16 is past the middle of a cosine.
    assert max(line["lr"] for line in lines("a") if line["step"] > 14 and "lr" in line) < 0.0005
    groups = open_checkpoint("a", "last").training_state()["optimizer"]["param_groups"]
    assert {group["betas"] for group in groups} == {(0.8, 0.9)}
    assert {group["initial_lr"] for group in groups} == {0.001}

    assert train(*CLASSIFY, *longer[:1], longer[2], "run_dir=a", "resume=auto", "optim=momentum", "optim.lr=0.01",
                 "engine.max_steps=15", "resume_allow=[optim, engine.max_steps]", "engine.epochs=4") == 2  # fmt: skip
    assert train(*CLASSIFY, longer[2], "run_dir=a", "resume=auto", "optim=momentum", "optim.lr=0.01",
                 "resume_allow=[optim, engine]", "engine.epochs=4") == 0  # fmt: skip
    assert "the optimizer begins anew, being another one" in capsys.readouterr().out
    assert "momentum_buffer" in open_checkpoint("a", "last").training_state()["optimizer"]["state"][0]


def test_weights_that_do_not_fit_what_was_allowed_to_change_are_said(train, runs, finished, capsys):
    shutil.copytree(finished, "a", symlinks=True)
    capsys.readouterr()
    assert train("resume=a", "model.width=0.5", "resume_allow=[model, head]") == 2
    assert "step-14: the weights do not fit the model described beside them" in capsys.readouterr().err


def test_another_number_of_processes_is_a_change(train, runs, finished, capsys):
    shutil.copytree(finished, "a", symlinks=True)
    checkpoint = Path("a/checkpoints/last")
    sign(checkpoint, "state.json", {**json.loads((checkpoint / "state.json").read_text()), "processes": 2})
    assert train("resume=a") == 2
    assert "(processes: 2 -> 1); resume it as it was, start a new run, or allow it with" in capsys.readouterr().err
    assert train("resume=a", "resume_allow=[processes]") == 0


def test_a_configuration_of_an_older_version_has_todays_defaults(train, runs, finished, capsys):
    """Keys that are missing count as the default of today: of the task's configuration, or of the part's argument."""
    shutil.copytree(finished, "a", symlinks=True)
    checkpoint = Path("a/checkpoints/last")
    config = OmegaConf.load(checkpoint / "config.yaml")
    for parent, key in (
        ("engine", "max_bad_steps"),
        ("optim", "l1"),
        ("model.backbone", "size"),
        ("", "resume_allow"),
    ):
        del (OmegaConf.select(config, parent) if parent else config)[key]
    sign(checkpoint, "config.yaml", OmegaConf.to_yaml(config))
    assert train("resume=a", "optim.l1=0.1") == 2
    assert "(optim.l1: nothing -> 0.1)" in capsys.readouterr().err
    assert train("resume=a") == 0
    said = "keys that the run's configuration did not have yet have today's defaults: engine.max_bad_steps, model.back"
    assert said in capsys.readouterr().out


def sign(checkpoint: Path, name: str, content) -> None:
    """Change a file of a checkpoint, manifest and all."""
    from visionkit.engine.checkpoint_manifest import write_manifest

    (checkpoint / name).write_text(content if isinstance(content, str) else json.dumps(content))
    (checkpoint / "manifest.json").unlink()
    write_manifest(checkpoint.resolve())


def test_evaluating_into_a_run_is_refused(finished, capsys):
    assert cli.main(["evaluate", f"checkpoint={finished}", f"run_dir={finished}", "device=cpu"]) == 2
    assert "is the folder of a run, whose metrics.json stays; give another folder" in capsys.readouterr().err
