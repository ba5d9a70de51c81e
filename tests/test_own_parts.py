"""Parts of the user's own in a run: what stood there goes with its arguments, and names that are wrong are told."""

from __future__ import annotations

import json
import sys

import pytest

from visionkit import cli
from visionkit.build import build_metrics, build_model
from visionkit.config import compose
from visionkit.errors import CheckpointError, ConfigError

PART = """
class Part:
    headline = "found"
    reasons = {}
    def __init__(self, classes, score: float = 0.5):
        self.classes, self.score, self.seen = classes, score, {}
    def update(self, image_id, prediction, truth):
        self.seen[image_id] = int((prediction.scores >= self.score).sum())
    def state(self):
        return dict(self.seen)
    def merge(self, states):
        for state in states:
            self.seen.update(state)
    def compute(self):
        return {"found": float(sum(self.seen.values())), "classes": float(len(self.classes))}

class NoMetric:
    def __init__(self, classes):
        pass
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "myownparts.py").write_text(PART)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "myownparts"
    sys.modules.pop("myownparts", None)


def test_another_target_takes_the_place_without_the_arguments_of_the_former(mine):
    cfg = compose("train", [f"model.backbone._target_={mine}.Part", "model.backbone.classes=[a]"])
    assert dict(cfg.model.backbone) == {"_target_": f"{mine}.Part", "classes": ["a"]}


def test_as_a_mapping_it_is_the_same(mine):
    cfg = compose("train", [f"model.backbone={{_target_: {mine}.Part, classes: [a]}}"])
    assert dict(cfg.model.backbone) == {"_target_": f"{mine}.Part", "classes": ["a"]}


def test_the_same_target_keeps_its_arguments():
    usual = compose("train", [])
    typed = compose("train", [f"model.backbone._target_={usual.model.backbone._target_}"])
    assert typed.model.backbone == usual.model.backbone


@pytest.mark.parametrize("place", ["head.detection", "model.neck", "data.reader", "head.another"])
def test_parts_that_are_made_in_two_steps_are_marked_so(mine, place):
    heads = ["heads=[detection,another]"] if place == "head.another" else []
    cfg = compose("train", [*heads, f"{place}._target_={mine}.Part"])
    group, name = place.split(".")
    assert cfg[group][name] == {"_partial_": True, "_target_": f"{mine}.Part"}


def test_a_neck_where_there_was_none(mine):
    cfg = compose("train", ["task=detect", "neck=none", f"model.neck._target_={mine}.Part"])
    assert cfg.model.neck._partial_ is True


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("model.backbone._target_=myownparts.Prat", "has no 'Prat' (did you mean 'Part'?)"),
        ("model.backbone._target_=nowhere.Part", "there is no module 'nowhere'"),
    ],
)
def test_a_name_that_is_wrong_is_told(mine, typed, told):
    with pytest.raises(ConfigError) as caught:
        compose("train", [typed])
    assert told in str(caught.value)


def test_an_argument_that_is_wrong_is_told(mine):
    with pytest.raises(ConfigError, match="has no argument 'scroe'"):
        compose("train", [f"head.detection._target_={mine}.Part", "head.detection.scroe=0.1"])


def test_a_metric_of_ones_own_judges_a_run_and_its_checkpoint(train, mine, runs, capsys):
    own = f"metric.detection._target_={mine}.Part"
    assert train("task=detect", own, "metric.detection.score=0.0", "run_dir=a", "data.reader.count.test=5") == 0
    numbers = json.loads((runs / "a" / "metrics.json").read_text())
    assert numbers["detection/classes"] == 10
    assert numbers["detection/found"] > 5
    assert "detection/AP" not in numbers
    assert cli.main(["evaluate", "checkpoint=a", "device=cpu", "run_dir=refused"]) == 2
    assert "allow=['myownparts']" in capsys.readouterr().err
    for typed in ([f"allow=[{mine}]"], [own, "metric.detection.score=0.0"]):
        assert cli.main(["evaluate", "checkpoint=a", "device=cpu", f"run_dir=b{len(typed)}", *typed]) == 0
        again = json.loads((runs / f"b{len(typed)}" / "metrics.json").read_text())
        assert again["detection/found"] == numbers["detection/found"]


def test_a_backbone_that_takes_no_weights_says_so(mine):
    with pytest.raises(ConfigError, match=r"weights=a.pth: Part has no argument 'weights'"):
        build_model(
            {"backbone": {"_target_": f"{mine}.Part", "classes": ["a"]}, "heads": {}}, weights="a.pth", allow=None
        )


def test_what_is_no_metric_is_refused(finished, mine):
    from visionkit import load

    model = load(finished, "cpu").model
    with pytest.raises(
        ConfigError, match=r"metric.detection=myownparts.NoMetric: this is no metric, it lacks headline"
    ):
        build_metrics(model, own={"detection": {"_target_": f"{mine}.NoMetric"}})
    with pytest.raises(ConfigError, match=r"metric.detecton: .*did you mean 'detection'"):
        build_metrics(model, own={"detecton": {"_target_": f"{mine}.Part"}})
    with pytest.raises(CheckpointError, match="allow="):
        build_metrics(model, own={"detection": {"_target_": f"{mine}.Part"}}, allow=())
