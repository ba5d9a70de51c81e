"""`visionkit list` tells of everything that can be chosen, from the code."""

from __future__ import annotations

import json

import pytest

from visionkit import cli, listing, listing_choices, listing_networks
from visionkit.backbones import CSP, Torchvision
from visionkit.config import groups
from visionkit.listing import KINDS, Part, parts_of, table


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """parts("backbones"): told once in this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield parts_of


def chosen(parts):
    return {word.partition("=")[2].strip("[]") for part in parts for word in part.choose.split()}


@pytest.mark.parametrize(
    ("kind", "group"),
    [("tasks", "task"), ("readers", "data"), ("backbones", "backbone"), ("necks", "neck"), ("heads", "head"),
     ("heads", "semantic_head"), ("heads", "merge"), ("optimizers", "optim"), ("schedules", "schedule"),
     ("augmentations", "augment")],
)  # fmt: skip
def test_every_choice_of_the_configuration_is_told_of(parts, kind, group):
    assert set(groups()[group]) <= chosen(parts(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_says_in_a_line_what_it_is(parts, kind):
    assert parts(kind)
    for part in parts(kind):
        assert 2 < len(part.says) < 260, part
        assert not set("`\n") & set(part.says), part
        assert part.says.strip(" .;:") == part.says, part


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "regnet_x_400mf", "squeezenet1_1", "densenet121", "shufflenet_v2_x0_5"]
)
def test_parameters_are_those_of_the_backbone_that_is_built(parts, name):
    (told,) = [part for part in parts("backbones") if part.choose == f"backbone={name}"]
    assert told.parameters == sum(parameter.numel() for parameter in Torchvision(name).parameters())


def test_parameters_of_our_own(parts):
    told = {part.choose: part.parameters for part in parts("backbones")}
    assert told["backbone=csp"] == told["backbone=csp_nano"] == sum(one.numel() for one in CSP("nano").parameters())
    whole = {part.choose: part.parameters for part in parts("tasks")}
    others = {part.choose: part.parameters for part in [*parts("necks"), *parts("heads")]}
    sum_of_parts = told["backbone=csp_nano"] + others["neck=pafpn"] + others["heads=[detection]"]
    assert whole["task=detect"] == sum_of_parts


def test_sources_are_told(parts):
    told = {part.choose: part for part in parts("backbones")}
    assert told["backbone=resnet50"].says == "Deep Residual Learning for Image Recognition"
    assert told["backbone=resnet50"].source == "arXiv:1512.03385"
    assert told["backbone=squeezenet1_1"].says == "SqueezeNet 1.1 model from the official SqueezeNet repo"
    heads = {part.choose: part for part in parts("heads")}
    assert heads["heads=[instance]"].source == "Bolya et al. 2019"
    weights = {part.choose: part.says for part in parts("weights")}
    assert weights["backbone=resnet50 weights=IMAGENET1K_V2"] == "top-1 80.9 %, 98 MB"
    assert "licence https://" in weights["backbone=regnet_y_16gf weights=IMAGENET1K_SWAG_E2E_V1"]


def test_metrics_are_named_as_in_a_run(parts):
    told = {part.choose: part.says for part in parts("metrics")}
    assert told["detection/AP"].endswith(
        ": AP, AP50, AP75, AP_small, AP_medium, AP_large, AR1, AR10, AR100, AR_small, AR_medium, AR_large"
    )
    assert set(told) >= {"classification/top1", "localization/acc50", "semantic/mIoU", "instance/AP", "panoptic/PQ"}


@pytest.mark.parametrize(
    ("comment", "first"),
    [
        ("# @package _global_\n# Which objects? The rest.\na: 1\n", "Which objects?"),
        ("# Streets (Brostow et al. 2008), of\n# 11 classes. More.\n", "Streets (Brostow et al. 2008), of 11 classes"),
        ("# COCO JSON: python tools/train.py data=coco\n", "COCO JSON"),
        ("# Several sets: data=[a,b] stands for it.\n", "Several sets"),
        ("a: 1\n# late\n", ""),
    ],
)
def test_the_first_sentence_of_a_comment(monkeypatch, tmp_path, comment, first):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "y.yaml").write_text(comment)
    monkeypatch.setattr(listing_choices, "configs_folder", lambda: tmp_path)
    assert listing_choices.first_comment("x", "y") == first


# ----------------------------------------------------------------------------------------------------------- the cache
@pytest.fixture
def told(monkeypatch, tmp_path):
    """How often schedules were told anew, with a cache of its own."""
    times = []
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing_choices, "schedules", lambda: times.append(1) or [Part(f"s={len(times)}", "x")])
    return times


def test_what_was_told_is_kept_until_the_code_changes(told, monkeypatch, tmp_path):
    assert parts_of("schedules") == parts_of("schedules") == [Part("s=1", "x")]
    monkeypatch.setattr(listing, "_state_of_code", lambda kind: "other")
    assert parts_of("schedules") == [Part("s=2", "x")]
    assert [file.name for file in (tmp_path / "cache" / "list").iterdir()] == ["schedules-other.json"]


def test_a_damaged_or_absent_cache_only_costs_time(told, tmp_path):
    parts_of("schedules")
    (file,) = (tmp_path / "cache" / "list").iterdir()
    file.write_text("[{]")
    assert parts_of("schedules") == [Part("s=2", "x")]
    (tmp_path / "other").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONKIT_CACHE", str(tmp_path / "other"))
        assert parts_of("schedules") == [Part("s=3", "x")]


# --------------------------------------------------------------------------------------------------------- the command
def test_the_command(told, capsys):
    assert cli.main(["list", "schedules", "optimizers"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:3] == ["schedules (of the learning rate)", "  s=1  x", ""]
    assert shown[3].startswith("optimizers (")
    assert cli.main(["list", "schedules", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schedules": [{"choose": "s=1", "says": "x", "source": "", "parameters": None, "family": ""}]
    }


def test_a_wrong_kind_is_the_users_fault(capsys):
    assert cli.main(["list", "backbone"]) == 2
    assert capsys.readouterr().err.startswith(
        "backbone: there is no such kind (did you mean 'backbones'?); known: tasks"
    )
    assert cli.main(["list", "jsn=true"]) == 2
    assert "did you mean 'json'?" in capsys.readouterr().err


def test_a_table_aligns_names_and_numbers():
    shown = table([Part("a=b", "what", "who", 1_250_000, "family"), Part("a=long", "x " * 60, "", 999, "family")])
    assert shown[0] == " family"
    assert shown[1] == "  a=b       1.2 M  what [who]"
    assert shown[2].startswith("  a=long      1 k  x x")
    assert shown[3].startswith(" " * 19 + "x x")


def test_building_for_the_count_leaves_torch_as_it_was():
    import torch

    listing_networks._torchvision_parameters("resnet18")
    layer = torch.nn.Linear(4, 4)
    assert layer.weight.device.type == "cpu"
    assert layer.weight.std() > 0
