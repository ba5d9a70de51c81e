"""Mask functions against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from visionkit.ops import masks as mask_ops


def packed(bitmaps):
    bits = np.asarray(bitmaps, np.uint8).reshape(len(bitmaps), -1)
    return torch.from_numpy(np.packbits(bits, axis=1))


def test_shares_of_cells_by_hand():
    bitmap = np.zeros((4, 6))
    bitmap[0, :3] = 1  # of the first row of cells: a half and a quarter
    bitmap[2:, 4:] = 1  # the whole of the last cell
    shares = mask_ops.covered_shares(packed([bitmap, 1 - bitmap]), (2, 3), 2)
    assert shares.tolist() == [
        [[0.5, 0.25, 0], [0, 0, 1]],
        [[0.5, 0.75, 1], [1, 1, 0]],
        [[0, 0, 0], [0, 0, 0]],  # what the row −1 finds
    ]
    assert shares.dtype == torch.float16


@pytest.mark.parametrize(("height", "width", "stride"), [(3, 5, 1), (9, 15, 3), (32, 48, 4), (32, 64, 32)])
def test_shares_are_means_whether_or_not_rows_end_with_a_byte_and_chunk_by_chunk(height, width, stride, monkeypatch):
    bitmaps = np.random.default_rng(0).random((7, height, width)) < 0.4
    expected = torch.from_numpy(bitmaps).float().view(7, height // stride, stride, width // stride, stride).mean((2, 4))
    for chunk in (2**26, 2 * height * width, 1):
        monkeypatch.setattr(mask_ops, "_CHUNK_PIXELS", chunk)
        shares = mask_ops.covered_shares(packed(bitmaps), (height // stride, width // stride), stride)
        assert torch.equal(shares[:-1], expected.half())


def test_no_masks_leave_the_empty_one():
    shares = mask_ops.covered_shares(torch.zeros((0, 2), dtype=torch.uint8), (2, 2), 2)
    assert shares.tolist() == [[[0, 0], [0, 0]]]


def test_cells_that_a_box_touches():
    boxes = torch.tensor([[3.9, 4.0, 8.0, 8.1], [0, 0, 12, 4], [5, 5, 5.1, 5.1], [-9, -9, 99, 99], [9, 9, 3, 3]])
    found = mask_ops.touched_cells(boxes, (3, 3), 4)
    rows = ["".join(str(int(cell)) for cell in line) for line in found.flatten(1)]
    assert rows == ["000110110", "111000000", "000010000", "111111111", "000000000"]
    strange = torch.tensor([[float("nan")] * 4, [0, 0, float("nan"), 9]])
    assert not mask_ops.touched_cells(strange, (3, 3), 4).any()


def test_losses_by_hand():
    # Of four cells three count; they say 1/2, 3/4 and 1/4 and should say 1, 1/2 and 0.
    logits = torch.tensor([[0.0, math.log(3)], [-math.log(3), 50.0]])
    wanted = torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    inside = torch.tensor([[True, True], [True, False]])
    entropy, dice = mask_ops.mask_losses(logits, wanted, inside)
    half = -(math.log(0.75) + math.log(0.25)) / 2
    assert float(entropy) == pytest.approx((math.log(2) + half - math.log(0.75)) / 3)
    both, either = 0.5 + 0.375, (0.25 + 0.5625 + 0.0625) + 1.25
    assert float(dice) == pytest.approx(1 - (2 * both + 1) / (either + 1))


def test_what_is_met_exactly_has_no_dice_loss_also_where_it_is_a_share():
    wanted = torch.tensor([[0.25, 0.5], [0.75, 0.9]])
    inside = torch.ones(2, 2, dtype=torch.bool)
    assert float(mask_ops.mask_losses(wanted.logit(), wanted, inside)[1]) == pytest.approx(0, abs=1e-6)


def test_where_no_cell_counts_there_is_no_loss_and_no_gradient():
    logits = torch.randn(2, 3, 3, requires_grad=True)
    entropy, dice = mask_ops.mask_losses(logits, torch.ones(2, 3, 3), torch.zeros(2, 3, 3, dtype=torch.bool))
    assert entropy.tolist() == dice.tolist() == [0, 0]
    (entropy + dice).sum().backward()
    assert not logits.grad.any()


def test_unions_by_hand():
    shares = torch.tensor([[[0.5, 0.0]], [[0.75, 1.0]], [[1.0, 0.75]], [[0.0, 0.5]]], dtype=torch.float16)
    # The first two go together, the last goes with nothing; the third is thrown away.
    found = mask_ops.unions(shares, torch.tensor([1, 1, 3, 0]), 3)
    assert found.tolist() == [[[0, 0.5]], [[1.0, 1.0]], [[0, 0]]]
