"""timm's networks: names of levels, weights, and what is refused."""

from __future__ import annotations

import socket
import sys

import pytest
import torch

from visionkit.backbones import Timm
from visionkit.config import build, compose
from visionkit.errors import CheckpointError, ConfigError
from visionkit.structures import FeatureSpec

timm = pytest.importorskip("timm")


def test_levels_are_named_by_their_strides():
    assert Timm("lcnet_035").out_specs == {
        "c1": FeatureSpec(16, 2),
        "c2": FeatureSpec(24, 4),
        "c3": FeatureSpec(48, 8),
        "c4": FeatureSpec(88, 16),
        "c5": FeatureSpec(176, 32),
    }
    assert list(Timm("convnext_atto").out_specs) == ["c2", "c3", "c4", "c5"]


def test_is_timms_own_network_and_random_weights_touch_no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    torch.manual_seed(3)
    backbone = Timm("convnext_atto").eval()
    own = timm.create_model("convnext_atto", features_only=True).eval()
    own.load_state_dict(backbone.network.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(backbone(images).values(), own(images), strict=True))


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "lcnet_035"])
def test_a_file_of_the_whole_network_loads_without_its_classifier(name, tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=7).eval()
    torch.save(whole.state_dict(), tmp_path / "own.pth")
    backbone = Timm(name, weights=str(tmp_path / "own.pth")).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images)["c5"], whole.forward_features(images))
    with pytest.raises(CheckpointError, match=r"own\.pth do not fit .*lacks: "):
        Timm("resnet18", weights=str(tmp_path / "own.pth"))


def test_what_trimming_leaves_unread_is_frozen():
    backbone = Timm("lcnet_035")
    backbone.trim("c3")
    frozen = {name for name, value in backbone.named_parameters() if not value.requires_grad}
    assert any(name.startswith("network.blocks.5") for name in frozen)
    assert not any(name.startswith(("network.conv_stem", "network.blocks.0")) for name in frozen)


def test_is_chosen_on_the_command_line():
    backbone = build(compose("train", ["task=detect", "backbone=timm", "model.backbone.name=lcnet_035"]).model.backbone)
    assert backbone.out_specs["c5"] == FeatureSpec(176, 32)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet181", r"knows no network 'resnet181' \(did you mean 'resnet18'\?\)"),
        ("hf-hub:timm/resnet18", "knows no network 'hf-hub:timm/resnet18'"),
        ("resnet18.bogus", "gives no feature maps of resnet18.bogus .*bogus"),
        (
            "vit_tiny_patch16_224",
            r"vit_tiny_patch16_224 has no maps whose strides double and divide the image \(strides 16, 16, 16",
        ),
        ("inception_v3", "inception_v3 has no maps whose strides double and divide the image"),
    ],
)
def test_what_gives_no_pyramid_of_maps_is_refused(name, said):
    with pytest.raises(ConfigError, match=said) as raised:
        Timm(name)
    assert "\n" not in str(raised.value)


def test_weights_of_three_channels_are_refused_for_others():
    with pytest.raises(ConfigError, match="weights for 3 channels cannot take 1; use weights=none"):
        Timm("lcnet_035", weights="DEFAULT", in_channels=1)


def test_a_failed_download_is_told_in_a_line(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no connection")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(CheckpointError, match=r"weights=DEFAULT: the download of timm's lcnet_035 failed .*its path"):
        Timm("lcnet_035", weights="DEFAULT")


def test_without_timm_the_line_to_install_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"timm is not installed; pip install 'visionkit\[timm\]'"):
        Timm("resnet18")
