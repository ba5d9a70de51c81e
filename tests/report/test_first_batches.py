from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from pycocotools import mask as coco_mask

from visionkit.data.collate import Collate
from visionkit.report.first_batches import ClassLists, drawn_batches, labels_of
from visionkit.report.gallery import SIDE
from visionkit.structures import LABEL_FIELDS, Labels, Sample

LISTS = ClassLists(("cat", "dog"), ("indoors", "outdoors"), ("sky", "road"))


def sample() -> Sample:
    mask = np.zeros((24, 32), np.uint8)
    mask[2:9, 3:10] = 1
    labels = Labels(
        size=(24, 32),
        boxes=np.array([[3, 2, 10, 9], [20, 0, 32, 24.0]]),
        labels=np.array([1, 0]),
        crowd=np.array([False, True]),
        masks=(coco_mask.encode(np.asfortranarray(mask)), coco_mask.encode(np.asfortranarray(1 - mask))),
        class_scores=np.array([0, 1], np.float32),
        box=np.array([1, 2, 3, 4.0]),
        semantic=mask,
    )
    return Sample(np.full((24, 32, 3), 50, np.uint8), labels, 7, "a.jpg")


def test_targets_turn_back_into_the_labels_that_they_were_made_of() -> None:
    known, nothing = sample(), replace(sample(), labels=Labels(size=(24, 32)))
    batch = Collate((32, 32), 114, frozenset(LABEL_FIELDS), (2, 2))([nothing, known])
    assert not labels_of(batch.targets, 0, (32, 32)).known
    found, wanted = labels_of(batch.targets, 1, (32, 32)), known.labels
    for name in ("boxes", "labels", "crowd", "ignore", "class_scores", "box"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert wanted.semantic is not None
    assert found.semantic is not None
    np.testing.assert_array_equal(found.semantic[:24], wanted.semantic)
    np.testing.assert_array_equal(found.bitmaps()[:, :24], wanted.bitmaps())


def test_images_are_drawn_with_their_labels_and_named_with_the_shares_of_mixed_classes() -> None:
    batch = Collate((32, 32), 114, frozenset(LABEL_FIELDS), (2, 2))([sample()])
    (seen,) = drawn_batches([batch], LISTS)
    assert (seen.file_name, seen.classes) == ("a.jpg", "outdoors")
    assert seen.pixels.shape == (SIDE, SIDE, 3)
    plain = drawn_batches([Collate((32, 32), 114, frozenset(), (2, 2))([sample()])], LISTS)[0]
    assert (plain.pixels[:225] == 50).all()  # nothing is known that a head would learn from
    assert (seen.pixels != plain.pixels).any()
    mixed = replace(batch, targets=replace(batch.targets, class_scores=torch.tensor([[0.3, 0.7]])))
    assert drawn_batches([mixed], LISTS)[0].classes == "outdoors 0.70, indoors 0.30"
