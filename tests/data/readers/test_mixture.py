"""Several sets as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from visionkit.data.readers import Mixture
from visionkit.errors import ConfigError
from visionkit.structures import LABEL_FIELDS


@pytest.fixture
def sets(make_reader: Callable):
    """animals knows objects of two classes; photos whole images of three, one of them the same."""
    animals, photos = make_reader(count=4, classes=("cat", "dog")), make_reader(count=2, classes=("car", "dog", "tree"))
    animals.fields, photos.fields = frozenset({"boxes", "masks", "semantic"}), frozenset({"class_scores"})
    for reader in (animals, photos):
        reader.samples = [replace(one, labels=one.labels.keep(reader.fields)) for one in reader.samples]
    animals.category_ids, photos.category_ids, photos.semantic_classes = (17, 18), (3, 18, 64), ()
    return {"animals": animals, "photos": photos}


def test_lists_are_unions_and_names_have_their_set_in_front(sets) -> None:
    mixture = Mixture(sets)
    assert len(mixture) == 6 and mixture.classes == ("cat", "dog", "car", "tree")
    assert mixture.category_ids == (17, 18, 3, 64) and mixture.semantic_classes == ("cat", "dog")
    assert mixture.image_ids[0] == "animals/1" and mixture.image_ids[4] == "photos/1"
    assert mixture.file_names[5] == "photos/001.png" and mixture.read(5).file_name == "photos/001.png"
    assert mixture.fields == {"boxes", "masks", "semantic", "class_scores"}


def test_labels_are_mapped_and_say_which_classes_are_labelled(sets) -> None:
    mixture = Mixture({"photos": sets["photos"], "animals": sets["animals"]})
    assert mixture.classes == ("car", "dog", "tree", "cat")
    own = sets["animals"].labels(1)
    labels = mixture.labels(3)
    assert labels.labels.tolist() == [[3, 1][label] for label in own.labels]
    assert labels.semantic.tolist() == own.semantic.tolist()
    assert labels.known_classes.tolist() == [False, True, False, True]
    whole = mixture.read(1).labels
    assert whole.class_scores.tolist() == [0, 1, 0, 0] and whole.known_classes.tolist() == [True, True, True, False]
    assert mixture.read(1).image_id == "photos/2"


def test_a_head_s_classes_are_those_of_the_sets_that_know_its_field(sets) -> None:
    assert Mixture(sets).field_classes == {
        "boxes": ("cat", "dog"),
        "class_scores": ("car", "dog", "tree"),
        "semantic": ("cat", "dog"),
    }


def test_category_ids_that_do_not_agree_are_numbered_anew(sets) -> None:
    sets["photos"].category_ids = (3, 19, 64)
    assert Mixture(sets).category_ids == (1, 2, 3, 4)
    sets["photos"].category_ids = (17, 18, 64)
    assert Mixture(sets).category_ids == (1, 2, 3, 4)


def test_equal_lists_leave_all_classes_known(make_reader) -> None:
    mixture = Mixture({"a": make_reader(count=2), "b": make_reader(count=3)})
    assert mixture.labels(4).known_classes is None and mixture.fields == frozenset(LABEL_FIELDS)
    np.testing.assert_array_equal(mixture.labels(4).boxes, make_reader(count=3).labels(2).boxes)


def test_segments_are_the_shares_of_the_draws(sets) -> None:
    assert Mixture(sets).segments == ((0, 4, pytest.approx(4 / 6)), (4, 2, pytest.approx(2 / 6)))
    shares = Mixture(sets, {"animals": 1, "photos": 3}).segments
    assert [share for _, _, share in shares] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("proportions", "said"),
    [
        ({"animal": 1, "photos": 1}, r"proportions\.animal: no set of that name \(did you mean 'animals'\?\)"),
        ({"animals": 1}, r"proportions\.photos: a number above 0"),
        ({"animals": 1, "photos": float("nan")}, r"proportions\.photos: a number above 0"),
    ],
)
def test_proportions_that_do_not_fit_are_told(sets, proportions, said) -> None:
    with pytest.raises(ConfigError, match=said):
        Mixture(sets, proportions)


def test_no_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="a mixture of no sets"):
        Mixture({})
    with pytest.raises(ConfigError, match="leave the slashes out"):
        Mixture({"a/b": None})
