from __future__ import annotations

import pytest
import torch

from visionkit.build import backbone_weights, build_metrics, build_model, build_reader, category_ids, describe_model
from visionkit.config import compose
from visionkit.data.readers.shapes import Shapes
from visionkit.errors import CheckpointError, ConfigError
from visionkit.metrics import CocoDetection, TopK

TINY = ("image_size=64", "model.width=0.25")


@pytest.fixture
def reader(tmp_path):
    return Shapes("train", size=64, count=2, objects=1, cache_folder=tmp_path)


def described(reader, *typed):
    return describe_model(compose("train", [*TINY, *typed]), reader)


def test_a_description_rebuilds_the_model(reader):
    description = described(reader, "task=detect")
    model = build_model(description)
    assert model.heads["detection"].classes == tuple(reader.classes)
    assert model.preprocess.canvas == (64, 64)
    torch.manual_seed(0)
    one = build_model(description, allow=())
    torch.manual_seed(0)
    other = build_model(description, allow=())
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_a_description_is_plain_and_holds_no_path(reader, tmp_path):
    """Weights are where training starts from: a checkpoint has its own, and loads where that file is not."""
    import json

    weights = tmp_path / "backbone.pt"
    whole = ("task=classify", "head.classification.levels=[c5]")
    torch.save(build_model(described(reader, *whole)).backbone.state_dict(), weights)
    typed = f"weights={{path: {weights}, mean: 0.5, std: [0.1, 0.2, 0.3]}}"
    description = described(reader, *whole, typed)
    assert json.loads(json.dumps(description)) == description
    assert str(tmp_path) not in json.dumps(description)
    model = build_model(description, weights=str(weights))
    assert model.preprocess.mean.flatten().tolist() == [0.5] * 3
    assert model.preprocess.std.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    saved = torch.load(weights, weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in model.backbone.state_dict().items())


def test_classes_of_the_head_win_over_the_readers(reader):
    description = described(reader, "task=classify", "head.classification.classes=[dog, cat]")
    model = build_model(description)
    assert model.heads["classification"].classes == ("dog", "cat")
    assert category_ids(model, reader) == {"classification": [None, None]}


def test_the_sources_ids_go_by_name(reader):
    class Source:
        classes = ("cup", "ball", "hat")
        category_ids = (90, "b7", 1)
        semantic_classes = ("sky", "cup", "road")

    typed = ("data=coco", "data.root=/x", "heads=[detection, semantic]", "head.detection.classes=[hat, dog, cup]",
             "head.semantic.classes=[cup, road, hill, hat]")  # fmt: skip
    model = build_model(described(reader, "task=multitask", *typed))
    # A class of pixels that is one of objects, too, has the object's id; the others are counted from 1.
    assert category_ids(model, Source()) == {"detection": [1, None, 90], "semantic": [90, 3, None, 1]}
    Source.semantic_category_ids = (21, 90, 23)
    assert category_ids(model, Source())["semantic"] == [90, 23, None, 1]


def test_a_head_is_judged_on_what_it_learns_from(reader):
    typed = ("task=detect", "heads=[detection,classification]", "head.classification.multi_label=true")
    model = build_model(described(reader, *typed))
    metrics = build_metrics(model)
    assert {name: type(metric) for name, metric in metrics.items()} == {
        "detection": CocoDetection, "classification": TopK
    }  # fmt: skip
    assert metrics["classification"].headline == "mAP"
    assert build_metrics(model)["detection"] is not metrics["detection"]
    assert "VOC_AP" not in metrics["detection"].compute()
    assert "VOC_AP" in build_metrics(model, voc_ap=True)["detection"].compute()


def test_only_the_levels_that_are_read_are_built(reader):
    model = build_model(described(reader, "task=detect", "head.detection.levels=[p4, p5]"))
    assert list(model.neck.out_specs) == ["p4", "p5"]


def test_parts_that_do_not_fit_are_refused(reader):
    for typed, said in (
        (("task=classify", "neck=fpn"), "model.neck: no head reads a level of the neck; choose neck=none"),
        (("task=detect", "neck=none"), "p3"),
        (("task=detect", "head.detection.levels=[p1, p3]"), "p1"),
    ):
        with pytest.raises(ConfigError, match=said):
            build_model(described(reader, *typed))


def test_the_fence_stands_around_every_part(reader):
    description = described(reader, "task=detect")
    for part in ("backbone", "neck", "preprocess"):
        with pytest.raises(CheckpointError, match=r"_target_=os\.getcwd"):
            build_model({**description, part: {"_target_": "os.getcwd"}})
    with pytest.raises(CheckpointError, match=r"_target_=os\.getcwd"):
        build_model({**description, "heads": {"detection": {"_target_": "os.getcwd"}}})


def test_weights_of_a_configuration():
    assert [backbone_weights(value) for value in ("none", "auto", None, "DEFAULT")] == [None, None, None, "DEFAULT"]
    assert backbone_weights({"path": "a.pt", "mean": 0.5}) == "a.pt"
    with pytest.raises(ConfigError, match=r"weights=.*path is missing"):
        backbone_weights({"mean": 0.5})


def test_readers_open_by_role_or_list():
    typed = ("data.splits={train: train, val: val, test: null}", "data.reader.count={train: 4, val: 3}")
    data = compose("train", [*TINY, *typed]).data
    assert len(build_reader(data, "val")) == 3
    assert build_reader(data, "train").split == "train"
    with pytest.raises(ConfigError, match=r"data.splits.test=null"):
        build_reader(data, "test")


def test_stages_that_nothing_reads_are_not_built():
    classifier = {"_target_": "visionkit.heads.LinearClassification", "_partial_": True, "classes": ["a", "b"]}
    for backbone in ({"_target_": "visionkit.backbones.CSP"}, {"_target_": "visionkit.backbones.Torchvision"}):
        description = {
            "backbone": backbone,
            "neck": None,
            "heads": {"classification": {**classifier, "levels": ["c3"]}},
            "preprocess": {"_target_": "visionkit.preprocess.Preprocess", "image_size": 64},
        }
        model = build_model(description)
        assert list(model.backbone.out_specs) == ["c2", "c3"]
        model.outputs(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))["classification"].sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_recipes_loss_weights_are_those_of_the_heads_that_the_model_has():
    cfg = compose(
        "train", ["task=multitask", "heads=[detection]", "model.loss_weights={classification: 2, detection: 3}"]
    )
    assert describe_model(cfg, Shapes("train", size=32, count=1))["loss_weights"] == {"detection": 3}
