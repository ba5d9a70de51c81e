"""One checkpoint, one number: however many processes judge it, and however many images at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from visionkit import cli
from visionkit.data import EvaluationSet
from visionkit.errors import DataError

EVERYTHING = (
    "task=multitask", "heads=[classification,localization,detection,semantic,instance]", "merges=[panoptic]",
    "data.objects=1", "data.reader.count={train: 6, val: 3, test: 7}", "engine.epochs=1", "optim.lr=0.01",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, scene_cache, one_thread):
    """The folder of a run whose model answers everything that can be asked."""
    from tests.conftest import TINY

    folder = tmp_path_factory.mktemp("everything") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONKIT_CACHE", str(scene_cache))
        assert cli.main(["train", *TINY, *EVERYTHING, f"run_dir={folder}"]) == 0
    return folder


def evaluate(folder: str, *typed: str) -> int:
    return cli.main(["evaluate", f"checkpoint={folder}", "device=cpu", *typed])


def numbers(folder: str | Path) -> dict[str, float | None]:
    told = json.loads((Path(folder) / "metrics.json").read_text())
    return {name: value for name, value in told.items() if "/" in name}


@pytest.mark.parametrize(
    ("world", "batch_size", "images"),
    [
        (3, 1, 7),
        *(pytest.param(*rest, marks=pytest.mark.slow) for rest in [(2, 8, 7), (1, 8, 7), (3, 8, 7), (3, 8, 2)]),
    ],
)
def test_a_checkpoint_has_one_number(ranks, runs, trained, world, batch_size, images):
    """Every head and panoptic; with two images one of three processes has none. At one batch size to the last bit."""
    settings = (f"debug.images={images}", "run_dir=several", f"batch_size={batch_size}")
    several = ranks(world, evaluate, str(trained), *settings)
    assert evaluate(str(trained), f"debug.images={images}", "run_dir=one", "batch_size=1") == 0
    assert several.wait() == [0] * world, several.said()
    assert all(said == "" for said in several.said()[1:])
    one, other = numbers("one"), numbers("several")
    assert len(one) > 40
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] is None] == [name for name in one if other[name] is None]
    for name, value in one.items():
        if value is not None:
            assert other[name] == (value if batch_size == 1 else pytest.approx(value, abs=1e-5)), name
    ours, theirs = (json.loads(Path(run, "predictions.json").read_text()) for run in ("one", "several"))
    assert ours.keys() == theirs.keys()
    for head, rows in ours.items():
        assert [row["image_id"] for row in rows] == [row["image_id"] for row in theirs[head]], head
    assert ours == theirs or batch_size > 1
    maps = [sorted(path.relative_to(run) for path in Path(run).rglob("*.png")) for run in ("one", "several")]
    assert maps[0] == maps[1]
    assert len([path for path in maps[0] if path.parts[0] == "predictions"]) == 2 * images


def evaluate_with_an_unreadable_image(folder: str, index: int, *typed: str) -> int:
    read = EvaluationSet.__getitem__

    def reads(judged, place):
        if place == index:
            raise DataError(f"image {index}: cannot be read")
        return read(judged, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EvaluationSet, "__getitem__", reads)
        return evaluate(folder, *typed)


def test_an_image_that_one_process_cannot_read_ends_all(ranks, runs, trained):
    both = ranks(2, evaluate_with_an_unreadable_image, str(trained), 3, "run_dir=several", "batch_size=1")
    assert both.wait() == [2, 2], both.said()
    first, second = both.said()
    assert (first.splitlines()[0], second) == ("process 1: image 3: cannot be read", "")
