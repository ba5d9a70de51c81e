"""A network as a list of layers: sizes worked by hand, and every list that cannot be."""

from __future__ import annotations

import pytest

from visionkit.backbones.plain_layers import Conv, Dense, Pool, follow, level_specs, stages
from visionkit.errors import ConfigError
from visionkit.structures import FeatureSpec

TAUGHT = [
    {"conv": {"filters": 8, "kernel": 5, "stride": 1, "padding": "valid", "activation": "relu"}},
    {"pool": {"kind": "max", "size": 2, "stride": 2}},
    {"conv": {"filters": 16, "kernel": 3, "padding": "same", "activation": "sigmoid"}},
    "batchnorm",
    {"pool": {"kind": "average", "size": 3}},
    {"dropout": 0.5},
    "flatten",
    {"dense": {"units": 10, "activation": "tanh"}},
    "dense",
    "softmax",
]


def test_sizes_by_hand():
    steps = follow(TAUGHT, (28, 36, 3), classes=4)
    assert [step.after for step in steps] == [
        (24, 32, 8),  # 28 − 5 + 1 and 36 − 5 + 1
        (12, 16, 8),
        (12, 16, 16),
        (12, 16, 16),
        (4, 5, 16),  # 16 / 3 is 5 and a remainder, which is dropped
        (4, 5, 16),
        (320,),
        (10,),
        (4,),
        (4,),
    ]
    assert [step.before for step in steps[1:]] == [step.after for step in steps[:-1]]
    assert [step.number for step in steps] == list(range(1, 11))
    assert [step.kind for step in steps] == [
        "conv", "pool", "conv", "batchnorm", "pool", "dropout", "flatten", "dense", "dense", "softmax",
    ]  # fmt: skip
    assert [step.stride for step in steps] == [1, 2, 2, 2, 6, 6, 6, 6, 6, 6]


@pytest.mark.parametrize(
    ("layer", "side", "cells"),
    [
        ({"conv": {"filters": 1, "kernel": 3, "stride": 2, "padding": "same"}}, 7, 4),
        ({"conv": {"filters": 1, "kernel": 4, "stride": 3, "padding": "same"}}, 8, 3),
        ({"conv": {"filters": 1, "kernel": 3, "stride": 2, "padding": "valid"}}, 7, 3),
        ({"conv": {"filters": 1, "kernel": 3, "stride": 2, "padding": "valid"}}, 8, 3),
        ({"conv": {"filters": 1, "kernel": 3, "stride": 2, "padding": 1}}, 8, 4),
        ({"conv": {"filters": 1, "kernel": 3, "padding": 2}}, 8, 10),
        ({"conv": {"filters": 1, "kernel": 3, "padding": "same"}}, 2, 2),
        ({"pool": {"size": 2}}, 7, 3),
        ({"pool": {"size": 2, "padding": "same"}}, 7, 4),
        ({"pool": {"size": 3, "stride": 2}}, 8, 3),
        ({"pool": {"size": 3, "stride": 1}}, 8, 6),
    ],
)
def test_cells_of_a_side_by_hand(layer, side, cells):
    assert follow([layer], (side, side + 9, 1))[-1].after[0] == cells


def test_what_is_left_out_and_short_forms():
    steps = follow(
        [{"conv": 8}, "pool", {"pool": "average"}, {"conv": {"filters": 1, "activation": None}}], (64, 64, 3)
    )
    assert [step.layer for step in steps] == [
        Conv(8, kernel=3, stride=1, padding="same", activation="none"),
        Pool("max", size=2, stride=None, padding="valid"),
        Pool("average"),
        Conv(1),
    ]
    ended = follow([{"conv": 8}, "flatten", {"dense": 7}, {"dense": {"units": "classes"}}, "softmax"], (8, 8, 3))
    assert ended[-2].layer == Dense("classes")
    assert ended[-2].after == (0,)  # not known yet


def test_one_level_a_stride_and_names_that_necks_can_trust():
    names = {
        name: spec for name, spec in level_specs(follow(["pool", {"conv": 4}, "pool", "pool"], (64, 96, 3))).items()
    }
    assert names == {"c1": FeatureSpec(4, 2), "c2": FeatureSpec(4, 4), "c3": FeatureSpec(4, 8)}
    mine = stages(follow([{"conv": 4}, "batchnorm", "pool", {"conv": 8}, {"dropout": 0.1}, "pool"], (8, 8, 3)))
    assert {name: [step.number for step in steps] for name, steps in mine.items()} == {
        "c0": [1, 2], "c1": [3, 4, 5], "c2": [6],
    }  # fmt: skip
    # A stride of 3, and cells lost at the edges: no level that a pyramid could use.
    odd = level_specs(follow([{"conv": 4}, {"pool": {"size": 3}}, {"pool": {"size": 2}}], (60, 60, 3)))
    assert list(odd) == ["c0", "map3", "map6"]
    unpadded = [{"conv": {"filters": 4, "padding": "valid"}}, "pool", {"conv": {"filters": 4}}]
    assert list(level_specs(follow(unpadded, (64, 64, 3)))) == ["map1", "map2"]
    remainder = ["pool", "pool"]
    assert list(level_specs(follow(remainder, (64, 64, 3)))) == ["c1", "c2"]
    assert list(level_specs(follow(remainder, (64, 66, 3)))) == ["c1", "map4"]


def test_from_flatten_on_with_the_lists_own_numbers():
    steps = follow(TAUGHT, (4, 5, 16), start="flatten", classes=3)
    assert [(step.number, step.after) for step in steps] == [(7, (320,)), (8, (10,)), (9, (3,)), (10, (3,))]


CONV = {"conv": {"filters": 8}}
END = ["flatten", "dense", "softmax"]
IMPOSSIBLE = [
    (
        [CONV, "pool", "pool", "pool", {"conv": {"filters": 4, "kernel": 5, "padding": "valid"}}, *END],
        "layer 5 (conv), input 4x4x8: its kernel of 5 is larger than its map of 4x4; give kernel 4 or less, leave "
        "out a pool or stride before it, or raise image_size",
    ),
    (
        [{"conv": {"filters": 4, "kernel": 33, "padding": "same"}}, *END],
        "layer 1 (conv), input 32x32x3: its kernel of 33 is larger than its map of 32x32; give kernel 32 or less, "
        "leave out a pool or stride before it, or raise image_size",
    ),
    (
        [CONV, {"pool": {"size": 16}}, {"conv": {"filters": 4, "padding": "valid"}}, *END],
        "layer 3 (conv), input 2x2x8: its kernel of 3 is larger than its map of 2x2; give kernel 2 or less, leave "
        "out a pool or stride before it, or raise image_size",
    ),
    (
        [CONV, "pool", "pool", {"pool": {"size": 9}}, *END],
        "layer 4 (pool), input 8x8x8: its size of 9 is larger than its map of 8x8; give size 8 or less, leave out a"
        " pool or stride before it, or raise image_size",
    ),
    (
        [CONV, "flatten", CONV, "dense", "softmax"],
        "layer 3 (conv), input 8192 values: it wants a map, and flatten (layer 2) stands before it; move flatten "
        "behind the last conv and pool",
    ),
    (
        ["flatten", CONV, "dense", "softmax"],
        "layer 1 (flatten), input 32x32x3: no conv stands before it; put at least one there",
    ),
    (
        [CONV, "dense", "softmax"],
        "layer 2 (dense), input 32x32x8: it wants values, not a map; put flatten before it",
    ),
    (
        [CONV, "softmax"],
        "layer 2 (softmax), input 32x32x8: it wants values, not a map; put flatten before it",
    ),
    (
        [CONV, "flatten", {"dense": 8}, *END],
        "layer 4 (flatten), input 8 values: flatten is layer 2 already; leave one of them out",
    ),
    (
        [CONV, "flatten", {"dense": 9}, "softmax"],
        "layer 3 (dense), input 8192 values: its 9 units cannot be the scores of 10 classes; leave units out of the"
        " last dense layer, or give 10",
    ),
    (
        [CONV, "flatten", {"dense": {"activation": "sigmoid"}}, "softmax"],
        "layer 3 (dense), input 8192 values: sigmoid under a softmax cross-entropy; leave its activation out; or "
        "leave softmax out and use activation: sigmoid with loss=binary_cross_entropy",
    ),
    (
        [CONV, "flatten", "dense", "dense", "softmax"],
        "layer 3 (dense), input 8192 values: its units are missing, and only the last dense layer has one a class; "
        "write dense: {units: 128}",
    ),
    (
        [CONV, "flatten", "dense", "softmax", {"dropout": 0.1}],
        "layer 4 (softmax), input 10 values: layer 5 (dropout) stands behind it; softmax must be the last, leave "
        "out the rest",
    ),
    (
        [CONV, "flatten", "dense", {"dropout": 0.1}, "softmax"],
        "layer 5 (softmax), input 10 values: it wants the logits of a dense layer before it, not dropout; write "
        "dense, then softmax",
    ),
    (
        [CONV, "flatten"],
        "layer 2 (flatten), input 32x32x8: the list ends here without class scores; end in dense, softmax (one "
        "class an image) or in dense: {activation: sigmoid} (several)",
    ),
    (
        [CONV, "flatten", {"dense": {"activation": "relu"}}],
        "layer 3 (dense), input 8192 values: the list ends here without class scores; end in dense, softmax (one "
        "class an image) or in dense: {activation: sigmoid} (several)",
    ),
]


@pytest.mark.parametrize(("layers", "said"), IMPOSSIBLE)
def test_an_impossible_list_is_refused_with_the_layer_its_input_and_the_mend(layers, said):
    with pytest.raises(ConfigError) as caught:
        follow(layers, (32, 32, 3), classes=10)
    assert str(caught.value) == f"model.backbone.layers, {said}"


MISWRITTEN = [
    (
        [CONV, "pol"],
        "layer 2 (pol): there is no such layer (did you mean 'pool'?); known: conv, pool, batchnorm, dropout, "
        "flatten, dense, softmax",
    ),
    (
        [CONV, 3],
        "layer 2 (3): there is no such layer; known: conv, pool, batchnorm, dropout, flatten, dense, softmax",
    ),
    (
        [{"conv": 8, "pool": 2}],
        "layer 1 (conv, pool): one name is wanted, not 2; a line of its own for each layer; arguments stand in "
        "braces, as in conv: {filters: 32}",
    ),
    (
        [{"conv": {"filter": 8}}],
        "layer 1 (conv), input 32x32x3: there is no argument 'filter' (did you mean 'filters'?); it has filters, "
        "kernel, stride, padding, activation",
    ),
    (
        ["conv"],
        "layer 1 (conv), input 32x32x3: filters is missing; write conv: {filters: 32}",
    ),
    (
        [CONV, "dropout"],
        "layer 2 (dropout), input 32x32x8: share is missing; write dropout: {share: 0.5}",
    ),
    (
        [CONV, {"flatten": 3}],
        "layer 2 (flatten), input 32x32x8: it takes no argument, not 3; write flatten alone",
    ),
    (
        [CONV, {"flatten": {"a": 3}}],
        "layer 2 (flatten), input 32x32x8: there is no argument 'a'; it has none; write flatten alone",
    ),
    (
        [{"conv": {"filters": 0}}],
        "layer 1 (conv), input 32x32x3: filters 0: a whole number, 1 or more, is wanted",
    ),
    (
        [{"conv": {"filters": 8, "kernel": 2.5}}],
        "layer 1 (conv), input 32x32x3: kernel 2.5: a whole number, 1 or more, is wanted",
    ),
    (
        [{"conv": {"filters": 8, "stride": None}}],
        "layer 1 (conv), input 32x32x3: stride null: a whole number, 1 or more, is wanted",
    ),
    (
        [{"conv": {"filters": 8, "padding": "sane"}}],
        "layer 1 (conv), input 32x32x3: padding sane is none of same, valid, or a whole number (did you mean 'same'?)",
    ),
    (
        [{"conv": {"filters": 8, "padding": -1}}],
        "layer 1 (conv), input 32x32x3: padding -1: a whole number, 0 or more, is wanted",
    ),
    (
        [{"conv": {"filters": 8, "activation": "rely"}}],
        "layer 1 (conv), input 32x32x3: activation rely is none of none, relu, sigmoid, tanh (did you mean 'relu'?)",
    ),
    (
        [{"pool": "mean"}],
        "layer 1 (pool), input 32x32x3: kind mean is none of max, average",
    ),
    (
        [{"pool": {"padding": 1}}],
        "layer 1 (pool), input 32x32x3: padding 1 is none of same, valid",
    ),
    (
        [CONV, {"dropout": 1}],
        "layer 2 (dropout), input 32x32x8: share 1: a share from 0 to below 1 is wanted",
    ),
    (
        [CONV, "flatten", {"dense": "many"}],
        "layer 3 (dense), input 8192 values: units many: a whole number, 1 or more, is wanted",
    ),
]


@pytest.mark.parametrize(("layers", "said"), MISWRITTEN)
def test_what_is_miswritten_is_one_clear_line(layers, said):
    with pytest.raises(ConfigError) as caught:
        follow(layers, (32, 32, 3), classes=10)
    assert str(caught.value) == f"model.backbone.layers, {said}"


@pytest.mark.parametrize("layers", [[], "conv", None, {"conv": 8}])
def test_no_list_is_refused(layers):
    with pytest.raises(ConfigError, match=r"model\.backbone\.layers: a list of layers such as \[conv: "):
        follow(layers, (32, 32, 3))


def test_a_list_without_a_classifier_has_no_head():
    with pytest.raises(ConfigError, match="there is no flatten in it; add flatten, dense and softmax"):
        follow([CONV, "pool"], (16, 16, 8), start="flatten", classes=3)
