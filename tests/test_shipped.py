"""`weights=auto`: what comes with the toolkit, and for whom."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from visionkit import cli, shipped
from visionkit.build import build_model, describe_model
from visionkit.config import compose
from visionkit.engine.checkpoint_saving import save_checkpoint
from visionkit.errors import ConfigError
from visionkit.shipped import FOLDER, ship, shipped_models
from visionkit.transfer import Taken, take_weights

DETECTOR, SEGMENTER = "detector_csp_nano", "segmenter_csp_nano"


def taken(*typed, classes=("ant", "bee")):
    cfg = compose("train", ["weights=auto", "image_size=64", "data=auto", "data.root=x", *typed])
    description = describe_model(cfg, SimpleNamespace(classes=classes, semantic_classes=classes))
    torch.manual_seed(0)
    model = build_model(description, allow=None)
    return model, take_weights(model, description, "auto")


def test_all_that_lies_there_is_known_small_and_finite():
    assert {path.name for path in FOLDER.iterdir()} == {one.file.name for one in shipped_models()}
    for one in shipped_models():
        assert one.file.stat().st_size < 8_000_000
        cfg = compose("train", ["task=detect", "weights=auto"])
        usual = describe_model(cfg, SimpleNamespace(classes=("a",), semantic_classes=("a",)))["preprocess"]
        assert all(one.description["preprocess"][key] == usual[key] for key in ("mean", "std"))
        model = build_model(one.description)
        model.load_state_dict(one.weights(), strict=False)
        assert all(value.isfinite().all() for value in one.weights().values() if value.is_floating_point())
        assert {name for name in model.state_dict() if not name.startswith("preprocess.")} <= set(one.weights())


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        (("task=detect",), DETECTOR),
        (("task=instance",), SEGMENTER),
        (("task=semantic", "head.semantic.class_weights=null"), SEGMENTER),
        (("task=classify", "backbone=csp_nano"), SEGMENTER),
    ],
)
def test_a_model_begins_with_the_one_of_which_most_fits(typed, name):
    model, account = taken(*typed)
    assert account.shipped == f"visionkit's own {name}, pretrained on generated scenes"
    weights = next(one for one in shipped_models() if one.file.stem == name).weights()
    for tensor, value in model.state_dict().items():
        if tensor.startswith("backbone."):
            assert torch.equal(value, weights[tensor])
    fates = {fate.tensor: fate.fate for fate in account.fates}
    kept = [tensor for tensor, fate in fates.items() if fate == "kept"]
    assert len(kept) > 150
    assert all(fate != "replaced" for tensor, fate in fates.items() if tensor.startswith(("backbone.", "neck.")))


@pytest.mark.parametrize(
    "typed",
    [("backbone=csp_small",), ("model.width=0.5",), ("data.channels=4", "augment=none"), ("backbone=resnet18",)],
)
def test_a_model_that_none_fits_begins_at_random(typed):
    assert taken("task=detect", *typed)[1] == Taken()


def test_a_run_says_what_it_starts_from(runs, capsys):
    typed = (
        "task=detect", "data=shapes", "model.width=1.0", "image_size=64", "data.workers=0", "engine.max_steps=1",
        "data.reader.count={train: 8, val: 4, test: 4}", "data.batch_size=4", "device=cpu",
    )  # fmt: skip
    assert cli.main(["train", *typed, "weights=auto", "run_dir=a"]) == 0
    assert f"weights=auto: visionkit's own {DETECTOR}, pretrained on generated scenes: 3" in capsys.readouterr().out
    assert "kept     backbone.stem.0.weight" in Path("a/weights.txt").read_text()
    assert cli.main(["train", *typed, "weights=auto", "model.width=0.25", "run_dir=b"]) == 0
    assert "weights=auto: none are shipped for this model; it starts from random ones" in capsys.readouterr().out


@pytest.mark.parametrize(("width", "said"), [("1.0", f"visionkit's own {DETECTOR}"), ("0.25", "none are shipped")])
def test_inspect_model_says_what_it_starts_from(runs, capsys, width, said):
    typed = ("task=detect", "data=shapes", f"model.width={width}", "image_size=64", "weights=auto")
    assert cli.main(["inspect_model", *typed, "data.reader.count={train: 4, val: 4, test: 4}"]) == 0
    assert f"weights=auto: {said}" in capsys.readouterr().out


def test_probe_says_what_it_starts_from(runs, capsys):
    pytest.importorskip("sklearn")
    typed = ("data=shapes", "backbone=csp_nano", "model.width=1.0", "image_size=64", "weights=auto", "data.workers=0")
    counts = "data.reader.count={train: 40, val: 20, test: 20}"
    assert cli.main(["probe", *typed, counts, "data.objects=1", "device=cpu", "run_dir=probe"]) == 0
    assert f"weights=auto: visionkit's own {SEGMENTER}" in capsys.readouterr().out


@pytest.mark.parametrize("typed", ["model.freeze=backbone", "model.norm=frozen"])
def test_what_is_random_is_not_frozen(typed):
    from visionkit.engine.distributed import ALONE
    from visionkit.engine.run_model import begun_model

    for width, fine in (("1.0", True), ("0.25", False)):
        cfg = compose("train", ["task=detect", "weights=auto", f"model.width={width}", "image_size=64", typed])
        description = describe_model(cfg, SimpleNamespace(classes=("a",), semantic_classes=("a",)))
        if fine:
            assert begun_model(cfg, description, ALONE, torch.device("cpu"))[1].fates
        else:
            with pytest.raises(ConfigError, match=rf"^{typed}: weights=auto: none are shipped for this model"):
                begun_model(cfg, description, ALONE, torch.device("cpu"))


def test_an_installation_without_the_files_is_told(tmp_path, monkeypatch):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(shipped_models()[0].file.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="install visionkit anew"):
        shipped.Shipped(cut, {}).weights()
    shipped_models.cache_clear()
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    try:
        with pytest.raises(ConfigError, match=r"segmenter_csp_nano.safetensors: not readable .* install visionkit"):
            taken("task=detect")
    finally:
        shipped_models.cache_clear()


@pytest.mark.parametrize("path", ["none", "auto"])
def test_statistics_of_no_weights_are_refused(path):
    with pytest.raises(ConfigError, match=rf"^weights.path={path}: a file, a run or a name is wanted"):
        compose("train", ["task=detect", f"weights={{path: {path}, mean: 0.5, std: 0.5}}"])


def test_shipping_halves_weights_and_keeps_the_rest(tmp_path):
    cfg = compose("train", ["task=detect", "model.width=0.25", "image_size=64"])
    description = describe_model(cfg, SimpleNamespace(classes=("a",), semantic_classes=("a",)))
    model = build_model(description)
    save_checkpoint(
        tmp_path / "run", step=1, model=model, ema=model, description=description,
        state={"epoch": 1, "best": None, "best_step": 1, "evaluation_due": False, "processes": 1, "data": None},
        training={}, config="", best=True,
    )  # fmt: skip
    ship(tmp_path / "run", tmp_path / "it.safetensors")
    for name, value in load_file(tmp_path / "it.safetensors").items():
        own = model.state_dict()[name]
        assert value.dtype == (torch.float16 if own.ndim > 1 else own.dtype)
        torch.testing.assert_close(value.to(own.dtype), own, rtol=1e-3, atol=1e-6)
