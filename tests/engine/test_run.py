from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from visionkit import cli
from visionkit.engine.checkpoint import open_checkpoint

DETECT = ("task=detect", "engine.save_steps=3")
CLASSIFY = ("task=classify", "engine.save_steps=3")


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def status(folder: Path) -> str:
    return json.loads((folder / "status.json").read_text())["status"]


def assert_equal_states(one, other) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal_states(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_equal_states(mine, theirs)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def assert_equal_runs(one: Path, other: Path) -> None:
    for link in ("last", "best"):
        ours, theirs = one / "checkpoints" / link, other / "checkpoints" / link
        assert ours.resolve().name == theirs.resolve().name
        for name in ("model.safetensors", "ema.safetensors", "state.json"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
        assert_equal_states(open_checkpoint(ours).training_state(), open_checkpoint(theirs).training_state())
    for name in ("metrics.jsonl", "metrics.json", "predictions.json"):
        assert (one / name).read_text() == (other / name).read_text(), name


# --------------------------------------------------------------------------------------------------------------- resume
MOSAIC = (*DETECT, "augment.mosaic.p=0.5", "augment.mosaic.until=0.6")
DROPOUT = (*CLASSIFY, "head.classification.dropout=0.5")
MIXES = (
    "task=instance", "engine.save_steps=3", "augment.mosaic.p=0.5", "augment.copy_paste={p: 0.5, until: 0.6}",
    "augment.mixup={p: 0.5, until: 1}", "data.repeat_factor=0.9", "data.workers=1",
)  # fmt: skip
BATCH_MIX = (*DROPOUT, "data.workers=1", "augment.batch_mix={p: 0.8, mixup: 0.2, cutmix: 1.0}")


@pytest.mark.parametrize("typed", [MOSAIC, MIXES, BATCH_MIX], ids=["detect", "instance", "classify"])
def test_a_resumed_run_equals_an_uninterrupted_one(train, runs, interrupt, typed):
    """7 steps an epoch; saved at 9, logged at 8 and 10, interrupted before step 11; the mosaic stops in mid-run."""
    assert train(*typed, "run_dir=whole") == 0
    interrupt(11)
    assert train(*typed, "run_dir=broken") == 130
    assert status(Path("broken")) == "interrupted"
    assert Path("broken/checkpoints/last").resolve().name == "step-9"
    with Path("broken/metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "to')  # a line that the interrupted run did not finish
    assert train(*typed, "resume=broken") == 0
    assert status(Path("broken")) == "finished"
    assert_equal_runs(Path("whole"), Path("broken"))


def test_a_run_resumed_at_the_end_of_an_epoch_equals_an_uninterrupted_one(train, runs, interrupt):
    typed = (*CLASSIFY, "engine.accumulate=2")
    assert train(*typed, "run_dir=whole") == 0
    interrupt(5)
    assert train(*typed, "run_dir=broken") == 130
    assert Path("broken/checkpoints/last").resolve().name == "step-4"
    assert train(*typed, "run_dir=broken", "resume=auto") == 0
    assert_equal_runs(Path("whole"), Path("broken"))


def test_a_run_killed_while_saving_loses_no_line(train, runs, monkeypatch):
    """Killed between the files and the links of an epoch's checkpoint: what it wrote before is made again."""
    from visionkit.engine import checkpoint

    assert train(*CLASSIFY, "run_dir=whole") == 0
    link = checkpoint._link

    def killed(path, target):
        if target == "step-7":
            raise KeyboardInterrupt
        link(path, target)

    monkeypatch.setattr(checkpoint, "_link", killed)
    assert train(*CLASSIFY, "run_dir=broken") == 130
    monkeypatch.setattr(checkpoint, "_link", link)
    assert train(*CLASSIFY, "resume=broken") == 0
    assert_equal_runs(Path("whole"), Path("broken"))


def test_auto_takes_up_the_unfinished_latest_and_else_begins_anew(train, runs, interrupt):
    interrupt(5)
    assert train(*CLASSIFY, "resume=auto") == 130
    assert train(*CLASSIFY, "resume=auto", "data.workers=1") == 0
    assert lines(Path("runs/classify/latest"))[-1]["step"] == 14
    assert [path.name for path in sorted(Path("runs/classify").iterdir())] == ["classify-001", "latest"]
    assert train(*CLASSIFY, "resume=auto", "engine.max_steps=1") == 0  # finished, so a new one
    interrupt(5)
    assert train(*CLASSIFY, "resume=auto") == 130
    assert train(*CLASSIFY, "resume=auto", "engine.max_steps=1", "seed=1") == 0  # another configuration
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
    ],
)
def test_what_cannot_be_resumed_is_refused_in_a_line(train, runs, finished, capsys, typed, said):
    shutil.copytree(finished, "a", symlinks=True)
    before = sorted(path.stat().st_mtime_ns for path in Path("a").rglob("*"))
    capsys.readouterr()
    assert train(*typed) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert sorted(path.stat().st_mtime_ns for path in Path("a").rglob("*")) == before
    assert [path.name for path in runs.iterdir()] == ["a"]


# ------------------------------------------------------------------------------------------------------- ends of a run
def poisoned(trainer):
    """Make the pixels of one forward not finite: the loss, the gradients and BatchNorm's statistics all suffer."""
    preprocess = trainer.model.preprocess
    normalise = preprocess.normalise

    def once(images):
        del preprocess.normalise
        return normalise(images) * torch.nan

    preprocess.normalise = once


def test_a_loss_that_is_not_finite_ends_the_run_before_the_step(train, runs, before_step, capsys):
    seen = {}

    def at_step_5(trainer):
        seen["weights"] = {name: value.clone() for name, value in trainer.model.named_parameters()}
        seen["trainer"] = trainer
        poisoned(trainer)

    before_step(5, at_step_5)
    assert train(*CLASSIFY, "run_dir=a") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "step 5: the loss or its gradient is not finite; the step was not taken. Lower optim.lr" in line
    assert "Images of the batch: " in line
    state = json.loads(Path("a/status.json").read_text())
    assert state["status"] == "failed"
    assert "step 5" in state["error"]
    torch.testing.assert_close(dict(seen["trainer"].model.named_parameters()), seen["weights"], rtol=0, atol=0)
    assert {path.resolve().name for path in Path("a/checkpoints").iterdir()} == {"step-3"}
    assert not Path("a/metrics.json").exists()


def test_bad_steps_are_passed_over_as_often_as_allowed(train, runs, before_step):
    before_step(3, poisoned)
    typed = (*CLASSIFY, "engine.max_bad_steps=1", "engine.max_steps=4", "engine.log_steps=1")
    assert train(*typed, "run_dir=a") == 0
    for name in ("model", "ema"):
        weights = load_file(Path("a/checkpoints/last") / f"{name}.safetensors")
        assert all(value.isfinite().all() for value in weights.values()), "BatchNorm must forget the bad step too"
    assert [line["total"] is None for line in lines(Path("a"))[:4]] == [False, False, True, False]
    assert open_checkpoint("a").training_state()["bad_steps"] == 1
    before_step(4, poisoned)
    assert train(*CLASSIFY, "run_dir=b", "engine.max_bad_steps=0") == 1


def test_max_steps_ends_a_run_that_still_evaluates_and_saves(train, runs):
    assert train(*DETECT, "run_dir=a", "engine.max_steps=5", "engine.save_steps=2") == 0
    assert status(Path("a")) == "finished"
    assert Path("a/checkpoints/last").resolve().name == "step-5"
    assert {path.name for path in Path("a/checkpoints").glob("step-*")} == {"step-4", "step-5"}
    epochs = [line for line in lines(Path("a")) if "epoch" in line]
    assert [(line["step"], line["epoch"]) for line in epochs] == [(5, 1)]
    assert "detection/AP" in json.loads(Path("a/metrics.json").read_text())


def test_without_val_best_is_last_and_the_split_is_named(train, runs):
    assert train(*CLASSIFY, "run_dir=a", "data.splits={train: train, val: null, test: test}") == 0
    assert Path("a/checkpoints/best").resolve() == Path("a/checkpoints/last").resolve()
    assert json.loads(Path("a/metrics.json").read_text())["split"] == "test"
    assert "classification/top1" not in lines(Path("a"))[-1]
    assert train(*CLASSIFY, "run_dir=b", "data.splits={train: train, val: null, test: null}") == 0
    assert json.loads(Path("b/metrics.json").read_text()) == {"split": "none"}


@pytest.fixture
def judge(monkeypatch):
    """judge(0.2, 0.5): in the next run the first evaluation says .2, and all that follow .5."""
    from visionkit.engine import run as module

    evaluated = module.scored

    def plan(*values):
        said = iter(values)

        def judged(*args, **more):
            result, value = evaluated(*args, **more), next(said, values[-1])
            result.numbers = {"classification/top1": value}
            result.reasons = {"classification/top1": "no image"} if math.isnan(value) else {}
            return result

        monkeypatch.setattr(module, "scored", judged)

    return plan


def test_best_is_the_first_of_the_highest(train, runs, judge):
    """Of the values .2, nan, .5, .5, .3 the first .5; test is scored with its EMA weights."""
    judge(0.2, float("nan"), 0.5, 0.5, 0.3, 0.9)
    typed = (*CLASSIFY, "run_dir=a", "engine.epochs=5")
    assert train(*typed) == 0
    assert Path("a/checkpoints/best").resolve().name == "step-21"
    assert {path.name for path in Path("a/checkpoints").glob("step-*")} == {"step-21", "step-33", "step-35"}
    state = open_checkpoint("a", "last").state
    assert (state["best"], state["best_step"], state["epoch"]) == (0.5, 21, 5)
    assert json.loads(Path("a/metrics.json").read_text())["classification/top1"] == 0.9


def test_without_any_number_the_last_is_the_best(train, runs, judge):
    judge(float("nan"))
    assert train(*CLASSIFY, "run_dir=a") == 0
    assert Path("a/checkpoints/best").resolve().name == "step-14"
    assert json.loads(Path("a/metrics.json").read_text())["classification/top1"] is None


def test_a_fault_after_the_first_step_is_a_failure_of_the_run(train, runs, before_step, capsys):
    from visionkit.errors import DataError

    def broken(trainer):
        raise DataError("a.jpg: not readable; restore it")

    before_step(2, broken)
    assert train(*CLASSIFY, "run_dir=a") == 1
    assert "a.jpg: not readable; restore it" in capsys.readouterr().err
    assert status(Path("a")) == "failed"
    before_step(1, broken)
    assert train(*CLASSIFY, "run_dir=b") == 2


def test_a_full_disk_is_said_and_leaves_the_checkpoints_before(train, runs, monkeypatch, capsys):
    """Neither the weights nor status.json can be written; the reason told is the first one."""
    import errno

    from visionkit.engine import checkpoint
    from visionkit.engine import run as module

    save, write = checkpoint._pickled, module.write_status

    def full(*args, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    def saved(values):
        if values["ema_updates"] < 6:
            return save(values)
        monkeypatch.setattr(module, "write_status", full)
        return full()

    monkeypatch.setattr(checkpoint, "_pickled", saved)
    assert train(*CLASSIFY, "run_dir=a") == 1
    said = "a/checkpoints/step-6: not written (No space left on device); free space or give another run_dir"
    assert said in capsys.readouterr().err
    monkeypatch.setattr(module, "write_status", write)
    assert [path.name for path in sorted(Path("a/checkpoints").iterdir())] == ["best", "last", "step-3"]
    open_checkpoint("a", "last")


# ------------------------------------------------------------------------------------------------------ what is written
def test_what_a_run_writes(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "config.yaml", "data.json", "env.json", "status.json", "train.log", "metrics.jsonl",
        "timing.jsonl", "metrics.json", "checkpoints", "predictions.json", "plots", "report.html",
    }  # fmt: skip
    assert json.loads((finished / "status.json").read_text()) == {"status": "finished", "step": 14}
    numbers = json.loads((finished / "metrics.json").read_text())
    assert numbers["split"] == "test"
    for name in ("detection/AP_medium", "detection/AP_large"):
        assert (numbers[name] is None) == (name in numbers["reasons"])


def test_metrics_jsonl_is_the_same_for_equal_runs_wherever_and_however_fast(train, runs, finished):
    """No times, rates, paths or host names; nor does it matter who loads the images."""
    assert train("run_dir=elsewhere", "data.workers=2") == 0
    assert (runs / "elsewhere" / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    steps = [line for line in lines(finished) if "epoch" not in line]
    losses = {"detection/classification", "detection/box", "detection/distribution", "total"}
    assert all(set(line) == {"step", "lr", *losses} for line in steps)
    assert [line["step"] for line in steps] == [2, 4, 6, 7, 8, 10, 12, 14]
    timing = [json.loads(line) for line in (finished / "timing.jsonl").read_text().splitlines()]
    keys = {"step", "epoch", "seconds", "images_per_second", "waiting", "elapsed"}
    assert [set(line) for line in timing] == [keys, keys]


def test_a_run_that_learned_nothing_says_so(train, runs, finished, judge):
    warning = "this run learned nothing ({} under 0.02)"
    assert warning.format("detection/AP") in (finished / "train.log").read_text()
    for value, said in ((0.0199, True), (0.02, False), (float("nan"), False)):
        judge(value)
        assert train("task=classify", f"run_dir={value}", "engine.max_steps=1") == 0
        log = (runs / str(value) / "train.log").read_text()
        assert (warning.format("classification/top1") in log) == said


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(train, runs, precision):
    assert train(*DETECT, "run_dir=a", f"engine.precision={precision}", "engine.max_steps=3") == 0
    weights = load_file("a/checkpoints/last/model.safetensors")
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights.values())
    assert "in float16" in Path("a/train.log").read_text() or precision == "bf16"


def test_the_memory_format_changes_speed_alone(train, runs):
    """The first loss is that of equal weights; later ones part, since AdamW's first steps turn rounding into signs."""
    typed = (*DETECT, "engine.log_steps=1", "engine.max_steps=1")
    for name in ("true", "false"):
        assert train(*typed, f"run_dir={name}", f"engine.channels_last={name}") == 0
    one, other = (lines(Path(name))[0] for name in ("true", "false"))
    assert {key: pytest.approx(value, rel=1e-4) for key, value in one.items()} == other


def test_debug_images_takes_the_first_of_each_split(train, runs):
    assert train(*CLASSIFY, "run_dir=a", "debug.images=4", "data.batch_size=16") == 0  # fewer than a batch
    assert "4 training images, 4 val, 4 test" in Path("a/train.log").read_text()
    assert [row["image_id"] for row in json.loads(Path("a/predictions.json").read_text())] == [1, 2, 3, 4]
    assert lines(Path("a"))[-1]["step"] == 2


def test_the_log_is_closed_with_the_run(train, runs):
    import logging

    assert train(*CLASSIFY, "run_dir=a", "engine.max_steps=1") == 0
    logger = logging.getLogger("visionkit")
    assert logger.handlers == []
    assert logger.propagate


def test_an_evaluations_settings_name_the_data_that_were_judged(finished, tmp_path):
    folder = tmp_path / "judged"
    assert cli.main(["evaluate", f"checkpoint={finished}", "data.seed=9", f"run_dir={folder}", "device=cpu"]) == 0
    assert OmegaConf.load(folder / "config.yaml").data.seed == 9
    assert OmegaConf.load(finished / "config.yaml").data.seed == 0
