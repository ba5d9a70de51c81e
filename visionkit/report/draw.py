"""Predictions and truth drawn into photographs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visionkit.predictions import Classification, Detections, Prediction
from visionkit.structures import Labels

Colour = tuple[int, int, int]

OKABE_ITO: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""The colours that people with and without colour blindness tell apart (Okabe and Ito 2008), without the black."""
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
TOP_CLASSES = 3
"""How many classes of a classification are listed."""


def class_colour(label: int) -> Colour:
    """The RGB colour of a class: `OKABE_ITO`, then the same darker, then lighter, and from the 22nd class on again."""
    base = OKABE_ITO[label % len(OKABE_ITO)]
    shade = label // len(OKABE_ITO) % 3
    if shade == 0:
        return base
    return _blend(base, BLACK, 0.45) if shade == 1 else _blend(base, WHITE, 0.55)


def draw(
    image: np.ndarray,
    prediction: Prediction | None,
    classes: Sequence[str],
    *,
    truth: Labels | None = None,
    score_threshold: float = 0.3,
) -> np.ndarray:
    """Return a copy of the image with what was predicted, and the truth where it is given.

    Args:
        image: (H, W, 3) uint8 RGB; lines and text scale with it.
        prediction: detections become boxes in the colour of their class, a classification a list of its
            `TOP_CLASSES` best; None draws the truth alone.
        classes: names, in the order of the prediction's and the truth's labels.
        truth: boxes are dashed and white beside predictions, else drawn like them; a true class is listed first.
        score_threshold: detections under it are left out.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"draw: (H, W, 3) uint8 is wanted, not {image.shape} {image.dtype}")
    pen = _Pen(image)
    lines: list[tuple[str, Colour]] = []
    if truth is not None:
        if truth.boxes is not None and not isinstance(prediction, Classification):
            _draw_truth(pen, truth, classes, dashed=prediction is not None)
        if truth.class_scores is not None and not isinstance(prediction, Detections):
            lines += [(f"truth: {classes[k]}", WHITE) for k in np.flatnonzero(truth.class_scores > 0.5).tolist()]
    if isinstance(prediction, Detections):
        _draw_detections(pen, prediction.above(score_threshold), classes)
    elif isinstance(prediction, Classification):
        best = np.argsort(-prediction.scores, kind="stable")[:TOP_CLASSES]
        lines += [(f"{classes[k]} {prediction.scores[k]:.2f}", class_colour(int(k))) for k in best]
    pen.list(lines)
    return pen.pixels()


def headings(texts: Sequence[str], width: int) -> np.ndarray:
    """A white strip, (H, len(texts) * width, 3) uint8 RGB, with each text over its own `width` pixels."""
    font = _font(max(9, width // 20))
    strip = Image.new("RGB", (len(texts) * width, round(1.6 * sum(font.getmetrics()))), WHITE)
    for index, text in enumerate(texts):
        ImageDraw.Draw(strip).text(((index + 0.5) * width, strip.height / 2), text, BLACK, font, anchor="mm")
    return np.array(strip)


def _draw_detections(pen: _Pen, detections: Detections, classes: Sequence[str]) -> None:
    order = np.argsort(-detections.scores, kind="stable")
    boxes, scores, labels = detections.boxes[order], detections.scores[order], detections.labels[order].tolist()
    for box, label in zip(boxes[::-1], labels[::-1], strict=True):  # the best one last, on top
        pen.box(box, class_colour(label))
    texts = [f"{classes[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    pen.tags(boxes, texts, [class_colour(label) for label in labels])


def _draw_truth(pen: _Pen, truth: Labels, classes: Sequence[str], *, dashed: bool) -> None:
    assert truth.boxes is not None
    assert truth.labels is not None
    if dashed:
        for box in truth.boxes:
            pen.dashed_box(box)
        return
    colours = [class_colour(label) for label in truth.labels.tolist()]
    for box, colour in zip(truth.boxes, colours, strict=True):
        pen.box(box, colour)
    marks = np.where(np.asarray(truth.crowd), " (crowd)", np.where(np.asarray(truth.ignore), " (ignored)", ""))
    texts = [f"{classes[label]}{mark}" for label, mark in zip(truth.labels, marks, strict=True)]
    pen.tags(truth.boxes, texts, colours)


class _Pen:
    """A picture being drawn into: lines, text and plates of the size that the picture asks for."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = Image.fromarray(image)  # a copy
        self.draw = ImageDraw.Draw(self.image)
        self.width, self.height = self.image.size
        side = (self.width * self.height) ** 0.5
        self.line = max(1, round(side / 320))
        self.font = _font(max(8, round(side / 42)))
        self.margin = max(1, round(side / 300))

    def pixels(self) -> np.ndarray:
        return np.array(self.image)

    def box(self, box: np.ndarray, colour: Colour) -> None:
        """A frame inside the box, with a hairline of the opposite lightness inside it to stand out on any ground."""
        left, top, right, bottom = self._corners(box)
        self.draw.rectangle((left, top, right, bottom), outline=colour, width=self.line)
        inner = (left + self.line, top + self.line, right - self.line, bottom - self.line)
        if self.line > 1 and inner[2] > inner[0] and inner[3] > inner[1]:
            self.draw.rectangle(inner, outline=_blend(colour, _ink(colour), 0.75))

    def dashed_box(self, box: np.ndarray) -> None:
        left, top, right, bottom = self._corners(box)
        dash = 4 * self.line
        self.draw.rectangle((left, top, right, bottom), outline=BLACK, width=self.line)
        for x in range(left, right, 2 * dash):
            for y in (top, bottom - self.line + 1):
                self.draw.rectangle((x, y, max(x, min(x + dash, right)), max(y, y + self.line - 1)), fill=WHITE)
        for y in range(top, bottom, 2 * dash):
            for x in (left, right - self.line + 1):
                self.draw.rectangle((x, y, max(x, x + self.line - 1), max(y, min(y + dash, bottom))), fill=WHITE)

    def tags(self, boxes: np.ndarray, texts: Sequence[str], colours: Sequence[Colour]) -> None:
        """A plate per box, the first ones in the best places and on top, all inside the picture."""
        plates = np.zeros((len(boxes), 4), np.int64)
        for index, (box, text) in enumerate(zip(boxes, texts, strict=True)):
            plates[index] = self._place(box, *self._plate_size(text), plates[:index])
        for plate, text, colour in reversed(list(zip(plates.tolist(), texts, colours, strict=True))):
            self._plate(plate, text, colour)

    def _place(self, box: np.ndarray, width: int, height: int, taken: np.ndarray) -> tuple[int, int, int, int]:
        """(left, top, width, height) of a plate: above the box, else the first place that covers no other plate."""
        left, top, right, bottom = self._corners(box)
        above, beside = top - height + self.line, right - width + 1
        places = [(left, above), (left, top), (beside, above), (left, bottom - height + 1), (left, bottom)]
        places = [(max(0, min(x, self.width - width)), y) for x, y in places if 0 <= y <= self.height - height]
        first, last = taken[:, :2], taken[:, :2] + taken[:, 2:]
        for x, y in places:
            if not ((first < (x + width, y + height)) & (last > (x, y))).all(axis=1).any():
                return x, y, width, height
        x, y = places[0] if places else (0, 0)
        return x, y, width, height

    def list(self, lines: Sequence[tuple[str, Colour]]) -> None:
        """Plates one under another in the top left corner."""
        y = self.margin
        for text, colour in lines:
            width, height = self._plate_size(text)
            self._plate((self.margin, y, width, height), text, colour)
            y += height + self.margin

    def _plate(self, plate: Sequence[int], text: str, colour: Colour) -> None:
        """Draw a filled (left, top, width, height) rectangle with a line of text."""
        left, top, width, height = plate
        self.draw.rectangle((left, top, left + width - 1, top + height - 1), fill=colour)
        ascent, _ = self.font.getmetrics()
        self.draw.text((left + 2 * self.margin, top + self.margin + ascent), text, _ink(colour), self.font, anchor="ls")

    def _plate_size(self, text: str) -> tuple[int, int]:
        ascent, descent = self.font.getmetrics()
        return round(self.font.getlength(text)) + 4 * self.margin, ascent + descent + 2 * self.margin

    def _corners(self, box: np.ndarray) -> tuple[int, int, int, int]:
        """The first and last pixel of a box along both axes, inside the picture."""
        left, top = (min(max(round(float(v)), 0), most - 1) for v, most in zip(box[:2], self.image.size, strict=True))
        right, bottom = (min(max(round(float(v)) - 1, 0), m - 1) for v, m in zip(box[2:], self.image.size, strict=True))
        return left, top, max(left, right), max(top, bottom)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has Latin, Greek and Cyrillic letters; `size` in pixels."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _ink(plate: Colour) -> Colour:
    """Black or white, whichever contrasts more with the plate by WCAG's relative luminance."""
    linear = [(v / 255 / 12.92) if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in plate]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else WHITE


def _blend(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue
