from __future__ import annotations

import pickle
from dataclasses import fields, replace
from itertools import islice

import numpy as np
import pytest
import torch

from visionkit.data.cache import RamCache
from visionkit.data.class_map import class_map
from visionkit.data.loader import (
    EvaluationSet,
    TrainingSet,
    batches,
    evaluation_loader,
    training_loader,
)
from visionkit.data.mixes import Mosaic
from visionkit.data.sampler import EpochSampler
from visionkit.data.transforms import Augment
from visionkit.errors import ConfigError, DataError
from visionkit.preprocess import Preprocess
from visionkit.structures import IGNORE_INDEX, LABEL_FIELDS

CPU = torch.device("cpu")
TRANSFORMS = [{"HorizontalFlip": {"p": 0.5}}, {"Affine": {"rotate": [-10, 10], "p": 0.5}}, {"RandomGamma": {"p": 0.5}}]


def training_set(reader, **changes):
    preprocess = Preprocess(64)
    arguments = {
        "classes": reader.classes,
        "semantic_classes": reader.classes,
        "fields": frozenset(LABEL_FIELDS),
        "epochs": 10,
        "seed": 3,
        "augment": Augment(TRANSFORMS),
        "mosaic": Mosaic(preprocess.canvas, p=0.5, until=0.5),
    }
    return TrainingSet(reader, preprocess, **(arguments | changes))


def drawn(dataset, steps, start=0, workers=0, batch_size=5):
    sampler = EpochSampler(len(dataset), batch_size, seed=dataset.seed, start=start)
    return list(islice(batches(training_loader(dataset, sampler, workers=workers, device=CPU)), steps))


def assert_equal(first, second):
    assert torch.equal(first.images, second.images)
    assert first.image_ids == second.image_ids
    for field in fields(first.targets):
        one, other = getattr(first.targets, field.name), getattr(second.targets, field.name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other), field.name


def test_neither_workers_nor_cache_nor_resuming_change_a_batch(make_reader):
    expected = drawn(training_set(make_reader()), 6)
    cached = training_set(make_reader(), cache="ram")
    for one, other in zip(expected, drawn(cached, 6, workers=2), strict=True):
        assert_equal(one, other)
    for one, other in zip(expected[4:], drawn(cached, 2, start=4), strict=True):
        assert_equal(one, other)


def test_a_sample_is_new_in_each_epoch_and_by_seed(make_reader):
    dataset = training_set(make_reader())
    images = [dataset[0, 1].image, dataset[1, 1].image, training_set(make_reader(), seed=4)[0, 1].image]
    assert not any(np.array_equal(images[i], images[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert np.array_equal(dataset[0, 1].image, images[0])


def test_mosaics_end(make_reader):
    dataset = training_set(make_reader(), mosaic=Mosaic((64, 64), until=0.5), augment=None)
    assert all(dataset[4, index].labels.class_scores is None for index in range(5))
    assert all(dataset[5, index].labels.class_scores is not None for index in range(5))


def test_each_image_is_decoded_once_and_pixels_are_shared_by_the_workers(make_reader):
    reader = make_reader(12)
    cache = RamCache(reader, reader, 12 * 64 * 64 * 3)
    for _ in range(3):
        for index in range(12):
            sample = cache.read(index)
            assert np.array_equal(sample.image, reader.samples[index].image)
            assert sample.file_name == reader.file_names[index]
    assert reader.reads == 12
    dataset = training_set(reader, cache="ram")
    drawn(dataset, 20, workers=2, batch_size=12)
    before = reader.reads
    assert [dataset[0, index].image_id for index in range(12)] == reader.image_ids
    assert reader.reads == before


def test_the_cache_keeps_its_budget(make_reader):
    reader = make_reader(12)
    cache = RamCache(reader, reader, 2 * 48 * 64 * 3)
    for _ in range(2):
        for index in (0, 1, 5):
            cache.read(index)
    assert cache.held == 2
    assert reader.reads == 4
    assert pickle.loads(pickle.dumps(cache)).held == 0


def test_classes_are_mapped_by_name(make_reader):
    reader = make_reader(6)
    dataset = training_set(
        reader, classes=("c", "x", "a", "b"), semantic_classes=("b", "a", "c"), mosaic=None, augment=None
    )
    for index in range(6):
        before, after = reader.labels(index), dataset[0, index].labels
        assert np.array_equal(after.labels, np.array([2, 3, 0])[before.labels])
        assert after.class_scores.shape == (4,)
        assert after.class_scores[[2, 3, 0]].tolist() == before.class_scores.tolist()
        assert set(np.unique(after.semantic)) <= {0, 1, 2, IGNORE_INDEX}
        assert after.semantic[0, -1] == [1, 0, 2][before.semantic[0, -1]]


def test_a_class_that_the_model_lacks_is_named():
    assert class_map(("b", "a"), ("a", "c", "b")).tolist() == [2, 0]
    with pytest.raises(DataError) as caught:
        class_map(("cat", "dgo"), ("cat", "dog"))
    assert str(caught.value) == (
        "the data has classes that the model lacks: dgo (did you mean 'dog'?); the model knows cat, dog. "
        "Name those to be used with data.classes=[…]"
    )


def test_only_wanted_fields_arrive(make_reader):
    dataset = training_set(make_reader(), fields=frozenset({"semantic"}), classes=("other",))
    assert dataset[0, 0].labels.known == {"semantic"}
    targets = drawn(dataset, 1)[0].targets
    assert set(targets.known) == {"semantic"}


def test_a_transform_that_leaves_the_canvas_is_named(make_reader):
    dataset = training_set(make_reader(), augment=Augment([{"Resize": {"height": 65, "width": 64}}]))
    with pytest.raises(ConfigError, match=r"augment\.transforms \(Resize\) made a sample of \(65, 64\), larger than"):
        dataset[0, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_data_arrives_as_one_line(make_reader, workers):
    class Broken(type(make_reader())):
        def read(self, index):
            raise DataError(f"{self.file_names[index]}: ends too early; export it again")

    reader = make_reader(1)
    broken = Broken(reader.samples, reader.classes)
    with pytest.raises(DataError) as caught:
        drawn(training_set(broken), 1, workers=workers)
    assert str(caught.value) == "000.png: ends too early; export it again"


def test_images_without_objects_train(make_reader):
    batch = drawn(training_set(make_reader(objects=0)), 3)[-1]
    assert batch.targets.known["boxes"].all()
    assert torch.all(batch.targets.labels == -1)


def test_a_wrong_cache_or_mosaic_is_refused(make_reader):
    with pytest.raises(ConfigError, match=r"data\.cache=rma: one of none, ram, disk"):
        training_set(make_reader(), cache="rma")
    with pytest.raises(ConfigError, match=r"augment\.mosaic: canvas \(32, 32\) beside preprocess's \(64, 64\)"):
        training_set(make_reader(), mosaic=Mosaic((32, 32)))


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_shows_every_image_once_over_all_ranks(make_reader, workers):
    reader = make_reader(7)
    dataset = EvaluationSet(reader, Preprocess(64), classes=reader.classes, semantic_classes=reader.classes)
    seen = []
    for rank in range(3):
        loader = evaluation_loader(dataset, batch_size=2, workers=workers, device=CPU, rank=rank, world=3)
        seen.append([image_id for batch in batches(loader) for image_id in batch.image_ids])
    assert seen == [[1, 4, 7], [2, 5], [3, 6]]


def test_evaluation_keeps_the_truth_and_fits_the_image(make_reader):
    reader = make_reader(3)
    dataset = EvaluationSet(reader, Preprocess(32), classes=("c", "b", "a"), semantic_classes=reader.classes)
    sample, geometry, labels = dataset[0]
    assert sample.image.shape == (24, 32, 3)
    assert sample.labels.known == frozenset()
    assert geometry.original == labels.size == (48, 64)
    assert np.array_equal(labels.boxes, reader.labels(0).boxes)
    assert np.array_equal(labels.labels, 2 - reader.labels(0).labels)
    assert np.array_equal(labels.areas, reader.labels(0).areas)


def test_the_reader_s_own_labels_are_not_changed(make_reader):
    reader = make_reader(4)
    before = [replace(reader.labels(index)) for index in range(4)]
    copies = [labels.boxes.copy() for labels in before]
    drawn(training_set(reader, cache="ram"), 10)
    for index, boxes in enumerate(copies):
        assert np.array_equal(reader.labels(index).boxes, boxes)
