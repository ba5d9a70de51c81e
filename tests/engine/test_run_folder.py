from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from visionkit.engine.checkpoint_saving import save_checkpoint
from visionkit.engine.run_folder import (
    Start,
    choose_run_folder,
    made_folder,
    numbered_folder,
    write_beginning,
    write_status,
)
from visionkit.errors import ConfigError, UserError


def config(**changes):
    values = {"task": "detect", "name": "detect", "run_dir": None, "resume": "none", "resume_allow": [], "seed": 0}
    return OmegaConf.create({**values, "optim": {"lr": 0.1}, "data": {"workers": 0, "root": None}, **changes})


def test_folders_are_numbered_and_latest_follows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second, other = (
        choose_run_folder(config()),
        choose_run_folder(config()),
        choose_run_folder(config(name="fine-1")),
    )
    names = [start.folder.as_posix() for start in (first, second, other)]
    assert names == ["runs/detect/detect-001", "runs/detect/detect-002", "runs/detect/fine-1-001"]
    assert first.checkpoint is None
    assert Path("runs/detect/latest").resolve().name == "fine-1-001"
    assert Path("runs/detect/latest").readlink() == Path("fine-1-001"), "a moved runs folder keeps its link"
    first.folder.rmdir()
    assert choose_run_folder(config()).folder.name == "detect-003", "a number is not given twice"
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
    assert choose_run_folder(config(run_dir=str(tmp_path / "empty"))) == Start(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


SEEN = {"images": 9, "classes": ["cat"], "semantic_classes": [], "names": "1", "labels": "2"}


def begun(folder: Path, status: str, **changes) -> None:
    """A run with a checkpoint."""
    folder.mkdir(parents=True)
    write_beginning(folder, config(**changes), torch.device("cpu"))
    save_checkpoint(
        folder,
        step=1,
        model=torch.nn.Linear(1, 1),
        ema=torch.nn.Linear(1, 1),
        description={},
        state={"best": None, "best_step": 0, "evaluation_due": False, "processes": 2, "data": {"train": SEEN}},
        training={},
        config=OmegaConf.to_yaml(config(**changes)),
        best=True,
    )
    write_status(folder, status)


def chosen(**changes) -> Start:
    return choose_run_folder(config(**changes), {"train": SEEN}, 2)


def test_auto_continues_the_unfinished_latest_with_an_equal_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun(tmp_path / "runs/detect/detect-001", "running")
    Path("runs/detect/latest").symlink_to("detect-001")
    folder = Path("runs/detect/detect-001").resolve()

    def begins_anew(start: Start) -> str:
        assert start.checkpoint is None
        Path("runs/detect/latest").unlink()
        Path("runs/detect/latest").symlink_to("detect-001")
        return " ".join(start.said)

    for status in ("running", "failed", "interrupted", "preempted"):
        write_status(folder, status)
        start = chosen(resume="auto")
        assert (start.folder, start.checkpoint.step, start.said) == (folder, 1, [])
    free = {"data": {"workers": 4, "root": None}, "device": "cuda:1", "debug": {"traceback": True}, "track": ["x"]}
    assert chosen(resume="auto", **free, engine={"timeout": 9}).folder == folder, "what changes no number may change"
    assert begins_anew(chosen(resume="auto", seed=1)) == (
        "a new run begins, since the last one was another: seed: 0 -> 1"
    )
    assert "optim.lr: 0.1 -> 0.2" in begins_anew(chosen(resume="auto", optim={"lr": 0.2}))
    assert begins_anew(chosen()) == ""
    assert "processes: 2 -> 1" in begins_anew(choose_run_folder(config(resume="auto")))
    assert chosen(resume="auto", seed=1, resume_allow=["seed"]).changed == {"seed": "seed: 0 -> 1"}
    write_status(folder, "finished")
    assert begins_anew(chosen(resume="auto")) == ""
    (folder / "status.json").write_text("{")
    assert begins_anew(chosen(resume="auto")) == ""


def test_a_folder_that_is_named_is_continued_also_when_it_is_finished(tmp_path):
    begun(tmp_path / "a", "finished")
    folder = str(tmp_path / "a")
    for typed in ({"resume": folder}, {"resume": folder, "run_dir": folder}, {"resume": "auto", "run_dir": folder}):
        start = chosen(**typed)
        assert (start.folder, start.checkpoint.step) == (tmp_path / "a", 1)
    (tmp_path / "a" / "config.yaml").unlink()
    assert chosen(resume=folder).checkpoint.step == 1, "the checkpoint tells it, too"


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"images": 8, "names": "x", "labels": "x"}, "9 images -> 8 images"),
        ({"names": "x", "labels": "x"}, "other images (9 by other names or ids, or in another order)"),
        ({"classes": ["cat", "dog"], "labels": "x"}, "classes: with dog"),
        ({"classes": ["dog"]}, "classes: without cat and with dog"),
        ({"semantic_classes": ["sky"]}, "semantic classes: with sky"),
        ({"labels": "x"}, "other labels"),
        (None, "9 images -> none"),
    ],
)
def test_other_data_are_a_change(tmp_path, after, said):
    begun(tmp_path / "a", "failed")
    data = {} if after is None else {"train": {**SEEN, **after}}
    folder, allow = str(tmp_path / "a"), {"resume_allow": ["data.train"]}
    with pytest.raises(ConfigError) as refused:
        choose_run_folder(config(resume=folder), data, 2)
    assert str(refused.value) == (
        f"resume: the run in {folder} was another (data.train: {said}); resume it as it was, start a new run, or allow "
        "it with resume_allow=[data.train]"
    )
    start = choose_run_folder(config(resume=folder, **allow), data, 2)
    assert start.said == [f"resumed with changes that resume_allow names: data.train: {said}"]


def test_a_new_role_is_a_change(tmp_path):
    begun(tmp_path / "a", "failed")
    with pytest.raises(ConfigError, match=r"\(data\.test: none -> 1 image\)"):
        choose_run_folder(config(resume=str(tmp_path / "a")), {"train": SEEN, "test": {**SEEN, "images": 1}}, 2)


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
