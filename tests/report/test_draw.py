from __future__ import annotations

import numpy as np
import pytest

from visionkit.predictions import Classification, Detections
from visionkit.report.draw import BLACK, OKABE_ITO, WHITE, _ink, class_colour, draw, headings
from visionkit.structures import Labels

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
    assert _ink((240, 228, 66)) == BLACK
    assert _ink((0, 60, 90)) == WHITE


def test_other_images_are_refused() -> None:
    for image in (np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32)):
        with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 is wanted"):
            draw(image, None, CLASSES)


def test_headings_stand_over_their_columns() -> None:
    strip = headings(["truth", "prediction"], 100)
    assert strip.shape[1:] == (200, 3)
    dark = (strip < 100).all(axis=2).any(axis=0)
    assert dark[20:80].any()
    assert dark[110:190].any()
    assert not dark[:10].any()
