from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import visionkit
from visionkit.engine import checkpoint_saving
from visionkit.engine.checkpoint import find_checkpoint, load_model, open_checkpoint
from visionkit.engine.checkpoint_manifest import write_json, write_manifest
from visionkit.engine.checkpoint_saving import save_checkpoint
from visionkit.errors import CheckpointError

FILES = ("config.yaml", "ema.safetensors", "model.json", "model.safetensors", "state.json", "training.pt")


def save(root: Path, step: int, *, best: bool = False, size: int = 4) -> Path:
    model = nn.Linear(size, 2)
    return save_checkpoint(
        root,
        step=step,
        model=model,
        ema=model,
        description={"heads": {}},
        state={"best": None, "best_step": 0, "evaluation_due": False, "processes": 1, "data": {}},
        training={"optimizer": torch.optim.SGD(model.parameters(), lr=0.1).state_dict()},
        config="task: detect\n",
        best=best,
    )


def steps(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints").iterdir() if not path.is_symlink())


@pytest.fixture
def copied(finished, tmp_path):
    """The best checkpoint of a run, alone in another place."""
    return Path(shutil.copytree(finished / "checkpoints" / "best", tmp_path / "elsewhere"))


# ------------------------------------------------------------------------------------------------------------- contents
def test_a_checkpoint_is_complete_and_its_manifest_true(finished):
    folder = finished / "checkpoints" / "last"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "manifest.json"])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest["files"]) == sorted(FILES)
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    mask = os.umask(0o022)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~mask}, "others may read it as well"


def test_copied_elsewhere_it_predicts_as_before(finished, copied):
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    (here,) = visionkit.load(copied, device="cpu").predict(image)
    (there,) = visionkit.load(finished, device="cpu").predict(image)
    np.testing.assert_array_equal(here["detection"].boxes, there["detection"].boxes)


def test_the_training_state_opens_without_running_code(finished):
    state = torch.load(finished / "checkpoints" / "last" / "training.pt", weights_only=True)
    assert set(state) == {"optimizer", "scaler", "random", "ema_updates", "bad_steps", "losses"}


# --------------------------------------------------------------------------------------------------------------- damage
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damage_to_any_file_is_found(copied, name, damage):
    file = copied / name
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-1])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: .*use another checkpoint"):
        visionkit.load(copied, device="cpu")


def test_damage_to_the_manifest_is_found(copied):
    manifest = copied / "manifest.json"
    for text, said in (
        ("{", "not readable"),
        ("[]", "damaged"),
        ('{"schema": 1}', "damaged"),
        ('{"schema": 3}', "its "),
    ):
        manifest.write_text(text)
        with pytest.raises(CheckpointError, match=f"manifest.json: .*{said}"):
            open_checkpoint(copied)
    manifest.unlink()
    with pytest.raises(CheckpointError, match="neither a checkpoint"):
        open_checkpoint(copied)


def test_a_flipped_bit_anywhere_in_the_manifest_is_found(tmp_path):
    folder = save(tmp_path, 1)
    manifest = folder / "manifest.json"
    content = manifest.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        manifest.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"manifest\.json: "):
            open_checkpoint(folder)
    manifest.write_bytes(content)
    assert open_checkpoint(folder).step == 1


def test_a_checkpoint_of_a_later_version_is_refused(tmp_path, monkeypatch):
    from visionkit.engine import checkpoint_manifest

    monkeypatch.setattr(checkpoint_manifest, "SCHEMA", 3)
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"schema 3 is not known \(this version knows 3\); update visionkit"):
        open_checkpoint(tmp_path)


def test_a_manifest_cannot_point_outside(copied):
    (copied.parent / "secret").write_text("x")
    for name in ("../secret", str(copied.parent / "secret")):
        (copied / "manifest.json").unlink(missing_ok=True)
        write_manifest(copied)
        entries = json.loads((copied / "manifest.json").read_text())
        entries["files"][name] = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
        del entries["sha256"]
        entries["sha256"] = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
        write_json(copied / "manifest.json", entries)
        with pytest.raises(CheckpointError, match="secret: is in the manifest but not there"):
            open_checkpoint(copied)


# ---------------------------------------------------------------------------------------------------------- what is run
def signed(folder: Path, name: str, value) -> None:
    """Change a file of a checkpoint, manifest and all, as somebody with bad intentions would."""
    (folder / name).write_text(json.dumps(value))
    (folder / "manifest.json").unlink()
    write_manifest(folder)


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "os.system", "command": "touch marker"},
        {"_target_": "os.unlink", "path": "precious"},
        {"_target_": "torchvision.datasets.utils.pathlib.Path.unlink", "self": "precious"},
        {"_target_": "visionkit.config.build", "node": {"_target_": "os.unlink", "path": "precious"}},
        {"_target_": "visionkit.engine.checkpoint.shutil.rmtree", "path": "."},
        {"_target_": "visionkit.backbones.CSP", "size": {"_target_": "os.unlink", "path": "precious"}},
    ],
    ids=lambda node: node["_target_"],
)
@pytest.mark.parametrize("part", ["backbone", "neck", "preprocess", "head"])
def test_a_hostile_description_runs_nothing(copied, monkeypatch, node, part):
    monkeypatch.chdir(copied.parent)
    Path("precious").touch()
    description = json.loads((copied / "model.json").read_text())
    if part == "head":
        description["heads"]["detection"] = node
    else:
        description[part] = node
    signed(copied, "model.json", description)
    with pytest.raises(CheckpointError):
        visionkit.load(copied, device="cpu")
    assert Path("precious").exists()
    assert not Path("marker").exists()
    assert copied.exists()


@pytest.mark.parametrize("change", [{"backbone": None}, {"heads": {}}, {"backbone": {"a": 1}}])
def test_a_description_that_cannot_be_built_is_said(copied, change):
    signed(copied, "model.json", json.loads((copied / "model.json").read_text()) | change)
    with pytest.raises(CheckpointError, match=r"model\.json: cannot be built"):
        load_model(copied)


def test_arguments_of_another_version_and_other_weights_are_said(copied):
    description = json.loads((copied / "model.json").read_text())
    signed(copied, "model.json", {**description, "backbone": {**description["backbone"], "hue": 1}})
    with pytest.raises(CheckpointError, match=r"model\.json: cannot be built .*'hue'"):
        load_model(copied)
    signed(copied, "model.json", {**description, "backbone": {**description["backbone"], "width": 0.5}})
    with pytest.raises(CheckpointError, match="the weights do not fit"):
        load_model(copied)
    signed(copied, "model.json", description)
    signed(copied, "state.json", {"schema": 2})
    with pytest.raises(CheckpointError, match=r"state\.json: damaged \(no step\)"):
        load_model(copied)


# --------------------------------------------------------------------------------------------------------- many of them
def test_the_two_newest_and_the_best_stay(tmp_path):
    for step, best in ((1, False), (2, True), (3, False), (9, False), (10, False)):
        save(tmp_path, step, best=best)
    assert steps(tmp_path) == ["step-10", "step-2", "step-9"]
    assert (tmp_path / "checkpoints" / "best").resolve().name == "step-2"
    assert (tmp_path / "checkpoints" / "last").resolve().name == "step-10"
    save(tmp_path, 11, best=True)
    assert steps(tmp_path) == ["step-10", "step-11"]


def test_the_newest_saved_stays_whatever_its_number(tmp_path):
    """A run resumed from an earlier step meets what the interrupted one has left, and makes it anew."""
    for step in (1, 8, 9, 3):
        save(tmp_path, step)
    assert open_checkpoint(tmp_path, "last").step == 3
    assert steps(tmp_path) == ["step-1", "step-3"]


def test_what_a_killed_save_has_left_is_cleared_away(tmp_path):
    save(tmp_path, 1)
    root = tmp_path / "checkpoints"
    for name in (".step-2.new", ".step-0.old", f".step-2.{os.getpid()}"):
        (root / name).mkdir()
        (root / name / "model.safetensors").write_bytes(b"half")
    (root / ".last.new").symlink_to("step-0")
    assert open_checkpoint(tmp_path, "last").step == 1
    save(tmp_path, 2)
    assert sorted(path.name for path in root.iterdir()) == ["best", "last", "step-1", "step-2"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1)
    before = (tmp_path / "checkpoints" / "last" / "model.safetensors").read_bytes()
    save(tmp_path, 1)
    assert (tmp_path / "checkpoints" / "last" / "model.safetensors").read_bytes() != before
    assert steps(tmp_path) == ["step-1"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
def test_what_a_link_leads_to_is_on_the_disk_before_it(tmp_path, monkeypatch):
    """Where the power fails, the disk holds what was flushed; a name may be there before its content."""
    happened = []
    monkeypatch.setattr(
        checkpoint_saving.os, "fsync", lambda number: happened.append(Path(f"/proc/self/fd/{number}").readlink().name)
    )
    for name in ("rename", "replace"):
        original = getattr(Path, name)

        def told(path, target, original=original):
            happened.append((path.name, target.name))
            return original(path, target)

        monkeypatch.setattr(Path, name, told)
    save(tmp_path, 3, best=True)
    moved = happened.index((".step-3.new", "step-3"))
    assert sorted(happened[:moved]) == sorted([".step-3.new", "manifest.json", *FILES])
    linked = [(f".{link}.new", link) for link in ("best", "last")]
    assert happened[moved + 1 :] == ["checkpoints", *linked, "checkpoints", tmp_path.name]


# ------------------------------------------------------------------------------------------------------------ full disk
def test_a_full_disk_is_said_and_leaves_what_is_there(tmp_path):
    """A limit on the size of files stands in for the disk: half of the weights can be written."""
    save(tmp_path, 1, best=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints" / "last").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"step-2: not written \(File too large\); free space"):
            save(tmp_path, 2, best=True, size=1 << 16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best", "last", "step-1"]
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "checkpoints" / "last").iterdir()}
    assert open_checkpoint(tmp_path, "best").step == open_checkpoint(tmp_path, "last").step == 1


@pytest.mark.parametrize("name", ["flush", "_link", "write_json", "write_manifest", "_put_in_place"])
def test_a_failure_at_any_point_leaves_a_whole_checkpoint(tmp_path, monkeypatch, name):
    save(tmp_path, 1)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_saving, name, full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert open_checkpoint(tmp_path, "last").step == open_checkpoint(tmp_path, "best").step == 1
    save(tmp_path, 3)
    assert open_checkpoint(tmp_path, "last").step == 3


# -------------------------------------------------------------------------------------------------------------- finding
def test_a_checkpoint_is_found_by_its_run_or_itself(tmp_path):
    save(tmp_path, 1, best=True)
    save(tmp_path, 2)
    root = tmp_path / "checkpoints"
    assert find_checkpoint(tmp_path) == find_checkpoint(root) == find_checkpoint(root / "best") == root / "step-1"
    assert find_checkpoint(tmp_path, "last") == find_checkpoint(str(root / "step-2")) == root / "step-2"
    with pytest.raises(CheckpointError, match="checkpoint=nowhere: there is no such folder"):
        find_checkpoint("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"neither a checkpoint \(manifest.json lacks\) nor a run folder"):
        find_checkpoint(tmp_path / "empty")
