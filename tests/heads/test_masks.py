"""The instance head against numbers worked by hand, and whether it can learn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from visionkit.assigners import Assignment
from visionkit.backbones import CSP
from visionkit.data import Collate
from visionkit.data.readers import Shapes
from visionkit.errors import ConfigError
from visionkit.heads import DenseDetection, DenseInstance
from visionkit.heads.masks import sampled_cells
from visionkit.metrics import CocoInstances
from visionkit.model import VisionModel
from visionkit.necks import PAFPN
from visionkit.ops.transfer import start_host_arrays
from visionkit.preprocess import Preprocess
from visionkit.structures import FeatureSpec, Geometry, Targets

LN2 = math.log(2)
SPECS = {"p3": FeatureSpec(8, 8), "pixels": FeatureSpec(8, 4)}


def small_head(mask=0.0, semantic=(0.0, 0.0), **options):
    """Boxes on 2 x 2 cells of 8 px, each the cell itself, masks on 4 x 4 cells of 4 px; the logits of all masks and
    those of the classes' maps are the same everywhere, whatever is to be seen."""
    head = DenseInstance(SPECS, classes=["a", "b"], levels=("p3", "pixels"), prototypes=1, bins=3, **options)
    points = torch.tensor([[0.5, 0.5], [1.5, 0.5], [0.5, 1.5], [1.5, 1.5]]) * 8
    distances = torch.tensor([0.0, 0.0, -90.0]).repeat(4)  # over three bins: half a stride to each edge
    head.detection.forward = lambda features, sizes: {
        "logits": torch.zeros(len(sizes), 4, 2),
        "distances": distances.repeat(len(sizes), 4, 1),
        "points": points,
        "strides": torch.full((4, 1), 8.0),
    }
    with torch.no_grad():
        for conv, values in ((head.coefficient, (1.0,)), (head.prototype, (mask,)), (head.semantic, semantic)):
            conv.weight.zero_()
            conv.bias.copy_(torch.tensor(values))
    return head


def targets_of(boxes, labels, bitmaps, **options):
    """One image of 16 x 16 pixels; bitmaps: (N, 16, 16), one a box."""
    boxes = torch.tensor(boxes, dtype=torch.float32).view(1, -1, 4)
    marks = {name: torch.tensor([options.pop(name)]) for name in ("crowd", "ignore") if name in options}
    packed = torch.from_numpy(np.packbits(np.asarray(bitmaps, np.uint8).reshape(-1, 256), axis=1))
    return Targets(
        sizes=torch.tensor([[16, 16]]),
        boxes=boxes,
        labels=torch.tensor([labels], dtype=torch.long),
        masks=packed,
        mask_row=torch.arange(len(packed))[None],
        **marks,
        **options,
    )


def losses(head, targets):
    count = len(targets.sizes)
    features = {"p3": torch.zeros(count, 8, 2, 2), "pixels": torch.zeros(count, 8, 4, 4)}
    return {name: float(value.detach()) for name, value in head.loss(features, targets).items()}


def bitmap(x1, y1, x2, y2):
    values = np.zeros((16, 16))
    values[y1:y2, x1:x2] = 1
    return values


CELL_0, CELL_3 = [0, 0, 8, 8], [8, 8, 16, 16]
LEFT_HALF = bitmap(0, 0, 4, 8)


# ---------------------------------------------------------------------------------------------------------- the losses
def test_a_mask_inside_its_box_by_hand():
    # All four cells of the box say 1/2, two of them should say 1 and two 0.
    found = losses(small_head(), targets_of([CELL_0], [0], [LEFT_HALF]))
    assert found["mask"] == pytest.approx(LN2 + 1 - (2 * 1 + 1) / (4 * 0.25 + 2 + 1))
    # What lies outside the box is not asked for: a mask of everything there changes nothing.
    beside = LEFT_HALF + bitmap(8, 8, 16, 16)
    assert losses(small_head(), targets_of([CELL_0], [0], [beside]))["mask"] == pytest.approx(found["mask"])


def test_a_mask_that_is_met_costs_nothing():
    found = losses(small_head(mask=30.0), targets_of([CELL_0, CELL_3], [0, 1], [bitmap(*CELL_0), bitmap(*CELL_3)]))
    assert found["mask"] == pytest.approx(0, abs=1e-6)


def test_objects_count_alike_and_losses_are_divided_by_the_steps_totals():
    one = losses(small_head(), targets_of([CELL_0], [0], [LEFT_HALF]))
    bitmaps = [LEFT_HALF, bitmap(8, 8, 12, 16)]
    two = targets_of([CELL_0, CELL_3], [0, 1], bitmaps)
    assert losses(small_head(), two)["mask"] == pytest.approx(one["mask"])
    totals = {"boxes": torch.tensor(2.0), "masks": torch.tensor(8.0)}
    assert losses(small_head(), replace(two, totals=totals))["mask"] == pytest.approx(one["mask"] / 4)


def test_the_classes_maps_by_hand():
    # Logits of 0 cost ln 2 a class and pixel; sure of class a everywhere and of b nowhere, it is wrong where no a is.
    targets = targets_of([CELL_0, CELL_3], [0, 0], [bitmap(*CELL_0), bitmap(*CELL_3)])
    assert losses(small_head(), targets)["semantic"] == pytest.approx(2 * LN2)
    assert losses(small_head(semantic=(20.0, -20.0)), targets)["semantic"] == pytest.approx(0.5 * 20)
    assert losses(small_head(semantic=(-20.0, -20.0)), targets)["semantic"] == pytest.approx(0.5 * 20)
    assert losses(small_head(semantic=(-20.0, 20.0)), targets)["semantic"] == pytest.approx(1.5 * 20)


@pytest.mark.parametrize("mark", ["crowd", "ignore"])
def test_crowds_and_ignored_objects_train_no_mask_and_their_pixels_do_not_count(mark):
    bitmaps = [LEFT_HALF, bitmap(*CELL_3)]
    plain = losses(small_head(), targets_of([CELL_0], [0], [LEFT_HALF]))
    found = losses(small_head(), targets_of([CELL_0, CELL_3], [0, 0], bitmaps, **{mark: [False, True]}))
    assert found["mask"] == pytest.approx(plain["mask"])
    assert found["semantic"] == pytest.approx(plain["semantic"] * 3 / 4)


def test_classes_that_an_image_does_not_label_are_not_background():
    known = torch.tensor([[True, False]])
    found = losses(small_head(), targets_of([CELL_0], [0], [LEFT_HALF], known_classes=known))
    assert found["semantic"] == pytest.approx(LN2)


def test_an_image_that_knows_boxes_and_no_masks_trains_its_boxes_alone():
    head = small_head()
    known = targets_of([CELL_0], [0], [LEFT_HALF])
    two = {name: torch.cat([getattr(known, name)] * 2) for name in ("sizes", "boxes", "labels", "crowd", "ignore")}
    both = replace(
        known,
        **two,
        mask_row=torch.tensor([[0], [-1]]),
        known={"boxes": torch.tensor([True, True]), "masks": torch.tensor([True, False])},
    )
    found, alone = losses(head, both), losses(head, known)
    assert found["mask"] == pytest.approx(alone["mask"])
    assert found["semantic"] == pytest.approx(alone["semantic"])
    neither = losses(head, replace(both, known={**both.known, "masks": torch.tensor([False, False])}))
    assert neither["mask"] == neither["semantic"] == 0
    for name in ("classification", "distribution"):
        assert found[name] == pytest.approx(neither[name])
        assert found[name] == pytest.approx(alone[name])


def test_no_rows_at_all():
    found = losses(small_head(), targets_of([], [], np.zeros((0, 16, 16))))
    assert found["mask"] == found["semantic"] == 0
    assert found["classification"] > 0


def test_the_boxes_losses_are_those_of_the_detector():
    head = small_head()
    targets = targets_of([CELL_0, CELL_3], [0, 1], [LEFT_HALF, bitmap(*CELL_3)])
    expected = head.detection.loss({"p3": torch.zeros(1, 8, 2, 2)}, targets)
    found = losses(head, targets)
    assert {name: found[name] for name in expected} == {name: float(value) for name, value in expected.items()}


def test_cells_are_chosen_object_by_object():
    # Seven cells: object 0 has three, object 1 two, object 2 one, which does not count; the last cell has none.
    row = torch.tensor([[0, 0, 0, 1, 1, 2, -1]])
    quality = torch.tensor([[0.5, 0.4, 0.3, 0.1, 0.04, 0.9, 0.0]])
    learned = torch.tensor([[True, True, False]])
    claims = torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0)
    assignment = Assignment(row, quality, *claims)
    cells, rows, weight = sampled_cells(assignment, learned, 3)
    assert sorted(zip(cells[0].tolist(), rows[0].tolist(), strict=True)) == [(0, 0), (1, 0), (3, 1)]
    by_cell = dict(zip(cells[0].tolist(), weight[0].tolist(), strict=True))
    assert by_cell == pytest.approx({0: 1.0, 1: 0.8, 3: 0.2})  # in proportion to 0.5, 0.4, 0.1; two objects
    cells, rows, weight = sampled_cells(assignment, learned, 99)
    assert cells.shape == (1, 7)
    assert float(weight.sum()) == pytest.approx(2)
    assert weight[0][(cells[0] == 5) | (cells[0] == 6)].tolist() == [0, 0]


class _Syncs(TorchDispatchMode):
    """Remembers the operations that make the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if any(part in name for part in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique")):
            self.found.add(name)
        return func(*args, **(kwargs or {}))


def test_a_training_step_never_waits_for_the_device():
    head = small_head()
    targets = targets_of([CELL_0, CELL_3], [0, 1], [LEFT_HALF, bitmap(*CELL_3)])
    features = {"p3": torch.zeros(1, 8, 2, 2), "pixels": torch.zeros(1, 8, 4, 4)}
    with _Syncs() as watch:
        sum(head.loss(features, targets).values()).backward()
    assert watch.found == set()


def test_a_canvas_that_the_cells_do_not_tile_is_refused():
    targets = targets_of([CELL_0], [0], [LEFT_HALF])
    with pytest.raises(ConfigError, match="image_size must be a multiple of 4"):
        losses(small_head(), replace(targets, masks=targets.masks[:, :30]))


# ------------------------------------------------------------------------------------------------------- what it says
def test_a_mask_is_the_prototypes_times_the_coefficients_of_its_own_cell():
    torch.manual_seed(0)
    head = DenseInstance(SPECS, classes=["a", "b"], levels=("p3", "pixels"), prototypes=3, iou_threshold=1.0).eval()
    features = {"p3": torch.randn(2, 8, 3, 4), "pixels": torch.randn(2, 8, 6, 8)}
    sizes = torch.tensor([[24, 32], [18, 21]])
    geometries = [Geometry((24, 32), (24, 32), (1.0, 1.0)), Geometry((36, 42), (18, 21), (0.5, 0.5))]
    with torch.no_grad():
        head.detection.score.weight.mul_(300)
        raw = head(features, sizes)
        decoded = head.decode(raw, sizes)
        found = head.finish(decoded, geometries)
    plain = head.detection.decode(raw, sizes)
    for i, (rows, columns) in enumerate([(6, 8), (5, 6)]):  # the cells that hold image
        valid = plain["valid"][i]
        assert len(found[i]) == int(valid.sum()) > 5
        assert found[i].coefficients.shape == (len(found[i]), 3)
        assert found[i].prototypes.shape == (3, rows, columns)
        assert found[i].prototypes.dtype == np.float16
        logits = np.tensordot(found[i].coefficients, found[i].prototypes.astype(np.float32), 1)
        for row, cell in enumerate(plain["cells"][i][valid].tolist()):
            expected = torch.einsum("k,khw->hw", raw["coefficients"][i, cell], raw["prototypes"][i])
            assert np.allclose(logits[row], expected[:rows, :columns].numpy(), atol=2e-3)
    of_boxes = head.detection.finish(plain, geometries)
    assert np.array_equal(found[1].boxes, of_boxes[1].boxes)
    assert np.array_equal(found[1].scores, of_boxes[1].scores)
    assert (found[1].geometry, found[1].stride) == (geometries[1], 4)


def test_prototypes_of_any_size_and_images_without_objects():
    head = DenseInstance(SPECS, classes=["a"], levels=("p3", "pixels"), prototypes=1)
    decoded = {
        "boxes": torch.tensor([[[0.0, 0, 16, 8]], [[0, 0, 0, 0]]]),
        "scores": torch.ones(2, 1),
        "labels": torch.zeros(2, 1, dtype=torch.long),
        "valid": torch.tensor([[True], [False]]),
        "coefficients": torch.full((2, 1, 1), 1e4),
        "prototypes": torch.tensor([-1e9, -1e9, 1e9, 1e9]).repeat(2, 1, 2, 1),
    }
    first, second = head.finish(decoded, [Geometry((8, 16), (8, 16), (1.0, 1.0))] * 2)
    assert first.mask(0).all(axis=0).tolist() == [False] * 8 + [True] * 8
    assert len(second) == 0
    assert second.coefficients.shape == (0, 1)
    assert second.prototypes.shape == (1, 2, 4)


def test_only_cells_that_hold_image_leave_the_device(monkeypatch):
    head = DenseInstance(SPECS, classes=["a"], levels=("p3", "pixels"), prototypes=2)
    decoded = {
        "boxes": torch.zeros(2, 3, 4),
        "scores": torch.ones(2, 3),
        "labels": torch.zeros(2, 3, dtype=torch.long),
        "valid": torch.tensor([[True, True, False], [True, False, False]]),
        "coefficients": torch.ones(2, 3, 2),
        "prototypes": torch.ones(2, 2, 8, 8),
    }
    sent = {}
    monkeypatch.setattr(
        "visionkit.finishing.start_host_arrays", lambda tensors: sent.update(tensors) or start_host_arrays(tensors)
    )
    found = head.finish(decoded, [Geometry((9, 17), (9, 17), (1.0, 1.0)), Geometry((15, 8), (15, 8), (1.0, 1.0))])
    assert {name: tuple(sent[name].shape) for name in ("coefficients", "prototypes")} == {
        "coefficients": (2, 3, 2),
        "prototypes": (2, 2, 4, 5),
    }
    assert [one.prototypes.shape for one in found] == [(2, 3, 5), (2, 4, 2)]
    assert [one.coefficients.shape for one in found] == [(2, 2), (1, 2)]


def test_the_parts_of_the_detector_keep_their_names():
    head = DenseInstance(SPECS, classes=["a"], levels=("p3", "pixels"))
    own = {name for name, _ in DenseDetection(SPECS, classes=["a"], levels=("p3",)).state_dict().items()}
    assert {f"detection.{name}" for name in own} <= set(head.state_dict())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": ("p3",)}, r"levels=\['p3'\]: name those of the boxes, and last that of the masks"),
        ({"levels": ("p3", "p4", "pixels")}, "reads p3, p4, pixels, but the neck gives p3, pixels"),
        ({"prototypes": 0}, "prototypes=0 must be at least 1"),
        ({"samples": 0}, "samples=0 must be at least 1"),
        ({"most": 0}, "most=0 must be at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        DenseInstance(SPECS, classes=["a"], **{"levels": ("p3", "pixels"), **options})


# --------------------------------------------------------------------------------------------------- whether it learns
@pytest.mark.slow
def test_four_scenes_are_learned_by_heart(tmp_path):
    torch.manual_seed(0)
    size = 96
    reader = Shapes("train", size=size, count=4, cache_folder=tmp_path)
    samples = [reader.read(index) for index in range(4)]
    backbone = CSP("nano", width=0.5)
    neck = PAFPN(backbone.out_specs, out_levels=("p3", "p4", "p5", "pixels"), width=0.5)
    head = DenseInstance(neck.out_specs, classes=reader.classes)
    model = VisionModel(backbone, neck, {"instance": head}, preprocess=Preprocess(size))
    batch = Collate((size, size), 114, frozenset({"boxes", "masks"}), len(reader.classes))(samples)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model(batch.images, batch.targets)["total"].backward()
        optimizer.step()
    geometries = [Geometry((size, size), (size, size), (1.0, 1.0))] * 4
    metric = CocoInstances(reader.classes)
    for sample, found in zip(samples, model.eval().predict(batch.images, batch.targets.sizes, geometries), strict=True):
        metric.update(sample.image_id, found["instance"], sample.labels)
    assert metric.compute()["AP"] > 0.5
