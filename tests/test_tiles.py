"""Tiles whose network is known: it sees the part of each object that lies in the tile, and says nothing else."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from visionkit.parts import CanvasScores, Part, semantic_map
from visionkit.predictions import Classification, Detections, Instances
from visionkit.structures import Geometry
from visionkit.tiles import BlendedScores, seen_in_tiles, tile_boxes

SIZE = (500, 700)


def drawn(*boxes, size=SIZE):
    """An image, (H, W, 1), whose pixels are the number, from 1, of the object that is there."""
    image = np.zeros((*size, 1), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        image[y1:y2, x1:x2] = number
    return image


def see(image, *, score=0.9, least=4, labels=None):
    """The box of each object of which at least `least` pixels a side are seen; larger ones are surer."""
    found = []
    for number in np.unique(image[image > 0]):
        rows, columns = np.nonzero(image[..., 0] == number)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        if min(box[2] - box[0], box[3] - box[1]) >= least:
            found.append((score - 0.001 * number, box, 0 if labels is None else labels[number - 1]))
    found.sort(key=lambda one: -one[0])
    return Detections(
        np.array([box for _, box, _ in found], np.float32).reshape(-1, 4),
        np.array([one for one, _, _ in found], np.float32),
        np.array([label for _, _, label in found], np.int64),
    )


def boxes_of(image, *, tile=200, overlap=0.2, run=None, name="detection"):
    run = run or (lambda images, scale: [{"detection": see(one)} for one in images])
    found = seen_in_tiles(run, image, tile=tile, overlap=overlap, batch_size=3)[name]
    return sorted(found.boxes.astype(int).tolist())


def test_tiles_cover_the_image_evenly_and_overlap():
    assert tile_boxes((100, 100), 200, 0.2) == [(0, 0, 100, 100)]
    assert tile_boxes((100, 500), 200, 0.2) == [(0, 0, 200, 100), (150, 0, 350, 100), (300, 0, 500, 100)]
    for size in ((1000, 777), (640, 641), (123, 4000)):
        seen = np.zeros(size, int)
        boxes = tile_boxes(size, 200, 0.25)
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]
            assert (bottom - top, right - left) == (min(200, size[0]), min(200, size[1]))
            seen[top:bottom, left:right] += 1
        assert seen.min() >= 1
        lefts = sorted({box[0] for box in boxes})
        assert all(after - before <= 150 for before, after in pairwise(lefts))


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
@pytest.mark.parametrize(
    "boxes",
    [
        [[150, 150, 190, 190]],  # in the overlap of four tiles
        [[160, 40, 175, 60]],  # cut by one border, whole beyond it
        [[120, 130, 260, 300]],  # larger than the overlap: no tile sees it whole
        [[20, 30, 660, 480]],  # larger than a tile
        [[0, 0, 700, 500]],  # the whole image
        [[150, 150, 175, 190], [175, 150, 200, 190]],  # two that touch
        [[150, 150, 190, 170], [150, 170, 190, 190], [60, 350, 80, 380]],
        [],
    ],
)
def test_every_object_comes_out_once_and_whole(boxes, overlap):
    assert boxes_of(drawn(*boxes), overlap=overlap) == sorted(boxes)


def test_many_objects_by_chance_come_out_once_each():
    rng = np.random.default_rng(3)
    cells = [(x, y) for x in range(0, 700, 50) for y in range(0, 500, 50)]
    boxes = [[x + a, y + b, x + c, y + d] for (x, y), (a, b, c, d) in
             zip(cells, rng.integers([0, 0, 30, 30], [20, 20, 50, 50], (len(cells), 4)), strict=True)]  # fmt: skip
    assert boxes_of(drawn(*boxes)) == sorted(boxes)


def test_where_only_tiles_see_small_things_they_are_found_and_where_only_the_whole_does_large_ones():
    def run(images, scale):
        whole = len(images) == 1 and images[0].shape[:2] == SIZE
        return [{"detection": see(one, least=100 if whole else 4, score=0.5 if whole else 0.9)} for one in images]

    boxes = [[150, 150, 160, 190], [20, 200, 500, 480]]
    assert boxes_of(drawn(*boxes), run=run) == sorted(boxes)


def test_a_rough_box_of_the_whole_image_yields_to_a_tile_s_and_a_faint_fragment_makes_nothing_larger():
    def run(images, scale):
        if len(images) == 1:
            rough = Detections(
                np.array([[195, 55, 255, 95]], np.float32), np.array([0.95], np.float32), np.zeros(1, int)
            )
            return [{"detection": rough}]
        return [{"detection": see(one)} for one in images]

    found = seen_in_tiles(run, drawn([200, 60, 250, 90]), tile=200, overlap=0.5, batch_size=99)["detection"]
    assert found.boxes.tolist() == [[200, 60, 250, 90]]
    assert found.scores.tolist() == pytest.approx([0.95])


def test_objects_of_different_classes_do_not_take_each_other_s_place():
    def run(images, scale):
        return [{"detection": see(one, labels=[0, 1])} for one in images]

    image = drawn([140, 140, 200, 200], [150, 150, 190, 190])
    found = seen_in_tiles(run, image, tile=200, overlap=0.2, batch_size=4)["detection"]
    assert sorted(found.labels.tolist()) == [0, 1]


def test_masks_of_fragments_are_joined_and_read_back():
    def run(images, scale):
        if len(images) == 1 and images[0].shape[:2] == SIZE:
            return [{"instance": masked(np.zeros((*SIZE, 1), np.uint8))}]  # too small for it at that scale
        return [{"instance": masked(one)} for one in images]

    def masked(image):
        found = see(image)
        size = (image.shape[0], image.shape[1])
        windows = tuple(
            coco_mask.encode(np.asfortranarray((image[y1:y2, x1:x2, 0] > 0) & (np.indices((y2 - y1, x2 - x1))[1] >= 0)))
            for x1, y1, x2, y2 in found.boxes.astype(int)
        )
        nothing = {"coefficients": np.zeros((len(found), 0)), "prototypes": np.zeros((0, 1, 1))}
        laid = Geometry(size, size, (1.0, 1.0))
        return Instances(found.boxes, found.scores, found.labels, **nothing, geometry=laid, stride=1.0, windows=windows)

    image = drawn([120, 130, 260, 300], [400, 100, 420, 130])
    image[200:210, 200:210] = 0  # a hole
    found = seen_in_tiles(run, image, tile=200, overlap=0.2, batch_size=4)["instance"]
    assert sorted(found.boxes.astype(int).tolist()) == [[120, 130, 260, 300], [400, 100, 420, 130]]
    for row, box in enumerate(found.boxes.astype(int)):
        wanted = np.zeros(SIZE, bool)
        wanted[box[1] : box[3], box[0] : box[2]] = image[box[1] : box[3], box[0] : box[2], 0] > 0
        assert np.array_equal(found.mask(row), wanted)
        assert np.array_equal(coco_mask.decode(found.rle(row)).astype(bool), wanted)
    assert len(found.select(np.array([1])).to_coco(1)) == 1


def test_answers_about_the_whole_image_are_those_of_the_whole_image():
    def run(images, scale):
        return [{"classification": Classification(np.array([len(one), 1.0], np.float32))} for one in images]

    found = seen_in_tiles(run, np.zeros((*SIZE, 3), np.uint8), tile=200, overlap=0.2, batch_size=4)
    assert found["classification"].scores[0] == SIZE[0]


# ---------------------------------------------------------------------------------------------------------------- maps
def pointwise(image):
    """Logits that each pixel gives by itself, at stride 1."""
    values = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)
    size = (image.shape[0], image.shape[1])
    return CanvasScores(values, Geometry(size, size, (1.0, 1.0)), 1)


def test_windows_of_a_pointwise_network_are_the_map_of_the_whole_image():
    image = np.random.default_rng(0).permuted(np.tile(np.arange(4, dtype=np.uint8), (*SIZE, 1)), axis=2)

    def run(images, scale):
        return [{"semantic": pointwise(one)} for one in images]

    found = seen_in_tiles(run, image, tile=160, overlap=0.3, batch_size=5)["semantic"]
    assert found.size == SIZE
    torch.testing.assert_close(found.rows(150, 170), pointwise(image).rows(150, 170), atol=1e-3, rtol=1e-3)
    for most_bytes in (60_000, 1 << 26):  # strips of some rows, and all at once
        assert np.array_equal(semantic_map(found, most_bytes=most_bytes).classes, image.argmax(2))


def test_where_windows_disagree_the_nearer_centre_has_more_to_say():
    def constant(value, width):
        logits = torch.tensor([[[0.0]], [[value]]]).expand(2, 10, width)
        return CanvasScores(logits, Geometry((10, width), (10, width), (1.0, 1.0)), 1)

    left, right = Part(constant(-9.0, 60), (0, 0, 60, 10)), Part(constant(9.0, 60), (40, 0, 100, 10))
    scores = BlendedScores([left, right], (10, 100)).rows(0, 10)[1, 5]
    assert scores[:40].max() < 0.01 and scores[60:].min() > 0.99
    assert (scores[40:60].diff() > 0).all()
    assert float(scores[49] + scores[50]) == pytest.approx(1.0, abs=1e-3)
