"""The beginning of a reader."""

from __future__ import annotations

from dataclasses import replace

from visionkit.data import field_classes
from visionkit.data.readers import Mixture
from visionkit.data.readers.first import First


def test_what_a_mixture_tells_is_told(make_reader) -> None:
    """debug.images of a mixture: each head keeps the classes of the sets that know its labels."""
    animals, photos = make_reader(count=4, classes=("cat", "dog")), make_reader(count=2, classes=("car", "dog"))
    animals.fields, photos.fields = frozenset({"boxes", "semantic"}), frozenset({"class_scores"})
    for reader in (animals, photos):
        reader.samples = [replace(one, labels=one.labels.keep(reader.fields)) for one in reader.samples]
    animals.semantic_category_ids, photos.semantic_classes = (7, 9), ()
    mixture = Mixture({"animals": animals, "photos": photos})
    first = First(mixture, 5)
    assert field_classes(first) == field_classes(mixture) != field_classes(animals)
    assert first.semantic_category_ids == mixture.semantic_category_ids == (7, 9)
    assert first.narrowed(frozenset({"boxes"})).field_classes == mixture.field_classes
    assert [len(first), first.image_ids[4], first.read(4).image_id] == [5, "photos/1", "photos/1"]
