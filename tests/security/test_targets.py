"""What a checkpoint may name: public parts of visionkit, and nothing that they lead to."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import PurePosixPath

import pytest
import torch
import yaml
from hydra.utils import instantiate
from PIL import Image

import visionkit
from visionkit.config import configs_folder, evaluation_data, groups
from visionkit.config_files import read_trained_config
from visionkit.engine.checkpoint import load_model
from visionkit.errors import CheckpointError, UserError
from visionkit.targets import PARTS, build, locate_fenced
from visionkit.tool_help import HELP

TOUCH = {"_target_": "os.makedirs", "name": "{marker}"}
HARMFUL = {
    "plain": TOUCH,
    "through_a_module": {"_target_": "torchvision.datasets.utils.os.makedirs", "name": "{marker}"},
    "method_through_modules": {"_target_": "torchvision.datasets.utils.pathlib.Path.unlink", "self": "{precious}"},
    "argument": {"_target_": "visionkit.backbones.CSP", "size": TOUCH},
    "in_a_list": {"_target_": "visionkit.backbones.CSP", "size": [[TOUCH]]},
    "in_a_mapping": {"_target_": "visionkit.backbones.CSP", "size": {"a": {"b": TOUCH}}},
    "partial": {"_target_": "visionkit.backbones.CSP", "size": {**TOUCH, "_partial_": True}},
    "through_visionkit": {"_target_": "visionkit.engine.run_folder.os.makedirs", "name": "{marker}"},
    "rmtree": {"_target_": "visionkit.engine.checkpoint.shutil.rmtree", "path": "{precious}"},
    "unlink": {"_target_": "visionkit.predictor.Path.unlink", "self": "{precious}"},
    "importer": {"_target_": "visionkit.build.importlib.import_module", "name": "antigravity"},
    "builder": {"_target_": "visionkit.targets.build", "node": TOUCH},
    "public_function": {"_target_": "visionkit.config.build", "node": TOUCH},
    "tool": {"_target_": "visionkit.cli.run_tool", "tool": "check_data", "arguments": ["page={marker}"]},
    "private": {"_target_": "visionkit.engine.run_folder._made", "folder": "{marker}"},
    "writer": {"_target_": "visionkit.engine.run_folder.made_folder", "folder": "{marker}"},
    "public_writer": {"_target_": "visionkit.report.write_report", "folder": "{marker}", "metrics": {}, "classes": {}},
    "method": {"_target_": "visionkit.model.VisionModel.load_state_dict", "state_dict": {}},
    "method_of_a_part": {"_target_": "visionkit.backbones.CSP.forward", "images": 1},
    "dunder": {"_target_": "visionkit.backbones.CSP.__init__.__globals__", "x": 1},
    "package": {"_target_": "visionkit.backbones", "x": 1},
    "helper_of_parts": {"_target_": "visionkit.backbones.weights.load_weights", "network": 1, "path": "{precious}"},
    "class_elsewhere": {"_target_": "visionkit.metrics.TopK", "classes": ["a"]},
    "dataset": {"_target_": "visionkit.data.TrainingSet"},
    "hydra": {"_target_": "hydra.utils.instantiate", "config": TOUCH},
    "builtin": {"_target_": "builtins.exec", "object": "import os; os.makedirs('{marker}')"},
    "evaluated": {"_target_": "builtins.eval", "source": "__import__('os').makedirs('{marker}')"},
    "other_mark": {"_target_": "visionkit.backbones.CSP", "_args_": [TOUCH]},
    "recursive_mark": {"_target_": "visionkit.backbones.CSP", "_recursive_": False},
    "no_text": {"_target_": ["os", "makedirs"]},
    "escapes": {"_target_": "\x1b]0;owned\x07.x"},
    "no_path": {"_target_": "makedirs"},
    "relative": {"_target_": "..os.makedirs", "name": "{marker}"},
    "a_megabyte": {"_target_": "x" * (1 << 20) + ".y"},
    "fetched_weights": {"_target_": "visionkit.backbones.Torchvision", "name": "resnet18", "weights": "IMAGENET1K_V1"},
    "cache": {"_target_": "visionkit.data.readers.Shapes", "size": 64, "count": 1, "cache_folder": "{marker}"},
}  # fmt: skip
REALLY_HARMFUL = ("plain", "through_a_module", "through_visionkit", "argument")
"""Those of which it is shown that they do harm where nothing fences them in."""


@pytest.fixture
def precious(tmp_path):
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "file").write_text("kept")
    yield folder
    assert (folder / "file").read_text() == "kept"


@pytest.fixture(params=HARMFUL)
def node(request, marker, precious):
    def filled(value):
        if isinstance(value, dict):
            return {key: filled(one) for key, one in value.items()}
        if isinstance(value, list):
            return [filled(one) for one in value]
        if isinstance(value, str):
            return value.replace("{marker}", str(marker)).replace("{precious}", str(precious))
        return value

    made = filled(HARMFUL[request.param])
    if request.param in REALLY_HARMFUL:
        for run in (instantiate, build):
            with contextlib.suppress(Exception):  # a backbone does not take what its argument came to
                run(made)
            marker.rmdir()
    return made


def test_a_description_makes_only_parts(node, checkpoint, put):
    description = json.loads((checkpoint / "model.json").read_text())
    put(checkpoint, "model.json", {**description, "backbone": node})
    imported = set(sys.modules)
    with pytest.raises(CheckpointError) as error:
        visionkit.load(checkpoint, device="cpu")
    assert len(str(error.value)) < 1000
    for part, changed in (
        ("neck", node),
        ("preprocess", node),
        ("heads", {"detection": node}),
        ("merges", {"x": node}),
        ("neck", {**description["neck"], "channels": [node]}),
    ):
        put(checkpoint, "model.json", {**description, part: changed})
        with pytest.raises(CheckpointError):
            load_model(checkpoint)
    assert "antigravity" not in set(sys.modules) - imported


TOOLS = {
    "evaluate": ("device=cpu",),
    "predict": ("device=cpu", "source={image}", "out=out"),
    "export": ("images={image}", "out=out.onnx"),
    "demo": ("device=cpu", "port=0"),
    "probe": ("device=cpu",),
    "inspect_model": ("out=model.png",),
}


def test_every_tool_that_takes_a_checkpoint_is_tried():
    assert set(TOOLS) == {tool for tool, told in HELP.items() if told.takes("checkpoint")}


@pytest.mark.parametrize("tool", TOOLS)
def test_each_tool_refuses_in_one_line(tool, checkpoint, put, refused, marker, tmp_path):
    if tool == "demo":
        pytest.importorskip("gradio")
    description = json.loads((checkpoint / "model.json").read_text())
    put(checkpoint, "model.json", {**description, "neck": {"_target_": "os.makedirs", "name": str(marker)}})
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    said = "_target_=os.makedirs: a checkpoint may only name parts of visionkit; load it with allow=['os'] if you trust"
    more = [text.replace("{image}", str(tmp_path / "a.png")) for text in TOOLS[tool]]
    assert said in refused(tool, f"checkpoint={checkpoint}", *more)


@pytest.fixture(scope="module")
def trained_data(finished):
    return read_trained_config(finished / "config.yaml").data


def test_the_data_of_a_checkpoint_name_only_readers(node, trained_data):
    data = trained_data
    own = dict(data.reader)
    joined = {"_target_": "visionkit.data.readers.Joined", "readers": [own, node]}
    for reader in (node, {**own, "occlusion": node}, joined):
        with pytest.raises(UserError):
            evaluation_data({**data, "reader": reader}, {})
    with pytest.raises(UserError):
        evaluation_data({**data, "sets": {"a": {"reader": node, "splits": {"val": "val"}}}}, {})


@pytest.mark.parametrize("name", ["through_visionkit", "cache", "public_writer"])
def test_evaluation_refuses_a_reader_that_is_none(name, checkpoint, put, refused, marker):
    config = yaml.safe_load((checkpoint / "config.yaml").read_text())
    config["data"]["reader"] = json.loads(json.dumps(HARMFUL[name]).replace("{marker}", str(marker)))
    put(checkpoint, "config.yaml", yaml.safe_dump(config).encode())
    assert "a checkpoint may" in refused("evaluate", f"checkpoint={checkpoint}", "device=cpu")


# ------------------------------------------------------------------------------------------------------- what is public
def test_every_part_of_the_configurations_may_be_named():
    """Whatever a run can be made of, its checkpoint can be loaded with; readers take part in evaluation."""

    def targets(value):
        if isinstance(value, dict):
            yield from ([value["_target_"]] if "_target_" in value else [])
            for one in value.values():
                yield from targets(one)

    found = set()
    for group in ("backbone", "neck", "head", "merge", "preprocess", "data"):
        for name in groups()[group]:
            found |= set(targets(yaml.safe_load((configs_folder() / group / f"{name}.yaml").read_text())))
    assert len(found) > 20
    for path in found:
        assert locate_fenced(path).__name__ == path.rpartition(".")[2]


def test_parts_do_nothing_but_be_made():
    """The names that a checkpoint may use are few, and each is a class of its own package."""
    for package in PARTS:
        module = importlib.import_module(package)
        for name in module.__all__:
            found = locate_fenced(f"{package}.{name}")
            assert isinstance(found, type)
            assert found.__module__.startswith(package)


# ---------------------------------------------------------------------------------------------------------------- allow
@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's own, with a head, a function, and what it imports; it leaves a file when imported."""
    folder = tmp_path / "own" / "somebodys"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'imported')!r}).touch()\n"
        "from os import makedirs\nfrom visionkit.backbones import CSP\n"
        "class Backbone(CSP):\n    pass\n"
        "def backbone(**arguments):\n    return CSP(**arguments)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "own")
    yield tmp_path / "imported"
    sys.modules.pop("somebodys", None)


@pytest.mark.parametrize("name", ["Backbone", "backbone"])
def test_a_package_that_is_allowed_is_used(name, package, checkpoint, put):
    description = json.loads((checkpoint / "model.json").read_text())
    own = {**description["backbone"], "_target_": f"somebodys.{name}"}
    put(checkpoint, "model.json", {**description, "backbone": own})
    for allow in ((), ["other"], ["some"], ["somebodys.backbone"]):
        with pytest.raises(CheckpointError, match=r"load it with allow=\['somebodys'\] if you trust its code"):
            visionkit.load(checkpoint, "cpu", allow=allow)
    assert not package.exists(), "what is not allowed is not even imported"
    model = visionkit.load(checkpoint, "cpu", allow=["somebodys"]).model
    assert package.exists()
    put(checkpoint, "model.json", description)
    for key, value in load_model(checkpoint).state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_what_an_allowed_package_imports_is_not_allowed(package, checkpoint, put, marker):
    description = json.loads((checkpoint / "model.json").read_text())
    for name in ("makedirs", "os.makedirs", "Path.touch", "CSP", "none"):
        node = {"_target_": f"somebodys.{name}", "name": str(marker)}
        put(checkpoint, "model.json", {**description, "backbone": node})
        with pytest.raises(CheckpointError):
            visionkit.load(checkpoint, "cpu", allow=["somebodys"])


def test_allowing_visionkit_opens_nothing(checkpoint, put, marker):
    description = json.loads((checkpoint / "model.json").read_text())
    node = {"_target_": "visionkit.engine.run_folder.made_folder", "folder": str(marker)}
    put(checkpoint, "model.json", {**description, "backbone": node})
    with pytest.raises(CheckpointError, match="not a part that a checkpoint may name"):
        visionkit.load(checkpoint, "cpu", allow=["visionkit", "visionkit.engine"])


@pytest.mark.parametrize("allow", ["mypackage", [""], [1], [None]])
def test_allow_is_a_list_of_packages(allow, checkpoint):
    with pytest.raises(UserError, match=r"a list of packages is wanted, such as \['mypackage'\]"):
        visionkit.load(checkpoint, "cpu", allow=allow)


def test_the_users_own_configuration_names_what_it_likes():
    """The fence is around files that came from elsewhere; what somebody types is their own code."""
    assert build({"_target_": "pathlib.PurePosixPath"}) == PurePosixPath()
    with pytest.raises(CheckpointError):
        build({"_target_": "pathlib.PurePosixPath"}, allow=())
