"""Joint training: rows that know different labels, in one process and in two."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn

from visionkit.backbones import CSP
from visionkit.engine.distributed import Processes
from visionkit.errors import ConfigError
from visionkit.heads import DenseInstance, LinearClassification, SemanticSegmentation
from visionkit.model import LossWeights, VisionModel
from visionkit.necks import PAFPN
from visionkit.preprocess import Preprocess
from visionkit.structures import IGNORE_INDEX, Targets

CLASSES, SIDE = ("a", "b", "c"), 64
ROWS = 4


def joint_model(**arguments) -> VisionModel:
    torch.manual_seed(0)
    backbone = CSP("nano", width=0.25)
    neck = PAFPN(backbone.out_specs, out_levels=("pixels", "p3", "p4", "p5"), channels=16, pixel_channels=16)
    specs = {**backbone.out_specs, **neck.out_specs}
    heads = {
        "classification": LinearClassification(specs, classes=CLASSES, dropout=0.0),
        "semantic": SemanticSegmentation(specs, classes=CLASSES, dropout=0.0),
        "instance": DenseInstance(specs, classes=CLASSES),
    }
    model = VisionModel(backbone, neck, heads, preprocess=Preprocess(SIDE), **arguments)
    # The rows must not see each other, as they do through the statistics of BatchNorm.
    return model.eval()


def mixed_batch() -> tuple[torch.Tensor, Targets]:
    """Row 0 knows boxes and masks, row 1 pixels, row 2 its class, row 3 that it holds no object."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (ROWS, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    boxes = torch.zeros(ROWS, 8, 4)
    boxes[0, 0], boxes[0, 1] = torch.tensor([4.0, 4, 40, 44]), torch.tensor([30.0, 20, 60, 60])
    labels = torch.full((ROWS, 8), -1)
    labels[0, :2] = torch.tensor([1, 2])
    mask_row = torch.full((ROWS, 8), -1)
    mask_row[0, :2] = torch.tensor([0, 1])
    bitmaps = torch.zeros(8, SIDE, SIDE, dtype=torch.uint8)
    bitmaps[0, 4:44, 4:40], bitmaps[1, 20:60, 30:60] = 1, 1
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)
    masks = (bitmaps.flatten(1).view(8, -1, 8) * weights).sum(-1, dtype=torch.uint8)
    semantic = torch.full((ROWS, SIDE, SIDE), IGNORE_INDEX, dtype=torch.uint8)
    semantic[1, :32], semantic[1, 32:48] = 0, 2
    scores = torch.full((ROWS, 3), -1.0)
    scores[2] = torch.tensor([0.0, 1.0, 0.0])

    def rows(*known):
        return torch.tensor([row in known for row in range(ROWS)])

    known = {"boxes": rows(0, 3), "masks": rows(0, 3), "semantic": rows(1), "class_scores": rows(2)}
    return images, Targets(
        sizes=torch.tensor([[SIDE, SIDE]] * ROWS), known=known, boxes=boxes, labels=labels, mask_row=mask_row,
        masks=masks, semantic=semantic, class_scores=scores,
    )  # fmt: skip


def taken(images: torch.Tensor, targets: Targets, rows: list[int]) -> tuple[torch.Tensor, Targets]:
    """Some rows of a batch, with the totals of the whole of it."""
    per_row = ("sizes", "boxes", "labels", "crowd", "ignore", "mask_row", "semantic", "class_scores")
    values = {name: getattr(targets, name)[rows] for name in per_row}
    known = {name: value[rows] for name, value in targets.known.items()}
    return images[rows], replace(targets, **values, known=known, totals=targets.counts())


def test_a_mixed_batch_gives_the_losses_of_its_rows_taken_apart():
    model, (images, targets) = joint_model(), mixed_batch()
    with torch.no_grad():
        together = model(*taken(images, targets, [0, 1, 2, 3]))
        apart = [model(*taken(images, targets, [row])) for row in range(ROWS)]
    for name, loss in together.items():
        assert float(loss) == pytest.approx(sum(float(losses[name]) for losses in apart), rel=1e-4, abs=1e-6), name
    assert all(float(together[name]) > 0 for name in together)
    # A row adds to the losses of what it knows and to no others.
    assert float(apart[1]["instance/classification"]) == 0 < float(apart[1]["semantic/cross_entropy"])
    assert float(apart[2]["semantic/cross_entropy"]) == 0 < float(apart[2]["classification/cross_entropy"])
    assert float(apart[3]["instance/classification"]) > 0 == float(apart[3]["instance/mask"])


def test_every_parameter_has_a_gradient_from_a_batch_that_knows_little():
    model, (images, targets) = joint_model(), mixed_batch()
    model(*taken(images, targets, [2]))["total"].backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


SHARES = ([[0, 1], [2, 3]], [[0, 3], [1, 2]], [[1], [0, 2, 3]])
"""The rows of each rank."""


def _train_on_one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    for number, shares in enumerate(SHARES):
        model = nn.parallel.DistributedDataParallel(joint_model())
        losses = model(*taken(*mixed_batch(), shares[rank]))
        losses["total"].backward()
        gradients = {name: parameter.grad for name, parameter in model.module.named_parameters()}
        found = {"losses": {name: float(value) for name, value in losses.items()}, "gradients": gradients}
        plain = joint_model().to(memory_format=torch.channels_last if number else torch.contiguous_format)
        plain(*taken(*mixed_batch(), shares[rank]))["total"].backward()
        found["beside"] = Processes(rank, 2).take_mean_gradients(plain, torch.tensor([1.0, rank]))
        found["at_once"] = {name: parameter.grad for name, parameter in plain.named_parameters()}
        torch.save(found, f"{folder}/{number}-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What both ranks found for each of `SHARES`; processes take seconds to start, so they do all of them."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(_train_on_one_rank, (str(folder),), nprocs=2)
    return folder


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", range(len(SHARES)))
def test_two_processes_with_different_labels_neither_hang_nor_change_a_number(two_processes, number):
    ranks = [torch.load(two_processes / f"{number}-{rank}.pt", weights_only=True) for rank in range(2)]
    model = joint_model()
    losses = model(*taken(*mixed_batch(), [0, 1, 2, 3]))
    losses["total"].backward()
    for name, loss in losses.items():
        assert sum(rank["losses"][name] for rank in ranks) == pytest.approx(loss.item(), rel=1e-4, abs=1e-6), name
    for name, parameter in model.named_parameters():
        # DDP gives the mean over ranks of gradients whose losses are divided by the whole step's totals.
        torch.testing.assert_close(2 * ranks[0]["gradients"][name], parameter.grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(2 * ranks[1]["at_once"][name], parameter.grad, rtol=1e-3, atol=1e-5)
    assert [rank["beside"].tolist() for rank in ranks] == [[2.0, 1.0], [2.0, 1.0]]


# ------------------------------------------------------------------------------------------------------ learned weights
def test_learned_weights_follow_kendall():
    weights = LossWeights({"a": nn.Identity(), "b": nn.Identity()}, {"b": 2.0}, learned=True)
    with torch.no_grad():
        weights.log_variances["a"].fill_(1.0)
        weights.log_variances["b"].fill_(-1.0)
    losses = {"a/x": torch.tensor(3.0), "a/y": torch.tensor(1.0), "b/x": torch.tensor(0.5)}
    total = weights(losses, {"a": torch.tensor(1.0), "b": torch.tensor(0.25)})
    e = torch.e
    assert float(total) == pytest.approx((3 + 1) / e + 0.5 * 1 + e * 2 * 0.5 + 0.5 * 0.25 * -1)


def test_learned_weights_settle_where_each_head_counts_alike():
    weights = LossWeights({"large": nn.Identity(), "small": nn.Identity()}, learned=True)
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.5)
    losses = {"large/x": torch.tensor(8.0), "small/x": torch.tensor(0.125)}
    for _ in range(300):
        optimizer.zero_grad()
        weights(losses, dict.fromkeys(("large", "small"), torch.tensor(1.0))).backward()
        optimizer.step()
    for name, loss in losses.items():
        # d/ds (exp(-s) L + s / 2) = 0 at exp(-s) L = 1 / 2
        assert float(torch.exp(-weights.log_variances[name.split("/")[0]]) * loss) == pytest.approx(0.5, rel=1e-3)


def test_accumulated_batches_count_the_uncertainty_once():
    model, (images, targets) = joint_model(learn_loss_weights=True), mixed_batch()
    whole = model(*taken(images, targets, [0, 1, 2, 3]))["total"]
    parts = [model(*taken(images, targets, [row]))["total"] for row in range(ROWS)]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-4)


def test_a_merge_of_a_head_that_is_not_there_is_refused():
    class Merge:
        reads, needs, classes = ("semantic", "instances"), frozenset(), ()

    with pytest.raises(ConfigError, match="merge 'panoptic' reads the heads semantic, instances, and the model has"):
        joint_model(merges={"panoptic": Merge()})
