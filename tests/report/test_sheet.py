from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionkit.predictions import (
    Classification,
    Detections,
    Instances,
    Localization,
    PanopticMap,
    Prediction,
    Segment,
    SemanticMap,
)
from visionkit.report import contact_sheet, spread
from visionkit.report.colours import OKABE_ITO, class_colour
from visionkit.report.pen import font, shortened
from visionkit.report.sheet import _fitted, displayable, headings
from visionkit.structures import Geometry, Labels

GREY = np.full((100, 200, 3), 128, np.uint8)


def test_a_contact_sheet_has_truth_left_and_prediction_right() -> None:
    truth = Labels(size=(100, 200), boxes=np.array([[20.0, 20, 180, 80]]), labels=np.array([1]))
    prediction = Detections(np.array([[30, 20, 180, 80]], np.float32), np.ones(1, np.float32), np.array([0]))
    sheet = contact_sheet([(GREY, prediction, truth)] * 3, ["cell", "nucleus"], cell=200)
    assert sheet.shape[1] == 4 * 205
    in_colour = [(sheet == np.array(colour)).all(axis=2).any(axis=0) for colour in OKABE_ITO[:2]]
    predicted, true = (np.flatnonzero(columns) for columns in in_colour)
    assert set(true // 205) == {0, 2}
    assert set(predicted // 205) == {1, 3}
    assert true.min() == pytest.approx(22, abs=1)  # scaled by 200 / 200, centred in a column of 205 pixels


def test_small_images_are_enlarged_before_they_are_drawn_on() -> None:
    image = np.full((20, 20, 3), 128, np.uint8)
    truth = Labels(size=(20, 20), class_scores=np.array([0, 1], np.float32))
    sheet = contact_sheet([(image, Classification(np.array([0.4, 0.6], np.float32)), truth)], ["a", "b"], cell=300)
    assert sheet.shape[1] == 2 * 307
    assert (sheet == 128).all(axis=2).sum() > 2 * 280 * 250


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([], ["a"])


def test_names_stand_over_the_images_and_their_end_is_kept() -> None:
    items = [(GREY, Classification(np.ones(1, np.float32)), Labels(size=(100, 200)))] * 3
    plain, named = (
        contact_sheet(items, ["a"], cell=200, names=names) for names in (None, ["x" * 300 + "/1.png", "2", "3"])
    )
    assert named.shape[1] == plain.shape[1]
    assert named.shape[0] > plain.shape[0]


def test_of_a_long_name_the_end_is_kept() -> None:
    letters = font(12)
    cut = shortened("a/long/folder/" * 30 + "1.png", 120, letters)
    assert cut.startswith("…")
    assert cut.endswith("/1.png")
    assert letters.getlength(cut) <= 120
    assert shortened("two\nlines", 120, letters) == "two lines"


def test_headings_stand_over_their_columns() -> None:
    strip = headings(["truth", "prediction"], 100)
    assert strip.shape[1:] == (200, 3)
    dark = (strip < 100).all(axis=2).any(axis=0)
    assert dark[20:80].any()
    assert dark[110:190].any()
    assert not dark[:10].any()


# ------------------------------------------------------------------------------------------------------------ fitting
def mask_of(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((100, 200), bool)
    mask[rows, columns] = True
    return mask


def test_masks_are_fitted_with_their_images() -> None:
    mask = mask_of(slice(20, 80), slice(40, 120))
    boxes = np.array([[40, 20, 120, 80]], np.float32)
    logits = np.where(mask, 5.0, -5.0).astype(np.float32)[None]
    # On a canvas twice as large with an offset, at a stride of 2: the grid's cells are the image's pixels.
    geometry = Geometry((100, 200), (204, 408), (2.0, 2.0), (0.0, 0.0))
    one = np.ones(1, np.float32)
    prediction = Instances(boxes, one, np.zeros(1, np.int64), one[None], logits, geometry, 2.0).encoded()
    rle = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    truth = Labels(size=(100, 200), boxes=boxes.astype(np.float64), labels=np.zeros(1, np.int64), masks=(rle,))
    image, fitted, labels = _fitted(GREY, prediction, truth, 100)
    assert image.shape == (50, 100, 3)
    assert isinstance(fitted, Instances)
    wanted = mask[::2, ::2]
    assert (fitted.mask(0) == wanted).all()
    assert (labels.bitmaps()[0] == wanted).all()
    assert labels.boxes is not None
    assert labels.boxes.tolist() == [[20, 10, 60, 40]]


def test_maps_are_fitted_without_mixing_classes() -> None:
    labels = np.where(mask_of(slice(20, 80), slice(40, 120)), 7, 2).astype(np.uint8)
    truth = Labels(size=(100, 200), semantic=labels)
    _, fitted, fitted_truth = _fitted(GREY, SemanticMap(labels), truth, 400)
    assert isinstance(fitted, SemanticMap)
    assert fitted.classes.shape == (200, 400)
    assert set(np.unique(fitted.classes)) == {2, 7}
    assert (fitted.classes[::2, ::2] == labels).all()
    assert fitted_truth.semantic is not None
    assert (fitted_truth.semantic == fitted.classes).all()


def test_a_localization_is_fitted_with_its_box() -> None:
    prediction = Localization(np.ones(1, np.float32), np.array([[40, 20, 120, 80]], np.float32))
    truth = Labels(size=(100, 200), box=np.array([40.0, 20, 120, 80]), class_scores=np.ones(1, np.float32))
    _, fitted, labels = _fitted(GREY, prediction, truth, 100)
    assert isinstance(fitted, Localization)
    assert fitted.box.tolist() == [20, 10, 60, 40]
    assert labels.box is not None
    assert labels.box.tolist() == [20, 10, 60, 40]


def test_only_the_truth_of_the_head_is_shown() -> None:
    truth = Labels(
        size=(100, 200),
        boxes=np.array([[20.0, 20, 180, 80]]),
        labels=np.array([1]),
        semantic=np.zeros((100, 200), np.uint8),
    )
    _, _, labels = _fitted(
        GREY, Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)), truth, 100
    )
    assert labels.known == {"boxes"}


def test_panoptic_truth_is_made_of_masks_and_map() -> None:
    mask = mask_of(slice(20, 80), slice(40, 120))
    rle = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    # "car" is the first of the objects' list and the third of the whole list.
    truth = Labels(
        size=(100, 200),
        boxes=np.array([[40.0, 20, 120, 80]]),
        labels=np.array([0]),
        masks=(rle,),
        semantic=np.zeros((100, 200), np.uint8),
    )
    prediction = PanopticMap(np.ones((100, 200), np.int32), (Segment(1, 0, thing=False, score=1.0, area=20000),))
    sheet = contact_sheet([(GREY, prediction, truth)], ["road", "sky", "car"], cell=200, things=["car"])
    left, right = sheet[:, :205], sheet[:, 205:]
    plates = [(side == np.array(class_colour(2))).all(axis=2).sum() for side in (left, right)]
    assert plates[0] > 20  # "car" is in the truth's legend
    assert plates[1] == 0


@pytest.mark.parametrize(
    "prediction",
    [
        Classification(np.ones(1, np.float32)),
        Localization(np.ones(1, np.float32), np.zeros((1, 4), np.float32)),
        Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)),
        SemanticMap(np.zeros((3, 900), np.uint8)),
        PanopticMap(np.zeros((3, 900), np.int32), ()),
    ],
)
def test_thin_images_without_labels_are_shown(prediction: Prediction) -> None:
    image = np.zeros((3, 900, 3), np.uint8)
    assert contact_sheet([(image, prediction, Labels(size=(3, 900)))], ["a"], cell=120).ndim == 3


def test_images_of_other_kinds_are_made_displayable() -> None:
    assert displayable(np.full((4, 5, 1), 9, np.uint8)).tolist() == np.full((4, 5, 3), 9).tolist()
    assert displayable(np.full((4, 5, 6), 9, np.uint8)).shape == (4, 5, 3)
    deep = np.array([[[0], [1000], [4000]]], np.uint16)
    assert displayable(deep)[0, :, 0].tolist() == [0, 63, 255]
    assert displayable(np.full((2, 2, 3), np.nan, np.float32)).max() == 0


def test_spread_is_even_and_bounded() -> None:
    assert spread(0) == []
    assert spread(3) == [0, 1, 2]
    assert spread(100, 4) == [12, 37, 62, 87]
    assert len(set(spread(13))) == 12
