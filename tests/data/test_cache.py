"""Sources of images: kept in memory or on the disk, at full or at reduced size, always the same samples."""

from __future__ import annotations

import logging
import mmap
import os
import time
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from visionkit.data.cache import DiskCache, RamCache, ReducedImages, image_file, image_source, prepare
from visionkit.data.loader import TrainingSet, batches, training_loader
from visionkit.data.mixes import Mosaic
from visionkit.data.readers import Folder, Shapes
from visionkit.data.readers.first import First
from visionkit.data.readers.mixture import Mixture
from visionkit.data.readers.single import SingleObject
from visionkit.data.sampler import EpochSampler
from visionkit.errors import DataError
from visionkit.preprocess import Preprocess
from visionkit.structures import Decoding

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the disk cache's entries."""
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


def photo(height: int, width: int, seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def photographs(root: Path, sizes: list[tuple[int, int]]) -> Path:
    for number, (height, width) in enumerate(sizes):
        folder = root / "train" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        photo(height, width, number).save(folder / f"{number:02}.jpg", quality=95)
    return root


def arrays(root: Path, sizes: list[tuple[int, int]], channels: int, dtype: str) -> Path:
    for number, (height, width) in enumerate(sizes):
        folder = root / "train" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 60_000, (height, width, channels)).astype(dtype)
        np.save(folder / f"{number:02}.npy", values)
    return root


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------------ the disk
def test_the_disk_keeps_what_was_decoded_and_notices_a_change(tmp_path: Path, cache: Path) -> None:
    reader = Folder(photographs(tmp_path / "set", [(30, 40)] * 4), "train")
    before = sorted((tmp_path / "set").rglob("*"))
    source = image_source(reader, cache="disk")
    wanted = [source.read(index) for index in range(4)]
    assert len(entries(cache)) == 4
    assert sorted((tmp_path / "set").rglob("*")) == before
    for index, sample in enumerate(wanted):
        kept = image_source(reader, cache="disk").read(index)
        assert not kept.image.flags.writeable  # it comes from the cache
        np.testing.assert_array_equal(kept.image, sample.image)
        assert (kept.image_id, kept.file_name, kept.reduction) == (sample.image_id, sample.file_name, 1)
    photo(30, 40, 77).save(reader.path(0), quality=95)
    os.utime(reader.path(0), (time.time() + 5, time.time() + 5))
    assert not np.array_equal(source.read(0).image, wanted[0].image)


def test_a_damaged_entry_is_read_anew(tmp_path: Path, cache: Path) -> None:
    reader = Folder(photographs(tmp_path / "set", [(30, 40)]), "train")
    source = image_source(reader, cache="disk")
    wanted = source.read(0).image
    (entry,) = entries(cache)
    content = entry.read_bytes()
    for damaged in (content[:-1], content[:10], b"", content[:-1] + bytes([content[-1] ^ 1])):
        entry.write_bytes(damaged)
        np.testing.assert_array_equal(source.read(0).image, wanted)
        assert entry.read_bytes() == content


def test_what_a_killed_writer_left_is_removed_and_never_read(tmp_path: Path, cache: Path) -> None:
    reader = Folder(photographs(tmp_path / "set", [(30, 40)]), "train")
    image_source(reader, cache="disk").read(0)
    (entry,) = entries(cache)
    old, new = entry.with_name("old.part"), entry.with_name("new.part")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    image_source(reader, cache="disk")
    assert entries(cache) == sorted([entry, new])


def test_a_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = Folder(photographs(tmp_path / "set", [(30, 40)] * 3), "train")
    source = image_source(reader, cache="disk")
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "visionkit"):
        for index in range(3):
            assert source.read(index).image.shape == (30, 40, 3)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"data.cache=disk: {cache}: cannot be written (")
    assert line.endswith("make room, or set VISIONKIT_CACHE to another folder; the other images are read each time")


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Folder(photographs(tmp_path / "set", [(30, 40)]), "train")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    image_source(reader, cache="disk").read(0)
    assert entries(cache) == []


def test_the_disk_cache_keeps_its_bytes(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = 30 * 40 * 3
    first = Folder(photographs(tmp_path / "a", [(30, 40)] * 4), "train")
    source = image_source(first, cache="disk", cache_bytes=3 * one)
    for index in range(4):
        source.read(index)
    assert len(entries(cache)) == 2  # each entry has a few bytes more
    assert "GiB are full; raise data.cache_gib to keep more" in caplog.text
    second = Folder(photographs(tmp_path / "b", [(30, 40)] * 4), "train")
    source = image_source(second, cache="disk", cache_bytes=2 * one)
    assert len(entries(cache)) == 0  # those of other data made room
    kept = DiskCache(first, first, 10 * one)
    for index in range(4):
        kept.read(index)
    DiskCache(first, first, 4 * one)
    assert len(entries(cache)) == 4  # its own stay


def test_the_disk_cache_forgets_what_nobody_used_for_long(tmp_path: Path, cache: Path) -> None:
    readers = {name: Folder(photographs(tmp_path / name, [(30, 40)] * 2), "train") for name in "ab"}
    for reader in readers.values():
        source = image_source(reader, cache="disk")
        for index in range(2):
            source.read(index)
    for entry in entries(cache):
        os.utime(entry, (time.time() - 91 * 86400,) * 2)
    source = image_source(readers["b"], cache="disk")
    assert len(entries(cache)) == 2  # those of the data that are about to be used stay
    source.read(0)
    assert sorted(time.time() - entry.stat().st_mtime < 60 for entry in entries(cache)) == [False, True]


def test_what_a_full_cache_does_not_hold_is_kept_for_a_while(tmp_path: Path, cache: Path) -> None:
    """Of 4 images the cache holds one, and the memory of recent ones two."""
    one = 30 * 40 * 3
    for kind in ("ram", "disk"):
        reader = Folder(photographs(tmp_path / kind, [(30, 40)] * 4), "train")
        read, seen = Folder.read, []

        def counted(self, index, read=read, seen=seen):
            seen.append(index)
            return read(self, index)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Folder, "read", counted)
            source = image_source(reader, cache=kind, cache_bytes=one + 200, recent=2 * one)
            for index in (0, 1, 2, 3, 2, 3, 2, 0, 3, 1, 3, 0):
                np.testing.assert_array_equal(source.read(index).image, read(reader, index).image)
        assert seen[:3] == [0, 1, 2] and seen.count(0) == 1  # held by the cache
        assert seen[3:].count(3) == 1 and seen[3:].count(2) <= 1 and seen[3:].count(1) == 1


# ------------------------------------------------------------------------------------------------------------ memory
def test_memory_keeps_what_fits_and_every_dtype(tmp_path: Path) -> None:
    root = arrays(tmp_path, [(6, 7), (5, 9), (3, 3)], 4, "uint16")
    reader = Folder(root, "train", channels=4, bit_depth=16)
    cache = RamCache(reader, reader, 6 * 7 * 4 * 2 + 3 * 3 * 4 * 2)
    for index in (0, 1, 2, 0, 1, 2):
        sample = cache.read(index)
        np.testing.assert_array_equal(sample.image, reader.read(index).image)
        assert sample.image.dtype == np.uint16
    assert cache.held == 2


def test_where_there_is_less_memory_less_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Folder(arrays(tmp_path, [(6, 7)] * 4, 3, "uint8"), "train")
    asked, real = [], mmap.mmap

    def poor(handle: int, length: int) -> mmap.mmap:
        asked.append(length)
        if length > 400:
            raise OSError(12, "Cannot allocate memory")
        return real(handle, length)

    monkeypatch.setattr(mmap, "PAGESIZE", 1)
    monkeypatch.setattr(mmap, "mmap", poor)
    cache = RamCache(reader, reader, 1600)
    assert asked[:3] == [1600, 800, 400]
    for index in range(4):
        cache.read(index)
    assert cache.held == 3  # of 126 bytes each


# ---------------------------------------------------------------------------------------------------- reduced decoding
def test_large_photographs_are_decoded_smaller_and_labels_stay(tmp_path: Path) -> None:
    reader = Folder(photographs(tmp_path, [(400, 600), (64, 64)]), "train")
    source = ReducedImages(reader, lambda size: (100, 150))
    large, small = source.read(0), source.read(1)
    assert (large.image.shape, large.reduction, large.labels.size) == ((100, 150, 3), 4, (400, 600))
    assert (small.image.shape, small.reduction) == ((64, 64, 3), 1)


@pytest.mark.parametrize("mosaic", [False, True])
def test_a_sample_of_reduced_images_looks_like_that_of_whole_ones(tmp_path: Path, mosaic: bool) -> None:
    reader = Folder(photographs(tmp_path, [(601, 797), (800, 400), (333, 500), (500, 500)]), "train")
    arguments = dict(classes=reader.classes, fields=frozenset({"class_scores"}), epochs=1, seed=0)
    if mosaic:
        arguments["mosaic"] = Mosaic((96, 96), p=1.0)
    whole = TrainingSet(reader, Preprocess(96), **arguments)
    reduced = TrainingSet(reader, Preprocess(96), **arguments, reduced_decoding=True)
    assert [reduced._source.read(index).reduction for index in range(4)] == [4, 2, 4, 2]
    for index in range(4):
        one, other = whole[0, index], reduced[0, index]
        assert one.image.shape == other.image.shape and other.reduction == 1
        assert np.abs(one.image.astype(int) - other.image).mean() < 3


def test_caches_keep_reduced_images(tmp_path: Path, cache: Path) -> None:
    reader = Folder(photographs(tmp_path / "set", [(400, 600)]), "train")
    for kind in ("ram", "disk"):
        source = image_source(reader, cache=kind, cache_bytes=1 << 20, least=lambda size: (100, 150))
        first, second = source.read(0), source.read(0)
        assert second.reduction == 4 and not second.image.flags.writeable
        np.testing.assert_array_equal(first.image, second.image)
    assert image_source(reader, cache="disk").read(0).image.shape == (400, 600, 3)  # another entry


# -------------------------------------------------------------------------------------------------------- whole batches
def drawn(dataset: TrainingSet, steps: int, *, start: int = 0, workers: int = 0) -> list:
    sampler = EpochSampler(len(dataset), 4, seed=dataset.seed, start=start)
    return list(islice(batches(training_loader(dataset, sampler, workers=workers, device=CPU)), steps))


def assert_equal(first, second) -> None:
    assert torch.equal(first.images, second.images) and first.image_ids == second.image_ids
    for field in fields(first.targets):
        one, other = getattr(first.targets, field.name), getattr(second.targets, field.name)
        assert not isinstance(one, torch.Tensor) or torch.equal(one, other)


@pytest.mark.parametrize("kind", ["reduced", "uint16"])
def test_neither_workers_nor_caches_nor_resuming_change_a_batch(tmp_path: Path, cache: Path, kind: str) -> None:
    sizes = [(300, 200), (40, 50), (1, 1), (7, 5000), (200, 300), (64, 48)]
    if kind == "uint16":
        reader = Folder(arrays(tmp_path / "set", sizes, 4, "uint16"), "train", channels=4, bit_depth=16)
        preprocess = Preprocess(48, mean=[0.5] * 4, std=[0.25] * 4, bit_depth=16)
    else:
        reader, preprocess = Folder(photographs(tmp_path / "set", sizes), "train"), Preprocess(48)

    def make(cache: str) -> TrainingSet:
        return TrainingSet(
            reader,
            preprocess,
            classes=reader.classes,
            fields=frozenset({"class_scores"}),
            epochs=3,
            seed=1,
            mosaic=Mosaic(preprocess.canvas, p=0.5),
            cache=cache,
            cache_bytes=1 << 24,
            reduced_decoding=True,
        )

    expected = drawn(make("none"), 5)
    assert expected[0].images.dtype == (torch.uint16 if kind == "uint16" else torch.uint8)
    assert torch.isfinite(preprocess.normalise(expected[0].images)).all()
    for name in ("none", "ram", "disk"):
        for workers in (0, 1, 4):
            for one, other in zip(expected, drawn(make(name), 5, workers=workers), strict=True):
                assert_equal(one, other)
        for one, other in zip(expected[3:], drawn(make(name), 2, start=3), strict=True):
            assert_equal(one, other)


# -------------------------------------------------------------------------------------------------------- of readers
def test_readers_of_readers_tell_the_file(tmp_path: Path) -> None:
    folder = Folder(photographs(tmp_path, [(8, 8)] * 3), "train")
    mixture = Mixture({"a": folder, "b": First(folder, 2)})
    assert image_file(mixture, 4) == image_file(folder, 1) == (folder.path(1), Decoding())
    scenes = Shapes("train", size=32, count=2, cache_folder=tmp_path / "scenes", objects=1)
    assert image_file(SingleObject(scenes, "largest"), 0) is None
    source = image_source(scenes, cache="disk", cache_bytes=1)
    assert source.read(1).image.shape == (32, 32, 3)


def test_scenes_are_drawn_before_training_each_where_it_is_wanted(tmp_path: Path) -> None:
    many = Shapes("train", size=32, count=40, cache_folder=tmp_path / "many")
    prepare(Mixture({"a": many}))
    assert len(list(many.folder.glob("*.scene"))) == 40
    alone = Shapes("train", size=32, count=40, cache_folder=tmp_path / "alone")
    prepare(First(alone, 3))
    assert len(list(alone.folder.glob("*.scene"))) == 3
    for index in range(40):  # those drawn in other processes are the same, bit by bit
        one, other = many.read(index), alone.read(index)
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.labels.semantic, other.labels.semantic)
        np.testing.assert_array_equal(one.labels.boxes, other.labels.boxes)


def test_an_image_that_cannot_be_read_is_named_whatever_the_cache(tmp_path: Path, cache: Path) -> None:
    reader = Folder(photographs(tmp_path / "set", [(30, 40)]), "train")
    reader.path(0).unlink()
    for kind in ("none", "ram", "disk"):
        with pytest.raises(DataError, match=r"00\.jpg: no such file"):
            image_source(reader, cache=kind, cache_bytes=1 << 20).read(0)
