from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from visionkit.cli import run_tool
from visionkit.engine import training_run
from visionkit.engine.patience import Patience
from visionkit.errors import ConfigError


def after(*values: float, evaluations: int | None = 2, least: float = 0.0) -> list[bool]:
    patience = Patience(evaluations, "a/b", least, ["a/b"])
    said = []
    for value in values:
        patience.see({"a/b": value})
        said.append(patience.spent)
    return said


def test_evaluations_without_a_higher_number_are_counted():
    assert after(0.1, 0.2, 0.2, 0.1) == [False, False, False, True]
    assert after(0.1, 0.1, 0.2, 0.1, 0.15) == [False, False, False, False, True]
    assert after(0.1, 0.105, 0.11, least=0.05) == [False, False, True]
    assert after(math.nan, math.nan) == [False, True]
    assert after(0.3, 0.2, 0.1, evaluations=None) == [False, False, False]


def test_state_goes_round():
    one, other = (Patience(3, "a/b", 0.0, ["a/b"]) for _ in range(2))
    for value in (0.2, 0.1):
        one.see({"a/b": value})
    other.load_state(json.loads(json.dumps(one.state())))
    assert (other.best, other.without) == (0.2, 1)
    other.load_state(None)
    assert (other.best, other.without) == (-math.inf, 0)


def test_a_number_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"engine\.stop_on=a/c: no such number"):
        Patience(3, "a/c", 0.0, ["a/b"])


TINY = ("task=classify", "debug=tiny", "debug.images=6", "device=cpu", "engine.max_steps=null", "engine.epochs=9",
        "engine.train_slice=0", "data.batch_size=3")  # fmt: skip


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """judge({epoch: value}): what an evaluation says, by how many there were before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache"))
    scored = training_run.scored

    def plan(values):
        seen = []

        def judged(*args, **more):
            result = scored(*args, **more)
            seen.append(1)
            result.numbers["classification/top1"] = values[min(len(seen), len(values)) - 1]
            return result

        monkeypatch.setattr(training_run, "scored", judged)

    return plan


def test_a_run_ends_early_with_its_best_and_is_finished(judge, capsys):
    """Of .1 .5 .4 .3 … with a patience of two, four epochs are trained, and the second is scored at the end."""
    judge([0.1, 0.5, 0.4, 0.3, 0.9])
    assert run_tool("train", [*TINY, "run_dir=a", "engine.patience=2"]) == 0
    assert json.loads(Path("a/status.json").read_text()) == {"status": "finished", "step": 8}
    assert Path("a/checkpoints/best").resolve().name == "step-4"
    assert Path("a/checkpoints/last").resolve().name == "step-8"
    assert "classification/top1 has not risen for 2 evaluations: the run ends here" in Path("a/train.log").read_text()


def test_a_resumed_run_has_the_patience_that_is_left(judge):
    judge([0.5, 0.4, 0.4, 0.4])
    typed = [*TINY, "run_dir=a", "engine.patience=3", "engine.save_steps=1"]
    assert run_tool("train", [*typed, "debug.fault=nan@step6"]) == 1  # two evaluations are behind it
    judge([0.4, 0.4, 0.4])
    assert run_tool("train", [*typed, "resume=auto"]) == 0
    assert json.loads(Path("a/status.json").read_text())["step"] == 8


def test_without_val_there_is_nothing_to_wait_for(judge, capsys):
    typed = [*TINY, "run_dir=a", "engine.patience=2", "data.splits={train: train, val: null, test: null}"]
    assert run_tool("train", typed) == 2
    assert "engine.patience: nothing is evaluated without data.splits.val" in capsys.readouterr().err
