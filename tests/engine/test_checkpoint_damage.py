"""Whatever has become of a checkpoint, it is found out, and what was before it is used."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

import visionkit
from visionkit import cli
from visionkit.engine import checkpoint_saving
from visionkit.engine.checkpoint import open_checkpoint
from visionkit.engine.checkpoint_manifest import write_manifest
from visionkit.engine.checkpoint_saving import save_checkpoint
from visionkit.errors import CheckpointError

FILES = (
    "config.yaml", "ema.safetensors", "manifest.json", "model.json", "model.safetensors", "state.json", "training.pt",
)  # fmt: skip


def save(run_folder: Path, step: int, *, best: bool = False, size: int = 4) -> Path:
    """A checkpoint whose weights are its step."""
    model = nn.Linear(size, 2)
    nn.init.constant_(model.weight, step)
    return save_checkpoint(
        run_folder,
        step=step,
        model=model,
        ema=model,
        description={"heads": {}},
        state={"best": None, "best_step": 0, "evaluation_due": False, "processes": 1, "data": {}},
        training={"optimizer": torch.optim.SGD(model.parameters(), lr=step).state_dict()},
        config="task: detect\n",
        best=best,
    )


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)


def exchanged(file: Path) -> None:
    """The file of an earlier checkpoint, whole by itself."""
    shutil.copy(file.parent.parent / "step-2" / file.name, file)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES = {f"{name}: {damage.__name__}": (name, damage) for name in FILES for damage in (cut, flipped, Path.unlink)}
DAMAGES |= {
    "model.safetensors: emptied": ("model.safetensors", emptied),
    "training.pt: of another": ("training.pt", exchanged),
    "state.json: of another": ("state.json", exchanged),
    "config.yaml: a folder": ("config.yaml", a_folder),
    "all gone, links lead nowhere": ("", lambda folder: shutil.rmtree(folder)),
    "an empty folder": ("", lambda folder: [file.unlink() for file in folder.iterdir()]),
    "a file in its place": ("", lambda folder: (shutil.rmtree(folder), folder.touch())),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_used_and_that_is_said(tmp_path, damage):
    """Both as the last one, to go on from, and as the best one, to be evaluated; asked for by itself it is refused."""
    for step in (1, 2, 3):
        save(tmp_path, step, best=step == 3)
    name, spoil = DAMAGES[damage]
    root = tmp_path / "checkpoints"
    spoil(root / "step-3" / name if name else root / "step-3")
    for link in ("last", "best"):
        said: list[str] = []
        found = open_checkpoint(tmp_path, link, warn=said.append)
        assert found.step == 2
        assert found.weights("model")["weight"].unique().tolist() == [2]
        (line,) = said
        assert line.endswith(f"; {root.resolve() / 'step-2'} is used instead")
        assert (f"step-3/{name}: " if name else "") in line
        assert open_checkpoint(root, link, warn=said.append).step == 2
    for folder in (root / "step-3", root / "best"):
        with pytest.raises(CheckpointError, match=r"use another checkpoint|neither a checkpoint|no such folder"):
            open_checkpoint(folder)
    save(tmp_path, 3, best=True)
    assert open_checkpoint(tmp_path, "last", warn=said.append).step == 3
    assert len(said) == 2, "once saved anew, it is whole"


def test_the_newest_whole_one_is_used_and_of_none_that_is_said(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, best=step == 1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*")) == ["step-1", "step-3", "step-4"]
    said: list[str] = []
    flipped(tmp_path / "checkpoints/step-1/ema.safetensors")
    assert open_checkpoint(tmp_path, "best", warn=said.append).step == 4, "the last stands in for the best"
    flipped(tmp_path / "checkpoints/step-4/ema.safetensors")
    assert open_checkpoint(tmp_path, "last", warn=said.append).step == 3
    assert open_checkpoint(tmp_path, "best", warn=said.append).step == 3
    assert [line.partition(":")[0].split("/")[-2] for line in said] == ["step-1", "step-4", "step-1", "step-4"]
    flipped(tmp_path / "checkpoints/step-3/ema.safetensors")
    with pytest.raises(CheckpointError, match=r"step-4/ema.safetensors: .*; no other checkpoint of .* is whole"):
        open_checkpoint(tmp_path, "last")


def test_a_copy_whose_links_became_folders_is_opened(tmp_path):
    save(tmp_path / "a", 1, best=True)
    save(tmp_path / "a", 2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert open_checkpoint(tmp_path / "b", "last").step == 2
    assert open_checkpoint(tmp_path / "b").step == 1
    flipped(tmp_path / "b/checkpoints/last/state.json")
    assert open_checkpoint(tmp_path / "b", "last", warn=lambda line: None).step == 2, "the same one, beside it"


# ------------------------------------------------------------------------------------------------------ killed, no room
def test_killed_at_any_point_of_a_save_the_checkpoint_before_is_there(tmp_path, in_child, killed_by):
    """Each call that changes the disk is one point; of them all, saving a step for the first time and anew."""
    calls = [
        (checkpoint_saving, name) for name in ("flush", "_link", "_clear", "_drop", "write_json", "write_manifest")
    ]
    calls += [(checkpoint_saving.shutil, "rmtree"), (Path, "rename"), (Path, "mkdir"), (Path, "replace"),
              (Path, "symlink_to"), (Path, "write_bytes"), (Path, "write_text")]  # fmt: skip

    def counted(number: int, place: Path, step: int) -> int:
        """Save, and die instead of the call `number`; the number of calls otherwise."""
        count = 0

        def instead(original):
            def call(*args, **more):
                nonlocal count
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **more)

            return call

        for owner, name in calls:
            setattr(owner, name, instead(getattr(owner, name)))
        save(place, step, best=True)
        return count

    for before in (1, 2, 3):
        save(tmp_path / "before", before, best=True)
    for step in (4, 3):  # after 2 and 3: a new one, and the last one saved anew (an evaluation that was made up for)
        points = 0
        while True:
            place = Path(shutil.copytree(tmp_path / "before", tmp_path / f"{step}-{points}", symlinks=True))
            status = in_child(lambda place=place, points=points, step=step: counted(points + 1, place, step) and 0)
            if killed_by(status) is None:
                assert status == 0
                break
            points += 1
            for link in ("last", "best"):
                found = open_checkpoint(place, link, warn=lambda line: None)
                assert found.step in (3, step)
                assert found.weights("ema")["weight"].unique().tolist() == [found.step]
            save(place, 5)
            assert open_checkpoint(place, "last", warn=pytest.fail).step == 5
            assert {path.name for path in (place / "checkpoints").iterdir()} <= {
                "best", "last", "step-2", "step-3", "step-4", "step-5"
            }  # fmt: skip
            shutil.rmtree(place)
        assert points > 20, points


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_checkpoint_before(small_disk):
    """Each checkpoint takes 3.6 MB of 6."""
    size = 1 << 18
    save(small_disk, 1, best=True, size=size // 2)
    with pytest.raises(CheckpointError, match=r"step-2: not written \(No space left on device\); free space or give"):
        save(small_disk, 2, best=True, size=size)
    root = small_disk / "checkpoints"
    assert sorted(path.name for path in root.iterdir()) == ["best", "last", "step-1"]
    assert open_checkpoint(small_disk, "last").weights("ema")["weight"].unique().tolist() == [1]
    save(small_disk, 2, size=4)
    assert open_checkpoint(small_disk, "last").step == 2


def test_a_run_that_fills_the_disk_ends_with_a_line_and_goes_on_when_there_is_room(train, small_disk, runs, capsys):
    typed = ("task=classify", "engine.save_steps=2", "model.width=1.0", f"run_dir={small_disk}/a")
    (small_disk / "other").write_bytes(b"\0" * (1 << 19))
    assert train(*typed) == 1
    line, _mend = capsys.readouterr().err.splitlines()
    assert "not written (No space left on device); free space or give another run_dir" in line
    assert open_checkpoint(small_disk / "a", "last").step > 0
    (small_disk / "other").unlink()


@pytest.fixture
def read_only(tmp_path):
    """read_only(folder): no more than reading is allowed there, even to root."""
    mounted = []

    def protect(folder: Path) -> None:
        if subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount")
        mounted.append(folder)
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        os.chdir(folder)  # through what was mounted

    yield protect
    os.chdir(tmp_path.parent)
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def test_a_read_only_folder_is_said_and_can_be_read(tmp_path, read_only, train, runs, finished, capsys):
    save(tmp_path / "a", 1)
    shutil.copytree(finished, "b", symlinks=True)
    read_only(tmp_path)
    with pytest.raises(CheckpointError, match=r"step-2: not written \(Read-only file system\); free space or give"):
        save(tmp_path / "a", 2)
    assert open_checkpoint(tmp_path / "a", "last").step == 1
    capsys.readouterr()
    for typed in (("resume=b",), ("run_dir=c",), ()):
        assert train(*typed) == 2
        assert "cannot be written (Read-only file system); give " in capsys.readouterr().err
    visionkit.load("b", device="cpu")


def test_no_rights_are_said(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def refused(*args, **more):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(CheckpointError, match=r"step-2: not written \(Permission denied\)"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert open_checkpoint(tmp_path, "last").step == 1


# ------------------------------------------------------------------------------------------------------------ real runs
@pytest.mark.parametrize("damage", ["model.safetensors: flipped", "training.pt: cut", "manifest.json: unlink"])
def test_a_run_resumed_from_the_checkpoint_before_equals_an_uninterrupted_one(
    train, runs, interrupt, assert_equal_runs, capsys, damage
):
    typed = ("task=classify", "engine.save_steps=3", "head.classification.dropout=0.5")
    assert train(*typed, "run_dir=whole") == 0
    interrupt(11)
    assert train(*typed, "run_dir=broken") == 130
    name, spoil = DAMAGES[damage]
    spoil(Path("broken/checkpoints/step-9") / name)
    capsys.readouterr()
    assert train(*typed, "run_dir=broken", "resume=auto") == 0
    said = capsys.readouterr().out
    assert f"step-9/{name}: " in said.splitlines()[0]
    assert "step-7 is used instead" in said.splitlines()[0]
    assert "steps 7 to 14" in said
    assert said.splitlines()[0] in Path("broken/train.log").read_text()
    assert_equal_runs("whole", "broken")


def test_a_run_without_any_whole_checkpoint_does_not_begin_anew_by_itself(train, runs, finished, capsys):
    shutil.copytree(finished, "a", symlinks=True)
    for folder in Path("a/checkpoints").glob("step-*"):
        flipped(folder / "ema.safetensors")
    capsys.readouterr()
    for typed in (("resume=a",), ("run_dir=a", "resume=auto")):
        assert train(*typed) == 2
        assert "no other checkpoint of a is whole: start a new run" in capsys.readouterr().err


def test_a_lost_best_is_said_and_the_best_of_what_follows_kept(train, runs, interrupt, capsys):
    typed = ("task=classify", "engine.save_steps=3")
    interrupt(11)
    assert train(*typed, "run_dir=a") == 130
    assert Path("a/checkpoints/best").resolve().name == "step-7"
    flipped(Path("a/checkpoints/step-7/ema.safetensors"))
    capsys.readouterr()
    assert train(*typed, "resume=a") == 0
    assert "step-7/ema.safetensors: damaged (size or sha256 is not the manifest's); the best so far is lost" in (
        capsys.readouterr().out
    )
    assert Path("a/checkpoints/best").resolve().name == "step-14"
    assert open_checkpoint("a", warn=pytest.fail).state["best_step"] == 14


def test_a_run_folder_is_evaluated_and_loaded_by_another_checkpoint_than_its_damaged_best(
    train, runs, finished, capsys, caplog
):
    shutil.copytree(finished, "a", symlinks=True)
    best, other = Path("a/checkpoints/best").resolve(), Path("a/checkpoints/last").resolve()
    if best == other:
        other = shutil.copytree(best, best.with_name("step-7"), dirs_exist_ok=True)
        (other / "manifest.json").unlink()
        write_manifest(other)
    flipped(best / "ema.safetensors")
    with caplog.at_level(logging.WARNING, "visionkit"):
        visionkit.load("a", device="cpu")
        assert cli.main(["evaluate", "checkpoint=a", "device=cpu", "run_dir=judged"]) == 0
    said = f"{best}/ema.safetensors: damaged (size or sha256 is not the manifest's); {other} is used instead"
    assert caplog.messages == [said, said]
    capsys.readouterr()
    assert cli.main(["evaluate", f"checkpoint={best}", "device=cpu"]) == 2
    assert "ema.safetensors: damaged" in capsys.readouterr().err
