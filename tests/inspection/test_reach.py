from __future__ import annotations

from fractions import Fraction

import pytest

from visionkit.inspection.reach import Reach, bins, convolution, enlargement, transposed_convolution


def chain(*layers):
    reach = Reach()
    for kernel, stride, padding in layers:
        reach = reach.through(*convolution(kernel, stride, padding, 1))
    return reach


def test_a_pixel_sees_itself():
    assert (Reach().size, Reach().stride, Reach().cell(7)) == (1, 1, (7, 7))


@pytest.mark.parametrize(
    ("layers", "size", "stride", "first"),
    [
        ([(3, 1, 1)], 3, 1, (-1, 1)),
        ([(3, 1, 1), (3, 1, 1)], 5, 1, (-2, 2)),
        ([(3, 1, 0), (2, 2, 0)], 4, 2, (0, 3)),
        ([(7, 2, 3), (3, 2, 1)], 11, 4, (-5, 5)),  # ResNet's stem
        ([(4, 4, 0), (7, 1, 3)], 28, 4, (-12, 15)),  # ConvNeXt's first patch and depthwise convolution
    ],
)
def test_chains_by_hand(layers, size, stride, first):
    reach = chain(*layers)
    assert (reach.size, reach.stride, reach.cell(0)) == (size, stride, first)
    assert reach.cell(3) == (first[0] + 3 * stride, first[1] + 3 * stride)


def test_the_published_field_of_vgg16():
    block = [(3, 1, 1)]
    layers = [*block * 2, (2, 2, 0), *block * 2, (2, 2, 0), *(block * 3 + [(2, 2, 0)]) * 3]
    reach = chain(*layers)
    assert (reach.size, reach.stride) == (212, 32)  # Araujo et al. 2019, table of networks


def test_the_published_field_of_resnet50():
    """Of Araujo et al.'s, where the last block of a stage has the stride (torchvision's have it in the first)."""
    layers = [(7, 2, 3), (3, 2, 1)]
    for blocks, stride in ((3, 2), (4, 2), (6, 2), (3, 1)):
        layers += [(3, 1, 1)] * (blocks - 1) + [(3, stride, 1)]
    assert (chain(*layers).size, chain(*layers).stride) == (483, 32)


def test_dilation_spreads_the_window():
    reach = Reach().through(*convolution(3, 1, 2, 2))
    assert (reach.size, reach.cell(0)) == (5, (-2, 2))


def test_branches_see_the_union():
    narrow, wide = chain((1, 1, 0)), chain((3, 1, 1), (3, 1, 1))
    assert narrow.joined(wide) == wide.joined(narrow) == wide
    left, right = chain((3, 1, 2)), chain((3, 1, 0))  # pixels −2 to 0, and 0 to 2
    assert left.joined(right).cell(0) == (-2, 2)


def test_of_maps_with_other_strides_the_larger_counts():
    fine, coarse = chain((3, 1, 1)), chain((3, 2, 1), (3, 2, 1))
    assert fine.joined(coarse) is coarse


def test_enlarged_cells_see_the_same_in_pairs():
    coarse = chain((2, 2, 0))
    fine = coarse.through(*enlargement(4, 8))
    assert [fine.cell(k) for k in range(5)] == [(0, 1), (0, 1), (2, 3), (2, 3), (4, 5)]
    assert (fine.size, fine.stride) == (2, 1)
    seen = fine.through(*convolution(3, 1, 1, 1))
    assert [seen.cell(k) for k in range(4)] == [(-2, 1), (0, 3), (0, 3), (2, 5)]
    assert seen.size == 4
    assert seen.through(*convolution(1, 2, 0, 1)).cell(1) == (0, 3)  # every second cell: a period of one again


def test_what_rounding_up_left_over_does_not_bend_an_enlargement():
    reach = chain((2, 2, 0)).through(*enlargement(7, 13))
    assert reach.stride == 1
    assert enlargement(3, 4)[0] == [(0, 0), (0, 0), (1, 1), (2, 2)]


def test_bilinear_enlargement_sees_two_cells():
    windows, shift = enlargement(4, 8, smooth=1)
    assert (windows, shift) == ([(-1, 0), (0, 1)], 1)
    assert enlargement(8, 8, smooth=1) == ([(0, 0)], 1)
    assert enlargement(4, 8, smooth=2)[0] == [(-2, 1), (-1, 2)]


def test_transposed_convolutions():
    reach = Reach(((0, 3),), 4).through(*transposed_convolution(2, 2, 0, 1))
    assert [reach.cell(k) for k in range(4)] == [(0, 3), (0, 3), (4, 7), (4, 7)]
    # Kernel 3, stride 2, padding 1: even outputs see one cell, odd ones two.
    reach = Reach().through(*transposed_convolution(3, 2, 1, 1))
    assert [reach.cell(k) for k in range(4)] == [(0, 0), (0, 1), (1, 1), (1, 2)]
    assert reach.stride == Fraction(1, 2)


def test_adaptive_pooling():
    assert bins(6, 3) == ([(0, 1)], 2)
    assert bins(5, 3) == ([(0, 1), (1, 3), (3, 4)], 5)  # torch's windows, which overlap
