from __future__ import annotations

import functools
import logging
from types import SimpleNamespace

import pytest
import torch

from visionkit.build import build_model, describe_model
from visionkit.config import compose
from visionkit.engine.checkpoint_saving import save_checkpoint
from visionkit.errors import CheckpointError, ConfigError
from visionkit.transfer import Fate, Taken, checkpoint_statistics, report_weights, take_weights

SMALL = ("image_size=64", "model.width=0.25")
SEMANTIC = ("task=semantic", "head.semantic.class_weights=null")


@functools.cache
def composed(*typed):
    return compose("train", [*SMALL, *typed])


def made(*typed, classes=("ant", "bee"), seed=0):
    """A model with random weights, and its description."""
    description = describe_model(composed(*typed), SimpleNamespace(classes=classes, semantic_classes=classes))
    torch.manual_seed(seed)
    return build_model(description, allow=None), description


def saved(folder, *typed, classes=("ant", "bee"), step=1, best=True):
    """The folder of a run that holds one checkpoint, and the weights in it."""
    model, description = made(*typed, classes=classes, seed=1)
    with torch.no_grad():
        for buffer in model.backbone.buffers():
            buffer.add_(2)
    save_checkpoint(
        folder, step=step, model=made(*typed, classes=classes, seed=2)[0], ema=model, description=description,
        state={"epoch": 1, "best": None, "best_step": 1, "evaluation_due": False, "processes": 1, "data": None},
        training={}, config="", best=best,
    )  # fmt: skip
    return folder, model.state_dict()


def fates_by_name(fates):
    return {fate.tensor: fate for fate in fates}


def test_the_same_model_is_taken_over_whole(tmp_path):
    folder, weights = saved(tmp_path, "task=detect")
    model, description = made("task=detect")
    fates = take_weights(model, description, str(folder)).fates
    assert {fate.fate for fate in fates} == {"kept"}
    assert [fate.tensor for fate in fates] == [name for name in weights if not name.startswith("preprocess.")]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_rows_follow_their_classes_by_name(tmp_path):
    """Of three classes two are known, in another order; the third, and all that has no row per class, is told."""
    folder, weights = saved(tmp_path, "task=classify", classes=("ant", "bee", "fly"))
    model, description = made("task=classify", classes=("fly", "wasp", "ant", "moth"))
    random = {name: value.clone() for name, value in model.state_dict().items()}
    fates = fates_by_name(take_weights(model, description, str(folder)).fates)
    for name in ("heads.classification.linear.weight", "heads.classification.linear.bias"):
        now = model.state_dict()[name]
        assert torch.equal(now[[0, 2]], weights[name][[2, 0]])
        assert torch.equal(now[[1, 3]], random[name][[1, 3]])
        assert str(fates[name]) == f"kept     {name}  (the rows of 2 of 4 classes: fly, ant)"
    stem = "backbone.stem.0.weight"
    assert torch.equal(model.state_dict()[stem], weights[stem])
    assert str(fates[stem]) == f"kept     {stem}"


def test_equally_many_other_classes_are_not_taken_for_the_old_ones(tmp_path):
    folder, weights = saved(tmp_path, "task=detect", classes=("ant", "bee"))
    model, description = made("task=detect", classes=("cat", "dog"))
    random = {name: value.clone() for name, value in model.state_dict().items()}
    fates = fates_by_name(take_weights(model, description, str(folder)).fates)
    replaced = [name for name, fate in fates.items() if fate.fate == "replaced"]
    assert replaced == ["heads.detection.score.weight", "heads.detection.score.bias"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, (random if name in replaced else weights)[name]), name
    assert fates[replaced[0]].why == "its classes are others"


@pytest.mark.parametrize("typed", [["task=localize"], ["task=instance"], SEMANTIC])
def test_every_heads_class_rows_are_found(tmp_path, typed):
    """The class list turned around: each class keeps its row wherever it stands, in every tensor that has rows."""
    folder, weights = saved(tmp_path, *typed, classes=("a", "b", "c"))
    model, description = made(*typed, classes=("c", "b", "a"))
    fates = take_weights(model, description, str(folder)).fates
    turned = [fate.tensor for fate in fates if fate.why]
    assert turned
    assert all(fate.fate == "kept" for fate in fates)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name].flip(0) if name in turned else weights[name]), name


def test_factors_per_class_do_not_hide_the_rows(tmp_path):
    folder, weights = saved(tmp_path, *SEMANTIC, classes=("a", "b"))
    model, description = made("task=semantic", "head.semantic.class_weights=[1.0, 2.0, 3.0]", classes=("b", "x", "a"))
    fates = fates_by_name(take_weights(model, description, str(folder)).fates)
    name = "heads.semantic.score.weight"
    assert fates[name].why == "the rows of 2 of 3 classes: b, a"
    assert torch.equal(model.state_dict()[name][[0, 2]], weights[name][[1, 0]])


def test_several_rows_a_class_are_replaced(tmp_path):
    folder, _ = saved(tmp_path, "task=localize", "head.localization.box_per_class=true", classes=("a", "b"))
    model, description = made("task=localize", "head.localization.box_per_class=true", classes=("b", "c"))
    fates = fates_by_name(take_weights(model, description, str(folder)).fates)
    assert fates["heads.localization.offset.weight"].fate == "replaced"
    assert fates["heads.localization.linear.weight"].fate == "kept"


def test_another_task_takes_the_backbone(tmp_path):
    folder, weights = saved(tmp_path, "task=detect")
    model, description = made("task=classify")
    fates = take_weights(model, description, {"path": str(folder)}).fates
    told = fates_by_name(fates)
    for name in model.state_dict():
        if not name.startswith("preprocess."):
            assert told[name].fate == ("kept" if name.startswith("backbone.") else "replaced")
    left = [fate.tensor for fate in fates if fate.fate == "left"]
    assert {name.split(".")[0] for name in left} == {"backbone", "neck", "heads"}
    assert not any(name in model.state_dict() for name in left), "of the backbone what is not read"
    assert torch.equal(model.state_dict()["backbone.stem.0.weight"], weights["backbone.stem.0.weight"])


def test_a_part_of_another_kind_is_replaced_even_where_names_and_shapes_agree(tmp_path):
    folder, _ = saved(tmp_path, "task=detect")
    model, description = made("task=detect", "neck=fpn")
    fates = take_weights(model, description, str(folder)).fates
    necks = [fate for fate in fates if fate.tensor.startswith("neck.") and fate.tensor in model.state_dict()]
    assert {fate.fate for fate in necks} == {"replaced"}


def test_another_backbone_is_refused(tmp_path):
    folder, _ = saved(tmp_path, "task=classify")
    model, description = made("task=classify", "model.width=0.5")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as refused:
        take_weights(model, description, str(folder))
    assert "its backbone is CSP(size=nano, width=0.25), and this one CSP(size=nano, width=0.5)" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_no_checkpoint_is_refused(tmp_path):
    model, description = made("task=classify")
    with pytest.raises(CheckpointError, match=r"weights=.*: checkpoint=.*neither a checkpoint .* nor a run folder"):
        take_weights(model, description, str(tmp_path))
    folder, _ = saved(tmp_path / "run", "task=classify")
    file = folder / "checkpoints" / "best" / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        take_weights(model, description, str(folder))


def test_no_weights_no_account(tmp_path):
    model, description = made("task=classify")
    assert take_weights(model, description, "none") == take_weights(model, description, "auto") == Taken()
    report_weights(Taken(), "none", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_learned_uncertainties_begin_anew(tmp_path):
    folder, _ = saved(tmp_path, "task=detect", "model.learn_loss_weights=true")
    model, description = made("task=detect", "model.learn_loss_weights=true")
    fates = fates_by_name(take_weights(model, description, str(folder)).fates)
    assert fates["loss_weights.log_variances.detection"].fate == "replaced"


def test_random_numbers_are_those_of_a_run_without_weights(tmp_path):
    folder, _ = saved(tmp_path, "task=classify", classes=("a", "b", "c"))
    model, description = made("task=classify")
    before = torch.get_rng_state()
    take_weights(model, description, str(folder))
    assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------------------------------------ weights of a backbone
def test_a_file_keeps_the_backbone_and_leaves_its_classifier(tmp_path):
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1().state_dict(), tmp_path / "file.pth")
    typed = ["task=classify", "backbone=squeezenet1_1", f"weights={tmp_path / 'file.pth'}"]
    cfg = compose("train", [*typed, "head.classification.levels=[c3]"])
    description = describe_model(cfg, SimpleNamespace(classes=["a", "b"], semantic_classes=[]))
    model = build_model(description, weights=str(tmp_path / "file.pth"), allow=None)
    fates = take_weights(model, description, cfg.weights).fates
    kinds = {fate: [one.tensor for one in fates if one.fate == fate] for fate in ("kept", "replaced", "left")}
    assert kinds["kept"] == [name for name in model.state_dict() if name.startswith("backbone.")]
    assert kinds["replaced"] == ["heads.classification.linear.weight", "heads.classification.linear.bias"]
    assert {"classifier.1.weight", "classifier.1.bias"} <= set(kinds["left"])
    assert any(name.startswith("stages.c4.") for name in kinds["left"]), "what comes after the level that is read"


# ------------------------------------------------------------------------------------------------- mean, std, and lines
def test_mean_and_std_come_with_a_checkpoint(tmp_path):
    own = "{path: x.pth, mean: [0.1, 0.2, 0.3], std: 0.4}"
    folder, _ = saved(tmp_path, "task=classify", f"weights={own}")
    statistics = checkpoint_statistics(folder)
    assert (statistics["mean"], statistics["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.4, 0.4])
    cfg = compose("train", ["task=detect", f"weights={folder}"])
    assert (list(cfg.preprocess.mean), list(cfg.preprocess.std)) == ([0.1, 0.2, 0.3], [0.4, 0.4, 0.4])
    described = describe_model(cfg, SimpleNamespace(classes=["a"], semantic_classes=[]))
    assert described["preprocess"]["mean"] == [0.1, 0.2, 0.3]
    assert cfg.model.backbone.get("weights") is None
    other = compose("train", ["task=detect", f"weights={{path: {folder}, mean: 0.5, std: 0.5}}"])
    assert list(other.preprocess.mean) == [0.5] * 3
    usual = compose("train", ["task=detect", f"weights={tmp_path / 'checkpoints'}/nothing"])
    assert list(usual.preprocess.mean) == [0.485, 0.456, 0.406]
    assert checkpoint_statistics(tmp_path) == statistics
    assert checkpoint_statistics(tmp_path / "checkpoints" / "best") == statistics
    saved(tmp_path, "task=classify", f"weights={own}", step=2, best=False)
    with (tmp_path / "checkpoints" / "best" / "model.json").open("a") as file:
        file.write(" ")
    assert checkpoint_statistics(tmp_path) == statistics, "what loading takes instead of a damaged best"
    assert checkpoint_statistics(tmp_path / "checkpoints" / "step-1") == {}
    (tmp_path / "empty").mkdir()
    assert checkpoint_statistics(tmp_path / "empty") == {}


@pytest.mark.parametrize(
    ("typed", "mean"),
    [
        (["backbone=efficientnet_v2_l", "weights=DEFAULT"], [0.5, 0.5, 0.5]),
        (["backbone=efficientnet_v2_l", "weights=IMAGENET1K_V1", "preprocess.mean=[0.1, 0.2, 0.3]"], [0.1, 0.2, 0.3]),
        (["backbone=efficientnet_v2_l", "weights=gone.pth"], [0.485, 0.456, 0.406]),
        (["backbone=resnet50", "weights=DEFAULT"], [0.485, 0.456, 0.406]),
    ],
)
def test_published_weights_have_their_own_mean_and_std(typed, mean):
    assert list(compose("train", typed).preprocess.mean) == mean


def test_timms_weights_have_their_own_mean_and_std():
    pytest.importorskip("timm")
    cfg = compose("train", ["backbone=timm", "model.backbone.name=inception_v3", "weights=DEFAULT"])
    assert (list(cfg.preprocess.mean), list(cfg.preprocess.std)) == ([0.5] * 3, [0.5] * 3)


def test_a_bare_file_is_said_to_be_taken_for_imagenets(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("visionkit"), "propagate", True)
    (tmp_path / "file.pth").touch()
    for weights, wanted in ((str(tmp_path / "file.pth"), True), ({"path": str(tmp_path / "file.pth")}, False)):
        caplog.clear()
        with caplog.at_level(logging.INFO, "visionkit"):
            report_weights(Taken([Fate("a", "kept")]), weights, tmp_path)
        assert ("taken to expect ImageNet's mean and std" in caplog.text) == wanted


def test_the_account_is_a_line_a_tensor_and_a_line_of_all(tmp_path, caplog, monkeypatch):
    folder, _ = saved(tmp_path / "run", "task=classify", classes=("ant", "bee", "fly"))
    model, description = made("task=classify", classes=("wasp", "bee"))
    fates = take_weights(model, description, str(folder)).fates
    monkeypatch.setattr(logging.getLogger("visionkit"), "propagate", True)
    with caplog.at_level(logging.INFO, "visionkit"):
        report_weights(Taken(fates), str(folder), tmp_path)
    lines = (tmp_path / "weights.txt").read_text().splitlines()
    assert len(lines) == len(fates)
    assert lines[-1] == "kept     heads.classification.linear.bias  (the rows of 1 of 2 classes: bee)"
    said = f"weights {folder}: {len(fates)} tensors kept, 0 replaced, 0 left (weights.txt); not as they were: "
    assert said in caplog.text


def test_freezing_without_weights_is_refused():
    for typed in ("model.freeze=backbone", "model.norm=frozen"):
        with pytest.raises(ConfigError, match=rf"^{typed}: the weights are random; give weights=NAME, FILE or RUN"):
            compose("train", ["task=classify", typed])


def test_auto_says_what_it_starts_from(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("visionkit"), "propagate", True)
    with caplog.at_level("INFO", "visionkit"):
        report_weights(Taken(), "auto", tmp_path)
        report_weights(Taken(), "none", tmp_path)
    assert [one.message for one in caplog.records] == [
        "weights=auto: none are shipped for this model; it starts from random ones"
    ]
    assert not any(tmp_path.iterdir())
