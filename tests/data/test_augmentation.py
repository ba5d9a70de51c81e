"""Mixes, transforms and batches together: from the lists of configs/augment to samples."""

from __future__ import annotations

import functools
from dataclasses import fields, replace
from itertools import islice

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from visionkit.config import compose, groups
from visionkit.data.augmentation import build_augmentation, check_augmentation
from visionkit.data.copy_paste import CopyPaste
from visionkit.data.loader import TrainingSet, batches, training_loader
from visionkit.data.mixes import MixUp, Mosaic
from visionkit.data.sampler import EpochSampler
from visionkit.data.transforms import Augment
from visionkit.data.transforms_v2 import TorchvisionAugment
from visionkit.errors import ConfigError
from visionkit.preprocess import Preprocess
from visionkit.structures import LABEL_FIELDS

NEEDS = {
    "classification": {"class_scores"},
    "localization": {"class_scores", "box"},
    "detection": {"boxes"},
    "semantic": {"semantic"},
    "instance": {"boxes", "masks"},
    "panoptic": {"boxes", "masks", "semantic"},
    "multitask": set(LABEL_FIELDS),
    "none": set(LABEL_FIELDS),
}
TRANSFORMS = {
    "albumentations": [{"HorizontalFlip": {"p": 0.5}}, {"Affine": {"rotate": [-10, 10], "p": 0.5}}],
    "torchvision": [{"RandomHorizontalFlip": {"p": 0.5}}, {"RandomAffine": {"degrees": 10}}],
}


@functools.cache
def parts_of(*typed):
    cfg = compose("train", ["data=coco", "data.root=/x", "image_size=64", *typed])
    values = OmegaConf.to_container(cfg.augment, resolve=True)
    return build_augmentation(**values, canvas=(64, 64), fill=114, seed=0)


def training_set(reader, backend="albumentations", needs=frozenset(LABEL_FIELDS), **changes):
    arguments = {
        "augment": {"albumentations": Augment, "torchvision": TorchvisionAugment}[backend](TRANSFORMS[backend]),
        "mosaic": Mosaic((64, 64), p=0.5),
        "copy_paste": CopyPaste(p=0.5),
        "mixup": MixUp(p=0.5),
    }
    lists = {"classes": reader.classes, "semantic_classes": reader.classes, "fields": needs}
    return TrainingSet(reader, Preprocess(64), **lists, epochs=10, seed=3, **(arguments | changes))


def drawn(dataset, steps, start=0, workers=0):
    sampler = EpochSampler(len(dataset), 5, seed=3, start=start, repeats=np.linspace(1, 3, len(dataset)))
    device = torch.device("cpu")
    return list(islice(batches(training_loader(dataset, sampler, workers=workers, device=device)), steps))


def assert_equal(first, second):
    assert torch.equal(first.images, second.images)
    assert first.image_ids == second.image_ids
    for field in fields(first.targets):
        one, other = getattr(first.targets, field.name), getattr(second.targets, field.name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other), field.name


@pytest.mark.parametrize("backend", TRANSFORMS)
def test_neither_workers_nor_resuming_change_a_batch_with_all_mixes(make_reader, backend):
    expected = drawn(training_set(make_reader(), backend), 8)
    assert len({tuple(batch.image_ids) for batch in expected}) == 8
    for workers, start in ((1, 0), (4, 0), (0, 5), (2, 5)):  # 12 images: batch 5 lies within the third epoch
        again = drawn(training_set(make_reader(), backend), 8 - start, start, workers)
        for one, other in zip(expected[start:], again, strict=True):
            assert_equal(one, other)


def test_each_mix_ends_by_its_own_epoch(make_reader):
    """A blend has two images' greys, a pasted image no class, a mosaic neither class nor a single image's size."""
    off = {"augment": None, "mosaic": None, "copy_paste": None, "mixup": None}
    plain = training_set(make_reader(), **off)
    for mix in (
        {"mosaic": Mosaic((64, 64), until=0.5)},
        {"copy_paste": CopyPaste(until=5)},
        {"mixup": MixUp(until=0.5)},
    ):
        mixed = training_set(make_reader(), **(off | mix))
        same = [np.array_equal(mixed[4, index].image, plain[4, index].image) for index in range(12)]
        assert sum(same) <= 2  # an image may be its own donor
        assert all(np.array_equal(mixed[5, index].image, plain[5, index].image) for index in range(12))


def test_mixes_follow_each_other_in_the_stated_order(make_reader):
    """Mosaic, paste, blend: each is given what the one before it made."""
    seen = []

    def noted(mix, name):
        class Noted(type(mix)):
            def __call__(self, first, *rest):
                sample = super().__call__(first, *rest)
                before = first if hasattr(first, "labels") else None
                seen.append((name, before, sample))
                return sample

        mix.__class__ = Noted
        return mix

    dataset = training_set(
        make_reader(),
        mosaic=noted(Mosaic((64, 64)), "mosaic"),
        copy_paste=noted(CopyPaste(), "copy_paste"),
        mixup=noted(MixUp(), "mixup"),
        augment=None,
    )
    sample = dataset[0, 3]
    assert [name for name, _, _ in seen] == ["mosaic", "copy_paste", "mixup"]
    assert seen[1][1] is seen[0][2]
    assert seen[2][1] is seen[1][2]
    assert np.array_equal(sample.image, seen[2][2].image)


def test_boxes_agree_with_masks_after_every_mix(make_reader):
    reader = make_reader(12, objects=5)
    for epoch in range(5):
        for index in range(12):
            labels = training_set(reader)[epoch, index].labels
            assert len(labels.boxes) == len(labels.masks)
            for box, bitmap in zip(labels.boxes, labels.bitmaps(), strict=True):
                rows, columns = np.nonzero(bitmap)
                extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert np.abs(box - extent).max() <= 1.0


def test_detection_pastes_by_masks_and_learns_from_boxes_alone(make_reader):
    boxes_only = frozenset({"boxes"})
    dataset = training_set(make_reader(), needs=boxes_only, mosaic=None, mixup=None, copy_paste=CopyPaste())
    plain = training_set(make_reader(), needs=boxes_only, mosaic=None, mixup=None, copy_paste=None)
    assert dataset[0, 0].labels.known == {"boxes"}
    assert set(drawn(dataset, 1)[0].targets.known) == {"boxes"}
    pasted, own = (sum(len(one[0, index].labels.boxes) for index in range(12)) for one in (dataset, plain))
    assert pasted > own


# ---------------------------------------------------------------------------------------------- the lists of configs
def test_every_task_has_three_strengths():
    tasks = set(NEEDS) - {"none"}
    of_torchvision = {f"{task}_torchvision" for task in ("classification", "detection", "semantic")}
    assert set(groups()["augment"]) == {"none", *of_torchvision} | {
        f"{task}{strength}" for task in tasks for strength in ("_light", "", "_strong")
    }


@pytest.mark.parametrize("name", groups()["augment"])
def test_every_list_makes_samples_for_its_task(name, make_reader):
    task, _, _ = name.partition("_")
    needs = frozenset(NEEDS[task])
    parts = parts_of(
        f"augment={name}", "preprocess=resize_crop" if task == "classification" else "preprocess=letterbox"
    )
    check_augmentation(parts, frozenset(LABEL_FIELDS), needs)
    reader = make_reader(6, objects=4)
    policy = "resize_crop" if task == "classification" else "letterbox"
    dataset = TrainingSet(
        reader,
        Preprocess(64, policy=policy),
        classes=reader.classes,
        semantic_classes=reader.classes,
        fields=needs,
        epochs=10,
        seed=0,
        augment=parts.transforms,
        mosaic=parts.mosaic,
        copy_paste=parts.copy_paste,
        mixup=parts.mixup,
    )
    samples = [dataset[epoch, index] for epoch in (0, 9) for index in range(6)]
    batch = dataset.collate(samples)
    assert batch.images.shape == (12, 3, 64, 64)
    assert batch.targets.known.keys() == needs
    for field, known in batch.targets.known.items():
        assert known[6:].float().mean() > (0.4 if field == "box" else 0.9)  # an affine may lose the one object
    if parts.batch_mix is not None:
        assert parts.batch_mix(batch, 1).targets.class_scores.shape == (12, 3)
    grows = name in (
        "detection",
        "instance",
        "panoptic",
        "detection_strong",
        "instance_strong",
        "detection_torchvision",
    )
    if grows:  # mosaics hold more objects than the last epochs' single images
        objects = (batch.targets.labels >= 0).sum(1)
        assert objects[:6].sum() > objects[6:].sum()


def test_strengths_are_what_they_say():
    parts = {name: parts_of(f"augment=detection{name}", "preprocess=letterbox") for name in ("_light", "", "_strong")}
    assert [one.mosaic is not None for one in parts.values()] == [False, True, True]
    assert [one.mixup is not None for one in parts.values()] == [False, False, True]
    assert parts_of("augment=instance_strong", "preprocess=letterbox").copy_paste is not None
    assert parts_of("augment=classification_strong", "preprocess=resize_crop").batch_mix is not None
    assert parts_of("task=multitask").mosaic.turns.p == 0.5
    assert parts_of("task=multitask", "augment=none").mosaic is None


# ------------------------------------------------------------------------------------------------- what cannot be
def test_all_faults_of_a_list_are_said_at_once():
    typed = [
        "augment.copy_paste.scale=[2, 1]",
        "augment.mixup.alpha=0",
        "augment.batch_mix={p: 1, mixup: 0, cutmix: 0}",
        "augment.backend=torchvision",
        "augment.transforms=[{HorizontalFlip: {}}]",
    ]
    with pytest.raises(ConfigError) as caught:
        parts_of(*typed)
    assert str(caught.value).splitlines() == [
        "augment.copy_paste.scale=[2.0, 1.0]: two rising factors above 0 is wanted",
        "augment.mixup.alpha=0.0: a number above 0 is wanted",
        "augment.transforms[0]: torchvision.transforms.v2 has no transform 'HorizontalFlip' (did you mean "
        "'RandomHorizontalFlip'?)",
        "augment.batch_mix.p=1.0: mixup or cutmix above 0, or p=0, is wanted",
    ]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("augment.backend=torchvison", "augment.backend=torchvison: one of albumentations, torchvision is wanted "
         "(did you mean 'torchvision'?)"),
        ("augment.mixup.p=2", "augment.mixup.p=2: a share from 0 to 1 is wanted"),
        ("augment.copy_past.p=1", "augment.copy_past: there is no such key (did you mean 'augment.copy_paste'?)"),
        ("data.repeat_factor=7", "data.repeat_factor=7: a share from 0 to 1 is wanted"),
    ],
)  # fmt: skip
def test_wrong_keys_and_ranges_are_one_line(typed, message):
    with pytest.raises(ConfigError) as caught:
        parts_of(typed)
    assert str(caught.value) == message


def test_mixes_that_data_or_heads_cannot_take_part_in_are_refused():
    pasting = parts_of("augment=instance_strong", "preprocess=letterbox")
    mixing = parts_of("augment=classification_strong", "preprocess=resize_crop")
    boxes, every = frozenset({"boxes"}), frozenset(LABEL_FIELDS)
    check_augmentation(pasting, every, boxes)
    check_augmentation(mixing, every, frozenset({"class_scores"}))
    check_augmentation(parts_of("augment=detection", "preprocess=letterbox"), frozenset(), boxes)
    with pytest.raises(
        ConfigError, match=r"by their masks, but the data has only boxes; set augment\.copy_paste\.p=0$"
    ):
        check_augmentation(pasting, boxes, boxes)
    with pytest.raises(ConfigError, match=r"augment\.copy_paste: no head learns from the objects"):
        check_augmentation(pasting, every, frozenset({"semantic"}))
    with pytest.raises(ConfigError, match=r"augment\.batch_mix: .* the heads learn from boxes, too; set"):
        check_augmentation(mixing, every, frozenset({"class_scores", "boxes"}))


def test_a_sample_that_only_a_part_can_mix_is_left_as_it_is(make_reader):
    """Of a set whose images know their masks in part, the others are neither donors nor pasted into."""
    reader = make_reader(6)
    for index in range(0, 6, 2):
        sample = reader.samples[index]
        reader.samples[index] = replace(sample, labels=sample.labels.keep(frozenset({"boxes", "class_scores"})))
    off = {"mosaic": None, "mixup": None, "augment": None}
    pasted, plain = training_set(reader, **off, copy_paste=CopyPaste()), training_set(reader, **off, copy_paste=None)
    changed = [not np.array_equal(pasted[0, index].image, plain[0, index].image) for index in range(6)]
    assert not any(changed[::2])
    assert any(changed[1::2])
