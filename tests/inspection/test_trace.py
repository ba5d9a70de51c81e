from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from visionkit.backbones import CSP, Torchvision
from visionkit.errors import ConfigError
from visionkit.heads import LinearClassification
from visionkit.inspection.table import total
from visionkit.inspection.trace import Recorder, trace_model
from visionkit.model import VisionModel
from visionkit.necks import FPN, PAFPN
from visionkit.preprocess import Preprocess


def taught_network():
    """Two convolutions with poolings, and two dense layers, on 3 x 16 x 16."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4), nn.Softmax(1),
    )  # fmt: skip


BY_HAND = [
    # kind, output, stride, field, parameters, MACs, bytes
    ("Conv2d", (8, 16, 16), 1, 3, 8 * 27 + 8, 8 * 27 * 256, 4 * 2048),
    ("ReLU", (8, 16, 16), 1, 3, 0, 0, 0),  # in place
    ("MaxPool2d", (8, 8, 8), 2, 4, 0, 0, 4 * 512),
    ("Conv2d", (16, 6, 6), 2, 8, 16 * 72 + 16, 16 * 72 * 36, 4 * 576),
    ("BatchNorm2d", (16, 6, 6), 2, 8, 32, 0, 4 * 576),
    ("Sigmoid", (16, 6, 6), 2, 8, 0, 0, 4 * 576),
    ("AvgPool2d", (16, 3, 3), 4, 10, 0, 0, 4 * 144),
    ("Flatten", (144,), None, 10, 0, 0, 0),
    ("Linear", (32,), None, None, 144 * 32 + 32, 144 * 32, 4 * 32),
    ("ReLU", (32,), None, None, 0, 0, 4 * 32),
    ("Dropout", (32,), None, None, 0, 0, 0),
    ("Linear", (4,), None, None, 32 * 4 + 4, 32 * 4, 4 * 4),
    ("Softmax", (4,), None, None, 0, 0, 4 * 4),
]


def test_a_plain_network_by_hand():
    whole = trace_model(taught_network(), (16, 16))
    found = [
        (call.kind, call.output, call.strides[0], call.fields[0], call.parameters, call.macs, call.memory)
        for call in whole.parts
    ]
    assert found == BY_HAND
    assert [call.name for call in whole.parts] == [str(k) for k in range(13)]
    assert all(call.strides[0] == call.strides[1] and call.fields[0] == call.fields[1] for call in whole.parts)
    sums = total(whole)
    assert (sums.parameters, sums.macs) == (sum(row[4] for row in BY_HAND), sum(row[5] for row in BY_HAND))


def test_height_and_width_each_for_itself():
    (call,) = trace_model(
        nn.Sequential(nn.Conv2d(1, 2, (3, 5), stride=(1, 2), padding=(1, 0), dilation=(2, 1))), (9, 20), 1
    ).parts
    assert (call.output, call.strides, call.fields) == ((2, 7, 8), (1, 2), (5, 5))
    assert call.macs == 2 * 15 * 7 * 8


@pytest.mark.parametrize(
    ("layer", "macs", "parameters"),
    [
        (nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False), 8 * 2 * 9 * 64, 8 * 2 * 9),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), 4 * 9 * 64, 36),
        (nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False), 64 * 4 * 6 * 4, 96),
    ],
)
def test_multiply_adds_of_groups_and_transposed(layer, macs, parameters):
    (call,) = trace_model(nn.Sequential(layer), (8, 8), 4).parts
    assert (call.macs, call.parameters) == (macs, parameters)


class Residual(nn.Module):
    """One convolution called twice, and a sum around it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x):
        return x + self.scale * self.conv(self.conv(x))


def test_each_call_costs_and_a_parameter_counts_once():
    module = Residual()
    first, second, rest = trace_model(module, (10, 10)).parts
    assert (first.name, first.parameters, first.macs) == ("conv", 84, 8100)
    assert (second.name, second.parameters, second.macs) == ("conv", 0, 8100)
    assert (rest.name, rest.kind, rest.parameters, rest.macs) == ("", "mul + add", 3, 0)
    assert (rest.fields, rest.memory) == ((5, 5), 2 * 4 * 300)  # the longer branch; two results
    assert total(trace_model(module, (10, 10))).parameters == 87


class Gated(nn.Module):
    """Squeeze and excitation around a strided convolution."""

    def __init__(self, pool):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.gate = nn.Sequential(pool, nn.Conv2d(4, 4, 1), nn.Sigmoid())

    def forward(self, x):
        x = self.conv(x)
        return self.gate(x) * x


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(8)])
def test_through_a_gate_the_whole_image_is_seen_and_the_stride_stays(pool):
    conv, gate, product = trace_model(Gated(pool), (16, 16)).parts
    assert (conv.strides[0], conv.fields[0]) == (2, 3)
    assert gate.output == (4, 1, 1)
    assert (product.output, product.strides, product.fields) == ((4, 8, 8), (2, 2), (None, None))


def test_a_linear_layer_on_every_cell():
    """Its three operations are a view, the product, and a view."""
    (call,) = trace_model(nn.Sequential(nn.Linear(8, 5)), (8, 8)).parts
    assert (call.macs, call.memory, call.fields[0]) == (3 * 8 * 8 * 5, 4 * 3 * 8 * 5, 1)


class Attention(nn.Module):
    def forward(self, x):
        cells = x.flatten(2)
        return ((cells.transpose(1, 2) @ cells).softmax(-1) @ cells.transpose(1, 2)).transpose(1, 2).view(x.shape)


class AttentionOfRows(nn.Module):
    """Rows of each channel attend to each other: a product of dimensions that are no cells alone."""

    def forward(self, x):
        rows = x.transpose(1, 2).reshape(1, 24, 8)
        return ((rows @ rows.transpose(1, 2)) @ rows).view(1, 8, 3, 8).transpose(1, 2)


class Patches(nn.Module):
    """Blocks of two by two cells become channels."""

    def forward(self, x):
        b, c, h, w = x.shape
        return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("layer", "output", "stride", "field"),
    [
        (nn.Upsample(scale_factor=2), (3, 16, 16), Fraction(1, 2), 1),
        (nn.Upsample(scale_factor=2, mode="bilinear"), (3, 16, 16), Fraction(1, 2), 2),
        (nn.PixelUnshuffle(2), (12, 4, 4), 2, 2),
        (nn.PixelShuffle(1), (3, 8, 8), 1, 1),
        (nn.ReflectionPad2d(2), (3, 12, 12), 1, 1),
        (nn.AdaptiveAvgPool2d(4), (3, 4, 4), 2, 2),
        (nn.AdaptiveAvgPool2d(1), (3, 1, 1), None, None),
        (nn.AvgPool2d(3, 1, 1), (3, 8, 8), 1, 3),
        (nn.Conv2d(3, 3, 4, padding="same"), (3, 8, 8), 1, 4),
        (Attention(), (3, 8, 8), 1, None),
        (AttentionOfRows(), (3, 8, 8), None, None),
        (Patches(), (12, 4, 4), 2, 2),
    ],
)
def test_operations_one_by_one(layer, output, stride, field):
    last = trace_model(nn.Sequential(layer), (8, 8)).parts[-1]
    assert (last.output, last.strides[0], last.fields[0]) == (output, stride, field)


# ------------------------------------------------------------------------------------------------- published networks
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "convnext_tiny"])
def test_published_counts(name):
    """What torchvision publishes beside its weights, with the classifier."""
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    sums = total(trace_model(torchvision.models.get_model(name), (224, 224)))
    assert sums.parameters == published["num_params"]
    assert sums.macs / 1e9 == pytest.approx(published["_ops"], abs=0.0005)


@pytest.mark.parametrize(
    ("name", "parameters", "gigamacs"),
    [
        ("resnet50", 25_557_032, 4.089),
        ("mobilenet_v2", 3_504_872, 0.301),
        ("convnext_tiny", 28_589_128 - 2 * 768, 4.456),  # our head has no LayerNorm in front of the linear layer
    ],
)
def test_our_backbones_with_a_thousand_classes_have_the_published_counts(name, parameters, gigamacs):
    backbone = Torchvision(name)
    head = LinearClassification(backbone.out_specs, classes=[str(k) for k in range(1000)])
    model = VisionModel(backbone, None, {"classification": head}, preprocess=Preprocess(224))
    sums = total(trace_model(model, (224, 224)))
    assert sums.parameters == parameters
    assert sums.macs / 1e9 == pytest.approx(gigamacs, abs=0.0005)


def test_the_fields_of_resnet50_by_hand():
    """The stem sees 11 pixels at stride 4; the 3x3 of each of 3, 4, 6, 3 blocks adds twice the stride of its input."""
    parts = trace_model(Torchvision("resnet50"), (224, 224)).parts
    assert [call.strides[0] for call in parts] == [4, 8, 16, 32]
    second, third = 11 + 3 * 8, 11 + 3 * 8 + 8 + 3 * 16
    fourth = third + 16 + 5 * 32
    assert [call.fields[0] for call in parts] == [second, third, fourth, fourth + 32 + 2 * 64]


# ------------------------------------------------------------------------------------------------- exactness of fields
class Levels(nn.Module):
    def __init__(self, backbone, neck=None):
        super().__init__()
        self.backbone = backbone
        self.neck = None if neck is None else neck(backbone.out_specs, out_levels=("p3", "p4", "p5"))

    def forward(self, x):
        levels = dict(self.backbone(x))
        return levels if self.neck is None else {**levels, **self.neck(levels)}


@pytest.mark.parametrize(
    ("make", "side"),
    [
        (lambda: Levels(CSP("nano", width=0.25), PAFPN), 1536),
        (lambda: Levels(CSP("nano", width=0.25), FPN), 1024),
        (lambda: Levels(Torchvision("resnet18")), 704),
        (lambda: Levels(Torchvision("shufflenet_v2_x0_5")), 704),
        (lambda: Levels(Torchvision("squeezenet1_1")), 512),
    ],
    ids=["csp-pafpn", "csp-fpn", "resnet18", "shufflenet", "squeezenet"],
)
@torch.no_grad()
def test_a_cell_sees_the_pixels_of_its_field_and_no_others(make, side):
    """A row of pixels that are no numbers makes a cell no number exactly if it lies in the cell's field."""
    torch.manual_seed(0)
    net = make().eval()
    empty = torch.empty(1, 3, side, 32, device="meta")
    recorder = Recorder(copy.deepcopy(net).to("meta"), empty)
    with recorder:
        levels = recorder.model(empty)
    tried = 0
    for name, maps in levels.items():
        reach = recorder.tracks[maps][0].reach
        middle = maps.shape[2] // 2
        for cell in range(middle, middle + min(2, len(reach.spans))):
            first, last = reach.cell(cell)
            images = torch.rand(4, 3, side, 32)
            for image, row in zip(images, (first - 1, first, last, last + 1), strict=True):
                image[:, row] = float("nan")
            assert first > 0 and last + 1 < side
            assert net(images)[name][:, :, cell].isnan().flatten(1).any(1).tolist() == [False, True, True, False], name
            tried += 1
    assert tried >= 3


# ------------------------------------------------------------------------------------------------------ whole models
def test_every_part_is_told_and_every_parameter_counted(model):
    whole = trace_model(model, (64, 64))
    assert [part.name for part in whole.parts] == [
        "backbone", "neck", *(f"heads.{name}" for name in model.heads), "training only"
    ]  # fmt: skip
    assert total(whole).parameters == sum(one.numel() for one in model.parameters())
    assert whole.parts[-1].parameters == sum(one.numel() for one in model.heads["instance"].semantic.parameters())
    assert whole.parts[0].output == (64, 2, 2)


@torch.no_grad()
def test_multiply_adds_are_those_of_torchs_own_counter(model):
    with FlopCounterMode(display=False) as counter:
        model.outputs(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert 2 * total(trace_model(model, (64, 64))).macs == counter.get_total_flops() > 0


def test_the_model_is_left_as_it_is(model):
    before = copy.deepcopy(model.state_dict())
    model.train()
    trace_model(model, (64, 64))
    assert model.training
    model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Looking(nn.Module):
    """Decides by a value, which a tensor without values does not have."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        y = self.conv(x)
        return y * 2 if float(y.sum()) > 0 else y + 1


def test_a_model_that_looks_at_values_is_computed():
    conv, rest = trace_model(Looking(), (8, 8)).parts
    assert (conv.output, conv.fields, conv.macs) == ((3, 6, 6), (3, 3), 81 * 36)
    assert rest.kind.startswith("sum")


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(ConfigError, match=r"^image_size=\[2, 2\]: the model cannot take such an image \(.+\); give"):
        trace_model(nn.Sequential(nn.Conv2d(3, 3, 5)), (2, 2))


@pytest.mark.parametrize(
    "name", ["densenet121", "efficientnet_b0", "mobilenet_v3_small", "regnet_y_400mf", "convnext_tiny"]
)
def test_strides_follow_the_levels_of_every_family(name):
    backbone = Torchvision(name)
    found = {call.name: call.strides for call in trace_model(backbone, (64, 64)).parts}
    for level, spec in backbone.out_specs.items():
        assert found[f"stages.{level}"] == (spec.stride, spec.stride)
