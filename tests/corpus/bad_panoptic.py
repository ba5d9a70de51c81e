"""Bad COCO panoptic files: two photographs of 60 x 40 with a cat on the ground, and one thing wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ARGUMENTS = ("data=coco_panoptic", "task=panoptic", "data.splits={train: train, val: null, test: null}")
Document = dict[str, Any]


def _changed(action: Callable[[Document], Any]) -> Callable[[Path], None]:
    """A set whose annotation file was changed, sound otherwise."""

    def build(root: Path) -> None:
        for folder in ("images", "annotations/panoptic_train"):
            (root / folder).mkdir(parents=True)
        ids = np.full((40, 60, 3), (7, 0, 0), np.uint8)
        ids[10:30, 10:30, 0] = 9
        for name, shade in (("a", 40), ("b", 200)):
            Image.fromarray(np.full((40, 60, 3), shade, np.uint8)).save(root / f"images/{name}.png")
            Image.fromarray(ids).save(root / f"annotations/panoptic_train/{name}.png")
        segments = [{"id": 7, "category_id": 2, "iscrowd": 0}, {"id": 9, "category_id": 1, "iscrowd": 0}]
        names = {1: "a.png", 2: "b.png"}
        document: Document = {
            "images": [{"id": n, "file_name": name, "height": 40, "width": 60} for n, name in names.items()],
            "annotations": [
                {"image_id": n, "file_name": name, "segments_info": [dict(one) for one in segments]}
                for n, name in names.items()
            ],
            "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "ground", "isthing": 0}],
        }
        action(document)
        (root / "annotations/panoptic_train.json").write_text(json.dumps(document))

    return build


# fmt: off
CASES: list[tuple[Any, ...]] = [
    ("no_isthing", _changed(lambda d: d["categories"][0].pop("isthing")), "flag-invalid",
     "{root}/annotations/panoptic_train.json: categories[0].isthing: 0 or 1 is wanted, not None; write 1 for things and 0 for stuff (panoptic categories say it, those of instances do not)"),
    ("image_id_zero", _changed(lambda d: (d["images"][0].update(id=0), d["annotations"][0].update(image_id=0))), "id-zero",
     "{root}/annotations/panoptic_train.json: images[0].id: 0 is taken for no image by some tools; number them from 1 (tools/check_data.py fix=OUT.json does)"),
    ("no_entry", _changed(lambda d: d["annotations"].pop(0)), "mask-missing",
     "{root}/annotations/panoptic_train.json: images[0]: no entry of annotations is of this image; add it, or remove the image"),
    ("no_png", _changed(lambda d: d["annotations"][0].update(file_name="c.png")), "mask-missing",
     "{root}/annotations/panoptic_train/c.png: no such file; restore it or take it out of the data set"),
    ("unknown_category", _changed(lambda d: d["annotations"][0]["segments_info"][0].update(category_id=5)), "category-unknown",
     "{root}/annotations/panoptic_train.json: annotations[0].segments_info[0]: category_id 5 is not in categories; correct it, or remove the image with its annotation"),
    ("segment_untold", _changed(lambda d: d["annotations"][0]["segments_info"].pop()), "mask-segments",
     "{root}/annotations/panoptic_train/a.png: pixels of segments that the annotation file does not tell of: 9; correct the image's segments_info in panoptic_train.json, or write the PNG again"),
    ("segment_of_no_pixel", _changed(lambda d: d["annotations"][0]["segments_info"][1].update(id=10)), "mask-segments",
     "{root}/annotations/panoptic_train/a.png: pixels of segments that the annotation file does not tell of: 9; correct the image's segments_info in panoptic_train.json, or write the PNG again"),
    ("segment_twice", _changed(lambda d: d["annotations"][0]["segments_info"][1].update(id=7)), "id-duplicate",
     "{root}/annotations/panoptic_train.json: annotations[0].segments_info[1]: id 7 stands there twice; correct it, or remove the image with its annotation"),
    ("parent_folder", _changed(lambda d: d["annotations"][0].update(file_name="../a.png")), "path-outside",
     "{root}/annotations/panoptic_train.json: annotations[0]: file_name '../a.png': the name of a PNG in the folder of segments is wanted; correct it, or remove the image with its annotation"),
]
# fmt: on
