from __future__ import annotations

import json
import math
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
    line, _mend = capsys.readouterr().err.splitlines()
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
    from visionkit.engine import training_run as module

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
    typed = (*CLASSIFY, "run_dir=a", "engine.train_slice=0", "engine.epochs=5")
    assert train(*typed) == 0
    assert Path("a/checkpoints/best").resolve().name == "step-21"
    assert {path.name for path in Path("a/checkpoints").glob("step-*")} == {"step-21", "step-33", "step-35"}
    state = open_checkpoint("a", "last").state
    assert (state["best"], state["best_step"], state["epoch"]) == (0.5, 21, 5)
    assert json.loads(Path("a/metrics.json").read_text())["classification/top1"] == 0.9


def test_without_any_number_the_last_is_the_best(train, runs, judge):
    judge(float("nan"))
    assert train(*CLASSIFY, "run_dir=a", "engine.train_slice=0") == 0
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

    from visionkit.engine import checkpoint_saving as checkpoint
    from visionkit.engine import training_run as module

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
    keys = {"step", "epoch", "seconds", "images_per_second", "waiting", "elapsed", "memory"}
    assert [set(line) for line in timing] == [keys, keys]


def test_a_run_that_learned_nothing_says_so(train, runs, finished, judge):
    warning = "this run learned nothing ({} no better than a guess)"
    assert warning.format("detection/AP") in (finished / "train.log").read_text()
    for value, said in ((0.149, True), (0.151, False), (float("nan"), False)):  # one and a half times one in ten
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
