"""Means over the valid part of a canvas against numbers worked by hand."""

from __future__ import annotations

import torch

from visionkit.ops.pooling import attention, cell_centres, masked_mean, valid_cells


def test_a_cell_counts_if_its_centre_lies_on_the_image():
    # Strides of 32: centres at 16, 48, 80, 112.
    sizes = torch.tensor([[128, 128], [49, 48], [17, 81], [1, 16]])
    valid = valid_cells(sizes, (4, 4), 32)
    assert valid[0].all()
    assert valid[1].nonzero().tolist() == [[0, 0], [1, 0]]
    assert valid[2].nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]
    assert valid[3].nonzero().tolist() == [[0, 0]]  # at least one


def test_a_canvas_that_the_stride_does_not_divide():
    assert valid_cells(torch.tensor([[70, 70]]), (3, 3), 32)[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_centres():
    assert cell_centres(3, 16, torch.zeros(1)).tolist() == [8.0, 24.0, 40.0]


def test_the_mean_leaves_out_what_is_no_image():
    features = torch.arange(8.0).view(1, 2, 2, 2)
    valid = torch.tensor([[[True, False], [True, False]]])
    assert masked_mean(features, valid).tolist() == [[1.0, 5.0]]
    everything = torch.ones(1, 2, 2, dtype=torch.bool)
    assert torch.allclose(masked_mean(features, everything), features.mean((-2, -1)))


def test_attention_sums_to_one_over_the_image_alone():
    logits = torch.zeros(1, 1, 2, 2)
    logits[0, 0, 0, 1] = 100.0
    valid = torch.tensor([[[True, False], [True, False]]])
    assert attention(logits, valid).flatten().tolist() == [0.5, 0.0, 0.5, 0.0]
    logits.requires_grad_()
    attention(logits, valid).square().sum().backward()
    assert logits.grad.isfinite().all()
