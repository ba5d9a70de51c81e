"""Images of a report: some of the split, those that a head does worst on, and of classes that are confused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from visionkit.interfaces import Metric
from visionkit.predictions import Classification
from visionkit.report.draw import draw, truth_fields
from visionkit.report.sheet import Shown, displayable, drawn_pair, fitted_image, sheet_of
from visionkit.report.worst import Confused, confused_pairs, shown_threshold, worst_images
from visionkit.structures import ImageId

Look = Callable[[Sequence[ImageId]], Iterable[tuple[ImageId, Shown]]]
"""Reads images, one by one, with what each head says of them."""
SIDE = 320
"""Pixels of the longer side of a picture."""
MOST_WORST, _LEAST_WORST = 50, 6
"""Of one head the worst images; several heads share that number, each with some at least."""
_SECONDS = 30.0
"""After that long no more images are looked at."""
_ON_A_SHEET = 12
IMAGES, WORST, CONFUSED = "images", "worst", "confused"


@dataclass(frozen=True)
class Wanted:
    """An image that a head's part of the report shows: in which group, and what is said of it."""

    image_id: ImageId
    head: str
    group: str
    note: str = ""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A wanted image, drawn: (h, w, 3) uint8 RGB with the truth, with the prediction, and, where lists are all that is
    drawn, with both; else None.
    """

    wanted: Wanted
    file_name: str
    true: np.ndarray
    said: np.ndarray
    both: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Gallery:
    """Attributes:
    drawn: in the order in which they are shown.
    confused: by head, the pairs of classes that are confused most.
    thresholds: by head, the score from which detections count.
    left_out: images that there was no time for.
    """

    drawn: tuple[Drawn, ...]
    confused: Mapping[str, Sequence[Confused]]
    thresholds: Mapping[str, float]
    left_out: int = 0

    def of(self, head: str, group: str) -> list[Drawn]:
        """The images of a group of a head."""
        return [one for one in self.drawn if (one.wanted.head, one.wanted.group) == (head, group)]


def make_gallery(
    metrics: Mapping[str, Metric],
    classes: Mapping[str, Sequence[str]],
    shown: Sequence[ImageId],
    look: Look,
    *,
    seconds: float = _SECONDS,
) -> Gallery:
    """Choose images by the state of the metrics, look at each once and draw it for every head that wants it.

    Args:
        metrics: by head, with their state.
        classes: each head's class names.
        shown: images to be shown whatever is said of them.
        look: asked once, for the images that are shown anyhow first.
        seconds: after that long the rest is left out.
    """
    thresholds = {head: shown_threshold(metric) for head, metric in metrics.items()}
    confused = {head: confused_pairs(metric, classes[head]) for head, metric in metrics.items()}
    wanted = [Wanted(image_id, head, IMAGES) for image_id in shown for head in metrics]
    most = max(_LEAST_WORST, MOST_WORST // max(1, len(metrics)))
    for head, metric in metrics.items():
        worst = worst_images(metric, classes[head], threshold=thresholds[head], most=most)
        wanted += [Wanted(one.image_id, head, WORST, one.reason) for one in worst]
        wanted += [
            Wanted(image_id, head, CONFUSED, f"{pair.true} taken for {pair.said}")
            for pair in confused[head]
            for image_id in pair.examples
        ]
    drawn = _drawn(wanted, look, metrics, classes, thresholds, time.monotonic() + seconds)
    left_out = len({one.image_id for one in wanted} - {one.wanted.image_id for one in drawn.values()})
    return Gallery(tuple(drawn[place] for place in sorted(drawn)), confused, thresholds, left_out)


def write_sheet(drawn: Sequence[Drawn], path: Path) -> Path | None:
    """Write the first images as one PNG; None where there are none."""
    first = drawn[:_ON_A_SHEET]
    if not first:
        return None
    names = [f"{one.file_name}{': ' if one.wanted.note else ''}{one.wanted.note}" for one in first]
    sheet = sheet_of([(one.true, one.said) for one in first], names=names, cell=SIDE)
    return write_picture(sheet, path)


def write_picture(pixels: np.ndarray, path: Path) -> Path:
    """Write (H, W, 3) uint8 RGB as a PNG."""
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise RuntimeError(f"a sheet of {pixels.shape} could not be encoded")
    path.write_bytes(encoded.tobytes())
    return path


def _drawn(
    wanted: Sequence[Wanted],
    look: Look,
    metrics: Mapping[str, Metric],
    classes: Mapping[str, Sequence[str]],
    thresholds: Mapping[str, float],
    end: float,
) -> dict[int, Drawn]:
    """By place in `wanted`; one image is in memory at a time."""
    places: dict[ImageId, list[int]] = {}
    for place, one in enumerate(wanted):
        places.setdefault(one.image_id, []).append(place)
    drawn: dict[int, Drawn] = {}
    for image_id, image in look(list(places)) if places else ():
        halves: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {}
        for place in places[image_id]:
            head = wanted[place].head
            if head not in image.predictions:
                continue
            if head not in halves:
                things = getattr(metrics[head], "things", None)
                halves[head] = _halves(image, head, classes[head], thresholds[head], things)
            drawn[place] = Drawn(wanted[place], image.file_name, *halves[head])
        if time.monotonic() > end:
            break
    return drawn


def _halves(
    image: Shown, head: str, classes: Sequence[str], threshold: float, things: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    prediction = image.predictions[head]
    true, said = drawn_pair(
        image.image, prediction, image.truth, classes, side=SIDE, score_threshold=threshold, things=things
    )
    if not isinstance(prediction, Classification):
        return true, said, None
    small, _ = fitted_image(displayable(image.image), SIDE)
    return true, said, draw(small, prediction, classes, truth=image.truth.keep(truth_fields(prediction)))
