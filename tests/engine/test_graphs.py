"""A network that is replayed in training learns what one that is launched does."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from torch import nn

from visionkit.backbones import CSP
from visionkit.engine.graphs import TrainingGraphs, can_record
from visionkit.heads import DenseInstance, LinearClassification
from visionkit.model import VisionModel
from visionkit.necks import PAFPN
from visionkit.preprocess import Preprocess
from visionkit.structures import Targets

SIDE, BATCH = 64, 4
CUDA = torch.device("cuda")
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


class Own(nn.Module):
    """A backbone of one's own, which may wait for the device."""

    def __init__(self, waits: bool):
        super().__init__()
        self.inner, self.waits = CSP("nano", width=0.25), waits
        self.out_specs = self.inner.out_specs

    def forward(self, images):
        if self.waits and images.mean() > 1e9:
            return {}
        return self.inner(images)


def model(dropout=0.0, backbone=None):
    torch.manual_seed(0)
    backbone = backbone or CSP("nano", width=0.25)
    neck = PAFPN(backbone.out_specs, out_levels=("p3", "p4", "p5", "pixels"), channels=32)
    heads = {
        "classification": LinearClassification(backbone.out_specs, classes=("a", "b"), dropout=dropout),
        "instance": DenseInstance(neck.out_specs, classes=("a", "b")),
    }
    return VisionModel(backbone, neck, heads, preprocess=Preprocess(SIDE)).train()


def batch(seed=0, images=BATCH):
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(images, 3, 2, generator=random) * SIDE / 2
    boxes = torch.cat([corners, corners + 8 + torch.rand(images, 3, 2, generator=random) * SIDE / 3], -1)
    masks = torch.zeros(images * 3 + 1, SIDE * SIDE // 8, dtype=torch.uint8)
    masks[:-1] = torch.randint(0, 256, masks[:-1].shape, dtype=torch.uint8, generator=random)
    targets = Targets(
        sizes=torch.full((images, 2), SIDE),
        boxes=boxes,
        labels=torch.randint(0, 2, (images, 3), generator=random),
        masks=masks,
        mask_row=torch.arange(images * 3).view(images, 3),
        class_scores=torch.eye(2)[torch.arange(images) % 2],
    )
    return torch.randint(0, 256, (images, 3, SIDE, SIDE), dtype=torch.uint8, generator=random), targets


def to_gpu(given):
    images, targets = given
    return images.to(CUDA), targets.to(CUDA)


def learned(made: VisionModel, seeds, dtype=torch.float32, accumulate=1):
    """The losses of some steps of SGD; the model has learned from them."""
    optimizer = torch.optim.SGD(made.parameters(), lr=0.001, momentum=0.9)
    told = []
    for number, seed in enumerate(seeds, 1):
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            loss = made(*to_gpu(batch(seed)))["total"]
        loss.backward()
        told.append(loss.item())
        if number % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return told


def assert_alike(one: VisionModel, other: VisionModel, rtol: float):
    for (name, mine), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=rtol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("chosen", [("instance",), ("classification", "instance")])
def test_losses_are_those_of_the_heads_from_the_features(chosen):
    made = model()
    for name in {*made.heads} - {*chosen}:
        del made.heads[name]
    images, targets = batch()
    total = made(images, targets)
    features = made.features(images)  # statistics of the batch, so a second pass gives the same
    for name, head in made.named_heads():
        for key, value in head.loss(features, targets).items():
            torch.testing.assert_close(total[f"{name}/{key}"], value)
    total["total"].backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_graphs_are_for_gpus_and_parts_that_are_known():
    assert not can_record("auto", model(), torch.device("cpu"))
    assert not can_record(True, model(), torch.device("cpu"))
    assert can_record("auto", model(), CUDA)
    assert not can_record(False, model(), CUDA)
    own = model(backbone=Own(waits=False))
    assert not can_record("auto", own, CUDA)
    assert can_record(True, own, CUDA)


def test_evaluation_and_what_needs_no_gradient_are_not_replayed():
    made = model()
    made.network = TrainingGraphs(made)
    images, _ = batch()
    made.network.recorded[images.shape] = None  # to replay it would fail
    with torch.no_grad():
        assert made.network(images)[1].keys() == {"instance"}
    assert made.eval().network(images)[1].keys() == {"instance"}


class TestOnGPU:
    pytestmark = needs_gpu

    @pytest.mark.parametrize("accumulate", [1, 3])
    def test_steps_are_the_same(self, accumulate, monkeypatch):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        plain, replayed = model().to(CUDA), model().to(CUDA)
        replayed.network = TrainingGraphs(replayed)
        wanted, found = (learned(made, range(6), accumulate=accumulate) for made in (plain, replayed))
        assert replayed.network.refused is None
        assert len(replayed.network.recorded) == 1
        assert found == pytest.approx(wanted, rel=1e-4)
        assert_alike(replayed, plain, 1e-3)

    def test_mixed_precision_learns_alike(self):
        plain, replayed = (model().to(CUDA).use_memory_format(torch.channels_last) for _ in range(2))
        replayed.network = TrainingGraphs(replayed)
        wanted, found = (learned(made, range(6), torch.bfloat16) for made in (plain, replayed))
        assert found == pytest.approx(wanted, rel=0.03)

    def test_recording_leaves_statistics_and_random_numbers_as_they_were(self):
        made = model(dropout=0.5).to(CUDA)
        before, random = copy.deepcopy(made.state_dict()), torch.cuda.get_rng_state()
        graphs = TrainingGraphs(made)
        graphs(batch()[0].to(CUDA))
        after = made.state_dict()
        counted = [name for name in before if name.endswith("num_batches_tracked")]
        assert {int(after[name] - before[name]) for name in counted} == {1}  # the batch that was asked for
        plain = model(dropout=0.5).to(CUDA)
        torch.cuda.set_rng_state(random)
        plain.network(batch()[0].to(CUDA))
        assert_alike(made, plain, 1e-4)

    def test_other_shapes_and_evaluation_have_no_graph_of_the_first(self):
        made = model().to(CUDA)
        made.network = TrainingGraphs(made)
        learned(made, range(2))
        images, targets = to_gpu(batch(images=2))
        assert torch.isfinite(made(images, targets)["total"])
        assert len(made.network.recorded) == 2
        with torch.no_grad():
            assert torch.isfinite(made(*to_gpu(batch(images=3)))["total"])
        assert len(made.network.recorded) == 2
        plain = model().to(CUDA).eval()
        plain.load_state_dict(made.state_dict())
        sizes = torch.full((2, 2), SIDE, device=CUDA)
        with torch.inference_mode():
            torch.testing.assert_close(made.eval().outputs(images, sizes), plain.outputs(images, sizes))

    def test_old_graphs_go_although_somebody_holds_a_loss(self):
        made = model().to(CUDA)
        made.network = TrainingGraphs(made)
        losses = made(*to_gpu(batch()))
        losses["total"].backward()
        (recorded,) = made.network.recorded.values()
        old = weakref.ref(recorded)
        del recorded
        made.network = TrainingGraphs(made)
        assert old() is None

    def test_what_is_recorded_warns_of_nothing(self, recwarn):
        made = model()
        made.heads.pop("instance")
        made.neck = None
        made.backbone.requires_grad_(False)
        made.to(CUDA).network = TrainingGraphs(made)
        assert all(torch.isfinite(torch.tensor(learned(made, range(2)))))
        assert made.network.recorded
        assert not [one for one in recwarn if "CUDA Graph" in str(one.message) or "Synchron" in str(one.message)]

    def test_what_waits_for_the_device_is_launched(self, caplog):
        caplog.set_level("INFO")
        made = model(backbone=Own(waits=True)).to(CUDA)
        made.network = TrainingGraphs(made)
        assert all(torch.isfinite(torch.tensor(learned(made, range(2)))))
        assert not made.network.recorded
        assert "synchronizing" in made.network.refused
        assert caplog.text.count("no CUDA graph of it is made (engine.cuda_graphs)") == 1
