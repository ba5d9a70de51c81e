"""The contract of every head. A new one is a row of `CASES`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from visionkit.backbones import CSP, Plain, Torchvision
from visionkit.errors import ConfigError
from visionkit.heads import (
    FCN,
    DeepLabV3Plus,
    DenseDetection,
    DenseInstance,
    LinearClassification,
    ObjectLocalization,
    PlainClassification,
    SemanticSegmentation,
)
from visionkit.interfaces import Head
from visionkit.model import VisionModel
from visionkit.necks import FPN, PAFPN
from visionkit.predictions import SemanticMap
from visionkit.preprocess import Preprocess
from visionkit.structures import LABEL_FIELDS, Geometry, Targets

SIZE = (64, 96)
CLASSES = ("a", "b", "c")
PLAIN = [
    layer
    for filters in (8, 16, 24, 32, 32)
    for layer in ({"conv": {"filters": filters, "activation": "relu"}}, "batchnorm", "pool")
]
DENSE = ["flatten", {"dense": {"units": 16, "activation": "relu"}}]
BACKBONES = {
    "csp": lambda: CSP("nano", width=0.25),
    "mobilenet_v2": lambda: Torchvision("mobilenet_v2"),
    "plain": lambda: Plain(PLAIN, image_size=SIZE),
}
NECKS = {"FPN": FPN, "PAFPN": PAFPN}


@dataclass(frozen=True)
class Case:
    """A head, and for it: labels of random images, of images that show nothing, and labels that hurt.

    Attributes:
        make: the head, from in_specs and classes.
        targets: (images, seed) -> labels on a canvas of `SIZE`; every image knows its labels and has some.
        empty: (images) -> labels that say that there is nothing; None where that cannot be said.
        hurtful: targets with extreme values that a data set may hold.
        garbage: the same targets with anything at all in image 0's labels, as an unknown row may hold.
        most_classes: that the head takes.
    """

    make: Callable[..., nn.Module]
    targets: Callable[[int, int], Targets]
    empty: Callable[[int], Targets] | None
    hurtful: Callable[[], Targets]
    garbage: Callable[[Targets], Targets]
    most_classes: int = 1000


def _objects(images: int, seed: int) -> Targets:
    """12 rows an image: objects from 4 px to the whole canvas, two of them padding, one crowd and one ignored."""
    generator = torch.Generator().manual_seed(seed)
    height, width = SIZE
    centre = torch.rand(images, 12, 2, generator=generator) * torch.tensor([width, height])
    half = (torch.rand(images, 12, 2, generator=generator) ** 2 * 45 + 2) * torch.tensor([1.0, 0.7])
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = torch.cat([centre - half, centre + half], -1).clamp(min=0).minimum(limit)
    boxes[:, 0] = torch.tensor([0.0, 0.0, width, height])
    labels = torch.randint(0, 3, (images, 12), generator=generator)
    labels[:, 10:] = -1
    crowd, ignore = torch.zeros(2, images, 12, dtype=torch.bool)
    crowd[:, 4] = True
    ignore[:, 5] = True
    sizes = torch.tensor([SIZE] * images)
    known = {"boxes": torch.ones(images, dtype=torch.bool)}
    return Targets(sizes=sizes, known=known, boxes=boxes, labels=labels, crowd=crowd, ignore=ignore)


def _no_objects(images: int) -> Targets:
    targets = _objects(images, 0)
    return replace(targets, labels=torch.full_like(targets.labels, -1))


def _hurtful_objects() -> Targets:
    targets = _objects(2, 7)
    boxes = targets.boxes.clone()
    boxes[0, :4] = torch.tensor([[9.0, 9, 9, 9], [0, 0, 0, 0], [-1e4, -1e4, 1e4, 1e4], [1e4, 1e4, 2e4, 2e4]])
    boxes[0, 6:8] = torch.tensor([[-300.0, 5, -200, 20], [20, 10, 20.001, 50]])
    boxes[1, :4] = torch.tensor([[50.0, 30, 40, 20], [96, 64, 96, 64], [0, 0, 1e-6, 64], [95.9, 63.9, 96, 64]])
    boxes[1, 4:6] = torch.tensor([[-1e4, 0, 1e4, 1], [50, 30, 40, 20]])
    return replace(targets, boxes=boxes)


def _garbage_objects(targets: Targets) -> Targets:
    boxes, labels = targets.boxes.clone(), targets.labels.clone()
    boxes[0, ::2], boxes[0, 1::2] = float("nan"), float("inf")
    labels[0] = 2
    return replace(targets, boxes=boxes, labels=labels)


def _with_masks(targets: Targets) -> Targets:
    """A mask for each row: the left two thirds of what its box covers of the canvas, nothing where it is no box."""
    height, width = SIZE
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x1, y1, x2, y2 = targets.boxes.flatten(0, 1)[:, :, None, None].unbind(1)
    bits = (x > x1) & (x < x1 + (x2 - x1) * 2 / 3) & (y > y1) & (y < y2)
    packed = torch.from_numpy(np.packbits(bits.flatten(1).numpy(), axis=1))
    mask_row = torch.arange(len(packed)).view(targets.labels.shape)
    known = {**targets.known, "masks": targets.known["boxes"].clone()}
    return replace(targets, masks=packed, mask_row=mask_row.where(targets.labels >= 0, -1), known=known)


def _one_class(images: int, seed: int) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.eye(3)[torch.randint(0, 3, (images,), generator=generator)]
    known = {"class_scores": torch.ones(images, dtype=torch.bool)}
    return Targets(sizes=torch.tensor([SIZE] * images), known=known, class_scores=scores)


def _several_classes(images: int, seed: int) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-1, 2, (images, 3), generator=generator).float()
    scores[:, 0] = 1
    return replace(_one_class(images, seed), class_scores=scores)


def _garbage_scores(targets: Targets) -> Targets:
    scores = targets.class_scores.clone()
    scores[0] = float("nan")
    return replace(targets, class_scores=scores)


def _one_object(images: int, seed: int) -> Targets:
    targets = _one_class(images, seed)
    known = {**targets.known, "box": torch.ones(images, dtype=torch.bool)}
    return replace(targets, box=_objects(images, seed).boxes[:, 1], known=known)


def _hurtful_object() -> Targets:
    """No area, and far outside the canvas."""
    return replace(_one_object(2, 0), box=torch.tensor([[9.0, 9, 9, 9], [-1e4, -1e4, 1e4, 2e4]]))


def _garbage_object(targets: Targets) -> Targets:
    box = targets.box.clone()
    box[0] = torch.tensor([float("nan"), float("inf"), -1.0, 5.0])
    return _garbage_scores(replace(targets, box=box))


def _maps(images: int, seed: int) -> Targets:
    """Blocks of 8 px; most are of class 0, and about one in six is unlabelled."""
    generator = torch.Generator().manual_seed(seed)
    height, width = SIZE
    values = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 2, 255, 255], dtype=torch.uint8)
    blocks = values[torch.randint(0, len(values), (images, height // 8, width // 8), generator=generator)]
    blocks[:, 0, :3] = torch.arange(3, dtype=torch.uint8)
    semantic = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return Targets(sizes=torch.tensor([SIZE] * images), semantic=semantic)


def _hurtful_maps() -> Targets:
    semantic = torch.full((2, *SIZE), 255, dtype=torch.uint8)
    semantic[0, -1, -1] = 2
    return replace(_maps(2, 0), semantic=semantic)


def _garbage_maps(targets: Targets) -> Targets:
    semantic = targets.semantic.clone()
    semantic[0] = torch.arange(SIZE[1])
    return replace(targets, semantic=semantic)


LOCALIZATION = {
    "targets": _one_object, "empty": None, "hurtful": _hurtful_object, "garbage": _garbage_object,
}  # fmt: skip
SEMANTIC = {
    "targets": _maps, "empty": None, "hurtful": _hurtful_maps, "garbage": _garbage_maps, "most_classes": 255,
}  # fmt: skip
CASES = {
    "SemanticSegmentation": Case(make=SemanticSegmentation, **SEMANTIC),
    "SemanticSegmentation, hardest pixels": Case(make=partial(SemanticSegmentation, hardest=0.25), **SEMANTIC),
    "FCN": Case(make=partial(FCN, auxiliary="c4"), **SEMANTIC),
    "DeepLabV3Plus": Case(make=partial(DeepLabV3Plus, channels=16, rates=(1, 2)), **SEMANTIC),
    "ObjectLocalization": Case(make=partial(ObjectLocalization, dropout=0.0), **LOCALIZATION),
    "ObjectLocalization, several levels": Case(
        make=partial(ObjectLocalization, dropout=0.0, levels=("c4", "c5")), **LOCALIZATION
    ),
    "ObjectLocalization, a box per class": Case(
        make=partial(ObjectLocalization, dropout=0.0, box_per_class=True), **LOCALIZATION
    ),
    "DenseInstance": Case(
        make=DenseInstance,
        targets=lambda images, seed: _with_masks(_objects(images, seed)),
        empty=lambda images: _with_masks(_no_objects(images)),
        hurtful=lambda: _with_masks(_hurtful_objects()),
        garbage=_garbage_objects,
    ),
    "DenseDetection": Case(
        make=DenseDetection,
        targets=_objects,
        empty=_no_objects,
        hurtful=_hurtful_objects,
        garbage=_garbage_objects,
    ),
    "DenseDetection, with a second tower": Case(
        make=partial(DenseDetection, one_to_one=True, nms=False),
        targets=_objects,
        empty=_no_objects,
        hurtful=_hurtful_objects,
        garbage=_garbage_objects,
    ),
    "LinearClassification": Case(
        make=lambda specs, **options: LinearClassification(specs, dropout=0.0, **options),
        targets=_one_class,
        empty=None,
        hurtful=lambda: replace(_one_class(2, 0), class_scores=torch.tensor([[0.5, 0.5, 0.0], [1.0, 1.0, 1.0]])),
        garbage=_garbage_scores,
    ),
    "PlainClassification": Case(
        make=partial(PlainClassification, layers=[*DENSE, "dense", "softmax"], map_size=(2, 3)),
        targets=_one_class,
        empty=None,
        hurtful=lambda: replace(_one_class(2, 0), class_scores=torch.tensor([[0.5, 0.5, 0.0], [1.0, 1.0, 1.0]])),
        garbage=_garbage_scores,
    ),
    "LinearClassification, several labels": Case(
        make=lambda specs, **options: LinearClassification(specs, dropout=0.0, multi_label=True, **options),
        targets=_several_classes,
        empty=lambda images: replace(_one_class(images, 0), class_scores=torch.zeros(images, 3)),
        hurtful=lambda: replace(_one_class(2, 0), class_scores=torch.tensor([[-1.0, -1, -1], [1, 1, 1]])),
        garbage=_garbage_scores,
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def build(case, backbone="csp", neck="PAFPN", classes=CLASSES, seed=0) -> VisionModel:
    torch.manual_seed(seed)
    trunk = BACKBONES[backbone]()
    levels = inspect.signature(case.make).parameters.get("levels")
    wanted = tuple(levels.default) if levels else ("c5",)
    pyramid = None
    if not set(wanted) <= set(trunk.out_specs):
        pyramid = NECKS[neck](trunk.out_specs, out_levels=wanted, channels=16)
    head = case.make(trunk.out_specs if pyramid is None else pyramid.out_specs, classes=classes)
    return VisionModel(trunk, pyramid, {"head": head}, preprocess=Preprocess(SIZE))


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=generator)


def rows(targets: Targets, index) -> Targets:
    """The same targets with the images `index` alone."""
    fields = ("sizes", "boxes", "labels", "crowd", "ignore", "mask_row", "class_scores", "box", "semantic")
    chosen = {name: getattr(targets, name)[index] for name in fields if getattr(targets, name) is not None}
    return replace(targets, known={name: value[index] for name, value in targets.known.items()}, **chosen)


def gradients(model):
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def unknown(targets: Targets, *which: int) -> Targets:
    known = {name: value.clone() for name, value in targets.known.items()}
    for value in known.values():
        value[list(which)] = False
    return replace(targets, known=known)


# --------------------------------------------------------------------------------------------------------- the shape
def test_has_the_members_of_the_protocol(case):
    head = build(case).heads["head"]
    assert isinstance(head, Head)
    assert head.needs <= set(LABEL_FIELDS)
    assert head.classes == CLASSES
    assert isinstance(head.levels, tuple)


def test_losses_are_named_as_the_default_weights(case):
    model = build(case)
    losses = model(images(2), case.targets(2, 0))
    named = {f"head/{name}" for name in model.heads["head"].default_loss_weights}
    assert set(losses) == named | {"total"}


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_finite_losses_and_a_gradient_for_every_parameter(case, backbone, neck):
    model = build(case, backbone, neck).train()
    losses = model(images(4), case.targets(4, 1))
    assert all(value.shape == () and value.isfinite() and value > 0 for value in losses.values())
    losses["total"].backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []
    assert all(value.isfinite().all() for value in gradients(model).values())


@pytest.mark.parametrize("classes", [1, 1000])
def test_any_number_of_classes(case, classes):
    classes = min(classes, case.most_classes)
    model = build(case, classes=[str(number) for number in range(classes)])
    targets = case.targets(2, 0)
    if targets.semantic is not None:
        targets = replace(targets, semantic=targets.semantic.where(targets.semantic == 255, classes - 1))
    if targets.labels is not None:
        targets = replace(targets, labels=torch.where(targets.labels >= 0, classes - 1, -1))
    if targets.class_scores is not None:
        targets = replace(targets, class_scores=torch.eye(classes)[[0, classes - 1]])
    model(images(2), targets)["total"].backward()
    assert all(value.isfinite().all() for value in gradients(model).values())
    decoded = decode(model, images(2))
    assert all(value.isfinite().all() for value in decoded.values())


@torch.no_grad()
def test_class_logits_are_where_the_interface_says(case):
    """Whoever explains an answer reads them there, without knowing the head."""
    model = build(case).eval()
    raw = model.outputs(images(2))["head"]
    logits = raw if isinstance(raw, torch.Tensor) else raw["logits"]
    needs = model.heads["head"].needs
    kind = "boxes" if "boxes" in needs else "semantic" if "semantic" in needs else "image"
    dimensions, of_classes = {"boxes": (3, 2), "semantic": (4, 1), "image": (2, 1)}[kind]
    assert (logits.ndim, logits.shape[0], logits.shape[of_classes]) == (dimensions, 2, len(CLASSES))


def test_state_dict_round_trip(case):
    first, second = build(case, seed=0).eval(), build(case, seed=1).eval()
    second.load_state_dict(first.state_dict())
    one, two = decode(first, images(2)), decode(second, images(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_wrong_classes_and_levels_are_refused(case):
    specs = CSP("nano", width=0.25).out_specs
    with pytest.raises(ConfigError, match=r"c9.*c2, c3, c4, c5"):
        case.make(specs, classes=CLASSES, levels=("c9",))
    with pytest.raises(ConfigError, match="the class list is empty"):
        case.make(specs, classes=(), levels=("c5",))


# ------------------------------------------------------------------------------------------------------- what is known
def test_images_known_to_be_empty_are_learned_from(case):
    if case.empty is None:
        pytest.skip("an image always has a class")
    model = build(case)
    losses = model(images(2), case.empty(2))
    assert losses["total"] > 0
    losses["total"].backward()
    assert all(value.isfinite().all() for value in gradients(model).values())


def test_a_batch_that_knows_nothing_has_zero_loss_with_a_gradient_path(case):
    model = build(case)
    losses = model(images(2), unknown(case.targets(2, 0), 0, 1))
    assert all(float(value.detach()) == 0 for value in losses.values())
    losses["total"].backward()
    found = gradients(model)
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert not any(value.any() for value in found.values())


def test_unknown_rows_are_masked_whatever_they_hold(case):
    model = build(case).eval()
    targets = unknown(case.targets(3, 3), 0)
    totals = targets.counts()
    pictures = images(3)
    expected = model(pictures[1:], replace(rows(targets, slice(1, 3)), totals=totals))
    for mixed in (targets, case.garbage(targets)):
        model.zero_grad()
        losses = model(pictures, replace(mixed, totals=totals))
        assert {name: float(value.detach()) for name, value in losses.items()} == pytest.approx(
            {name: float(value.detach()) for name, value in expected.items()}, rel=1e-5
        )
        losses["total"].backward()
        assert all(value.isfinite().all() for value in gradients(model).values())


@pytest.mark.usefixtures("one_thread")  # several round by batch size, and near ties between cells fall otherwise
def test_micro_batches_with_the_steps_totals_add_up_to_the_whole_batch(case):
    model = build(case).eval()  # BatchNorm's statistics would differ
    targets = unknown(case.targets(4, 4), 2)
    if targets.labels is not None:  # very different numbers of objects
        targets = replace(targets, labels=torch.where(torch.arange(4)[:, None] == 0, -1, targets.labels))
    pictures = images(4)
    whole = model(pictures, targets)
    whole["total"].backward()
    expected = gradients(model)
    model.zero_grad()
    parts = [rows(replace(targets, totals=targets.counts()), chosen) for chosen in ([0], [1, 2], [3])]
    losses = [model(pictures[chosen], part) for chosen, part in zip(([0], [1, 2], [3]), parts, strict=True)]
    sum(part["total"] for part in losses).backward()
    for name, value in whole.items():
        assert float(sum(part[name] for part in losses).detach()) == pytest.approx(float(value.detach()), rel=1e-5), (
            name
        )
    for name, value in gradients(model).items():
        assert torch.allclose(value, expected[name], atol=1e-5, rtol=1e-3), name


def test_extreme_labels_stay_finite(case):
    model = build(case)
    losses = model(images(2), case.hurtful())
    assert all(value.isfinite() for value in losses.values())
    losses["total"].backward()
    assert all(value.isfinite().all() for value in gradients(model).values())


def test_bfloat16_autocast_stays_finite(case):
    model = build(case)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images(2), case.targets(2, 5))
        quiet = build(case)(images(2), unknown(case.targets(2, 5), 0, 1))
    assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
    assert float(quiet["total"].detach()) == 0
    losses["total"].backward()
    assert all(value.isfinite().all() for value in gradients(model).values())


def test_training_on_four_images_lowers_the_loss(case):
    model, pictures, targets = build(case), images(4), case.targets(4, 6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(12):
        loss = model(pictures, targets)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert min(history[-3:]) < 0.9 * history[0]


# --------------------------------------------------------------------------------------------------------- what it says
@torch.no_grad()
def decode(model, pictures, sizes=None):
    sizes = torch.tensor([SIZE] * len(pictures)) if sizes is None else sizes
    head = model.heads["head"]
    return head.decode(model.eval().outputs(pictures, sizes)["head"], sizes)


def taught(case, steps=8):
    """A model that has begun to say something."""
    model = build(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        model.zero_grad()
        model(images(4), case.targets(4, 6))["total"].backward()
        optimizer.step()
    return model


@pytest.fixture
def one_thread():
    """With several, the last bits depend on the batch, and what suppression does to near ties depends on them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_batch_decodes_as_its_images_alone(case):
    model = taught(case)
    pictures, sizes = images(3, 9), torch.tensor([SIZE, (40, 96), (64, 17)])
    together = decode(model, pictures, sizes)
    for i in range(3):
        alone = decode(model, pictures[i : i + 1], sizes[i : i + 1])
        assert set(alone) == set(together)
        for name, value in alone.items():
            assert torch.allclose(together[name][i].float(), value[0].float(), atol=1e-3, rtol=1e-4), name


def test_finish_gives_one_prediction_an_image_that_json_can_hold(case):
    model = taught(case)
    geometries = [Geometry(SIZE, SIZE, (1.0, 1.0)), Geometry((128, 192), SIZE, (0.5, 0.5))]
    found = model.eval().predict(images(2), torch.tensor([SIZE] * 2), geometries)
    assert [list(one) for one in found] == [["head"], ["head"]]
    for one in found:
        prediction = one["head"]
        if isinstance(prediction, SemanticMap):  # saved as a picture
            assert prediction.classes.dtype == np.uint8
            assert prediction.classes.max() < len(CLASSES)
            assert prediction.to_coco(17, [3, 1, "x"]) == []
            continue
        assert prediction.scores.dtype == np.float32
        assert ((prediction.scores >= 0) & (prediction.scores <= 1)).all()
        saved = json.loads(json.dumps(prediction.to_coco(17, [3, 1, "x"])))
        assert saved
        assert all(row["image_id"] == 17 and row["category_id"] in (3, 1, "x") and row["score"] >= 0 for row in saved)


def test_one_function_one_kind_of_result(case):
    model = build(case)
    sizes = torch.tensor([SIZE] * 2)
    kinds = []
    for mode in (True, False):
        raw = model.train(mode).outputs(images(2), sizes)["head"]
        kinds.append((type(raw), set(raw) if isinstance(raw, dict) else tuple(raw.shape)))
    assert kinds[0] == kinds[1]


def test_forward_exports_with_the_same_numbers(case):
    model = build(case).eval()
    pictures = images(1)

    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixels):
            return self.model.outputs(pixels)["head"]

    program = torch.export.export(Raw(), (pictures,)).module()
    given, expected = program(pictures), model.outputs(pictures)["head"]
    pairs = zip(given.values(), expected.values(), strict=True) if isinstance(given, dict) else [(given, expected)]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in pairs)
