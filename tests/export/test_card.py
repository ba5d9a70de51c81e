"""The description beside a graph, which somebody may have made who means harm."""

from __future__ import annotations

import json

import pytest

from visionkit.export.card import Unfit, card_of, read_card


def test_it_is_read_as_it_was_written(every_head):
    card = card_of(every_head, "fp16")
    again = read_card(card.text())
    assert again == card
    assert again.build_preprocess().canvas == (128, 128)
    assert again.build_merges()["panoptic"].classes == every_head.merges["panoptic"].classes
    assert json.loads(card.text())["preprocess"]["crop_share"] == 0.875


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", 99, "schema 99 is not known .* update visionkit"),
        ("schema", "\x1b[2J", "schema"),
        ("precision", "fp64", "one of fp32, fp16"),
        ("heads", {}, "names no head"),
        ("heads", [], "a mapping"),
        ("heads.detection.classes", [], "no classes"),
        ("heads.detection.classes", ["a"] * 100_001, "at most 100000"),
        ("heads.detection.classes", [1], "a name of 1 to 1000"),
        ("heads.detection.classes", ["x" * 1001], "a name of 1 to 1000"),
        ("heads.detection.kind", "os.system", "one of classification"),
        ("heads.detection.needs", ["boxes", "all"], "one of boxes"),
        ("heads.detection.keep_scores", 1, "true or false"),
        ("heads.semantic.stride", 0, "a number from 1"),
        ("heads.semantic.stride", 1e300, "a number from 1"),
        ("merges.panoptic.instance", "absent", "no head of that name"),
        ("merges.panoptic.overlap", 2, "a number from 0 to 1"),
        ("merges.panoptic.kind", "mine", "one of panoptic"),
        ("preprocess.image_size", [1 << 40, 1], "a number from 1 to 16384"),
        ("preprocess.image_size", [1], "image_size"),
        ("preprocess.policy", "stretch", "one of letterbox"),
        ("preprocess.std", [0, 1, 1], "a number from 1e-09"),
        ("preprocess.mean", [0.0], "a value a channel"),
        ("preprocess.mean", ["0", 0, 0], "a number"),
        ("preprocess.bit_depth", True, "one of float"),
        ("preprocess.fill", float("nan"), "a number from 0 to 255"),
    ],
)
def test_what_cannot_be_is_refused(every_head, path, value, message):
    told = json.loads(card_of(every_head).text())
    *outer, last = path.split(".")
    place = told
    for key in outer:
        place = place[key]
    place[last] = value
    with pytest.raises(Unfit, match=message) as caught:
        read_card(json.dumps(told))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "null", '{"schema": 1}', " " * (17 << 20)])
def test_other_texts_are_refused(text):
    with pytest.raises(Unfit):
        read_card(text)
