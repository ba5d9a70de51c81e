"""What the heads that classify every pixel share."""

from __future__ import annotations

import math

import pytest
import torch

from visionkit.errors import ConfigError
from visionkit.heads import FCN, DeepLabV3Plus, SemanticSegmentation
from visionkit.heads.per_pixel import PixelLoss
from visionkit.structures import FeatureSpec, Geometry, Targets

SPECS = {"c2": FeatureSpec(8, 4), "c4": FeatureSpec(16, 16), "c5": FeatureSpec(24, 32), "pixels": FeatureSpec(8, 4)}
HEADS = (SemanticSegmentation, FCN, DeepLabV3Plus)
LOG2 = math.log(2)


def features(images=2, size=64):
    return {name: torch.randn(images, spec.channels, *[size // spec.stride] * 2) for name, spec in SPECS.items()}


def criterion(**options):
    options = {"hardest": 1.0, "class_weights": None, "auxiliary": None, **options}
    return PixelLoss("Head", SPECS, classes=("a", "b"), **options)


def test_losses_are_divided_by_the_total_of_labelled_pixels():
    semantic = torch.zeros(2, 2, 2, dtype=torch.uint8)
    semantic[0, 0] = 255
    sizes, logits = torch.tensor([[2, 2]] * 2), torch.zeros(2, 2, 2, 2)
    # Of class 0: overlap n / 2, predicted n / 2, true n. Image 0 has 2 such pixels, image 1 has 4.
    first, second = 1 - 3 / 4, 1 - 5 / 7
    for known, total, entropy, dice in (
        ([True, True], None, LOG2, (2 * first + 4 * second) / 6),
        ([True, False], None, LOG2, first),
        ([True, True], 12.0, LOG2 / 2, (2 * first + 4 * second) / 12),
        ([False, False], None, 0, 0),
    ):
        totals = {} if total is None else {"semantic": torch.tensor(total)}
        targets = Targets(sizes=sizes, known={"semantic": torch.tensor(known)}, semantic=semantic, totals=totals)
        losses = criterion()(logits, 1, {}, targets)
        assert set(losses) == {"cross_entropy", "dice"}
        assert float(losses["cross_entropy"]) == pytest.approx(entropy)
        assert float(losses["dice"]) == pytest.approx(dice)


def test_labels_of_unknown_images_may_be_anything():
    semantic = torch.full((2, 2, 2), 77, dtype=torch.uint8)
    semantic[1] = 1
    known = {"semantic": torch.tensor([False, True])}
    targets = Targets(sizes=torch.tensor([[2, 2]] * 2), known=known, semantic=semantic)
    losses = criterion(class_weights=[1.0, 3.0])(torch.zeros(2, 2, 2, 2), 1, {}, targets)
    assert float(losses["cross_entropy"]) == pytest.approx(3 * LOG2)


def test_class_weights_are_given_by_name_or_in_order():
    semantic = torch.tensor([[[0, 1], [1, 1]]], dtype=torch.uint8)
    targets = Targets(sizes=torch.tensor([[2, 2]]), semantic=semantic)
    for weights, wanted in (({"b": 3.0}, 10 / 4), ([1.0, 3.0], 10 / 4), ({}, 1.0), (None, 1.0), ([2, 0.5], 3.5 / 4)):
        losses = criterion(class_weights=weights)(torch.zeros(1, 2, 2, 2), 1, {}, targets)
        assert float(losses["cross_entropy"]) == pytest.approx(wanted * LOG2)


def test_the_factors_are_taken_out_of_the_logits_again():
    """Where the weighted cross-entropy is least, the corrected logits tell how often each class is."""
    loss = criterion(class_weights={"a": 0.1, "b": 1.5})
    semantic = torch.tensor([[[0, 0], [0, 1]]], dtype=torch.uint8)
    trained = torch.tensor([0.1 * 3 / 4, 1.5 * 1 / 4]).log()[None, :, None, None].expand(1, 2, 2, 2)
    logits = trained.clone().requires_grad_()
    loss(logits, 1, {}, Targets(sizes=torch.tensor([[2, 2]]), semantic=semantic))["cross_entropy"].backward()
    assert logits.grad.sum((2, 3)).abs().max() < 1e-6
    torch.testing.assert_close(loss.corrected(trained).softmax(1)[0, :, 0, 0], torch.tensor([0.75, 0.25]))
    assert criterion().corrected(trained) is trained


@pytest.mark.parametrize("make", HEADS)
def test_what_is_decoded_is_corrected_and_what_is_trained_is_not(make):
    torch.manual_seed(0)
    head = make(SPECS, classes=["a", "b", "c"], class_weights={"b": 4.0}).eval()
    raw = head(features(), torch.tensor([[64, 64]] * 2))
    decoded = head.decode(raw, torch.tensor([[64, 64]] * 2))["logits"]
    torch.testing.assert_close(raw - decoded, torch.tensor([0.0, math.log(4), 0.0])[:, None, None].expand_as(raw))
    assert not [name for name in head.state_dict() if "class_weights" in name]


def test_the_auxiliary_branch_learns_the_same_labels_by_cross_entropy():
    loss = criterion(auxiliary="c4", class_weights=[1.0, 3.0])
    assert loss.levels == ("c4",)
    assert loss.weights == {"cross_entropy": 1.0, "dice": 1.0, "auxiliary": 0.4}
    loss.auxiliary[-1].weight.data.zero_()
    loss.auxiliary[-1].bias.data = torch.tensor([0.0, math.log(3.0)])
    semantic = torch.tensor([0, 255, 1], dtype=torch.uint8).repeat_interleave(16)[None, None].expand(2, 32, -1)
    targets = Targets(sizes=torch.tensor([[32, 48]] * 2), semantic=semantic)
    losses = loss(torch.zeros(2, 2, 8, 12), 4, {"c4": torch.randn(2, 16, 2, 3)}, targets)
    assert float(losses["auxiliary"].detach()) == pytest.approx((math.log(4) + 3 * math.log(4 / 3)) / 2)


@pytest.mark.parametrize("make", HEADS)
def test_the_auxiliary_branch_costs_nothing_at_inference(make):
    head = make(SPECS, classes=["a", "b"], auxiliary="c4").eval()
    assert "c4" in head.levels
    levels = {name: value for name, value in features().items() if name != "c4"}
    assert head(levels, torch.tensor([[64, 64]] * 2)).shape[:2] == (2, 2)
    assert set(head.default_loss_weights) == {"cross_entropy", "dice", "auxiliary"}


@pytest.mark.parametrize("make", HEADS)
def test_forward_decode_and_finish(make):
    head = make(SPECS, classes=["a", "b", "c"], keep_scores=True).eval()
    sizes = torch.tensor([[64, 64], [64, 40]])
    geometries = [Geometry((64, 64), (64, 64), (1.0, 1.0)), Geometry((50, 31), (64, 40), (64 / 50, 40 / 31))]
    with torch.no_grad():
        raw = head(features(), sizes)
        found = head.finish(head.decode(raw, sizes), geometries)
    assert raw.shape == (2, 3, 64 // head.stride, 64 // head.stride)
    for prediction, geometry in zip(found, geometries, strict=True):
        assert prediction.classes.shape == geometry.original
        assert prediction.scores.shape == (3, *geometry.original)
        # Half precision ties near ones; elsewhere the best score is the class's.
        best = prediction.scores.max(0)
        assert (prediction.scores[prediction.classes, *_places(geometry.original)] == best).all()
    head.keep_scores = False
    assert head.finish(head.decode(raw, sizes), geometries)[0].scores is None


def _places(size):
    return torch.meshgrid(*(torch.arange(side) for side in size), indexing="ij")


@pytest.mark.parametrize("make", HEADS)
def test_a_training_step_is_one_graph(make):
    head = make(SPECS, classes=["a", "b", "c"], hardest=0.5, auxiliary="c4")
    targets = Targets(sizes=torch.tensor([[64, 64]] * 2), semantic=torch.randint(0, 4, (2, 64, 64)).byte())
    losses = torch.compile(head.loss, backend="eager", fullgraph=True)(features(), targets)
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("make", HEADS)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": ("c2", "c4", "c5")}, r"levels=\['c2', 'c4', 'c5'\]: one level each is wanted for"),
        ({"classes": [str(k) for k in range(256)]}, "256 classes, but a map's values hold 255; merge some"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        ({"hardest": 0.0}, "hardest=0.0: a share above 0 and at most 1"),
        ({"class_weights": [1.0, 2.0]}, r"class_weights=\[1.0, 2.0\]: 3 factors above 0 are wanted, a class each"),
        ({"class_weights": [1.0, 2.0, 0.0]}, "3 factors above 0"),
        ({"class_weights": {"b": float("inf")}}, "3 factors above 0"),
        ({"classes": ["road", "sky", "sea"], "class_weights": {"raod": 2.0}},
         r"class_weights.raod: no such class \(did you mean 'road'\?\); it knows road, sky, sea"),
        ({"auxiliary": "c3"}, "auxiliary=c3: there are only the levels c2, c4, c5, pixels"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused(make, options, said):
    with pytest.raises(ConfigError, match=f"^{make.__name__}.*{said}"):
        make(SPECS, **{"classes": ["a", "b", "c"], **options})
