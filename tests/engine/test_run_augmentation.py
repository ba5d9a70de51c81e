"""Augmentation from the command line to the training step."""

from __future__ import annotations

from pathlib import Path

import pytest

from visionkit.engine.trainer import Trainer


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("task=classify", "augment.copy_paste.p=0.5"), "augment.copy_paste: no head learns from the objects"),
        (
            ("task=detect", "augment.batch_mix.p=1"),
            "augment.batch_mix: mixes the classes of whole images, but the heads",
        ),
    ],
)
def test_mixes_that_cannot_be_are_refused_before_a_run_is_made(train, runs, capsys, typed, said):
    assert train(*typed, "run_dir=run", "engine.max_steps=1") == 2
    assert said in capsys.readouterr().err
    assert not Path("run").exists()


def test_batches_are_mixed_by_their_number_over_the_run(train, runs, monkeypatch):
    """2 batches a step: from step 3 on they are 4, 5, 6, …; every second row of scores is no longer one-hot."""
    numbers, soft = [], []
    original = Trainer.train

    def watched(trainer):
        mix = trainer.mix

        def noted(batch, number):
            mixed = mix(batch, number)
            numbers.append(number)
            soft.append(bool((mixed.targets.class_scores.amax(1) < 1).any()))
            return mixed

        trainer.mix = noted
        original(trainer)

    monkeypatch.setattr(Trainer, "train", watched)
    typed = ("task=classify", "engine.accumulate=2", "augment.batch_mix={p: 1, mixup: 1.0, cutmix: 0}")
    assert train(*typed, "engine.max_steps=3", "run_dir=run") == 0
    assert numbers == [0, 1, 2, 3, 4, 5]
    assert any(soft)


def test_the_list_of_transforms_reaches_the_training_images(train, runs, monkeypatch):
    grey = []
    original = Trainer.train

    def watched(trainer):
        batches = trainer.batches

        def noted():
            for batch in batches:
                grey.append(bool((batch.images == batch.images[:, :1]).all()))
                yield batch

        trainer.batches = noted()
        original(trainer)

    monkeypatch.setattr(Trainer, "train", watched)
    for number, p in enumerate((0.0, 1.0)):
        typed = ("task=classify", "engine.max_steps=2", f"augment.transforms=[{{ToGray: {{p: {p}}}}}]")
        assert train(*typed, f"run_dir=run{number}") == 0
    assert grey == [False, False, True, True]


def test_without_a_share_nothing_mixes_batches(train, runs, monkeypatch):
    mixes = []
    original = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda trainer: (mixes.append(trainer.mix), original(trainer)))
    assert train("task=classify", "engine.max_steps=1", "run_dir=run") == 0
    assert mixes == [None]


def test_a_run_by_torchvision_s_transforms(train, runs):
    typed = ["augment=detection_torchvision", "augment.transforms=[{RandomHorizontalFlip: {p: 0.5}}]"]
    assert train("task=detect", *typed, "engine.max_steps=2", "run_dir=run") == 0
