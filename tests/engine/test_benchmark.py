from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from visionkit import cli
from visionkit.acceleration import accelerated
from visionkit.engine import benchmark
from visionkit.engine.checkpoint import open_checkpoint

TINY = ("debug=tiny", "device=cpu", "data.batch_size=2", "data.reader.count={train: 4, val: 2, test: 2}")


@pytest.fixture
def timed(runs, monkeypatch):
    """Run the tool on tiny models, with clocks that hardly look."""
    for name, value in (("_WARM_UP", 1), ("_ROUNDS", 3), ("_SECONDS", 0.03)):
        monkeypatch.setattr(benchmark, name, value)
    return lambda *typed: cli.main(["benchmark", *TINY, *typed])


def test_heads_together_are_timed_beside_a_model_for_each(timed, capsys):
    assert timed("task=multitask", "heads=[classification,detection]", "run_dir=out", "engine.precision=fp32") == 0
    told = json.loads(Path("out/benchmark.json").read_text())
    assert (told["batch_size"], told["device"], told["dtype"]) == (2, "cpu", "torch.float32")
    assert [row["model"] for row in told["rows"]] == ["classification+detection", "classification", "detection"]
    together, one, other = told["rows"]
    assert set(together) == {"model", "parameters", "network_ms", "predict_ms"}
    assert (
        max(one["parameters"], other["parameters"]) < together["parameters"] < one["parameters"] + other["parameters"]
    )
    for kind in ("network", "predict"):
        times = [row[f"{kind}_ms"] for row in told["rows"]]
        assert min(times) > 0
        share = told["together_to_separate"][kind]
        assert share == pytest.approx(times[0] / (times[1] + times[2]), rel=0.01)
        assert 0 < share < 2
    shown = capsys.readouterr().out
    assert "2 images of 64 x 64 on cpu, float32, as trained\n" in shown
    assert f"network {told['together_to_separate']['network']:.2f}" in shown


def test_a_single_head_has_nothing_beside_it(timed, runs):
    assert timed("task=classify") == 0
    assert [path.name for path in runs.iterdir()] == []
    assert timed("task=classify", "run_dir=out") == 0
    told = json.loads(Path("out/benchmark.json").read_text())
    assert [row["model"] for row in told["rows"]] == ["classification"]
    assert told["together_to_separate"] == {"network": None, "predict": None}


def test_models_in_half_precision_are_those_that_load_gives(timed, monkeypatch, capsys):
    made, predicted = [], []

    def spied(model, precision):
        faster = accelerated(model, precision)
        predict = faster.predict
        faster.predict = lambda *given: predicted.append(faster) or predict(*given)
        made.append((precision, next(faster.backbone.parameters()).dtype))
        return faster

    monkeypatch.setattr(benchmark, "accelerated", spied)
    assert timed("task=classify", "engine.precision=bf16") == 0
    assert made == [("bf16", torch.bfloat16)]
    assert predicted
    assert "2 images of 64 x 64 on cpu, bfloat16, accelerated as by visionkit.load\n" in capsys.readouterr().out
    assert timed("task=classify", "engine.precision=fp32") == 0
    assert len(made) == 1


def test_merges_are_of_the_model_of_all_heads_alone(timed):
    assert timed("task=panoptic", "run_dir=out") == 0
    assert [row["model"] for row in json.loads(Path("out/benchmark.json").read_text())["rows"]] == [
        "semantic+instance", "semantic", "instance"
    ]  # fmt: skip


def test_a_head_alone_has_a_neck_only_where_it_reads_one():
    from visionkit.config import compose

    cfg = compose("benchmark", ["task=multitask", "heads=[classification,detection]", "data=coco", "data.root=/x"])
    assert benchmark._only(cfg, "classification").model.neck is None
    assert benchmark._only(cfg, "detection").model.neck == cfg.model.neck
    assert list(cfg.heads) == ["classification", "detection"]


def test_the_median_round_counts_and_calls_take_turns(monkeypatch):
    monkeypatch.setattr(benchmark, "_ROUNDS", 3)
    seconds = {"a": iter([1.0, 9.0, 2.0, 3.0]), "b": iter([1.0, 5.0, 4.0, 6.0])}
    order = []

    def clocked(call, times, device):
        order.append(call())
        return next(seconds[call()])

    monkeypatch.setattr(benchmark, "_clocked", clocked)
    assert benchmark._timed({"a": lambda: "a", "b": lambda: "b"}, torch.device("cpu")) == {"a": 3.0, "b": 5.0}
    assert order == ["a", "b"] * 4


def test_a_run_gives_its_weights(timed, runs, monkeypatch, capsys):
    typed = ("task=multitask", "heads=[classification,detection]")
    assert cli.main(["train", *TINY, *typed, "run_dir=run"]) == 0
    models, build = [], benchmark._model
    monkeypatch.setattr(benchmark, "_model", lambda *given: models.append(build(*given)) or models[-1])
    assert timed(*typed, "resume=run") == 0
    trained = open_checkpoint("run").weights()
    assert len(models) == 3
    for model in models:
        assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    assert timed(*typed, "resume=auto") == 2
    assert timed(*typed, "resume=run", "model.width=2.0") == 2
    told = capsys.readouterr().err
    assert "name the run whose weights are timed" in told
    assert "do not fit" in told


def test_faults_end_with_2(timed, capsys):
    assert timed("task=multitask", "heads=[detecton]") == 2
    assert "there is no head 'detecton'" in capsys.readouterr().err
