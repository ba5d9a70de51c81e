from __future__ import annotations

import numpy as np
import pytest
import torch

from visionkit.data.batch_mixes import BatchMix
from visionkit.errors import ConfigError
from visionkit.structures import Batch, Targets


def batch(values=(0, 100, 200), dtype=torch.uint8, size=(16, 16), scores=None, known=None):
    """Images of one value each; image k is of class k."""
    images = torch.stack([torch.full((3, *size), value, dtype=torch.float32) for value in values]).to(dtype)
    scores = torch.eye(len(values)) if scores is None else scores
    told = {} if known is None else {"class_scores": torch.tensor(known)}
    sizes = torch.tensor([[size[0], 4 + k] for k in range(len(values))])
    return Batch(images=images, targets=Targets(sizes=sizes, known=told, class_scores=scores))


def mixed(kind, given, number=0, seed=0):
    alphas = {"mixup": 0.0, "cutmix": 0.0} | {one: 1.0 for one in kind.split("+")}
    return BatchMix(**alphas, p=1.0, seed=seed)(given, number)


def test_a_mixup_by_hand():
    """Image k becomes share * k + (1 - share) * (k - 1), and so do its classes."""
    for number in range(5):
        given = batch()
        after = mixed("mixup", given, number)
        share = float(after.targets.class_scores[0, 0])
        assert 0 < share < 1
        rest = 1 - share
        expected = torch.tensor([[share, 0, rest], [rest, share, 0], [0, rest, share]])
        assert torch.allclose(after.targets.class_scores, expected)
        values = torch.tensor([rest * 200, share * 100, share * 200 + rest * 100])
        assert torch.equal(after.images, values.round().to(torch.uint8)[:, None, None, None].expand(3, 3, 16, 16))
        assert torch.equal(given.images, batch().images)
        assert after.targets.sizes.tolist() == [[16, 6], [16, 5], [16, 6]]


def test_a_cutmix_has_a_rectangle_and_the_classes_its_share():
    shares = []
    for number in range(20):
        after = mixed("cutmix", batch(), number)
        inside = after.images[1, 0] == 0
        assert torch.all(inside | (after.images[1, 0] == 100))
        share = inside.float().mean()
        assert torch.allclose(after.targets.class_scores[1], torch.tensor([share, 1 - share, 0]), atol=1e-6)
        rows, columns = torch.where(inside)
        if len(rows):
            assert inside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        shares.append(float(share))
    assert min(shares) < 0.2 < 0.5 < max(shares)


def test_it_is_a_function_of_seed_and_number():
    first, others = mixed("mixup+cutmix", batch(), 7), [mixed("mixup+cutmix", batch(), n) for n in range(4)]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = mixed("mixup+cutmix", batch(), 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.targets.class_scores, again.targets.class_scores)
    assert len({float(one.targets.class_scores[0, 0]) for one in [first, *others]}) == 5
    other = mixed("mixup+cutmix", batch(), 7, seed=1)
    assert not torch.equal(first.targets.class_scores, other.targets.class_scores)


def test_the_share_of_batches_and_of_either_kind():
    mix = BatchMix(mixup=1.0, cutmix=1.0, p=0.75, seed=0)
    kinds = []
    for number in range(200):
        given = batch()
        after = mix(given, number)
        values = len(after.images[1, 0].unique())
        kinds.append("none" if after is given else "cutmix" if values == 2 else "mixup")
    counts = {kind: kinds.count(kind) / 200 for kind in ("none", "mixup", "cutmix")}
    assert all(
        abs(counts[kind] - share) < 0.1 for kind, share in {"none": 0.25, "mixup": 0.375, "cutmix": 0.375}.items()
    )


def test_what_one_of_two_images_does_not_know_is_unknown():
    scores = torch.tensor([[1.0, 0, -1], [-1, -1, -1], [0, 1, 1], [1, 0, 0]])
    given = batch((0, 50, 100, 150), scores=scores, known=[True, False, True, True])
    after = mixed("mixup", given).targets
    assert after.known["class_scores"].tolist() == [True, False, False, True]
    assert torch.all(after.class_scores[1:3] == -1)
    assert after.class_scores[0, 2] == -1
    assert torch.all(after.class_scores[0, :2] >= 0)
    assert after.counts()["class_scores"] == 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_dtype_and_memory_layout_are_kept(dtype):
    given = batch(dtype=dtype)
    given = Batch(images=given.images.contiguous(memory_format=torch.channels_last), targets=given.targets)
    after = mixed("mixup", given).images
    assert after.dtype == dtype
    assert after.is_contiguous(memory_format=torch.channels_last)
    assert len(np.unique(after.numpy())) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixup": -1.0}, r"augment\.batch_mix\.mixup=-1\.0: a number of 0 or more is wanted"),
        ({"mixup": 0.0, "cutmix": 0.0}, r"augment\.batch_mix\.p=0\.5: mixup or cutmix above 0, or p=0, is wanted"),
        ({"p": 1.5}, r"augment\.batch_mix\.p=1\.5: a share from 0 to 1 is wanted"),
    ],
)
def test_values_that_cannot_be(arguments, message):
    with pytest.raises(ConfigError, match=message):
        BatchMix(**({"mixup": 0.2, "cutmix": 1.0, "p": 0.5, "seed": 0} | arguments))
