"""Lines, text and plates in a picture, of the size that the picture asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visionkit.report.colours import BLACK, WHITE, Colour, blend, ink

Plate = tuple[int, int, int, int]
"""(left, top, width, height) in pixels."""
_LEAST_TEXT = 10
"""Pixels."""


class Pen:
    """Draws into a copy of an image, (H, W, 3) uint8 RGB.

    Plates (of the list, the legend and the tags) keep clear of those placed before them where there is room.

    Args:
        image: what is drawn into a copy of.
        most_text: pixels of the largest letters, where what they stand beside is small; never under `_LEAST_TEXT`.
    """

    def __init__(self, image: np.ndarray, *, most_text: float = math.inf) -> None:
        self.image = Image.fromarray(image)  # a copy
        self.draw = ImageDraw.Draw(self.image)
        self.width, self.height = self.image.size
        self.line = line_width(image.shape[:2])
        side = (self.width * self.height) ** 0.5
        letters = max(_LEAST_TEXT, round(min(side / 42, most_text)))
        self.font = font(letters)
        self.margin = max(1, round(letters / 7))
        self._taken: list[Plate] = []
        self._sizes: dict[str, tuple[int, int]] = {}

    def pixels(self) -> np.ndarray:
        """Return the picture, (H, W, 3) uint8 RGB."""
        return np.array(self.image)

    def box(self, box: np.ndarray, colour: Colour) -> None:
        """A frame inside the box, with a hairline of the opposite lightness inside it to stand out on any ground."""
        left, top, right, bottom = self._corners(box)
        self.draw.rectangle((left, top, right, bottom), outline=colour, width=self.line)
        inner = (left + self.line, top + self.line, right - self.line, bottom - self.line)
        if self.line > 1 and inner[2] > inner[0] and inner[3] > inner[1]:
            self.draw.rectangle(inner, outline=blend(colour, ink(colour), 0.75))

    def dashed_box(self, box: np.ndarray) -> None:
        """A frame inside the box in black and white dashes."""
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
        plates: list[Plate] = []
        for box, text in zip(boxes, texts, strict=True):
            plates.append(self._place(box, *self._plate_size(text)))
            self._taken.append(plates[-1])
        for plate, text, colour in reversed(list(zip(plates, texts, colours, strict=True))):
            self._plate(plate, text, colour)

    def listing(self, lines: Sequence[tuple[str, Colour]]) -> None:
        """Plates one under another in the top left corner."""
        y = self.margin
        for text, colour in lines:
            width, height = self._plate_size(text)
            self._taken.append((self.margin, y, width, height))
            self._plate(self._taken[-1], text, colour)
            y += height + self.margin

    def legend(self, entries: Sequence[tuple[str, Colour]]) -> None:
        """Plates side by side in rows along the bottom, over a third of the height at most; the rest is counted."""
        if not entries:
            return
        shown = len(entries)
        rows = self._rows(entries)
        height = self._plate_size("")[1] + self.margin
        while shown > 1 and len(rows) * height > max(height, self.height / 3):
            shown -= 1
            rows = self._rows([*entries[:shown], (f"and {len(entries) - shown} more", WHITE)])
        y = self.height - len(rows) * height
        for row in rows:
            x = self.margin
            for text, colour in row:
                width = self._plate_size(text)[0]
                self._taken.append((x, y, width, height - self.margin))
                self._plate(self._taken[-1], text, colour)
                x += width + self.margin
            y += height

    def _rows(self, entries: Sequence[tuple[str, Colour]]) -> list[list[tuple[str, Colour]]]:
        rows: list[list[tuple[str, Colour]]] = []
        left = 0
        for entry in entries:
            width = self._plate_size(entry[0])[0] + self.margin
            if not rows or left + width > self.width - self.margin:
                rows.append([])
                left = 0
            rows[-1].append(entry)
            left += width
        return rows

    def _place(self, box: np.ndarray, width: int, height: int) -> Plate:
        """A plate's place: above the box, else the first one that covers no other plate."""
        left, top, right, bottom = self._corners(box)
        above, beside = top - height + self.line, right - width + 1
        places = [(left, above), (left, top), (beside, above), (left, bottom - height + 1), (left, bottom)]
        places = [(max(0, min(x, self.width - width)), y) for x, y in places if 0 <= y <= self.height - height]
        taken = np.array(self._taken, np.int64).reshape(-1, 4)
        first, last = taken[:, :2], taken[:, :2] + taken[:, 2:]
        for x, y in places:
            if not ((first < (x + width, y + height)) & (last > (x, y))).all(axis=1).any():
                return x, y, width, height
        x, y = places[0] if places else (0, 0)
        return x, y, width, height

    def _plate(self, plate: Plate, text: str, colour: Colour) -> None:
        """Draw a filled rectangle with a line of text."""
        left, top, width, height = plate
        self.draw.rectangle((left, top, left + width - 1, top + height - 1), fill=colour)
        start = (left + 2 * self.margin, top + self.margin + self.font.getmetrics()[0])
        self.draw.text(start, _one_line(text), ink(colour), self.font, anchor="ls")

    def _plate_size(self, text: str) -> tuple[int, int]:
        if text not in self._sizes:
            width = round(self.font.getlength(_one_line(text))) + 4 * self.margin
            self._sizes[text] = width, sum(self.font.getmetrics()) + 2 * self.margin
        return self._sizes[text]

    def _corners(self, box: np.ndarray) -> tuple[int, int, int, int]:
        """The first and last pixel of a box along both axes, inside the picture."""
        left, top = (min(max(round(float(v)), 0), most - 1) for v, most in zip(box[:2], self.image.size, strict=True))
        right, bottom = (min(max(round(float(v)) - 1, 0), m - 1) for v, m in zip(box[2:], self.image.size, strict=True))
        return left, top, max(left, right), max(top, bottom)


def line_width(size: Sequence[int]) -> int:
    """Pixels of a line in a picture of (height, width) `size`."""
    return max(1, round(math.sqrt(size[0] * size[1]) / 320))


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has Latin, Greek and Cyrillic letters; `size` in pixels."""
    import matplotlib  # only who draws pays for it

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def shortened(text: str, width: float, letters: ImageFont.FreeTypeFont) -> str:
    """`text`, its beginning cut off where it is longer than `width` pixels."""
    text = _one_line(text)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(f"…{text}") > width:
        text = text[1:]
    return f"…{text}"


def _one_line(text: str) -> str:
    """Pillow refuses to measure several lines."""
    return " ".join(text.split())
