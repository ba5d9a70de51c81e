"""Several readers of the same images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from visionkit.build import build_reader
from visionkit.config import compose
from visionkit.data.readers import Joined
from visionkit.errors import ConfigError

SHARED = Path(__file__).parents[3] / "../shared/data"


@pytest.fixture
def parts(make_reader: Callable):
    """Two readers of five and three of the same images, of which one knows boxes and the other pixels."""

    def some(fields, images, ids):
        made = make_reader(count=6)
        made.samples = [replace(made.samples[i], labels=made.samples[i].labels.keep(frozenset(fields))) for i in images]
        made.fields, made.image_ids = frozenset(fields), ids
        made.file_names = [sample.file_name for sample in made.samples]
        if "semantic" in fields:
            made.classes, made.category_ids = (), ()
        else:
            made.semantic_classes = ()
        return lambda root, split, **arguments: made

    return {
        "objects": some({"boxes"}, [0, 1, 2, 3, 4], list("abcde")),
        "pixels": some({"semantic"}, [5, 3, 1], [7, 8, 9]),
    }


def test_an_image_knows_what_each_reader_knows_of_it(parts, make_sample) -> None:
    joined = Joined("root", "train", readers=parts)
    assert joined.fields == {"boxes", "semantic"} and joined.image_ids == list("abcde")
    assert joined.classes == joined.semantic_classes == ("a", "b", "c")
    assert [sorted(joined.labels(i).known) for i in range(3)] == [["boxes"], ["boxes", "semantic"], ["boxes"]]
    sample = joined.read(3)
    np.testing.assert_array_equal(sample.labels.semantic, make_sample(3, (48, 64)).labels.semantic)
    np.testing.assert_array_equal(sample.labels.boxes, make_sample(3, (48, 64)).labels.boxes)
    assert joined.notes == ["pixels: 3 images without labels, 1 that the first lacks, left out"]


def test_a_field_known_twice_is_refused(parts) -> None:
    with pytest.raises(ConfigError, match="objects and more both know boxes"):
        Joined("root", "train", readers={**parts, "more": parts["objects"]})


def test_coco128_knows_objects_and_pixels_of_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (SHARED / "coco128").is_dir():
        pytest.skip("coco128 is not there")
    monkeypatch.setenv("VISIONKIT_DATA", str(SHARED))
    data = compose("train", ["data=coco128"]).data
    train, val = build_reader(data, "train"), build_reader(data, "val")
    assert (len(train), len(val)) == (100, 100)
    assert train.class_counts().sum() == 746 and val.class_counts().sum() == 712
    assert len(train.classes) == 80 and list(train.category_ids)[-1] == 90
    assert len(train.semantic_classes) == 129 and "unlabeled" not in train.semantic_classes
    thing, stuff = train.semantic_category_ids[0], train.semantic_category_ids[-1]
    assert (thing, stuff) == (1, 200)
    assert train.labels(3).known == {"boxes", "masks", "semantic"}
    chosen = build_reader(compose("train", ["data=coco128", "data.classes=[dog, person]"]).data, "val")
    assert chosen.classes == ("dog", "person") and list(chosen.category_ids) == [18, 1]
