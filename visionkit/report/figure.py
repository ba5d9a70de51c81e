"""Figures of one look. Places are given in inches: that needs no layout pass, which takes as long as the drawing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from visionkit.report.colours import OKABE_ITO

if TYPE_CHECKING:  # matplotlib is paid for by who draws
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = [*(tuple(channel / 255 for channel in OKABE_ITO[k]) for k in (4, 5, 2, 0, 6, 1)), (0.0, 0.0, 0.0)]
"""Line colours: Okabe and Ito's without the yellow, which is faint on white; and black."""
BLUE, BLACK = LINES[0], LINES[-1]
PALE = "#c8c8c8"
SMALL, NORMAL = 8, 9.5
"""Sizes of letters in points."""
_DPI = 100
_LETTER = 0.55 / 72
"""The mean width in inches of a letter of one point."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes whose frame stands at that place, in inches from the bottom left corner."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    axes.tick_params(labelsize=SMALL)
    return axes


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, in place of one that is there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names may be in any script
        figure.savefig(path)
    return path


def plain(name: object, most: int = 24) -> str:
    """A name on one line of at most `most` letters, its $ no formula."""
    text = " ".join(str(name).split())
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return text.replace("$", r"\$")


def width_of(texts: Iterable[str], size: float = SMALL) -> float:
    """About how many inches the longest of `texts` takes in letters of `size` points."""
    return max((len(text) for text in texts), default=0) * size * _LETTER
