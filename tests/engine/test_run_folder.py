from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from visionkit.engine.run_folder import choose_run_folder, made_folder, numbered_folder, write_beginning, write_status
from visionkit.errors import UserError


def config(**changes):
    values = {"task": "detect", "name": "detect", "run_dir": None, "resume": "none", "seed": 0, "optim": {"lr": 0.1}}
    return OmegaConf.create({**values, "data": {"workers": 0, "root": None}, **changes})


def test_folders_are_numbered_and_latest_follows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, continued = choose_run_folder(config())
    second, _ = choose_run_folder(config())
    other, _ = choose_run_folder(config(name="fine-1"))
    names = [path.as_posix() for path in (first, second, other)]
    assert names == ["runs/detect/detect-001", "runs/detect/detect-002", "runs/detect/fine-1-001"]
    assert not continued
    assert Path("runs/detect/latest").resolve().name == "fine-1-001"
    assert Path("runs/detect/latest").readlink() == Path("fine-1-001"), "a moved runs folder keeps its link"
    first.rmdir()
    assert choose_run_folder(config())[0].name == "detect-003", "a number is not given twice"
    assert sorted(path.name for path in Path("runs/detect").iterdir()) == [
        "detect-002", "detect-003", "fine-1-001", "latest"
    ]  # fmt: skip


def _made_in_a_process(root):
    return numbered_folder(root, "detect").name


def test_nobody_gets_a_folder_that_another_has(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(lambda _: numbered_folder(tmp_path, "detect").name, range(40)))
    with multiprocessing.get_context("fork").Pool(4) as processes:
        names += processes.map(_made_in_a_process, [tmp_path] * 20)
    assert sorted(names) == [f"detect-{number:03d}" for number in range(1, 61)]


def test_where_nothing_can_be_written_is_said(tmp_path, monkeypatch):
    """A file where a folder is needed: even root, whom no permission stops, cannot write there."""
    monkeypatch.chdir(tmp_path)
    Path("runs").touch()
    with pytest.raises(UserError, match=r"^runs/detect: cannot be written \(Not a directory\); give run_dir=DIR$"):
        choose_run_folder(config())
    said = r"^run_dir=runs/x: cannot be written \(Not a directory\); give another folder$"
    with pytest.raises(UserError, match=said):
        choose_run_folder(config(run_dir="runs/x"))
    with pytest.raises(UserError, match=said):
        made_folder(Path("runs/x"))


def test_a_file_or_a_full_folder_is_no_place_for_a_run(tmp_path):
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match=r"is not empty; resume=auto continues a run, else give another folder"):
            choose_run_folder(config(run_dir=str(taken)))
        with pytest.raises(UserError, match="is not empty"):
            choose_run_folder(config(run_dir=str(taken), resume="auto"))
    (tmp_path / "empty").mkdir()
    assert choose_run_folder(config(run_dir=str(tmp_path / "empty"))) == (tmp_path / "empty", False)
    assert list((tmp_path / "empty").iterdir()) == []


def begun(folder: Path, status: str, **changes) -> None:
    """A run with a checkpoint, as far as the choice of a folder looks."""
    folder.mkdir(parents=True)
    write_beginning(folder, config(**changes), torch.device("cpu"))
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    (folder / "checkpoints" / "step-1" / "manifest.json").touch()
    (folder / "checkpoints" / "last").symlink_to("step-1")
    write_status(folder, status)


def test_auto_continues_the_unfinished_latest_with_an_equal_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun(tmp_path / "runs/detect/detect-001", "running")
    Path("runs/detect/latest").symlink_to("detect-001")
    folder = Path("runs/detect/detect-001").resolve()
    for status in ("running", "failed", "interrupted"):
        write_status(folder, status)
        assert choose_run_folder(config(resume="auto")) == (folder, True)
    free = config(resume="auto", data={"workers": 4, "root": None}, device="cuda:1", debug={"traceback": True})
    assert choose_run_folder(free) == (folder, True), "what does not change the numbers may change"
    for other in (config(resume="auto", seed=1), config(resume="auto", optim={"lr": 0.2}), config()):
        assert choose_run_folder(other)[1] is False
        Path("runs/detect/latest").unlink()
        Path("runs/detect/latest").symlink_to("detect-001")
    write_status(folder, "finished")
    assert choose_run_folder(config(resume="auto"))[1] is False
    (folder / "status.json").write_text("{")
    Path("runs/detect/latest").unlink()
    Path("runs/detect/latest").symlink_to("detect-001")
    assert choose_run_folder(config(resume="auto"))[1] is False


def test_a_folder_that_is_named_is_continued_also_when_it_is_finished(tmp_path):
    begun(tmp_path / "a", "finished")
    folder = str(tmp_path / "a")
    assert choose_run_folder(config(resume=folder)) == (tmp_path / "a", True)
    assert choose_run_folder(config(resume=folder, run_dir=folder)) == (tmp_path / "a", True)
    assert choose_run_folder(config(resume="auto", run_dir=folder)) == (tmp_path / "a", True)
    (tmp_path / "a" / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"config\.yaml: is missing, so this run cannot be resumed"):
        choose_run_folder(config(resume=folder))


def test_what_ran_can_be_told_later(tmp_path):
    write_beginning(tmp_path, config(), torch.device("cpu"))
    assert OmegaConf.load(tmp_path / "config.yaml") == config()
    environment = json.loads((tmp_path / "env.json").read_text())
    assert environment["packages"]["torch"] == importlib.metadata.version("torch")
    assert {"visionkit", "python", "platform", "packages", "device", "command"} == set(environment)
    assert json.loads((tmp_path / "status.json").read_text()) == {"status": "running"}
    write_status(tmp_path, "failed", error="why")
    assert json.loads((tmp_path / "status.json").read_text()) == {"status": "failed", "error": "why"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "env.json", "status.json"]
