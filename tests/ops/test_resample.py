"""Maps in original pixels: where a pixel's centre lies among the cells, and what must not be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visionkit.ops import resample
from visionkit.ops.resample import original_classes
from visionkit.structures import Geometry


def by_hand(logits, geometry, stride):
    """(C, H, W) float64: plain bilinear interpolation between cells' centres, pixel by pixel."""
    places = []
    for axis in range(2):
        held = min(logits.shape[1 + axis], -(-geometry.size[axis] // stride))
        centre = (np.arange(geometry.original[axis]) + 0.5) * geometry.scale[axis] + geometry.offset[axis]
        place = np.clip(centre / stride - 0.5, 0, held - 1)
        low = np.minimum(place.astype(int), max(0, held - 2))
        places.append((low, np.minimum(low + 1, held - 1), place - low))
    (y0, y1, fy), (x0, x1, fx) = places
    values = logits.double().numpy()
    rows = values[:, y0] * (1 - fy)[:, None] + values[:, y1] * fy[:, None]
    return rows[..., x0] * (1 - fx) + rows[..., x1] * fx


GEOMETRIES = {
    "as it is": (Geometry((20, 32), (20, 32), (1.0, 1.0)), 4),
    "enlarged, odd": (Geometry((13, 21), (27, 30), (27 / 13, 30 / 21)), 4),
    "shrunk": (Geometry((61, 120), (16, 31), (16 / 61, 31 / 120)), 8),
    "cropped": (Geometry((40, 90), (32, 32), (0.9, 0.9), (-2.0, -24.5)), 4),
    "stride 1": (Geometry((9, 11), (9, 11), (1.0, 1.0)), 1),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_equals_plain_bilinear_interpolation(name):
    geometry, stride = GEOMETRIES[name]
    logits = torch.randn(5, 12, 12, generator=torch.Generator().manual_seed(0))
    ((classes, scores),) = original_classes(logits[None], [geometry], stride, keep_scores=True)
    wanted = by_hand(logits, geometry, stride)
    assert classes.dtype == np.uint8
    assert classes.shape == geometry.original
    first, second = np.sort(wanted, 0)[-1], np.sort(wanted, 0)[-2]
    clear = first - second > 1e-4
    assert np.array_equal(classes[clear], wanted.argmax(0)[clear])
    assert clear.mean() > 0.99
    assert scores.dtype == np.float16
    assert np.allclose(scores, torch.from_numpy(wanted).softmax(0), atol=2e-3)


def test_the_edge_between_two_cells_by_hand():
    # Centres at 2 and 6; class 0 leads by 3 there and trails by 1 here: equal at 2 + 3/4 * 4 = 5.
    logits = torch.tensor([[[[3.0, -1.0]], [[0.0, 0.0]]]])
    ((classes, scores),) = original_classes(logits, [Geometry((1, 8), (1, 8), (1.0, 1.0))], 4)
    assert classes.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]]
    assert scores is None


def test_cells_without_image_are_never_read():
    logits = torch.zeros(2, 8, 8)
    logits[0, :3, :5] = 1.0
    logits[1, 3:] = torch.inf
    logits[1, :, 5:] = torch.inf
    geometry = Geometry((10, 18), (10, 18), (1.0, 1.0))  # the last cells hold 2 of their 4 pixels
    assert not original_classes(logits[None], [geometry], 4)[0][0].any()


def test_strips_are_the_same_as_one_piece_and_stay_small(monkeypatch):
    logits = torch.randn(1, 7, 10, 12)
    geometry = Geometry((101, 130), (40, 48), (40 / 101, 48 / 130))
    (whole,) = original_classes(logits, [geometry], 4, keep_scores=True)
    sizes, original = [], resample.F.grid_sample

    def watched(*args, **options):
        sizes.append(original(*args, **options).numel() * 4)
        return original(*args, **options)

    monkeypatch.setattr(resample.F, "grid_sample", watched)
    for rows in (1, 9):
        sizes.clear()
        (strips,) = original_classes(logits, [geometry], 4, keep_scores=True, most_bytes=rows * 7 * 130 * 4)
        assert all(np.array_equal(one, other) for one, other in zip(whole, strips, strict=True))
        assert max(sizes) == rows * 7 * 130 * 4
        assert len(sizes) == -(-101 // rows)


def test_half_precision_and_255_classes():
    logits = torch.eye(255)[None, :, :, None].bfloat16() * 9
    ((classes, _),) = original_classes(logits, [Geometry((255, 1), (255, 1), (1.0, 1.0))], 1)
    assert classes[:, 0].tolist() == list(range(255))


@pytest.mark.parametrize("keep_scores", [False, True])
def test_images_of_a_batch_are_answered_in_their_order_each_as_if_alone(keep_scores):
    logits = torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    one, other, third = (GEOMETRIES[name][0] for name in ("as it is", "enlarged, odd", "cropped"))
    geometries = [one, other, one, third, one]
    found = original_classes(logits, geometries, 4, keep_scores=keep_scores)
    for i, geometry in enumerate(geometries):
        ((classes, scores),) = original_classes(logits[i : i + 1], [geometry], 4, keep_scores=keep_scores)
        assert np.array_equal(found[i][0], classes)
        assert np.array_equal(found[i][1], scores) if keep_scores else found[i][1] is None
    assert original_classes(logits[:0], [], 4) == []


def test_several_images_in_one_piece_are_each_as_if_alone():
    logits = torch.randn(3, 5, 10, 12, generator=torch.Generator().manual_seed(0))
    y, x = torch.linspace(-0.9, 0.9, 31), torch.linspace(-0.95, 0.9, 45)
    classes, scores, _ = resample._resampled(logits, y, x, True, 1 << 20)
    for i in range(3):
        alone, alone_scores, _ = resample._resampled(logits[i : i + 1], y, x, True, 1 << 20)
        assert torch.equal(classes[i], alone[0])
        assert torch.equal(scores[i], alone_scores[0])
