from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from visionkit.config import (
    checked,
    compose,
    configs_folder,
    evaluation_data,
    groups,
    reader_arguments,
)
from visionkit.config_data import READER_KEYS
from visionkit.config_tools import SCHEMAS
from visionkit.errors import CheckpointError, ConfigError
from visionkit.overrides import for_sweep, quote_path, single_runs
from visionkit.structures import FeatureSpec
from visionkit.targets import build, locate_fenced

ROOT = Path(__file__).resolve().parents[1]


def faults(tool: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(tool, overrides)
    return str(caught.value).splitlines()


TASKS = "classify, detect, instance, localize, multitask, panoptic, semantic"
HEADS = "classification, detection, instance, localization, semantic"
TYPOS = [
    ("task=detct", f"task=detct: there is no such task (did you mean 'detect'?); known: {TASKS}"),
    ("engine.epoch=3", "engine.epoch: there is no such key (did you mean 'engine.epochs'?)"),
    ("data.batchsize=4", "data.batchsize: there is no such key (did you mean 'data.batch_size'?)"),
    ("+modle.x=1", "modle: there is no such key (did you mean 'model'?)"),
    (
        "backbone=resnet5",
        "backbone=resnet5: there is no such backbone (did you mean 'resnet50'?); known: convnext_base, convnext_large, "
        "convnext_small, convnext_tiny, csp, csp_large, csp_medium, csp_nano, csp_small, densenet121, densenet161, "
        "densenet169, densenet201, efficientnet_b0, efficientnet_b1, efficientnet_b2, efficientnet_b3, "
        "efficientnet_b4, efficientnet_b5, efficientnet_b6 and 40 more",
    ),
    ("engine.epochs=abc", "engine.epochs=abc: a whole number or null is wanted"),
    ("head.detection.level=3", "head.detection.level: DenseDetection has no argument 'level' (did you mean 'levels'?)"),
    ("+head.detection.bin=8", "head.detection.bin: DenseDetection has no argument 'bin' (did you mean 'bins'?)"),
    ("head.detection.bins=many", "head.detection.bins=many: DenseDetection wants a whole number"),
    ("head.detecton.bins=8", "head.detecton.bins: there is no head 'detecton' (did you mean 'detection'?); "
     f"known: {HEADS}"),
    ("head.classification.dropout=0", "head.classification.dropout: the model has no head 'classification' "
     "(heads=[detection])"),
    ("heads=[detecton]", "heads=[detecton]: there is no head 'detecton' (did you mean 'detection'?); "
     "known: classification, localization, detection, semantic, instance"),
    ("heads=[]", "heads=[]: a model needs at least one of classification, localization, detection, semantic, instance"),
    ("heads=detection", "heads=detection: a list such as [a, b] or null is wanted"),
    ("head=detection", f"head=detection: heads are chosen by heads=[{HEADS}]"),
    ("merges=[panoptc]", "merges=[panoptc]: there is no merge 'panoptc' (did you mean 'panoptic'?); known: panoptic"),
    ("merges=panoptic", "merges=panoptic: a list such as [a, b] is wanted"),
    ("merge=panoptic", "merge=panoptic: merges are chosen by merges=[panoptic]"),
    ("semantic_head=fnc", "semantic_head=fnc: there is no such semantic_head (did you mean 'fcn'?); "
     "known: deeplabv3plus, fcn, light"),
    ("lr=0.1", "lr: there is no such key (did you mean 'optim.lr'?)"),
    ("batch_size=4", "batch_size: there is no such key (did you mean 'data.batch_size'?)"),
    ("engine.epochs=0", "engine.epochs=0: 1 or more is wanted"),
    ("seed=null", "seed=null: a whole number is wanted"),
    ("engine.epochs.x=1", "engine.epochs={'x': 1}: a whole number or null is wanted"),
    ("engine.compile=maybe", "engine.compile=maybe: true or false is wanted"),
    ("engine.channels_last=maybe", "engine.channels_last=maybe: one of auto, true, false is wanted"),
    ("engine.precision=fp8", "engine.precision=fp8: one of auto, bf16, fp16, fp32 is wanted"),
    ("data.batch_size=some", "data.batch_size=some: a whole number, 1 or more, or auto is wanted"),
    ("data.batch_size=0", "data.batch_size=0: a whole number, 1 or more, or auto is wanted"),
    ("data.workers=-1", "data.workers=-1: a whole number, 0 or more, or auto is wanted"),
    ("data.on_error=ignore", "data.on_error=ignore: one of stop, skip is wanted"),
    ("data.splits=[a]", "data.splits=[a]: a mapping with the keys train, val, test is wanted"),
    ("data.splits.tran=a", "data.splits.tran: there is no such key (did you mean 'data.splits.train'?)"),
    ("data.splits.train=null", "data.splits.train=null: name the list to train on"),
    ("data.classes=[a]", "data.classes=[a]: Shapes takes no classes; leave it out, or choose another data="),
    ("data.reader.cluter=1", "data.reader.cluter: Shapes has no argument 'cluter' (did you mean 'clutter'?)"),
    ("data=coco", "data.root: the folder of the data set is missing; give data.root=DIR"),
    ("data.box=biggest", "data.box=biggest: one of largest, first, null is wanted"),
    ("data=mixture", "data: Mixture is of several sets; name them, as in data=[bccd, camvid]"),
    ("data.sets={a: {root: /x}}", "data.sets={a: {root: /x}}: choose the sets with data=[a, b]; a key of one is "
     "data.sets.<name>.<key>"),
    ("data.sets.a.root=/x", "data.sets.a: there is no such set; choose the sets with data=[a, b]"),
    ("data.proportions.a=1", "data.proportions.a: there is no such set; choose the sets with data=[a, b]"),
    ("model.learn_loss_weights=maybe", "model.learn_loss_weights=maybe: true or false is wanted"),
    ("optim.lr=0", "optim.lr=0: a number above 0 is wanted"),
    ("optim.lr=nan", "optim.lr=nan: a number above 0 is wanted"),
    ("optim.alpha=0.9", "optim.alpha: muon takes no alpha; use optim=rmsprop"),
    ("optim.l1=-1", "optim.l1=-1: 0 or more is wanted"),
    ("optim.layer_decay=0", "optim.layer_decay=0: a number above 0 and at most 1 is wanted"),
    ("optim=adm", "optim=adm: there is no such optim (did you mean 'adam'?); known: adam, adamw, momentum, muon, "
     "rmsprop, sgd"),
    ("model.norm=frozn", "model.norm=frozn: one of auto, live, frozen, sync is wanted (did you mean 'frozen'?)"),
    ("model.unfreeze={c5: soon}", "model.unfreeze={'c5': 'soon'}: a mapping such as {key: value} with a number for "
     "every value is wanted"),
    ("model.unfreeze={c5: -1}", "model.unfreeze.c5=-1: a number of epochs, 0 or more, is wanted"),
    ("optim.lr=0.1,0.2", "optim.lr=0.1,0.2: several values need --multirun; as one list they are written [a, b]"),
    ("seed=-1", "seed=-1: 0 or more is wanted"),
    ("seed=${sed}", "seed=${sed}: this does not fit the configuration (Interpolation key 'sed' not found)"),
    ("device=gpu", "device=gpu: auto, cpu, mps, cuda or cuda:N is wanted"),
    ("image_size=big", "image_size=big: a whole number above 0, or [height, width], is wanted"),
    ("weights.men=0", "weights={'men': 0}: none, auto, a name, a file, or {path: FILE, mean: […], std: […]} is wanted"),
    ("augment.transforms=[{HorizontalFlp: {}}]", "augment.transforms[0]: albumentations has no transform "
     "'HorizontalFlp' (did you mean 'HorizontalFlip'?)"),
    ("model.backbone._target_=visionkit.backbones.CPS",
     "model.backbone._target_=visionkit.backbones.CPS: visionkit.backbones has no 'CPS' (did you mean 'CSP'?)"),
    ("model.backbone._target_=nowhere.X", "model.backbone._target_=nowhere.X: there is no module 'nowhere'; "
     "a dotted path such as visionkit.heads.X is wanted"),
    ("~seed", "~seed: keys cannot be removed; give seed=null where null is allowed"),
    ("task", "task: key=value is wanted"),
    ("--cfg", "--cfg: key=value is wanted"),
]  # fmt: skip


@pytest.mark.parametrize(("typo", "message"), TYPOS)
def test_typo_is_one_clear_line(typo, message):
    assert faults("train", typo) == [message]


def test_all_faults_are_listed_at_once():
    typed = [
        "task=detct", "backbone=resnet5", "engine.epoch=3", "data.batchsize=4", "+modle.x=1", "engine.epochs=abc",
        "head.detection.level=p3", "seed=${sed}", "optim.lr=-1",
    ]  # fmt: skip
    found = faults("train", *typed)
    starts = [
        "task=detct:", "backbone=resnet5:", "seed=${sed}:", "engine.epochs=abc:", "engine.epoch:", "data.batchsize:",
        "modle:", "optim.lr=-1:", "head.detection.level:",
    ]  # fmt: skip
    assert sorted(line.split(" ")[0] for line in found) == sorted(starts)


READY = ("shapes", "shapes_varied", "bccd", "caltech101_loc", "camvid", "coco128", "hymenoptera", "pennfudan")
"""The choices of data that need no data.root."""
HEADS_OF = {
    "classify": ["classification"], "localize": ["localization"], "detect": ["detection"], "semantic": ["semantic"],
    "instance": ["instance"], "panoptic": ["semantic", "instance"], "multitask": None,
}  # fmt: skip


TUNED = {(file.stem, file.parent.name) for file in (configs_folder() / "data").glob("*/*.yaml")}


@pytest.mark.parametrize(
    ("task", "data"),
    sorted(
        TUNED
        | {(task, data) for task in groups()["task"] for data in ("shapes", "bccd")}
        | {("multitask", data) for data in groups()["data"]}
    ),
)
def test_defaults_compose(task, data, monkeypatch):
    monkeypatch.setenv("VISIONKIT_DATA", "/sets")
    if data == "mixture":
        data, root = "[shapes, bccd]", []
    else:
        root = [] if data in READY else ["data.root=/x"]
    cfg = compose("train", [f"task={task}", f"data={data}", *root])
    assert cfg.heads == HEADS_OF[task]
    assert sorted(cfg.head) == (sorted(cfg.heads) if cfg.heads else HEADS.split(", "))
    assert cfg.merges == list(cfg.merge) == (["panoptic"] if task == "panoptic" else [])
    drawn = data in ("shapes", "shapes_varied", "[shapes, bccd]")
    wanted = None if drawn else f"/sets/{data}" if data in READY else "/x"
    assert cfg.data.root == wanted


@pytest.mark.parametrize(
    "group", ["backbone", "neck", "preprocess", "optim", "schedule", "engine", "debug", "semantic_head"]
)
def test_every_choice_composes(group):
    """Of backbones some: tests/backbones builds the others from their files, tests/data all of augment."""
    choices = groups()[group]
    for choice in choices if group != "backbone" else ("csp", "csp_large", "resnet18", "convnext_tiny", "timm"):
        compose("train", [f"{group}={choice}"])


def test_the_semantic_head_is_chosen_by_name():
    target = {"light": "SemanticSegmentation", "fcn": "FCN", "deeplabv3plus": "DeepLabV3Plus"}
    assert sorted(target) == groups()["semantic_head"]
    for choice, name in target.items():
        head = compose("train", ["task=semantic", f"semantic_head={choice}"]).head
        assert list(head) == ["semantic"]
        assert head.semantic._target_ == f"visionkit.heads.{name}"


def test_heads_that_are_not_chosen_take_arguments_all_the_same():
    """heads=null waits for the data; until then each head may be told something."""
    cfg = compose("train", ["task=multitask", "head.localization.dropout=0", "head.detection.bins=4"])
    assert (cfg.heads, cfg.head.localization.dropout, cfg.head.detection.bins) == (None, 0, 4)
    chosen = compose("train", ["task=multitask", "heads=[semantic,detection]", "head.detection.bins=4"])
    assert list(chosen.heads) == ["semantic", "detection"]
    assert sorted(chosen.head) == ["detection", "semantic"]
    assert faults("train", "task=multitask", "heads=[semantic]", "head.detection.bins=4") == [
        "head.detection.bins: the model has no head 'detection' (heads=[semantic])"
    ]


def test_canvases_that_are_not_square_reach_scale_and_crop():
    first, second = compose("train", ["task=semantic", "data=camvid", "image_size=[96, 64]"]).augment.transforms[:2]
    assert first.RandomScale.scale_limit == [-0.5, 1.0]
    assert (second.RandomCrop.height, second.RandomCrop.width) == (96, 64)
    square = compose("train", ["task=semantic", "data=camvid", "image_size=48"]).augment.transforms[1]
    assert (square.RandomCrop.height, square.RandomCrop.width) == (48, 48)


# -------------------------------------------------------------------------------------------------- several data sets
def test_several_sets_have_their_own_keys(monkeypatch):
    monkeypatch.setenv("VISIONKIT_DATA", "/sets")
    typed = ["task=multitask", "data=[bccd,camvid]", "data.sets.bccd.root=/a, b/c=d", "data.proportions.camvid=2"]
    data = compose("train", [*typed, "data.sets.camvid.reader.unlabelled=skip", "data.sets.bccd.seed=3"]).data
    assert data.reader._target_ == "visionkit.data.readers.Mixture"
    assert list(data.sets) == ["bccd", "camvid"]
    bccd, camvid = data.sets.values()
    assert (bccd.reader._target_, bccd.root, bccd.on_error) == ("visionkit.data.readers.Voc", "/a, b/c=d", "skip")
    assert (bccd.seed, bccd.splits) == (3, {"train": "train", "val": "val", "test": "test"})
    assert (camvid.root, camvid.ignore_index, camvid.reader.unlabelled) == ("/sets/camvid", 11, "skip")
    assert (data.root, data.proportions) == (None, {"camvid": 2.0})
    assert set(bccd) == {*READER_KEYS, "reader", "splits"} - {"channels", "bit_depth"}  # those are one for all


def test_generated_scenes_among_the_sets_are_of_the_runs_size():
    scenes = compose("train", ["data=[shapes,bccd]", "image_size=96"]).data.sets.shapes
    assert scenes.reader["size"] == 96


def test_several_sets_are_composed_for_every_tool(tmp_path):
    sets = compose("train", ["data=[bccd,camvid]"]).data.sets
    assert compose("check_data", ["data=[bccd,camvid]"]).data.sets == sets
    assert compose("evaluate", ["checkpoint=/c", "data=[bccd,camvid]"]).data.sets == sets
    given = compose("evaluate", ["checkpoint=/c", "data.sets.bccd.root=/elsewhere"]).data
    assert given == {"sets": {"bccd": {"root": "/elsewhere"}}}
    data = evaluation_data(compose("train", ["data=[bccd,camvid]"]).data, given)
    assert data.sets.bccd.root == "/elsewhere"
    assert data.sets.camvid == sets.camvid
    with pytest.raises(ConfigError, match=r"data\.sets\.bcd: there is no such set .did you mean 'bccd'"):
        evaluation_data(compose("train", ["data=[bccd,camvid]"]).data, OmegaConf.create({"sets": {"bcd": {"seed": 1}}}))


SETS = (
    "known: auto, bccd, caltech101_loc, camvid, coco, coco128, coco_panoptic, csv, folder, hymenoptera, masks, "
    "pennfudan, "
)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["data=[bccd,camvd]"], "data=[bccd, camvd]: there is no camvd (did you mean 'camvid'?); "
         f"{SETS}shapes, shapes_varied, voc, yolo"),
        (["data=[bccd,bccd]"], f"data=[bccd, bccd]: name each set once; {SETS}shapes, shapes_varied, voc, yolo"),
        (["data=[]"], f"data=[]: name each set once; {SETS}shapes, shapes_varied, voc, yolo"),
        (["data=[bccd,mixture]"], f"data=[bccd, mixture]: there is no mixture; {SETS}shapes, shapes_varied, voc, yolo"),
        (["data=[bccd,coco]"], "data.sets.coco.root: the folder of the data set is missing; give "
         "data.sets.coco.root=DIR"),
        (["data.sets.bcd.root=/x"], "data.sets.bcd: there is no such set (did you mean 'bccd'?); choose the sets with "
         "data=[a, b]"),
        (["data.proportions.bcd=1"], "data.proportions.bcd: there is no such set (did you mean 'bccd'?); choose the "
         "sets with data=[a, b]"),
        (["data.proportions.bccd=few"], "data.proportions={'bccd': 'few'}: a mapping such as {key: value} with a "
         "number for every value is wanted"),
        (["data.sets.bccd.rot=/x"], "data.sets.bccd.rot: there is no such key (did you mean 'data.sets.bccd.root'?)"),
        (["data.sets.bccd.splits.tran=x"], "data.sets.bccd.splits.tran: there is no such key (did you mean "
         "'data.sets.bccd.splits.train'?)"),
        (["data.sets.bccd.batch_size=3"], "data.sets.bccd.batch_size: this is said once for all sets; give "
         "data.batch_size"),
        (["data.sets.bccd.seed=a"], "data.sets.bccd.seed=a: a whole number is wanted"),
        (["data.sets.bccd.on_error=no"], "data.sets.bccd.on_error=no: one of stop, skip is wanted"),
        (["data.sets.bccd.objects=1"], "data.sets.bccd.objects=1: Voc takes no objects; leave it out, or choose "
         "another data="),
        (["data.sets.bccd.reader.fraction=1"], "data.sets.bccd.reader.fraction: Voc has no argument 'fraction' (did "
         "you mean 'fractions'?)"),
        (["data.root=/x"], "data.root=/x: each set has its own; give data.sets.<name>.root"),
        (["data.on_error=skip"], "data.on_error=skip: each set has its own; give data.sets.<name>.on_error"),
    ],
)  # fmt: skip
def test_typos_in_several_sets(typed, message):
    chosen = [] if typed[0].startswith("data=") else ["data=[bccd,camvid]"]
    assert faults("train", *chosen, *typed) == [message]


# ---------------------------------------------------------------------------------------------- what wins over what


def test_photographs_keep_the_defaults_that_shapes_lowers():
    photographs, scenes = compose("train", ["data=voc", "data.root=/x"]), compose("train")
    assert photographs.image_size == photographs.preprocess.image_size == 640
    assert photographs.model.backbone.width == 1.0
    assert scenes.image_size < 640
    assert scenes.data.reader.size == scenes.image_size
    assert scenes.schedule.epochs < photographs.schedule.epochs
    assert compose("train", ["task=classify"]).data.objects == 1
    assert scenes.data.objects is None


def test_command_line_wins_over_shapes():
    typed = [
        "image_size=96",
        "model.width=0.75",
        "engine.epochs=2",
        "data.batch_size=3",
        "optim.lr=0.5",
        "backbone=resnet18",
    ]
    cfg = compose("train", [*typed, "augment=none", "data.objects=1", "schedule=cosine"])
    assert (cfg.image_size, cfg.model.width, cfg.engine.epochs) == (96, 0.75, 2)
    assert (cfg.data.batch_size, cfg.optim.lr, cfg.data.objects) == (3, 0.5, 1)
    assert cfg.model.backbone.name == "resnet18"
    assert cfg.augment.transforms == []
    assert cfg.schedule.name == "cosine"
    chosen = compose("train", ["optim=momentum", "optim.weight_decay=0.1"])
    assert (chosen.optim.lr, chosen.optim.weight_decay) == (0.01, 0.1)


def test_debug_tiny_wins_over_all_but_the_command_line():
    for task in groups()["task"]:
        cfg = compose("train", [f"task={task}", "debug=tiny", "engine.max_steps=3"])
        assert (cfg.image_size, cfg.data.batch_size, cfg.engine.max_steps, cfg.debug.images) == (64, 2, 3, 8)


def test_every_key_has_its_type():
    cfg = compose("train", ["engine.epochs=3", "optim.lr=1", "image_size=[64, 96]", "data.workers=2", "name=12"])
    assert (cfg.engine.epochs, cfg.optim.lr, cfg.name) == (3, 1.0, "12")
    assert isinstance(cfg.optim.lr, float)
    assert cfg.preprocess.image_size == cfg.data.reader.size == [64, 96]
    folder = compose("train", ["task=classify", "data=folder", "data.root=x", "image_size=[64, 96]"])
    assert folder.augment.transforms[0].RandomResizedCrop["size"] == [64, 96]


def test_a_folder_without_a_format_is_recognised():
    for tool in ("train", "check_data", "benchmark"):
        data = compose(tool, ["task=semantic", "data.root=/pictures"]).data
        assert (data.root, data.reader) == (
            "/pictures",
            {"_target_": "visionkit.data.readers.Auto", "_partial_": True, "task": "semantic"},
        )
    assert compose("train", ["data.root=null"]).data.reader._target_.endswith("Shapes")
    assert compose("train", ["data=voc", "data.root=/x", "task=semantic"]).data.reader.kind == "semantic"
    # An evaluation reads the folder as the training data were read; generated scenes have none.
    files = evaluation_data(compose("train", ["data=voc", "data.root=/x"]).data, OmegaConf.create({"root": "/y"}))
    assert (files.root, files.reader._target_) == ("/y", "visionkit.data.readers.Voc")
    assert "data=auto" in for_sweep(["data.root=/x", "seed=1,2"], ["data"])
    assert "data=auto" not in for_sweep(["data=voc", "data.root=/x"], ["data"])


@pytest.mark.parametrize(
    "path", ["/a=b", "a,b", "it's", 'say "x"', "a b", "é/ü", "C:\\new\\", "a\\'b", "{a}b", "[x]", "1", "a#b"]
)
def test_paths_need_no_quotes(path):
    cfg = compose("train", ["data=coco", f"data.root={path}", f"run_dir={path}", f"data.annotations.train={path}"])
    assert (cfg.data.root, cfg.run_dir, cfg.data.annotations.train) == (path, path, path)


def test_quotes_that_are_there_stay():
    assert quote_path("data.root='a=b'") == "data.root='a=b'"
    assert quote_path("run_dir=null") == "run_dir=null"
    assert quote_path("optim.lr=3") == "optim.lr=3"
    assert quote_path("data.root=~/x") == f"data.root='{Path.home()}/x'"


def test_weights_reach_backbone_and_preprocessing():
    cfg = compose("train", ["backbone=resnet18", "weights={path: /w.pth, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}"])
    assert cfg.model.backbone.weights == "/w.pth"
    assert cfg.preprocess.mean == cfg.preprocess.std == [0.5, 0.5, 0.5]
    cfg = compose("train", ["backbone=resnet18", "weights=IMAGENET1K_V1"])
    assert cfg.model.backbone.weights == "IMAGENET1K_V1"
    assert cfg.preprocess.mean == [0.485, 0.456, 0.406]
    assert compose("train").model.backbone.weights is None
    assert compose("train", ["weights={path: /w.pth, mean: 0.5, std: 0.5}"]).preprocess.std == [0.5, 0.5, 0.5]


def test_the_schemas_give_no_values():
    """Values stand in configs/ alone, so a key without one there is found."""
    cfg = OmegaConf.structured(SCHEMAS["train"])
    assert len(OmegaConf.missing_keys(cfg)) == len(cfg)


def test_checked_finds_what_hydra_lets_pass():
    cfg = compose("train")
    loose = OmegaConf.create(OmegaConf.to_container(cfg))
    assert checked("train", loose) == cfg
    loose.modle = {"x": 1}
    with pytest.raises(ConfigError, match="modle: there is no such key"):
        checked("train", loose)


# -------------------------------------------------------------------------------------------------------- other tools
def test_evaluate_takes_what_differs():
    cfg = compose("evaluate", ["checkpoint=/c", "data.seed=7", "data.reader.clutter=1", "data.split=test"])
    assert cfg.data == {"seed": 7, "reader": {"clutter": 1}, "split": "test"}
    trained = compose("train", ["data.reader.viewpoint=0.25"]).data
    data = evaluation_data(trained, cfg.data)
    assert (data.seed, data.reader.clutter, data.reader.viewpoint, data.split) == (7, 1, 0.25, "test")
    assert data.reader["size"] == trained.reader["size"]


def test_evaluate_on_another_set(tmp_path):
    (tmp_path / "config.yaml").write_text("task: classify\n")
    scenes = compose("evaluate", [f"checkpoint={tmp_path}", "data=shapes"]).data
    assert scenes.objects == 1
    files = compose("evaluate", [f"checkpoint={tmp_path}", "data=coco", "data.root=/x"]).data
    assert evaluation_data(scenes, files).reader == {"_target_": "visionkit.data.readers.Coco", "_partial_": True}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"root": "/x"}, "data.root=/x: the format is missing"),
        ({"classes": ["a"]}, "data.classes=.*Shapes takes no classes"),
        ({"reader": {"cluter": 1}}, "data.reader.cluter: Shapes has no argument 'cluter' .did you mean 'clutter'"),
        ({"objects": 0}, "data.objects=0: 1 or more"),
    ],
)
def test_evaluation_data_refuses_what_the_reader_does_not_take(given, message):
    with pytest.raises(ConfigError, match=message):
        evaluation_data(compose("train").data, OmegaConf.create(given))


@pytest.mark.parametrize(
    ("tool", "typed", "messages"),
    [
        ("evaluate", ["data.sed=3"], ["data.sed: there is no such key (did you mean 'data.seed'?)",
                                      "checkpoint: a value is missing; give checkpoint=…"]),
        ("evaluate", ["checkpoint=x", "data.seed=a"], ["data.seed=a: a whole number is wanted"]),
        ("evaluate", ["checkpoint=x", "task=detect"], ["task=detect: evaluate takes no task; it takes data"]),
        ("predict", ["checkpoint=x", "source=y", "out=z", "score=2"], ["score=2: a share from 0 to 1 is wanted"]),
        ("predict", ["checkpoint=x"], ["source: a value is missing; give source=…",
                                       "out: a value is missing; give out=…"]),
        ("check_data", ["data=coca"], ["data=coca: there is no such data (did you mean 'coco'?); known: auto, bccd, "
                                       "caltech101_loc, camvid, coco, coco128, coco_panoptic, csv, folder, "
                                       "hymenoptera, masks, mixture, pennfudan, shapes, shapes_varied, voc, yolo"]),
        ("check_data", ["data=voc"], ["data.root: the folder of the data set is missing; give data.root=DIR"]),
    ],
)  # fmt: skip
def test_typos_of_other_tools(tool, typed, messages):
    assert faults(tool, *typed) == messages


def test_evaluation_data_fences_the_checkpoints_reader(tmp_path, monkeypatch):
    (tmp_path / "sideeffect.py").write_text("from pathlib import Path\nPath('imported').touch()\nX = print\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    trained = compose("train").data
    trained.reader = {"_target_": "sideeffect.X", "clutter": 1}
    with pytest.raises(CheckpointError, match=r"sideeffect\.X"):
        evaluation_data(trained, OmegaConf.create({"reader": {"clutter": 0}}))
    assert not (tmp_path / "imported").exists()


def test_reader_arguments(tmp_path):
    data = compose(
        "train", ["data=coco", f"data.root={tmp_path}", "data.splits.val=minival", "data.annotations.minival=/m.json"]
    ).data
    assert reader_arguments(data, "val") == {
        "split": "minival", "root": str(tmp_path), "classes": None, "on_error": "stop", "annotations": "/m.json",
        "seed": 0, "channels": 3, "bit_depth": 8,
    }  # fmt: skip
    assert reader_arguments(data, "other")["annotations"] is None
    with pytest.raises(ConfigError, match=r"data\.splits\.test=null"):
        reader_arguments(data, "test")


def test_shapes_reader_is_built_from_its_configuration(tmp_path):
    data = compose("train", ["data.seed=5", "image_size=64", "data.reader.count={train: 4, val: 3}"]).data
    reader = build(data.reader, cache_folder=tmp_path)(**reader_arguments(data, "val"))
    assert len(reader) == 3
    assert reader.read(0).image.shape == (64, 64, 3)


def test_single_runs_hold_each_value_once():
    assert single_runs(["seed=0,1,2", "optim.lr=0.1,0.2", "task=detect"]) == [
        ["seed=0", "optim.lr=0.1", "task=detect"],
        ["seed=1", "optim.lr=0.2", "task=detect"],
        ["seed=2", "optim.lr=0.2", "task=detect"],
    ]


# ------------------------------------------------------------------------------------------------------------ targets
def test_build_hands_objects_over_as_they_are():
    specs = {"c5": FeatureSpec(8, 32)}
    head = build(compose("train", ["task=classify", "head.classification.levels=[c5]"]).head.classification)(
        specs, classes=("a", "b")
    )
    assert head.linear.weight.shape == (2, 8)
    kept = build({"_target_": "builtins.dict", "inner": {"_target_": "builtins.list"}}, specs=specs)
    assert kept["inner"] == []
    assert kept["specs"] is specs


def test_build_makes_nested_parts_partials_and_plain_containers():
    node = OmegaConf.create({"a": [{"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}], "b": None})
    made = build(node)
    assert isinstance(made["a"][0], torch.nn.Linear)
    assert type(made) is dict
    assert made["b"] is None
    assert build({"_target_": "builtins.int", "_partial_": True, "base": 2})("101") == 5


def test_build_lets_a_parts_own_error_through():
    with pytest.raises(ConfigError, match=r"CSP: size 'tiny'"):
        build({"_target_": "visionkit.backbones.CSP", "size": "tiny"})


def hostile(marker: Path) -> list[dict]:
    unlink = "torchvision.datasets.utils.pathlib.Path.unlink"
    return [
        {"_target_": unlink, "self": str(marker)},
        {"_target_": "os.system", "command": f"rm {marker}"},
        {"_target_": "os.remove", "path": str(marker)},
        {"_target_": "visionkit.config.Path.unlink", "self": str(marker)},
        {"_target_": "visionkit.config.Path", "a": str(marker)},
        {"_target_": "visionkit.config.build", "node": {"_target_": "visionkit.backbones.CSP"}},
        {"_target_": "visionkit.backbones.csp.load_weights", "path": str(marker)},
        {"_target_": "visionkit.backbones.torchvision.torchvision.datasets.utils.os.remove", "path": str(marker)},
        {"_target_": "visionkit_evil.Thing"},
        {"_target_": "visionkit.backbones.CSP", "size": {"_target_": "os.remove", "path": str(marker)}},
        {"_target_": "visionkit.backbones.CSP", "size": [{"deep": {"_target_": "os.remove", "path": str(marker)}}]},
        {"first": {"_target_": "visionkit.backbones.CSP"}, "then": {"_target_": "os.remove", "path": str(marker)}},
        {
            "_target_": "visionkit.backbones.CSP",
            "size": "${hit}",
            "hit": {"_target_": "os.remove", "path": str(marker)},
        },
        {"_target_": ["os.remove"], "path": str(marker)},
        {"_target_": ""},
    ]


@pytest.mark.parametrize("number", range(len(hostile(Path()))))
def test_fence_keeps_hostile_targets_out(number, tmp_path):
    marker = tmp_path / "marker"
    marker.write_text("here")
    with pytest.raises(CheckpointError, match="_target_"):
        build(OmegaConf.create(hostile(marker)[number]), allow=())
    assert marker.read_text() == "here"


def test_fence_lets_own_parts_in():
    cfg = compose("train")
    assert build(cfg.model.backbone, allow=()).out_specs
    assert build(cfg.head.detection, allow=()).func is locate_fenced("visionkit.heads.DenseDetection")


def test_fence_opens_to_named_packages(tmp_path, monkeypatch):
    (tmp_path / "myparts.py").write_text("import os\nclass Block:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "myparts.Block"}
    with pytest.raises(CheckpointError, match=r"allow=\['myparts'\]"):
        build(node, allow=())
    assert type(build(node, allow=["myparts"])).__name__ == "Block"
    with pytest.raises(CheckpointError):
        build({"_target_": "myparts.os.getcwd"}, allow=["myparts"])


# ---------------------------------------------------------------------------------------------------------- packaging
def test_configs_are_found_from_any_folder(tmp_path):
    code = "from visionkit.config import configs_folder; print(configs_folder())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(done.stdout.strip()) == ROOT / "configs", done.stderr


@pytest.mark.slow
def test_wheel_carries_the_configs(tmp_path):
    pytest.importorskip("hatchling")
    make = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(make, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("visionkit-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path.relative_to(configs_folder()).as_posix() for path in configs_folder().rglob("*.yaml")]
    assert {f"visionkit/configs/{name}" for name in files} <= names
    assert not any(name.startswith(("tests/", "tools/")) for name in names)
    unpacked = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(unpacked)
    code = "from visionkit.config import compose, configs_folder; print(configs_folder()); compose('train')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(unpacked)},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert Path(done.stdout.strip()) == unpacked / "visionkit" / "configs"
