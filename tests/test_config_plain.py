"""Lists of layers, losses and metrics in a configuration: what is typed becomes the model that is meant."""

from __future__ import annotations

import pytest
import torch

from visionkit.build import build_model, build_reader, describe_model
from visionkit.config import checked, compose
from visionkit.errors import ConfigError

SMALL = "model.backbone.layers=[{conv: {filters: 4}}, pool, flatten, {dense: 8}, dense, softmax]"
PLAIN = ["task=classify", "backbone=plain"]


def faults(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose("train", overrides)
    return str(caught.value).splitlines()


def test_the_list_is_divided_between_backbone_and_head():
    cfg = compose("train", [*PLAIN, SMALL, "image_size=[32, 48]", "head.classification.label_smoothing=0.2"])
    head = cfg.head.classification
    assert head._target_ == "visionkit.heads.PlainClassification"
    assert (head["levels"], head.map_size, head.label_smoothing, head.loss) == (["c1"], [16, 24], 0.2, "auto")
    assert head.layers == cfg.model.backbone.layers
    assert not {"dropout", "channels"} & set(head)
    reader = build_reader({**cfg.data, "reader": {**cfg.data.reader, "count": {"train": 2}}}, "train")
    model = build_model(describe_model(cfg, reader), allow=())
    found = model.outputs(torch.zeros(2, 3, 32, 48, dtype=torch.uint8))["classification"]
    assert found.shape == (2, len(reader.classes))
    assert model.heads["classification"].layers[1].in_features == 16 * 24 * 4


def test_images_of_one_channel():
    cfg = compose("train", [*PLAIN, SMALL, "data=folder", "data.root=/x", "data.channels=1", "image_size=16"])
    assert cfg.head.classification.map_size == [8, 8]


def test_checking_twice_changes_nothing():
    cfg = compose("train", PLAIN)
    assert checked("train", cfg) == cfg


def test_other_tasks_read_the_maps_of_the_list():
    cfg = compose("train", ["task=localize", "backbone=plain", "head.localization.levels=[c3]"])
    assert list(cfg.head) == ["localization"]
    both = compose("train", ["task=multitask", "heads=[classification,detection]", "backbone=plain"])
    assert both.head.classification._target_ == "visionkit.heads.PlainClassification"
    assert both.head.detection._target_ == "visionkit.heads.DenseDetection"


def test_a_list_without_a_classifier_takes_the_linear_head():
    cfg = compose("train", [*PLAIN, "model.backbone.layers=[{conv: 4}, pool]", "head.classification.levels=[c1]"])
    assert cfg.head.classification._target_ == "visionkit.heads.LinearClassification"
    assert cfg.head.classification["levels"] == ["c1"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            [*PLAIN, "model.backbone.layers=[{conv: {filters: 4, kernel: 9, padding: valid}}, flatten, dense, softmax]",
             "image_size=8"],
            "model.backbone.layers, layer 1 (conv), input 8x8x3: its kernel of 9 is larger than its map of 8x8; give "
            "kernel 8 or less, leave out a pool or stride before it, or raise image_size",
        ),
        (
            [*PLAIN, "model.backbone.layers=[{konv: 4}]"],
            "model.backbone.layers, layer 1 (konv): there is no such layer (did you mean 'conv'?); known: conv, pool, "
            "batchnorm, dropout, flatten, dense, softmax",
        ),
        (
            [*PLAIN, "head.classification.dropout=0.3"],
            "head.classification.dropout: the head is what the list of layers has from flatten on; change it in "
            "model.backbone.layers",
        ),
        (
            [*PLAIN, "head.classification.dropuot=0.3"],
            "head.classification.dropuot: PlainClassification has no argument 'dropuot'; it has levels, multi_label, "
            "loss, label_smoothing, focal_gamma",
        ),
        (
            [*PLAIN, "model.backbone.image_size=big"],
            "image_size=big: a whole number above 0, or [height, width], is wanted",
        ),
        (
            ["task=classify", "loss=focla"],
            "loss=focla: one of auto, cross_entropy, focal, binary_cross_entropy is wanted (did you mean 'focal'?)",
        ),
        (["task=detect", "loss=focal"], "loss=focal: only the head 'classification' takes it (heads=[detection])"),
        (["task=detect", "metrics=[f1]"], "metrics=[f1]: only the head 'classification' takes it (heads=[detection])"),
        (["task=classify", "metrics=f1"], "metrics=f1: a list such as [a, b] or null is wanted"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_clear_line(typed, said):
    assert faults(*typed) == [said]


def test_loss_and_metrics_by_name():
    cfg = compose(
        "train", ["task=classify", "loss=focal", "metrics=[top1,top5,f1]", "head.classification.focal_gamma=1"]
    )
    assert (cfg.head.classification.loss, cfg.head.classification.focal_gamma) == ("focal", 1)
    assert list(cfg.metrics) == ["top1", "top5", "f1"]
    assert compose("train", ["task=multitask", "loss=focal"]).loss == "focal"  # heads=null: it may be among them


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            "detect",
            r"PAFPN: a head reads p3, p4, p5, made from c2, c3, …, but the backbone gives map1 \(.*map3 \(stride 3\)",
        ),
        (
            "semantic",
            r"PAFPN: a head reads pixels, made from c2, c3, …, but the backbone gives map1 \(.*map3 \(stride 3\)",
        ),
        ("localize", "ObjectLocalization reads c4, but there are only map1, map3"),
    ],
)
def test_heads_that_the_list_cannot_feed_are_refused_with_both_sides(task, said):
    layers = "model.backbone.layers=[{conv: {filters: 4, padding: valid}}, {pool: {size: 3}}]"
    cfg = compose("train", [f"task={task}", "backbone=plain", layers])
    reader = build_reader({**cfg.data, "reader": {**cfg.data.reader, "count": {"train": 1}}}, "train")
    with pytest.raises(ConfigError, match=said):
        build_model(describe_model(cfg, reader), allow=())
