"""The number that chooses the best checkpoint."""

from __future__ import annotations

import math

import pytest

from visionkit.engine.select import Selector
from visionkit.errors import ConfigError


class Metric:
    def __init__(self, headline, *others):
        self.headline = headline
        self.names = (headline, *others)

    def compute(self):
        return dict.fromkeys(self.names, math.nan)


METRICS = {"detection": Metric("AP", "AP50"), "semantic": Metric("mIoU")}


def test_of_one_head_its_own_number_chooses():
    selector = Selector("mean", {"detection": METRICS["detection"]}, {})
    assert selector.name == "detection/AP"
    assert selector.added({"detection/AP": 0.5}) == {"detection/AP": 0.5}


def test_of_several_heads_the_mean_over_the_references_chooses():
    selector = Selector("mean", METRICS, {"semantic/mIoU": 0.8})
    assert selector.name == "multitask/mean"
    added = selector.added({"detection/AP": 0.3, "detection/AP50": 0.9, "semantic/mIoU": 0.4})
    assert added["multitask/mean"] == pytest.approx((0.3 + 0.4 / 0.8) / 2)
    assert added["detection/AP50"] == 0.9


def test_a_number_that_cannot_be_has_no_part_in_the_mean():
    selector = Selector("mean", METRICS, {})
    assert selector.added({"detection/AP": math.nan, "semantic/mIoU": 0.4})["multitask/mean"] == 0.4
    assert math.isnan(selector.added({"detection/AP": math.nan, "semantic/mIoU": math.nan})["multitask/mean"])


def test_one_number_may_decide_alone():
    selector = Selector("detection/AP50", METRICS, {})
    assert selector.name == "detection/AP50"
    assert selector.added({"detection/AP50": 0.1}) == {"detection/AP50": 0.1}


@pytest.mark.parametrize(
    ("select", "references", "said"),
    [
        ("detection/AP5", {}, "engine.select=detection/AP5: no such number.*detection/AP50"),
        ("mean", {"semantic/miou": 1.0}, "engine.references.semantic/miou: no main number.*semantic/mIoU"),
        ("mean", {"semantic/mIoU": 0.0}, "a number above 0"),
    ],
)
def test_names_that_no_metric_has_are_refused(select, references, said):
    with pytest.raises(ConfigError, match=said):
        Selector(select, METRICS, references)
