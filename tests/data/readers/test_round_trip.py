"""Every format, written as COCO JSON by `fix=` and read back: the same images, classes, boxes, masks and ids."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from visionkit.data.export_coco import write_coco
from visionkit.data.readers import Coco

_FILE = Path(__file__).parents[2] / "contracts" / "test_readers.py"
_SPEC = importlib.util.spec_from_file_location("reader_makers", _FILE)
assert _SPEC is not None and _SPEC.loader is not None
contracts = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(contracts)

PIXELS_ALONE = {"semantic", "voc_semantic"}
"""Semantic maps, which COCO JSON does not hold."""
GENERATED = {"shapes", "mixture", "joined"}
"""Images that are no files of one folder, or lie in several."""
FORMATS = sorted(contracts.MAKERS.keys() - PIXELS_ALONE - GENERATED)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_goes_to_coco_and_comes_back(tmp_path: Path, name: str) -> None:
    source = contracts.MAKERS[name](tmp_path / "set", "train")
    write_coco(source, tmp_path / "train.json")
    again = Coco(tmp_path / "set", "train", annotations=tmp_path / "train.json")
    assert not again.problems
    assert list(again.classes) == list(source.classes) and list(again.category_ids) == list(source.category_ids)
    assert list(again.image_ids) == list(source.image_ids) and list(again.file_names) == list(source.file_names)
    for index in range(len(source)):
        one, other = source.labels(index), again.labels(index)
        assert one.size == other.size
        if one.boxes is None:
            assert other.labels.tolist() == np.flatnonzero(one.class_scores).tolist()
            continue
        for field in ("boxes", "labels", "crowd", "ignore", "areas"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
        if one.masks is not None and (one.boxes.size or "masks" in again.fields):
            np.testing.assert_array_equal(one.bitmaps(), other.bitmaps())
        np.testing.assert_array_equal(source.read(index).image, again.read(index).image)
