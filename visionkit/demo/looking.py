"""What the demo's page asks for: a model looks at an image once, and what it said is shown as often as is wanted."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from visionkit.data.decode import decode, image_size
from visionkit.demo.findings import findings_page
from visionkit.errors import DataError, UserError, printable
from visionkit.manner import Manner
from visionkit.predictions import Prediction
from visionkit.predictor import Predictor
from visionkit.result_files import Results, drawn
from visionkit.selection import Selection

_SHOWN_SIDE = 2048
"""Pixels: a larger drawing is shrunk for the page."""
_QUALITY = 92
_NO_SET_HERE = ", or take it out of the data set"


@dataclass(frozen=True, eq=False)
class Look:
    """What was said of one image.

    Attributes:
        name: of the file that was read.
        image: (H, W, C) as the model takes it.
        predictions: by head name, of every class and score.
        seconds: that the model took.
        folder: for the files that are offered; `forget` removes it.
    """

    name: str
    image: np.ndarray
    predictions: Mapping[str, Prediction]
    seconds: float
    folder: Path


@dataclass(frozen=True, eq=False)
class View:
    """What is seen of a look.

    Attributes:
        picture: a JPEG file, the image with what was found drawn into it; its longer side is 2048 pixels at most.
        found: the same as a table, in HTML.
        files: predictions.json, predictions.csv, and maps as PNG.
    """

    picture: Path
    found: str
    files: tuple[Path, ...]


class Looker:
    """A model and the bounds of what it is shown.

    Args:
        predictor: the model; it looks at one image at a time, whoever asks.
        workspace: an existing folder for the files that are offered.
        tile: pixels of a tile's side; None: the longer side of the model's canvas.
        max_megapixels: of an image.

    Raises:
        UserError: `tile` is none.
    """

    def __init__(self, predictor: Predictor, workspace: Path, *, tile: int | None, max_megapixels: float) -> None:
        self.predictor, self.workspace, self.max_megapixels = predictor, workspace, max_megapixels
        self.tile = max(32, *predictor.model.preprocess.canvas) if tile is None else tile
        self.tells_of_parts = _tells_of_parts(predictor, self.tile, is_wanted=tile is not None)
        self._one_at_a_time = threading.Lock()

    def look(self, file: Path, name: str, *, tiles: bool = False, views: bool = False) -> Look:
        """Predict an image.

        Args:
            file: the image.
            name: of it where it came from.
            tiles: look at it in tiles, too, where it is larger than one.
            views: look at it mirrored and larger, too.

        Raises:
            DataError: it cannot be read, or is too large; the message begins with `name`.
        """
        try:
            height, width = image_size(file)
            if height * width > self.max_megapixels * 1e6:
                told = f"{width} × {height} are {height * width / 1e6:.3g} megapixels, and {self.max_megapixels:g}"
                told = f"{file}: {told} are allowed; make it smaller, or start with a larger max_megapixels"
                raise DataError(told, code="image-too-large")
            image = decode(file, self.predictor.decoding)
        except DataError as error:
            told = str(error).replace(str(file), printable(name)).removesuffix(_NO_SET_HERE)
            raise DataError(told, code=error.code) from None
        manner = Manner(tile=self.tile if tiles and self.tells_of_parts else None, tta=views)
        with self._one_at_a_time:
            begun = time.perf_counter()
            (seen,) = self.predictor.stream([image], manner)
            seconds = time.perf_counter() - begun
        folder = Path(tempfile.mkdtemp(prefix="look-", dir=self.workspace))
        return Look(file.name, image, seen.predictions, seconds, folder)

    def view(self, look: Look, *, heads: Sequence[str], classes: Sequence[str], score: float) -> View:
        """Draw, tell and write down what is wanted of a look.

        Args:
            look: it.
            heads: those that are shown.
            classes: those that are shown; none: all.
            score: the least of an object.

        Raises:
            UserError: there is no such class.
        """
        known = self.predictor.classes
        selection = Selection(known, list(classes) or None, score)
        chosen = selection({name: one for name, one in look.predictions.items() if name in heads})
        forget(look)  # what an earlier view has written
        look.folder.mkdir()
        picture = look.folder / f"{Path(look.name).stem}-drawn.jpg"
        pixels = _shrunk(drawn(look.image, chosen, known, selection))
        Image.fromarray(pixels).save(picture, quality=_QUALITY, subsampling=0)
        return View(picture, findings_page(chosen, known), _files(look, chosen, known, selection))


def forget(look: Look | None) -> None:
    """Remove what was written for a look."""
    if look is not None:
        shutil.rmtree(look.folder, ignore_errors=True)


def _files(
    look: Look, chosen: Mapping[str, Prediction], known: Mapping[str, Sequence[str]], shown: Selection
) -> tuple[Path, ...]:
    """Write what is shown as tools/predict.py writes it."""
    if not chosen:
        return ()
    with Results(look.folder, known, ("predictions", "csv"), shown) as results:
        results.add(look.name, 1, chosen)
    maps = sorted(file for file in (look.folder / "maps").rglob("*") if file.is_file())
    renamed = [file.rename(look.folder / f"{Path(look.name).stem}-{file.parent.name}.png") for file in maps]
    return look.folder / "predictions.json", look.folder / "predictions.csv", *renamed


def _tells_of_parts(predictor: Predictor, tile: int, *, is_wanted: bool) -> bool:
    try:
        Manner(tile=tile).check(predictor.model)
    except UserError:
        if is_wanted:
            raise
        return False
    return True


def _shrunk(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = _SHOWN_SIDE / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
