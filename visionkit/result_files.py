"""What tools/predict.py writes: rows of COCO's results, a table, crops, maps and drawings.

predictions.json: COCO result rows of all predictions, also those under the score, with `file_name` relative to the
    source, and `frame` in videos; of several heads {head: rows}. Semantic and panoptic maps go to
    maps/<head>/<file name>.png, as evaluation writes them.
predictions.csv: a row for each object that is shown, and for each image of a head that tells of whole images. Edges are
    pixels; area: pixels of the object, or of a map's class.
crops/<class>/<file name>-<number>.jpg: each box that is shown, cut out; of videos <name>-<frame>-<number>.jpg.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from visionkit.predictions import (
    Classification,
    Detections,
    Instances,
    Localization,
    PanopticMap,
    Prediction,
    SemanticMap,
)
from visionkit.selection import Selection
from visionkit.structures import IGNORE_INDEX

_QUALITY = 92
_COLUMNS = ("file", "frame", "head", "class", "score", "x1", "y1", "x2", "y2", "area")


class Results:
    """Files of results, written as they come; a context, at whose end they appear under their names.

    Where the context ends by an error, or nothing was added, no predictions.json and no predictions.csv appear.

    Args:
        out: the folder; made with the first result.
        classes: each head's class names.
        save: of drawings, predictions, csv and crops, those that are wanted.
        shown: which objects are drawn, cut out and listed in the table.
    """

    def __init__(self, out: Path, classes: Mapping[str, Sequence[str]], save: Sequence[str], shown: Selection) -> None:
        self.out, self.classes, self.save, self.shown = out, classes, tuple(save), shown
        self.rows: dict[str, IO[str]] = {}
        self.table: IO[str] | None = None
        self.has_maps = False

    def written(self, save: Sequence[str]) -> list[str]:
        """What there is, in words."""
        names = {"predictions": "predictions.json", "csv": "predictions.csv", "features": "features.npz"}
        return [names.get(one, one) for one in save] + (["maps"] if self.has_maps else [])

    def add(self, name: str, image_id: int, predictions: Mapping[str, Prediction], *, frame: int | None = None) -> None:
        """Take the predictions of an image, or of a frame of a video."""
        extra = {"file_name": name} if frame is None else {"file_name": name, "frame": frame}
        if "predictions" in self.save:
            self.out.mkdir(parents=True, exist_ok=True)
            for head, one in predictions.items():
                if head not in self.rows:
                    self.rows[head] = self._unfinished(f"{head}.json").open("w", encoding="utf-8")
                file = self.rows[head]
                for row in one.to_coco(image_id):
                    file.write(f"{',' if file.tell() else ''}\n{json.dumps({**row, **extra})}")
                if isinstance(one, SemanticMap | PanopticMap):
                    number = "" if frame is None else f"-{frame}"
                    self._save_map(self.out / "maps" / head / f"{name}{number}.png", one)
        if "csv" in self.save:
            if self.table is None:
                self.out.mkdir(parents=True, exist_ok=True)
                self.table = self._unfinished("csv").open("w", encoding="utf-8", newline="")
                csv.writer(self.table).writerow(_COLUMNS)
            csv.writer(self.table).writerows(
                (name, "" if frame is None else frame, head, *cells)
                for head, one in self.shown(predictions).items()
                for cells in table_rows(one, self.classes[head])
            )

    def save_pictures(
        self, name: str, image: np.ndarray | None, predictions: Mapping[str, Prediction], target: Path
    ) -> None:
        """Draw an image into `target`, and cut out what is found in it, where that is wanted."""
        if image is None:
            return
        if "drawings" in self.save:
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn(image, predictions, self.classes, self.shown)).save(target, quality=_QUALITY)
        if "crops" in self.save:
            self.save_crops(name, image, predictions)

    def save_crops(self, name: str, image: np.ndarray, predictions: Mapping[str, Prediction]) -> None:
        """Cut each box out of an image, (H, W, C)."""
        from visionkit.report.sheet import displayable

        pixels = displayable(image)
        boxes = [
            (self.classes[head][label], box)
            for head, one in self.shown(predictions).items()
            for label, box in _labelled_boxes(one)
        ]
        for number, (label, box) in enumerate(boxes, start=1):
            left, top = np.floor(box[:2]).astype(int).clip(0)
            right, bottom = np.ceil(box[2:]).astype(int)
            crop = pixels[top:bottom, left:right]
            if crop.size:
                target = self.out / "crops" / folder_name(label) / f"{name}-{number}.jpg"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(crop).save(target, quality=_QUALITY)

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for file in (*self.rows.values(), *([self.table] if self.table is not None else [])):
            file.close()
        if kind is None and self.rows:
            self._join_rows()
        if kind is None and self.table is not None:
            Path(self.table.name).replace(self.out / "predictions.csv")
        for leftover in self.out.glob(".predictions.*.unfinished"):
            leftover.unlink()

    def _unfinished(self, name: str) -> Path:
        return self.out / f".predictions.{name}.unfinished"

    def _join_rows(self) -> None:
        whole = self._unfinished("json")
        with whole.open("w", encoding="utf-8") as target:
            several = len(self.rows) > 1
            target.write("{" if several else "")
            for place, (head, file) in enumerate(self.rows.items()):
                target.write(f"{',' if place else ''}{json.dumps(head)}: [" if several else "[")
                with Path(file.name).open(encoding="utf-8") as rows:
                    shutil.copyfileobj(rows, target)
                target.write("]")
            target.write("}" if several else "")
        whole.replace(self.out / "predictions.json")

    def _save_map(self, target: Path, one: SemanticMap | PanopticMap) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one.to_png()).save(target)
        self.has_maps = True


def drawn(
    image: np.ndarray, predictions: Mapping[str, Prediction], classes: Mapping[str, Sequence[str]], shown: Selection
) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB: the image, of any kind that a model takes, with what is shown drawn into it."""
    from visionkit.report.draw import draw_all  # only who draws pays for matplotlib
    from visionkit.report.sheet import displayable

    return draw_all(displayable(image), shown(predictions), classes, score_threshold=0.0)


def folder_name(label: str) -> str:
    """A class as the name of a folder, on any system."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", label).strip(". ") or "_"


def table_rows(one: Prediction, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield class, score, x1, y1, x2, y2 and area of each row of the table; empty where there is no such thing."""
    nothing = ("",) * 4
    if isinstance(one, Classification):
        best = int(one.scores.argmax())
        yield (names[best], _number(one.scores[best]), *nothing, "")
    elif isinstance(one, SemanticMap):
        for label, pixels in enumerate(np.bincount(one.classes.ravel(), minlength=256)[:IGNORE_INDEX].tolist()):
            if pixels:
                yield (names[label], "", *nothing, pixels)
    elif isinstance(one, PanopticMap):
        for segment in one.segments:
            yield (names[segment.label], _number(segment.score), *nothing, segment.area)
    else:
        scores = [one.scores.max()] if isinstance(one, Localization) else one.scores
        areas = [int(mask.sum()) for mask in one.masks()] if isinstance(one, Instances) else None
        for row, ((label, box), score) in enumerate(zip(_labelled_boxes(one), scores, strict=True)):
            edges = (round(float(edge), 2) for edge in box)
            yield (names[label], _number(score), *edges, "" if areas is None else areas[row])


def _labelled_boxes(one: Prediction) -> list[tuple[int, np.ndarray]]:
    if isinstance(one, Localization):
        return [(int(one.scores.argmax()), one.box)]
    if isinstance(one, Detections | Instances):
        return list(zip(one.labels.tolist(), one.boxes, strict=True))
    return []


def _number(score: float) -> float:
    return round(float(score), 4)
