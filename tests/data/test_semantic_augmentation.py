"""Scale-crop augmentation of semantic maps, as configs/augment/semantic.yaml has it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from visionkit.config import compose
from visionkit.data import Augment, TrainingSet
from visionkit.preprocess import Preprocess
from visionkit.structures import IGNORE_INDEX


@pytest.fixture(scope="module")
def transforms():
    return OmegaConf.to_container(compose("train", ["task=semantic", "augment=semantic", "image_size=64"]).augment)[
        "transforms"
    ]


def training_set(reader, transforms, canvas=64):
    return TrainingSet(
        reader,
        Preprocess(canvas),
        classes=reader.classes,
        semantic_classes=reader.classes,
        fields=frozenset({"semantic"}),
        epochs=1,
        seed=0,
        augment=Augment(transforms),
    )


def test_labels_follow_the_pixels_and_what_is_beside_the_image_is_unlabelled(make_reader, transforms):
    shapes_alone = [one for one in transforms if "ColorJitter" not in one]
    reader = make_reader(count=6, objects=5)
    for number, sample in enumerate(reader.samples):  # images that show their classes
        grey = 20 + 30 * sample.labels.semantic
        reader.samples[number] = replace(sample, image=grey[..., None].repeat(3, 2))
    dataset = training_set(reader, shapes_alone)
    unlabelled, wrong = [], []
    for epoch in range(5):
        for index in range(len(reader)):
            sample = dataset[epoch, index]
            assert all(side <= 64 for side in sample.labels.size)
            semantic, grey = sample.labels.semantic, sample.image[..., 0].astype(int)
            beside = semantic == IGNORE_INDEX
            unlabelled.append(beside.mean())
            wanted = np.where(beside, 114, 20 + 30 * semantic.astype(int))
            around = np.ones((5, 5), np.uint8)
            inside = cv2.erode(semantic, around) == cv2.dilate(semantic, around)
            wrong.append(np.mean(np.abs(grey - wanted)[inside] > 2))
    assert 0.02 < np.mean(unlabelled) < 0.4
    assert max(unlabelled) < 0.9
    assert np.mean(wrong) < 0.01


def test_scales_reach_from_half_to_double(make_reader, transforms):
    reader = make_reader(count=3, objects=0)
    dataset = training_set(reader, transforms)
    shares = [np.mean(dataset[epoch, 2].labels.semantic != IGNORE_INDEX) for epoch in range(60)]
    assert 0.2 < min(shares) < 0.4  # a quarter of the frame
    assert max(shares) == 1


def test_a_batch_of_them_is_unlabelled_beside_the_images(make_reader, transforms):
    reader = make_reader(count=6)
    dataset = training_set(reader, transforms)
    batch = dataset.collate([dataset[0, index] for index in range(6)])
    semantic = batch.targets.semantic
    assert semantic.shape == (6, 64, 64)
    assert semantic.dtype == torch.uint8
    for number, (height, width) in enumerate(batch.targets.sizes.tolist()):
        assert (semantic[number, height:] == IGNORE_INDEX).all()
        assert (semantic[number, :, width:] == IGNORE_INDEX).all()
    assert set(semantic.unique().tolist()) <= {0, 1, 2, IGNORE_INDEX}
    assert float(batch.targets.total("semantic")) == (semantic != IGNORE_INDEX).sum()
