from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from visionkit.parts import CanvasScores, Found, semantic_map
from visionkit.predictions import Classification, Detections, Instances, Localization
from visionkit.structures import Geometry
from visionkit.views import VIEWS, fused, seen_in_views


def found(boxes, scores, part, labels=None):
    count = len(boxes)
    labels = np.zeros(count, np.int64) if labels is None else np.array(labels)
    return Found(np.array(boxes, float), np.array(scores), labels, np.array(part), np.arange(count))


def test_boxes_that_views_agree_on_are_their_mean_by_score():
    first, second = fused(found([[0, 0, 10, 10], [2, 0, 12, 10], [50, 0, 60, 10]], [0.9, 0.3, 0.8], [0, 1, 0]), 2)
    assert first.box.tolist() == pytest.approx([0.5, 0, 10.5, 10])  # (0 · 0.9 + 2 · 0.3) / 1.2
    assert first.score == pytest.approx(0.6)
    assert second.box.tolist() == [50, 0, 60, 10]
    assert second.score == pytest.approx(0.4)  # seen by one of two


def test_a_view_s_own_boxes_and_other_classes_stay_apart():
    same_view = found([[0, 0, 10, 10], [0, 0, 10, 10]], [0.9, 0.8], [0, 0])
    assert len(fused(same_view, 2)) == 2
    assert len(fused(found([[0, 0, 10, 10]] * 2, [0.9, 0.8], [0, 1], labels=[0, 1]), 2)) == 2
    assert fused(found(np.zeros((0, 4)), [], []), 2) == []


def look(images, scale):
    """A network that is equivariant: it finds the one bright rectangle, wherever it is."""
    answers = []
    for image in images:
        height, width = image.shape[:2]
        rows, columns = np.nonzero(image[..., 0])
        box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
        one = (box, np.array([0.8], np.float32), np.zeros(1, np.int64))
        laid = Geometry((height, width), (height, width), (1.0, 1.0))
        x1, y1, x2, y2 = box[0].astype(int)
        triangle = np.asfortranarray(image[y1:y2, x1:x2, 0])
        nothing = {"coefficients": np.zeros((1, 0)), "prototypes": np.zeros((0, 1, 1))}
        answers.append(
            {
                "detection": Detections(*one),
                "instance": Instances(
                    *one, **nothing, geometry=laid, stride=1.0, windows=(coco_mask.encode(triangle),)
                ),
                "localization": Localization(np.array([0.7, 0.3], np.float32), np.repeat(box, 2, axis=0)),
                "classification": Classification(np.array([0.2 * scale, 0.8], np.float32)),
                "semantic": CanvasScores(
                    torch.from_numpy(np.stack([1 - image[..., 0], image[..., 0]])).float(), laid, 1
                ),
            }
        )
    return answers


def triangle():
    image = np.zeros((40, 61, 3), np.uint8)
    for row in range(5, 25):
        image[row, 3 : 3 + row] = 1
    return image


def test_what_a_mirrored_network_says_lies_where_the_image_s_own_does():
    image = triangle()
    (alone,) = look([image], 1.0)
    (seen,) = seen_in_views(look, [image], VIEWS)
    np.testing.assert_allclose(seen["detection"].boxes, alone["detection"].boxes, atol=1e-4)
    np.testing.assert_allclose(seen["detection"].scores, [0.8], atol=1e-6)
    np.testing.assert_allclose(seen["localization"].boxes, alone["localization"].boxes, atol=1e-4)
    np.testing.assert_allclose(seen["instance"].boxes, alone["instance"].boxes, atol=1e-4)
    assert np.array_equal(seen["instance"].mask(0), image[..., 0] > 0)
    assert np.array_equal(semantic_map(seen["semantic"]).classes, image[..., 0])
    assert seen["classification"].scores.tolist() == pytest.approx([0.225, 0.8])  # the mean of scales 1 and 1.25


def test_every_view_is_asked_for_once_for_all_images():
    asked = []

    def run(images, scale):
        asked.append((len(images), bool(images[0][5, 3, 0]), scale))
        return look(images, scale)

    assert len(seen_in_views(run, [triangle(), triangle()], VIEWS)) == 2
    assert asked == [(2, True, 1.0), (2, False, 1.0), (2, True, 1.25), (2, False, 1.25)]
