from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from visionkit.data.collate import Collate, CollateEvaluation, bucket, padded_images
from visionkit.structures import IGNORE_INDEX, LABEL_FIELDS, Geometry, Labels

ALL = frozenset(LABEL_FIELDS)


def test_buckets():
    assert [bucket(count) for count in (0, 1, 8, 9, 16, 17, 100, 2000)] == [8, 8, 8, 16, 16, 32, 128, 2048]


def test_images_are_padded_right_and_below_in_channels_last_memory():
    images = [np.full((2, 3, 3), 7, np.uint8), np.full((4, 4, 3), 9, np.uint8)]
    batch = padded_images(images, (4, 4), 114)
    assert batch.shape == (2, 3, 4, 4)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    expected = torch.full((4, 4), 114, dtype=torch.uint8)
    expected[:2, :3] = 7
    assert torch.equal(batch[0, 1], expected)
    assert torch.all(batch[1] == 9)


def test_the_grey_of_other_image_types():
    assert padded_images([np.zeros((1, 1, 1), np.uint16)], (2, 2), 114)[0, 0, 1, 1] == 114 * 257
    assert padded_images([np.zeros((1, 1, 1), np.float32)], (2, 2), 51)[0, 0, 1, 1] == pytest.approx(0.2)


def test_targets_of_a_mixed_batch(make_sample):
    full, none = make_sample(0, objects=9), replace(make_sample(1), labels=Labels(size=(48, 64)))
    empty = make_sample(2, size=(30, 40), objects=0)
    batch = Collate((50, 66), 114, ALL, (3, 3))([full, none, empty])
    targets = batch.targets
    assert batch.image_ids == (1, 2, 3)
    assert targets.sizes.tolist() == [[48, 64], [48, 64], [30, 40]]
    assert {name: rows.tolist() for name, rows in targets.known.items()} == {
        "boxes": [True, False, True],
        "masks": [True, False, True],
        "class_scores": [True, False, True],
        "box": [True, False, False],
        "semantic": [True, False, True],
    }
    assert targets.boxes.shape == (3, 16, 4)
    assert targets.boxes.dtype == torch.float32
    assert targets.labels[0].tolist() == [*full.labels.labels.tolist(), *[-1] * 7]
    assert torch.all(targets.labels[1:] == -1)
    assert np.array_equal(targets.boxes[0, :9].numpy(), full.labels.boxes)
    assert targets.crowd.dtype == targets.ignore.dtype == torch.bool
    assert np.array_equal(targets.class_scores[0].numpy(), full.labels.class_scores)
    assert torch.all(targets.class_scores[1] == -1)
    assert np.array_equal(targets.box[0].numpy(), full.labels.box)
    assert np.array_equal(targets.semantic[0, :48, :64].numpy(), full.labels.semantic)
    assert torch.all(targets.semantic[1] == IGNORE_INDEX)
    assert torch.all(targets.semantic[2, 30:] == IGNORE_INDEX)
    assert targets.counts()["boxes"] == 9


def test_masks_are_packed_and_found_again(make_sample):
    samples = [make_sample(0, objects=2), make_sample(1, size=(30, 43), objects=3)]
    targets = Collate((49, 65), 114, frozenset({"masks"}), (3, 3))(samples).targets
    assert targets.masks.shape == (8, -(-49 * 65 // 8))
    assert targets.mask_row[:, :4].tolist() == [[0, 1, -1, -1], [2, 3, 4, -1]]
    for number, sample in enumerate(samples):
        height, width = sample.labels.size
        for row, bitmap in zip(targets.mask_row[number].tolist(), sample.labels.bitmaps(), strict=False):
            unpacked = np.unpackbits(targets.masks[row].numpy(), count=49 * 65).reshape(49, 65)
            assert np.array_equal(unpacked[:height, :width], bitmap)
            assert unpacked.sum() == bitmap.sum()


def test_wanted_fields_are_there_even_when_no_image_knows_them():
    batch = Collate((8, 8), 114, ALL, (4, 4))([_bare((8, 8)), _bare((4, 4))])
    targets = batch.targets
    assert not any(rows.any() for rows in targets.known.values())
    assert set(targets.known) == ALL
    assert targets.boxes.shape == (2, 8, 4)
    assert targets.masks.shape == (8, 8)
    assert torch.all(targets.mask_row == -1)
    assert targets.class_scores.shape == (2, 4)
    assert all(count == 0 for count in targets.counts().values())


def test_fields_that_nobody_wants_are_none(make_sample):
    targets = Collate((48, 64), 114, frozenset({"class_scores"}), (3, 3))([make_sample()]).targets
    assert targets.boxes is targets.masks is targets.semantic is targets.box is None
    assert set(targets.known) == {"class_scores"}


def test_two_thousand_objects():
    boxes = np.random.default_rng(0).uniform(0, 60, (2000, 4))
    labels = Labels(size=(64, 64), boxes=boxes, labels=np.arange(2000) % 3)
    sample = replace(_bare((64, 64)), labels=labels)
    targets = Collate((64, 64), 114, frozenset({"boxes"}), (3, 3))([sample, _bare((64, 64))]).targets
    assert targets.boxes.shape == (2, 2048, 4)
    assert (targets.labels >= 0).sum() == 2000


def test_evaluation_keeps_the_truth_in_original_pixels(make_sample):
    truth = make_sample(3).labels
    geometry = Geometry((48, 64), (24, 32), (0.5, 0.5))
    batch = CollateEvaluation((32, 32), 114)([(_bare((24, 32)), geometry, truth)])
    assert batch.images.shape == (1, 3, 32, 32)
    assert batch.targets.sizes.tolist() == [[24, 32]]
    assert batch.targets.boxes is None
    assert batch.geometries == (geometry,)
    assert batch.labels == (truth,)


def _bare(size):
    from visionkit.structures import Sample

    return Sample(np.zeros((*size, 3), np.uint8), Labels(size=size), 1, "a.png")
