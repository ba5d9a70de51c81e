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
    Segment,
    SemanticMap,
)
from visionkit.report.colours import BLACK, OKABE_ITO, WHITE, class_colour, ink
from visionkit.report.draw import draw, draw_all
from visionkit.structures import IGNORE_INDEX, Geometry, Labels

CLASSES = ["cell", "nucleus"]


def grey(height: int = 200, width: int = 300) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def found(*boxes: tuple[float, float, float, float], score: float = 0.9, label: int = 0) -> Detections:
    count = len(boxes)
    labels = np.full(count, label, np.int64)
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.full(count, score, np.float32), labels)


def is_colour(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (image == np.array(colour, np.uint8)).all(axis=2)


def changed(image: np.ndarray) -> np.ndarray:
    return ~is_colour(image, (128, 128, 128))


def test_a_box_is_framed_in_its_class_s_colour_where_it_lies() -> None:
    image = grey()
    drawn = draw(image, found((50, 60, 150, 160), label=1), CLASSES)
    assert (image == 128).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    frame = is_colour(drawn, OKABE_ITO[1])
    assert frame[60:160, 50].all()
    assert frame[60:160, 149].all()
    assert frame[159, 50:150].all()
    assert not changed(drawn)[70:150, 60:140].any()  # nothing inside
    assert not changed(drawn)[161:].any()
    assert not changed(drawn)[:, :50].any()


def test_what_scores_less_is_left_out() -> None:
    assert not changed(draw(grey(), found((50, 60, 150, 160), score=0.29), CLASSES)).any()
    assert changed(draw(grey(), found((50, 60, 150, 160), score=0.3), CLASSES)).any()
    assert changed(draw(grey(), found((50, 60, 150, 160), score=0.1), CLASSES, score_threshold=0.05)).any()


@pytest.mark.parametrize("box", [(0, 0, 60, 60), (260, 0, 300, 40), (280, 180, 300, 200), (-50, -50, 900, 900)])
def test_labels_stay_inside_the_image(box: tuple[float, float, float, float]) -> None:
    text = [(draw(grey(), found(place), CLASSES) < 20).all(axis=2).sum() for place in (box, (100, 100, 160, 160))]
    assert text[0] == text[1] > 10  # as many black pixels as in the middle: it shows whole


def test_plates_do_not_cover_one_another_where_there_is_room() -> None:
    two = found((50, 60, 150, 160), (52, 62, 152, 162))
    one = is_colour(draw(grey(), found((50, 60, 150, 160)), CLASSES), OKABE_ITO[0]).sum()
    both = is_colour(draw(grey(), two, CLASSES), OKABE_ITO[0]).sum()
    assert both > 1.7 * one


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (9, 400), (1500, 2000)])
def test_any_size_can_be_drawn_on(size: tuple[int, int]) -> None:
    truth = Labels(size=size, boxes=np.array([[0.0, 0, 1, 1]]), labels=np.zeros(1, np.int64))
    drawn = draw(grey(*size), found((-5, -5, 5000, 5000), (0, 0, 0, 0)), CLASSES, truth=truth)
    assert drawn.shape == (*size, 3)
    assert draw(grey(*size), Classification(np.array([0.2, 0.8], np.float32)), CLASSES).shape == (*size, 3)


def test_lines_and_text_grow_with_the_image() -> None:
    small = is_colour(draw(grey(300, 300), found((50, 60, 150, 160)), CLASSES), OKABE_ITO[0])
    large = is_colour(draw(grey(3000, 3000), found((500, 600, 1500, 1600)), CLASSES), OKABE_ITO[0])
    assert small[100, 50:60].sum() == 1
    assert large[1000, 500:600].sum() == 9


def test_truth_is_dashed_beside_predictions_and_like_them_alone() -> None:
    boxes = np.array([[50.0, 60, 150, 160]])
    truth = Labels(size=(200, 300), boxes=boxes, labels=np.array([1]), crowd=np.array([True]))
    beside = draw(grey(), found(), CLASSES, truth=truth)
    assert is_colour(beside, WHITE)[60:160, 50].any()
    assert is_colour(beside, BLACK)[60:160, 50].any()
    alone = draw(grey(), None, CLASSES, truth=truth)
    assert is_colour(alone, OKABE_ITO[1])[60:160, 50].all()
    plain = draw(grey(), None, CLASSES, truth=Labels(size=(200, 300), boxes=boxes, labels=np.array([1])))
    assert is_colour(alone, OKABE_ITO[1]).sum() > is_colour(plain, OKABE_ITO[1]).sum()  # "(crowd)" makes it wider


def test_a_classification_is_a_list_in_the_corner() -> None:
    drawn = draw(grey(), Classification(np.array([0.2, 0.8], np.float32)), CLASSES)
    rows = [np.flatnonzero(is_colour(drawn, OKABE_ITO[k]).any(axis=1)) for k in (1, 0)]
    assert rows[0].max() < rows[1].min()  # the likelier one first
    assert not changed(drawn)[60:].any()
    truth = Labels(size=(200, 300), class_scores=np.array([0, 1], np.float32))
    told = is_colour(draw(grey(), Classification(np.array([0.2, 0.8], np.float32)), CLASSES, truth=truth), WHITE)
    assert told.any()


def test_colours_differ_and_ink_is_readable() -> None:
    assert len({class_colour(k) for k in range(21)}) == 21
    assert class_colour(21) == class_colour(0)
    assert ink((240, 228, 66)) == BLACK
    assert ink((0, 60, 90)) == WHITE


def test_other_images_are_refused() -> None:
    for image in (np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32)):
        with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 is wanted"):
            draw(image, None, CLASSES)


# ------------------------------------------------------------------------------------------------------ maps and masks
def square(rows: slice, columns: slice, height: int = 200, width: int = 300) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = True
    return mask


def instances(*masks: np.ndarray, labels: tuple[int, ...], score: float = 0.9) -> Instances:
    boxes = [
        [m.any(0).argmax(), m.any(1).argmax(), m.any(0).nonzero()[0][-1] + 1, m.any(1).nonzero()[0][-1] + 1]
        for m in masks
    ]
    size = masks[0].shape
    return Instances(
        np.array(boxes, np.float32),
        np.full(len(masks), score, np.float32),
        np.array(labels, np.int64),
        np.eye(len(masks), dtype=np.float32),
        np.where(np.stack(masks), 4.0, -4.0).astype(np.float32),
        Geometry(size, size, (1.0, 1.0)),
        stride=1.0,
    )


def rle(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))


def nearest_class(pixel: np.ndarray, classes: int) -> int:
    """Which of the classes' colours, half over grey, is nearest?"""
    colours = np.array([class_colour(k) for k in range(classes)])
    return int(np.abs(colours * 0.6 + 128 * 0.4 - pixel).sum(axis=1).argmin())


def test_a_semantic_map_is_laid_over_in_the_classes_colours() -> None:
    labels = np.zeros((200, 300), np.uint8)
    labels[:, 150:] = 3
    drawn = draw(grey(), SemanticMap(labels), ["road", "sky", "tree", "car"])
    assert nearest_class(drawn[100, 50], 4) == 0
    assert nearest_class(drawn[100, 250], 4) == 3
    present = [is_colour(drawn, class_colour(k)).sum() > 20 for k in range(4)]
    assert present == [True, False, False, True]  # the legend's plates, of the classes that there are


def test_every_class_of_twenty_one_shows_in_another_colour() -> None:
    labels = np.repeat(np.arange(21, dtype=np.uint8), 10)[None].repeat(200, 0)
    drawn = draw(grey(200, 210), SemanticMap(labels), [str(k) for k in range(21)])
    assert [nearest_class(drawn[20, 10 * k + 4], 21) for k in range(21)] == list(range(21))


def test_pixels_without_a_label_are_hatched_in_grey() -> None:
    labels = np.full((200, 300), IGNORE_INDEX, np.uint8)
    drawn = draw(grey(), None, CLASSES, truth=Labels(size=(200, 300), semantic=labels))
    assert (drawn.max(axis=2) == drawn.min(axis=2)).all()  # no colour, and nothing in the legend
    assert len(np.unique(drawn)) == 2


def test_a_long_legend_is_cut_and_stays_inside() -> None:
    labels = (np.arange(200 * 300) % 200).reshape(200, 300).astype(np.uint8)
    drawn = draw(np.zeros((200, 300, 3), np.uint8), SemanticMap(labels), [f"class {k}" for k in range(200)])
    assert drawn.shape == (200, 300, 3)
    white = is_colour(drawn, WHITE).any(axis=1)
    assert white[-30:].any()  # "and 190 more"
    assert not white[:130].any()


def test_masks_are_filled_and_framed_where_they_lie() -> None:
    mask = square(slice(60, 120), slice(80, 180))
    mask[60:90, 80:130] = False  # an L
    drawn = draw(grey(), instances(mask, labels=(1,)), CLASSES)
    tint = drawn.astype(int) - 128
    assert np.abs(tint[105, 150]).sum() > 60
    assert np.abs(tint[70, 95]).sum() == 0  # inside of the box, outside of the mask
    assert is_colour(drawn, OKABE_ITO[1])[60:120, 80].all()  # the box
    assert not changed(drawn)[130:].any()
    left_out = draw(grey(), instances(mask, labels=(1,), score=0.2), CLASSES)
    assert not changed(left_out).any()


def test_true_masks_and_maps_are_white_lines_beside_a_prediction() -> None:
    mask = square(slice(60, 120), slice(80, 180))
    boxes = np.array([[80.0, 60, 180, 120]])
    truth = Labels(size=(200, 300), boxes=boxes, labels=np.array([1]), masks=(rle(mask),))
    none = instances(mask, labels=(1,), score=0.1)
    beside = draw(grey(), none, CLASSES, truth=truth)
    assert is_colour(beside, WHITE)[70:110, 78:83].any(axis=1).all()
    alone = draw(grey(), None, CLASSES, truth=truth)
    assert np.abs(alone[90, 130].astype(int) - 128).sum() > 60
    semantic = np.where(mask, 1, 0).astype(np.uint8)
    over = draw(grey(), SemanticMap(np.zeros_like(semantic)), CLASSES, truth=Labels(size=(200, 300), semantic=semantic))
    assert is_colour(over, WHITE)[70:110, 76:82].any(axis=1).all()


def test_a_panoptic_map_shows_its_segments() -> None:
    ids = np.zeros((200, 300), np.int32)
    ids[:, 100:] = 1000
    ids[20:60, 120:160] = 7
    ids[20:60, 200:240] = 8
    segments = (
        Segment(1000, 2, thing=False, score=1.0, area=1),
        Segment(7, 1, thing=True, score=0.9, area=1),
        Segment(8, 1, thing=True, score=0.8, area=1),
    )
    drawn = draw(grey(), PanopticMap(ids, segments), ["road", "car", "tree"])
    assert nearest_class(drawn[100, 250], 3) == 2
    assert nearest_class(drawn[40, 140], 3) == 1
    assert is_colour(drawn, WHITE)[25:55, 118:123].any(axis=1).all()  # things have an outline
    assert drawn[100, 50].max() == drawn[100, 50].min()  # nothing there: no colour
    assert draw(grey(), PanopticMap(np.zeros((200, 300), np.int32), ()), []).shape == (200, 300, 3)


def test_a_localization_is_a_list_and_the_box_of_the_best_class() -> None:
    prediction = Localization(
        np.array([0.2, 0.8], np.float32), np.array([[1, 1, 9, 9], [50, 60, 150, 160]], np.float32)
    )
    truth = Labels(size=(200, 300), class_scores=np.array([0, 1], np.float32), box=np.array([40.0, 60, 150, 160]))
    drawn = draw(grey(), prediction, CLASSES, truth=truth)
    assert is_colour(drawn, OKABE_ITO[1])[80:150, 50].all()
    assert is_colour(drawn, WHITE)[60:160, 40].any()
    alone = draw(grey(), None, CLASSES, truth=truth)
    assert is_colour(alone, OKABE_ITO[1])[80:150, 40].all()


def test_an_image_without_labels_says_so() -> None:
    assert is_colour(draw(grey(), None, CLASSES, truth=Labels(size=(200, 300))), WHITE).sum() > 100
    empty = Labels(size=(200, 300), boxes=np.zeros((0, 4)), labels=np.zeros(0, np.int64))
    assert not changed(draw(grey(), None, CLASSES, truth=empty)).any()


def test_several_heads_share_a_picture_whatever_their_order() -> None:
    mask = square(slice(60, 120), slice(80, 180))
    whole = SemanticMap(np.full((200, 300), 1, np.uint8))
    predictions = {"detection": found((50, 60, 150, 160)), "instance": instances(mask, labels=(0,)), "semantic": whole}
    classes = {"detection": CLASSES, "instance": CLASSES, "semantic": ["road", "sky"]}
    drawn = draw_all(grey(), predictions, classes)
    assert is_colour(drawn, OKABE_ITO[0])[125:158, 50].all()  # the box lies over the map
    assert nearest_class(drawn[20, 250], 2) == 1
    assert (drawn == draw_all(grey(), dict(reversed(predictions.items())), classes)).all()
    panoptic = PanopticMap(np.zeros((200, 300), np.int32), ())
    merged = draw_all(grey(), {"semantic": whole, "panoptic": panoptic}, {**classes, "panoptic": CLASSES})
    assert (merged == draw(grey(), panoptic, CLASSES)).all()


def test_odd_class_names_are_drawn() -> None:
    names = ["two\nlines", "", "$x$ <b>", "猫" * 40]
    labels = np.repeat(np.arange(4, dtype=np.uint8), 75)[None].repeat(200, 0)
    assert draw(grey(), SemanticMap(labels), names).shape == (200, 300, 3)
    assert draw(grey(), found((50, 60, 150, 160)), names).shape == (200, 300, 3)
