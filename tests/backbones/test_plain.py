"""The plain CNN against values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from visionkit.backbones import Plain
from visionkit.backbones.plain import SameAveragePool, SamePadding
from visionkit.errors import ConfigError

LAYERS = [
    {"conv": {"filters": 8, "kernel": 3, "activation": "relu"}},
    "pool",
    {"conv": {"filters": 16, "kernel": 5, "activation": "none"}},
    {"batchnorm": {"activation": "tanh"}},
    {"dropout": 0.5},
    {"pool": {"kind": "average", "size": 2}},
    "flatten",
    {"dense": 32},
    "softmax",
]


def only(*layers, side=32, channels=1):
    """A backbone's one map, and its layers."""
    backbone = Plain(list(layers), image_size=side, in_channels=channels)
    return backbone, lambda images: list(backbone(images).values())[-1]


def kinds(backbone, kind):
    return [module for module in backbone.modules() if isinstance(module, kind)]


def test_layers_come_in_their_order_and_end_at_flatten():
    backbone = Plain(LAYERS, image_size=(32, 48))
    names = [name for stage in backbone.stages.values() for name, _ in stage.named_children()]
    assert names == ["conv1", "pool2", "conv3", "batchnorm4", "dropout5", "pool6"]
    assert list(backbone.out_specs) == ["c0", "c1", "c2"]
    assert [tuple(level.shape) for level in backbone(torch.randn(2, 3, 32, 48)).values()] == [
        (2, 8, 32, 48), (2, 16, 16, 24), (2, 16, 8, 12),
    ]  # fmt: skip
    # 3 * 3 * 3 * 8 + 8, 5 * 5 * 8 * 16 + 16, and two a channel of the norm.
    assert sum(value.numel() for value in backbone.parameters()) == 224 + 3216 + 32


def test_it_computes_what_the_list_says():
    backbone = Plain(LAYERS, image_size=32).eval()
    (first, second), (norm,) = kinds(backbone, nn.Conv2d), kinds(backbone, nn.BatchNorm2d)
    norm.running_mean.uniform_(-1, 1)
    images = torch.randn(2, 3, 32, 32)
    x = F.max_pool2d(F.conv2d(images, first.weight, first.bias, padding=1).relu(), 2)
    x = norm(F.conv2d(x, second.weight, second.bias, padding=2)).tanh()
    assert torch.equal(backbone(images)["c2"], F.avg_pool2d(x, 2))
    assert kinds(backbone, nn.Dropout)[0].p == 0.5


def test_sigmoid_and_no_activation():
    for activation, function in (("sigmoid", torch.sigmoid), ("tanh", torch.tanh), ("none", lambda x: x)):
        backbone, last = only({"conv": {"filters": 2, "padding": "valid", "activation": activation}})
        (conv,) = kinds(backbone, nn.Conv2d)
        images = torch.randn(1, 1, 32, 32)
        assert torch.equal(last(images), function(F.conv2d(images, conv.weight, conv.bias)))


# -------------------------------------------------------------------------------------------------------- padding: same
@pytest.mark.parametrize(
    ("side", "kernel", "stride", "around"),
    [
        (5, 3, 1, (1, 1)),
        (5, 2, 1, (0, 1)),  # an even kernel: the odd pixel comes behind
        (5, 4, 1, (1, 2)),
        (5, 3, 2, (1, 1)),  # 3 cells: (3 − 1) * 2 + 3 − 5 = 2
        (6, 3, 2, (0, 1)),  # 3 cells: (3 − 1) * 2 + 3 − 6 = 1
        (224, 7, 2, (2, 3)),  # 112 cells: 111 * 2 + 7 − 224 = 5
        (6, 2, 2, (0, 0)),
        (7, 2, 2, (0, 1)),
        (7, 1, 3, (0, 0)),  # 3 cells: 2 * 3 + 1 − 7 = 0
        (8, 1, 3, (0, 0)),  # nothing is taken away either
    ],
)
def test_same_padding_by_hand(side, kernel, stride, around):
    x = torch.ones(1, 1, side, side + 1)
    padded = SamePadding(kernel, stride)(x)
    before, behind = around
    assert padded.shape[2] == side + before + behind
    assert padded[0, 0, :before].sum() == padded[0, 0, side + before :].sum() == 0
    assert padded[0, 0, before : side + before].sum() == side * (side + 1)


def test_a_same_convolution_by_hand():
    """Four pixels 1 2 3 4 in a row, kernel 1 1 1 at stride 2: TensorFlow pads behind alone, so 1+2+3 and 3+4+0."""
    backbone, last = only({"conv": {"filters": 1, "kernel": 3, "stride": 2, "padding": "same"}}, side=4)
    (conv,) = kinds(backbone, nn.Conv2d)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, 0] = 1.0  # the kernel's first row: the map's own, since nothing is padded above
    row = torch.tensor([[1.0, 2, 3, 4]])
    assert last(row.repeat(4, 1)[None, None])[0, 0].tolist() == [[6, 7], [6, 7]]


def test_an_even_same_convolution_by_hand():
    """Kernel 1 10 at stride 1 on 1 2 3: the added zero comes behind, so 1+20, 2+30, 3+0."""
    backbone, last = only({"conv": {"filters": 1, "kernel": 2, "padding": "same"}}, side=3)
    (conv,) = kinds(backbone, nn.Conv2d)
    with torch.no_grad():
        conv.weight[0, 0] = torch.tensor([[1.0, 10], [0, 0]])
    assert last(torch.tensor([[1.0, 2, 3]] * 3)[None, None])[0, 0].tolist() == [[21, 32, 3]] * 3


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_odd_kernels_at_stride_1_are_padded_by_the_convolution_itself(kernel):
    backbone, last = only({"conv": {"filters": 2, "kernel": kernel, "padding": "same"}})
    assert not kinds(backbone, SamePadding)
    assert last(torch.randn(1, 1, 33, 31)).shape[-2:] == (33, 31)


def test_padding_of_poolings_never_speaks():
    """Values below 0, where a padded zero would win a maximum, and would pull an average up."""
    x = torch.tensor([[-4.0, -3, -2], [-7, -6, -5], [-9, -8, -1]])[None, None]
    _, largest = only({"pool": {"kind": "max", "size": 2, "padding": "same"}}, side=3)
    assert largest(x)[0, 0].tolist() == [[-3, -2], [-8, -1]]
    _, average = only({"pool": {"kind": "average", "size": 2, "padding": "same"}}, side=3)
    assert average(x)[0, 0].tolist() == [[-5, -3.5], [-8.5, -1]]
    assert torch.allclose(SameAveragePool(3, 1)(x)[0, 0, 0, 0], torch.tensor(-5.0))
    _, dropped = only({"pool": {"kind": "max", "size": 2}}, side=3)
    assert dropped(x)[0, 0].tolist() == [[-3]]


# -------------------------------------------------------------------------------------------------------- how it begins
def test_weights_begin_as_he_or_glorot_and_biases_at_zero():
    torch.manual_seed(0)
    backbone = Plain([{"conv": {"filters": 256, "activation": "relu"}}, {"conv": {"filters": 64}}], image_size=8)
    relu, plain = kinds(backbone.requires_grad_(False), nn.Conv2d)
    assert float(relu.weight.std()) == pytest.approx(math.sqrt(2 / 27), rel=0.05)  # He: 2 / (3 * 3 * 3)
    # Glorot: 2 / (fan in + fan out), 9 * 256 and 9 * 64.
    assert float(plain.weight.std()) == pytest.approx(math.sqrt(2 / (2304 + 576)), rel=0.05)
    assert not relu.bias.any()
    assert not plain.bias.any()


def test_a_list_that_cannot_be_is_refused_for_the_canvas_that_is_said():
    deep = [{"conv": 4}, *["pool"] * 5, {"conv": {"filters": 4, "kernel": 3, "padding": "valid"}}]
    with pytest.raises(
        ConfigError, match=r"layer 7 \(conv\), input 1x1x4: its kernel of 3 is larger than its map of 1x1"
    ):
        Plain(deep, image_size=32)
    assert Plain(deep, image_size=96).out_specs["map32"].channels == 4
    with pytest.raises(
        ConfigError, match=r"image_size=\[32\]: a whole number above 0, or \[height, width\], is wanted"
    ):
        Plain(deep, image_size=[32])
