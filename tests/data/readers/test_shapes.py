"""Generated scenes. `python tests/data/readers/test_shapes.py` writes anew what `test_generator_is_frozen` compares."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionkit.data import scenes
from visionkit.data.readers import shapes
from visionkit.data.readers.shapes import Shapes
from visionkit.data.scene_backgrounds import BACK, FRONT
from visionkit.data.scene_objects import FORMS, Knobs, coverage, cut_out, pose
from visionkit.data.scene_textures import Light, random_paint
from visionkit.errors import DataError
from visionkit.structures import IGNORE_INDEX, LABEL_FIELDS, Labels

GOLDEN = Path(__file__).with_name("shapes_golden.npz")
GOLDEN_COUNT, GOLDEN_SIZE = 50, 160
SIDE = 96


def make(folder: Path, split: str = "train", **changes) -> Shapes:
    return Shapes(split, **{"size": SIDE, "count": 12, "cache_folder": folder, **changes})


def same_labels(first: Labels, second: Labels) -> bool:
    arrays = ("boxes", "labels", "crowd", "ignore", "areas", "class_scores", "box", "semantic")
    pairs = [(getattr(first, name), getattr(second, name)) for name in arrays]
    equal = all((a is None and b is None) or (a.dtype == b.dtype and np.array_equal(a, b)) for a, b in pairs)
    return equal and first.size == second.size and list(first.masks) == list(second.masks)


def same(first, second) -> bool:
    return np.array_equal(first.image, second.image) and same_labels(first.labels, second.labels)


# ------------------------------------------------------------------------------------------------------------- labels
@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> list:
    """Sixty scenes of the hardest world, where objects hide each other and leave the image."""
    hard = dict.fromkeys(Knobs.__dataclass_fields__, 1.0)
    reader = make(tmp_path_factory.mktemp("hard"), count=60, **hard)
    return [reader.read(index) for index in range(len(reader))]


def test_boxes_are_the_extents_of_masks_and_areas_their_pixels(drawn):
    assert sum(len(sample.labels.boxes) for sample in drawn) > 100
    for sample in drawn:
        bitmaps = sample.labels.bitmaps()
        for bitmap, box, area in zip(bitmaps, sample.labels.boxes, sample.labels.areas, strict=True):
            rows, columns = np.nonzero(bitmap)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert area == bitmap.sum()
        assert bitmaps.sum(axis=0).max(initial=0) <= 1, "a pixel belongs to one object at most"


def test_masks_are_as_pycocotools_gives_them(drawn):
    for sample in drawn:
        for mask, bitmap in zip(sample.labels.masks, sample.labels.bitmaps(), strict=True):
            assert mask == coco_mask.encode(np.asfortranarray(bitmap))


def test_semantic_map_shows_each_thing_where_its_mask_is(drawn, tmp_path):
    reader = make(tmp_path)
    assert tuple(reader.semantic_classes) == (*reader.stuff, *reader.things)
    for sample in drawn:
        thing = np.full(sample.labels.size, -1)
        for label, bitmap in zip(sample.labels.labels, sample.labels.bitmaps(), strict=True):
            thing[bitmap == 1] = len(reader.stuff) + label
        is_thing = (sample.labels.semantic >= len(reader.stuff)) & (sample.labels.semantic != IGNORE_INDEX)
        assert np.array_equal(is_thing, thing >= 0)
        assert np.array_equal(sample.labels.semantic[is_thing], thing[is_thing])
    present = set(np.unique(np.concatenate([np.unique(sample.labels.semantic) for sample in drawn])).tolist())
    assert present >= set(range(len(reader.semantic_classes)))
    assert all(name in reader.stuff for name in (*BACK, *FRONT))


def test_a_thing_has_one_id_as_object_and_as_pixels_and_no_stuff_has_it(tmp_path):
    reader = make(tmp_path)
    assert len(reader.semantic_category_ids) == len(set(reader.semantic_category_ids)) == len(reader.semantic_classes)
    of_pixels = dict(zip(reader.semantic_classes, reader.semantic_category_ids, strict=True))
    assert [of_pixels[name] for name in reader.classes] == list(reader.category_ids) == list(range(1, 11))
    assert [of_pixels[name] for name in reader.stuff] == list(range(11, 17))


def test_objects_seen_by_less_than_a_fifth_are_not_labelled():
    owner = np.full((20, 20), -1, np.int16)
    owner[0:4, 0:5] = 0  # 20 of 100 pixels: just enough
    owner[5:9, 0:5] = 1  # 20 of 101 pixels
    owner[10:12, 0:10] = 2  # 20 of 20, but two pixels high
    owner[15:18, 0:3] = 3  # 9 pixels in all
    owner[15:19, 10:14] = 4  # 16 of 16
    items = [scenes._Item(label, None, (0.0, 0.0)) for label in (3, 4, 5, 6, scenes._SCRAP)]
    labels = scenes._labels(owner, np.zeros((20, 20), np.uint8), items, np.array([100, 101, 20, 9, 16]), (20, 20))
    assert labels.labels.tolist() == [3]
    assert labels.boxes.tolist() == [[0, 0, 5, 4]]
    assert labels.areas.tolist() == [20]
    stuff = len(scenes.STUFF)
    codes = labels.semantic[[0, 5, 10, 15, 15, 19], [0, 0, 0, 0, 10, 19]].tolist()
    assert codes == [stuff + 3, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX, scenes.STUFF.index("clutter"), 0]


@pytest.mark.parametrize(
    ("areas", "first"),
    [([], None), ([7.0], 0), ([10.0, 15.0], 1), ([10.0, 14.9], None), ([30.0, 4.0, 20.0], 0), ([9.0, 9.0], None)],
)
def test_one_object_questions_are_known_where_the_largest_is_half_as_large_again(areas, first):
    assert scenes._dominant(np.array(areas)) == first


def test_box_and_class_scores_are_those_of_the_largest_object(drawn):
    known = [sample.labels for sample in drawn if sample.labels.box is not None]
    assert 0 < len(known) < len(drawn)
    for labels in known:
        largest = int(np.argmax(labels.areas))
        assert np.array_equal(labels.box, labels.boxes[largest])
        assert labels.class_scores.tolist() == np.eye(len(scenes.THINGS))[labels.labels[largest]].tolist()
    assert all((sample.labels.box is None) == (sample.labels.class_scores is None) for sample in drawn)


@pytest.mark.parametrize("knob", [0.0, 0.5, 1.0])
def test_one_object_is_always_seen_and_dominates(tmp_path, knob):
    reader = make(tmp_path, objects=1, count=40, size=64, **dict.fromkeys(Knobs.__dataclass_fields__, knob))
    labels = [reader.labels(index) for index in range(len(reader))]
    assert all(len(label.boxes) == 1 and label.box is not None for label in labels)


def test_numbers_of_objects(tmp_path):
    tidy = dict.fromkeys(Knobs.__dataclass_fields__, 0.0)
    three = make(tmp_path, objects=3, count=10, size=320, **tidy)
    assert [len(three.labels(index).boxes) for index in range(10)] == [3] * 10
    many = make(tmp_path, count=150)
    counts = [len(many.labels(index).boxes) for index in range(150)]
    assert min(counts) == 0
    assert max(counts) >= 7
    assert 3 <= np.mean(counts) <= 5


def test_scales_span_the_stated_range():
    rng = np.random.default_rng(0)
    drawn = np.array([scenes._scale(rng, False, 0.5) for _ in range(2000)])
    assert 0.08 <= drawn.min() < 0.085
    assert 0.59 < drawn.max() <= 0.6
    form = FORMS["star"](lambda value, _: value)
    x1, y1, x2, y2 = pose(form, rng, Knobs(), 40.0).extents
    assert max(x2 - x1, y2 - y1) == pytest.approx(40.0)


# ------------------------------------------------------------------------------------------------------------ drawing
def edges(*rings) -> tuple[np.ndarray, np.ndarray]:
    starts = np.concatenate([np.array(ring, np.float64) for ring in rings])
    return starts, np.concatenate([np.roll(np.array(ring, np.float64), -1, axis=0) for ring in rings])


def test_coverage_of_a_rectangle_with_a_hole_and_of_a_slope():
    outer, inner = [(1, 1), (1, 5), (5.5, 5), (5.5, 1)], [(2, 2), (2, 4), (4, 4), (4, 2)]
    found = coverage(*edges(outer, inner), np.array([1.0] * 4 + [-1.0] * 4), 6, 7)
    wanted = np.zeros((6, 7))
    wanted[1:5, 1:5] = 1
    wanted[1:5, 5] = 0.5
    wanted[2:4, 2:4] = 0
    assert found == pytest.approx(wanted, abs=1e-12)
    triangle = coverage(*edges([(0, 0), (0, 8), (8, 8)]), np.ones(3), 8, 8)
    assert triangle.sum() == pytest.approx(32)
    assert triangle.diagonal() == pytest.approx(np.full(8, 0.5))


@pytest.mark.parametrize("name", FORMS)
def test_forms_fill_their_outlines_whichever_way_they_are_turned(name):
    """The painted area equals the polygon's, front and side, mirrored or not: no ring is inside out."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        form = FORMS[name](lambda value, spread, rng=rng: value + spread * rng.uniform(-1, 1))
        posed = pose(form, rng, Knobs(viewpoint=1.0), 120.0)
        cut = cut_out(posed, (80.3, 75.6), random_paint(rng, 0.5), Light(-0.5, -0.5, 0.7, 0.6, 0.2))
        canvas = np.zeros((170, 170), np.uint8)
        rings, row = [], 0
        for first, last, _ in form.parts:
            for row in np.flatnonzero(form.following[first:last] <= np.arange(first, last)) + first:
                ring = posed.points[form.following[row] : row + 1]
                rings.append((ring, bool(form.holes[row])))
        for shift in np.linspace(0, 1, 40 if form.depth else 1):
            layer = np.zeros_like(canvas)
            for ring, hole in rings:
                corners = np.round(((ring + np.multiply(posed.side, shift) + [80.3, 75.6]) - 0.5) * 16).astype(np.int32)
                cv2.fillPoly(layer, [corners], 0 if hole else 1, shift=4)
            canvas |= layer
        painted = np.zeros_like(canvas)
        there, here = scenes._overlap(canvas.shape, cut.solid.shape, cut.left, cut.top)
        painted[there] = cut.solid[here]
        assert abs(int(painted.sum()) - int(canvas.sum())) < 0.1 * canvas.sum()
        assert (painted & canvas).sum() > 0.9 * painted.sum()


# -------------------------------------------------------------------------------------------------------- determinism
def test_a_scene_depends_on_nothing_but_its_own_number(tmp_path):
    few, many = make(tmp_path / "a", count=5), make(tmp_path / "b", count=12)
    backwards = {index: many.read(index) for index in reversed(range(12))}
    assert all(same(few.read(index), backwards[index]) for index in range(5))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"objects": 2},
        {"size": (SIDE, SIDE + 1)},
        *({name: 0.6} for name in Knobs.__dataclass_fields__),
    ],
)
def test_other_arguments_give_other_scenes_in_the_same_cache(tmp_path, change):
    plain, changed = make(tmp_path, count=6), make(tmp_path, count=6, **change)
    differs = [not np.array_equal(plain.read(index).image, changed.read(index).image) for index in range(6)]
    assert sum(differs) >= 5


def test_splits_and_seeds_share_no_scene(tmp_path):
    worlds = [make(tmp_path, split, seed=seed, size=32) for split in ("train", "val", "test") for seed in (0, 1, 2)]
    images = [reader.read(index).image.tobytes() for reader in worlds for index in range(len(reader))]
    assert len(set(images)) == len(images)


# -------------------------------------------------------------------------------------------------------------- reader
def test_reader_names(tmp_path):
    reader = make(tmp_path, "val", size=(48, 80), count=3)
    assert (len(reader), list(reader.image_ids)) == (3, [1, 2, 3])
    assert reader.file_names[2] == "val/000003.png"
    assert list(reader.category_ids) == list(range(1, len(reader.classes) + 1))
    assert len(reader.classes) >= 10
    assert reader.fields == set(LABEL_FIELDS)
    sample = reader.read(2)
    assert (sample.image.shape, sample.image.dtype, sample.image_id) == ((48, 80, 3), np.uint8, 3)
    assert same_labels(sample.labels, reader.labels(2))
    with pytest.raises(IndexError):
        reader.read(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({name: 1.5}, f"{name}=1.5") for name in Knobs.__dataclass_fields__),
        ({"clutter": -0.1}, "from 0 .* to 1"),
        ({"clutter": float("nan")}, "clutter=nan"),
        ({"clutter": "high"}, "clutter='high'"),
        ({"split": "trian"}, "did you mean 'train'"),
        ({"size": 31}, "at least 32"),
        ({"size": (64, 64, 3)}, "size="),
        ({"count": 0}, "count=0"),
        ({"objects": 0}, "objects=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        make(tmp_path, **change)
    assert list(tmp_path.iterdir()) == []


def test_samples_may_be_changed(tmp_path):
    reader = make(tmp_path, count=1)
    first = reader.read(0)
    before = first.image.copy()
    first.image[:] = 0
    first.labels.semantic[:] = 0
    again = reader.read(0)
    assert np.array_equal(again.image, before)
    assert again.labels.semantic.any()


# --------------------------------------------------------------------------------------------------------------- cache
@pytest.fixture
def no_drawing(monkeypatch):
    """Call it, and from then on a scene that is drawn fails the test."""

    def refuse(*_, **__):
        raise AssertionError("a scene was drawn that is in the cache")

    return lambda: monkeypatch.setattr(shapes, "render_scene", refuse)


def test_drawn_scenes_are_read_from_disk_later(tmp_path, no_drawing):
    drawn = [make(tmp_path).read(index) for index in range(12)]
    no_drawing()
    assert all(same(make(tmp_path).read(index), sample) for index, sample in enumerate(drawn))
    assert all(same_labels(make(tmp_path).labels(index), sample.labels) for index, sample in enumerate(drawn))


def test_drawn_scenes_are_held_in_memory(tmp_path, no_drawing):
    reader = make(tmp_path)
    drawn = reader.read(4)
    for file in reader.folder.iterdir():
        file.unlink()
    no_drawing()
    assert same(reader.read(4), drawn)


def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "_MEMORY_BYTES", 70_000)
    reader = make(tmp_path)
    for index in range(12):
        reader.read(index)
    assert sum(len(packed) for packed in reader._memory.values()) <= 70_000
    assert len(reader._memory) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_file_is_drawn_again(tmp_path, damage, no_drawing):
    drawn = make(tmp_path).read(3)
    file = make(tmp_path).folder / "000004.scene"
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    file.write_bytes({"cut": content[:-9], "flipped": bytes(flipped), "empty": b"", "foreign": b"GIF89a"}[damage])
    assert same(make(tmp_path).read(3), drawn)
    assert file.read_bytes() == content
    no_drawing()
    assert same(make(tmp_path).read(3), drawn)


def test_a_cache_folder_that_cannot_be_written_only_means_no_disk(tmp_path):
    (tmp_path / "file").write_text("in the way")
    reader = make(tmp_path / "file")
    drawn = reader.read(0)
    assert same(drawn, make(tmp_path / "good").read(0))
    assert same(reader.read(0), drawn)
    assert list(tmp_path.glob("file*")) == [tmp_path / "file"]


def test_scenes_that_nobody_used_for_long_make_room(tmp_path):
    old, other = make(tmp_path, count=3, seed=1), make(tmp_path, count=2, seed=2)
    for reader in (old, other):
        reader.prepare()
    for file in old.folder.iterdir():
        os.utime(file, (1e9, 1e9))
    make(tmp_path, count=3, seed=1).labels(1)  # used again
    make(tmp_path, count=1, seed=3).prepare()
    assert [file.name for file in old.folder.iterdir()] == ["000002.scene"]
    assert len(list(other.folder.iterdir())) == 2


def test_the_cache_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "here"))
    make(None, count=1).read(0)
    assert [file.name for file in (tmp_path / "here").rglob("*.scene")] == ["000001.scene"]


def read_all(reader: Shapes) -> list[bytes]:
    return [reader.read(index).image.tobytes() for index in range(len(reader))]


def test_two_processes_share_a_cache(tmp_path):
    reader = make(tmp_path, size=48)
    reader.read(0)
    assert pickle.loads(pickle.dumps(reader))._memory == {}
    with ProcessPoolExecutor(2, mp_context=get_context("fork" if os.name == "posix" else "spawn")) as pool:
        first, second = pool.map(read_all, [reader, reader])
    assert first == second == read_all(make(tmp_path / "alone", size=48))
    assert all(file.suffix == ".scene" for file in reader.folder.iterdir())


# ------------------------------------------------------------------------------------------------------ the generator
def thumbnail(image: np.ndarray) -> np.ndarray:
    """(16, 16, 3) float64 means."""
    height, width = image.shape[0] // 16, image.shape[1] // 16
    return image[: height * 16, : width * 16].reshape(16, height, 16, width, 3).mean(axis=(1, 3))


@pytest.mark.filterwarnings("ignore:lbfgs failed")
def test_thumbnails_do_not_give_the_class_away(tmp_path):
    """Colours and places alone must not do: a linear model of 16 × 16 thumbnails stays at or under 0.40."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, classes = [], []
    for split, count in (("train", 600), ("test", 300)):
        reader = make(tmp_path, split, objects=1, count=count, size=64)
        samples = [reader.read(index) for index in range(count)]
        features.append(np.stack([thumbnail(sample.image).ravel() for sample in samples]))
        classes.append(np.array([sample.labels.labels[0] for sample in samples]))
    mean, deviation = features[0].mean(axis=0), features[0].std(axis=0)
    train, test = ((part - mean) / deviation for part in features)
    scores = []
    for strength in (1e-3, 1e-2):
        model = linear_model.LogisticRegression(C=strength, max_iter=100).fit(train, classes[0])
        scores.append(model.score(test, classes[1]))
    assert max(scores) <= 0.33


def golden(folder: Path) -> dict[str, np.ndarray]:
    """What is pinned of the first scenes of each split at the default knobs."""
    counts, labels, boxes, thumbnails = [], [], [], []
    for split in scenes.SPLITS:
        reader = make(folder, split, size=GOLDEN_SIZE, count=GOLDEN_COUNT)
        for index in range(GOLDEN_COUNT):
            sample = reader.read(index)
            counts.append(len(sample.labels.labels))
            labels.append(sample.labels.labels)
            boxes.append(sample.labels.boxes)
            thumbnails.append(thumbnail(sample.image))
    return {
        "counts": np.array(counts, np.uint8),
        "labels": np.concatenate(labels).astype(np.uint8),
        "boxes": np.concatenate(boxes).astype(np.float32),
        "thumbnails": np.stack(thumbnails),
    }


def test_generator_is_frozen(tmp_path):
    """Results on generated scenes stay comparable for ever: nothing may change a scene."""
    found = golden(tmp_path)
    with np.load(GOLDEN) as stored:
        assert np.array_equal(found["counts"], stored["counts"])
        assert np.array_equal(found["labels"], stored["labels"])
        assert np.abs(found["boxes"] - stored["boxes"]).max() <= 0.01
        # Versions of OpenCV differ by a bit. The file holds steps of two grey levels, to be small.
        thumbnails = np.cumsum(stored["steps"], axis=2, dtype=np.uint8).astype(np.float64) * 2
    assert np.abs(found["thumbnails"] - thumbnails).max() <= 2


def write_golden(folder: Path) -> None:
    """Write the fixture; thumbnails as differences from pixel to pixel, in steps of two grey levels."""
    found = golden(folder)
    levels = np.rint(found.pop("thumbnails") / 2).astype(np.uint8)
    steps = np.diff(levels, axis=2, prepend=np.uint8(0))
    np.savez_compressed(GOLDEN, steps=steps, **found)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        write_golden(Path(scratch))
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")
