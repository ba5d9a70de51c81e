"""A short account of a split: how many images and objects, of which classes and sizes, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from visionkit.data.export_coco import write_coco
from visionkit.data.validate import class_warnings, fast_check, report
from visionkit.errors import listed
from visionkit.interfaces import Reader
from visionkit.structures import Labels

_SHOWN_PROBLEMS = 50


def check_data(reader: Reader, fix: Path | None = None) -> int:
    """Print the account, and return the exit code: 0 if the split is sound, 2 if it has problems.

    The reader should be built with `on_error="skip"`, or its first problem has ended things already. `fix` writes what
    is left after leaving out the faults as a COCO file; the code is then 0 if anything usable is left.
    """
    problems = [*getattr(reader, "problems", ())]
    unusable = fast_check(reader)
    print(_table(reader))
    for line in [*getattr(reader, "notes", ()), *class_warnings(reader)]:
        print(f"note: {line}")
    if problems or unusable:
        print(report([*problems, *unusable], most=_SHOWN_PROBLEMS))
    if fix is None:
        return 2 if problems or unusable else 0
    if not unusable:
        write_coco(reader, fix)
        print(f"wrote {fix}")
    return 2 if unusable else 0


def _table(reader: Reader) -> str:
    every = [reader.labels(index) for index in range(len(reader))]
    objects, images = _counts(every, len(reader.classes))
    sizes = sorted({labels.size for labels in every})
    shown = listed([f"{width} x {height}" for height, width in sizes], most=3)
    lines = [f"images: {len(every)} ({shown})" if every else "images: 0"]
    per_image = [len(labels.boxes) for labels in every if labels.boxes is not None]
    if per_image:
        crowd, ignored = (
            sum(int(getattr(labels, name).sum()) for labels in every if labels.boxes is not None)
            for name in ("crowd", "ignore")
        )
        lines.append(f"objects: {sum(per_image)}, of them crowds {crowd}, ignored {ignored}")
        lines.append(f"images without objects: {per_image.count(0)}")
    lines.append(f"labelled: {', '.join(sorted(reader.fields)) or 'nothing'}")
    wide = max([len(name) for name in reader.classes] + [5])
    lines.append(f"{'class':<{wide}}  {'objects':>8}  {'images':>8}")
    lines += [f"{name:<{wide}}  {objects[label]:>8}  {images[label]:>8}" for label, name in enumerate(reader.classes)]
    return "\n".join(lines)


def _counts(every: list[Labels], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(C,) objects per class and (C,) images that show it; a labelled whole image counts as an object."""
    objects, images = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for labels in every:
        if labels.labels is not None:
            count = np.bincount(labels.labels, minlength=classes)
        elif labels.class_scores is not None:
            count = (labels.class_scores > 0).astype(np.int64)
        else:
            continue
        objects += count
        images += count > 0
    return objects, images
