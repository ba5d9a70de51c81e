from __future__ import annotations

import pytest
import torch
from torch import nn

from visionkit.inspection.table import MOST_LAYERS, readable_bytes, rows, text_table, total
from visionkit.inspection.trace import trace_model


@pytest.fixture(scope="module")
def whole(model):
    return trace_model(model, (64, 64))


def names(found):
    return [row.name for row in found]


def test_depth_1_is_backbone_neck_and_heads(whole, model):
    assert names(rows(whole, 1)) == ["backbone", "neck", *(f"heads.{name}" for name in model.heads), "training only"]


def test_depth_2_is_the_stages_and_default_of_a_deep_network(whole):
    found = rows(whole)
    assert names(found)[:5] == ["backbone.stem", *(f"backbone.stages.c{k}" for k in (2, 3, 4, 5))]
    assert found == rows(whole, 2)
    assert len(rows(whole, 99)) > MOST_LAYERS


@pytest.mark.parametrize("depth", [1, 2, 3, 99])
def test_rows_of_every_depth_add_up_to_the_total(whole, depth):
    sums, found = total(whole), rows(whole, depth)
    for key in ("parameters", "macs", "memory"):
        assert sum(getattr(row, key) for row in found) == getattr(sums, key) > 0


def test_layers_are_told_one_by_one_where_they_are_few():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.ReLU()), nn.Flatten(), nn.Linear(144, 2))
    found = rows(trace_model(net, (8, 8)))
    assert [row.kind for row in found] == ["Conv2d", "ReLU", "Flatten", "Linear"]


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x + 1)


def test_a_module_around_a_single_one_is_no_step():
    inner = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))
    whole = trace_model(nn.Sequential(Around(inner)), (8, 8))
    assert names(rows(whole, 1)) == ["0"]
    assert names(rows(whole, 2)) == ["0", "0.inner.0", "0.inner.1"]
    assert rows(whole, 2)[0].kind == "add"


class Scaled(nn.Module):
    def forward(self, x, scale):
        return x * scale


class HandingOn(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.parts = nn.ModuleList([Scaled(), Scaled()])

    def forward(self, x):
        return self.parts[1](self.parts[0](x, self.scale), self.scale)


def test_a_parameter_that_is_only_handed_on_has_a_row():
    found = rows(trace_model(nn.Sequential(HandingOn()), (4, 4)))
    assert [(row.name, row.parameters) for row in found] == [("0", 3), ("0.parts.0", 0), ("0.parts.1", 0)]


def test_the_text():
    net = nn.Sequential(nn.Conv2d(3, 400, 3, stride=(1, 2)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(400, 2))
    whole = trace_model(net, (16, 16))
    assert text_table(rows(whole), total(whole)).splitlines() == [
        "layer  kind                output size  stride  receptive field  parameters       MACs  activation memory",
        "---------------------------------------------------------------------------------------------------------",
        "0      Conv2d             400 × 14 × 7   1 × 2                3      11,200  1,058,400          153.1 KiB",
        "1      AdaptiveAvgPool2d   400 × 1 × 1       –              all           0          0            1.6 KiB",
        "2      Flatten                     400       –              all           0          0                0 B",
        "3      Linear                        2       –              all         802        800                8 B",
        "---------------------------------------------------------------------------------------------------------",
        "total                                                                12,002  1,059,200          154.7 KiB",
    ]


def test_bytes_in_words():
    assert [readable_bytes(count) for count in (0, 1023, 1024, 3 << 19, 5 << 29)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 MiB", "2.50 GiB"
    ]  # fmt: skip
