"""What a person does with predictions: draw them, hand them to COCO's tools and to supervision."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from visionkit.errors import UserError
from visionkit.predictions import Classification, Detections, Instances, Localization, PanopticMap, Segment, SemanticMap
from visionkit.structures import Geometry

BOXES = np.array([[10, 20, 60, 90], [100, 5, 150, 40]], np.float32)
SCORES, LABELS, NAMES = np.array([0.9, 0.2], np.float32), np.array([1, 0]), ("cat", "dog")


def instances():
    laid = Geometry((120, 160), (120, 160), (1.0, 1.0))
    nothing = {"coefficients": np.zeros((2, 0)), "prototypes": np.zeros((0, 1, 1))}
    windows = tuple(coco_mask.encode(np.ones((y, x), np.uint8, order="F")) for y, x in ((70, 50), (35, 50)))
    return Instances(BOXES, SCORES, LABELS, **nothing, geometry=laid, stride=1.0, names=NAMES, windows=windows)


EVERY = {
    "classification": Classification(np.array([0.3, 0.7], np.float32), NAMES),
    "localization": Localization(np.array([0.3, 0.7], np.float32), BOXES, NAMES),
    "detection": Detections(BOXES, SCORES, LABELS, NAMES),
    "instance": instances(),
    "semantic": SemanticMap(np.tile(np.array([[0, 1]], np.uint8), (120, 80)), names=NAMES),
    "panoptic": PanopticMap(np.ones((120, 160), np.int32), (Segment(1, 1, True, 0.9, 19200),), NAMES),
}


@pytest.mark.parametrize("kind", EVERY)
def test_every_prediction_is_drawn_into_a_copy_of_any_kind_of_image(kind, tmp_path):
    image = np.full((120, 160, 3), 128, np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    kinds = [image, Image.fromarray(image), tmp_path / "a.png", torch.from_numpy(image).permute(2, 0, 1)]
    drawings = [EVERY[kind].draw(one) for one in kinds]
    assert (image == 128).all()
    for drawing in drawings:
        assert drawing.dtype == np.uint8 and drawing.shape == (120, 160, 3)
        assert (drawing != 128).any()
        assert np.array_equal(drawing, drawings[0])


def test_what_is_drawn_reaches_the_score():
    image = np.zeros((120, 160, 3), np.uint8)
    assert not EVERY["detection"].draw(image)[:45, 95:].any()
    assert EVERY["detection"].draw(image, score=0.1)[:45, 95:].any()


def test_names_are_asked_for_where_nobody_knows_them_and_may_be_given():
    nameless = Detections(BOXES, SCORES, LABELS)
    with pytest.raises(UserError, match=r"Detections\.draw: the classes have no names; give names="):
        nameless.draw(np.zeros((120, 160, 3), np.uint8))
    assert nameless.draw(np.zeros((120, 160, 3), np.uint8), ["a", "b"]).any()


@pytest.mark.parametrize("kind", ["instance", "semantic", "panoptic"])
def test_another_image_is_refused(kind):
    with pytest.raises(UserError, match=r"the image has 50 x 50 pixels .* and the prediction 120 x 160 pixels"):
        EVERY[kind].draw(np.zeros((50, 50, 3), np.uint8))


def test_small_objects_have_small_names():
    image = np.zeros((1200, 1600, 3), np.uint8)
    corners = np.stack(np.meshgrid(np.arange(40, 1500, 120), np.arange(60, 1150, 120)), -1).reshape(-1, 2)
    boxes = np.concatenate([corners, corners + 24], axis=1).astype(np.float32)
    many = Detections(boxes, np.full(len(boxes), 0.9, np.float32), np.zeros(len(boxes), np.int64), NAMES)
    few = Detections(boxes[:1] * 8, many.scores[:1], many.labels[:1], NAMES)
    assert (many.draw(image) > 0).any(2).mean() / len(boxes) < 0.25 * (few.draw(image) > 0).any(2).mean()


def test_coco_s_categories_are_numbered_from_1_unless_they_are_told():
    rows = EVERY["detection"].to_coco(7)
    assert [(row["image_id"], row["category_id"], row["bbox"]) for row in rows] == [
        (7, 2, [10, 20, 50, 70]),
        (7, 1, [100, 5, 50, 35]),
    ]
    assert [row["category_id"] for row in EVERY["instance"].to_coco(7, [90, "x"])] == ["x", 90]
    assert EVERY["classification"].to_coco("a")[0]["category_id"] == 2
    assert EVERY["panoptic"].to_coco(1)[0]["segments_info"][0]["category_id"] == 2


@pytest.mark.parametrize(("kind", "count"), [("detection", 2), ("instance", 2), ("localization", 1)])
def test_supervision_takes_what_has_boxes(kind, count):
    supervision = pytest.importorskip("supervision")
    given = EVERY[kind].to_supervision()
    assert isinstance(given, supervision.Detections)
    assert len(given) == count
    assert given.class_id[0] == 1
    assert given.data["class_name"][0] == "dog"
    assert given.xyxy[-1].tolist() == BOXES[1].tolist()
    if kind == "instance":
        assert given.mask.shape == (2, 120, 160)
        assert given.mask[0].sum() == 70 * 50


def test_without_supervision_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match=r"to_supervision: supervision is not there .*; pip install supervision"):
        EVERY["detection"].to_supervision()
    with pytest.raises(UserError, match="pip install supervision"):
        Detections(BOXES[:0], SCORES[:0], LABELS[:0]).to_supervision()
