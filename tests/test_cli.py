from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import get_type_hints

import pytest

from visionkit import cli
from visionkit.config import groups
from visionkit.config_tools import SCHEMAS
from visionkit.error_codes import CODES
from visionkit.errors import DataError, RunError
from visionkit.overrides import CHOSEN_IN
from visionkit.tool_help import HELP

TOOLS = Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture
def runs(monkeypatch):
    """Replace what the tools call by a recorder, whose `answer` is called with the configuration."""
    module = types.ModuleType("recorded_runs")
    module.seen, module.answer = [], lambda cfg: None

    def run(cfg):
        module.seen.append(cfg)
        return module.answer(cfg)

    module.run = run
    monkeypatch.setitem(sys.modules, "recorded_runs", module)
    monkeypatch.setattr(cli, "TOOLS", {name: ("recorded_runs", "run", what[2]) for name, what in cli.TOOLS.items()})
    return module


def test_train_composes_and_calls(runs):
    assert cli.main(["train", "task=classify", "engine.epochs=2"]) == 0
    (cfg,) = runs.seen
    assert (cfg.task, cfg.engine.epochs, list(cfg.heads)) == ("classify", 2, ["classification"])


def test_the_run_decides_the_exit_code(runs):
    runs.answer = lambda cfg: 1
    assert cli.main(["train"]) == 1


def test_faults_end_with_2_before_anything_is_called(runs, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "task=detct", "engine.epoch=3"]) == 2
    assert runs.seen == []
    assert list(tmp_path.iterdir()) == []
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "task=detct: there is no such task (did you mean 'detect'?); known: classify, detect, instance, localize, "
        "multitask, panoptic, semantic",
        "engine.epoch: there is no such key (did you mean 'engine.epochs'?)",
        "  [choice-unknown] choose one of the names in the line; visionkit list tells what there is",
        "  [key-unknown] correct the name; visionkit TOOL --help lists the keys",
    ]


def raising(error):
    def answer(cfg):
        raise error

    return answer


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (DataError("a.jpg: empty file; remove it", code="image-unreadable"), 2,
         ["a.jpg: empty file; remove it", f"  [image-unreadable] {CODES['image-unreadable'].mend}"]),
        (DataError("a.jpg: odd", code="their-own"), 2, ["a.jpg: odd"]),
        (RunError("memory is used up\nmany\nlines", code="out-of-memory"), 1,
         ["memory is used up (debug.traceback=true shows where)", f"  [out-of-memory] {CODES['out-of-memory'].mend}"]),
        (RuntimeError("deep down\nmany\nlines"), 1,
         ["RuntimeError: deep down (debug.traceback=true shows where)",
          "  [unexpected] please report it, with what debug.traceback=true shows"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
    ],
)  # fmt: skip
def test_errors_become_lines_and_an_exit_code(runs, capsys, error, code, lines):
    runs.answer = raising(error)
    assert cli.main(["train"]) == code
    output = capsys.readouterr()
    assert (output.out, output.err.splitlines()) == ("", lines)


def test_traceback_on_demand(runs, capsys):
    runs.answer = raising(RuntimeError("deep down"))
    assert cli.main(["train", "debug.traceback=true"]) == 1
    assert "Traceback" in capsys.readouterr().err


ALL = {**cli.TOOLS, **cli.COMMANDS}


def test_each_tool_has_its_help_and_the_keys_of_it_are_there():
    assert set(HELP) == set(ALL)
    for tool in set(cli.TOOLS) - {"benchmark loader"}:
        schema = {key for name, one in SCHEMAS.items() if name.partition(" ")[0] == tool for key in get_type_hints(one)}
        told = {word.partition("=")[0].partition(".")[0] for key in HELP[tool].first for word in key.split()}
        assert told <= schema | set(groups()), tool
        assert len(HELP[tool].first) <= 8


@pytest.mark.parametrize("tool", ALL)
def test_help_names_keys_and_choices(tool, capsys):
    assert cli.main([tool, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{tool}: {ALL[tool][2]}\nusage: visionkit {tool} ")
    assert f"such as: visionkit {tool} {HELP[tool].example}\n" in shown
    assert all(len(line) <= 120 for line in shown.splitlines())
    chosen_in = CHOSEN_IN.get(tool, ())
    for group in groups() if chosen_in is None else chosen_in:
        assert all(choice in shown for choice in groups()[group])


@pytest.mark.parametrize("tool", sorted(set(cli.TOOLS) - {"benchmark loader"}))
def test_examples_of_the_help_are_what_the_tool_takes(tool, runs):
    assert cli.main([tool, *HELP[tool].example.split()]) == 0
    assert len(runs.seen) == 1


def test_a_script_names_itself_in_its_help(capsys):
    assert cli.run_tool("evaluate", ["--help"]) == 0
    assert "usage: python tools/evaluate.py [key=value …]\n" in capsys.readouterr().out
    assert cli.run_tool("benchmark", ["loader", "-h"]) == 0
    assert "usage: python tools/benchmark.py loader [key=value …]\n" in capsys.readouterr().out


def test_help_version_and_a_wrong_tool(capsys):
    assert cli.main([]) == cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {tool} " in shown for tool in ALL)
    assert cli.main(["help", "train"]) == 0
    assert capsys.readouterr().out.startswith("train: train a model\n")
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "0.1.0\n"
    assert cli.main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err
    assert cli.main(["task=detect"]) == 2
    assert "a tool comes first, as in visionkit train task=detect;" in capsys.readouterr().err


def test_who_stops_listening_is_no_fault():
    command = f"{sys.executable} -m visionkit train --help | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "train: train a model\n", "")


@pytest.mark.parametrize("tool", [tool for tool in cli.TOOLS if " " not in tool])
def test_scripts_are_thin(tool):
    text = (TOOLS / f"{tool}.py").read_text()
    assert len(text.splitlines()) <= 40
    assert f'run_tool("{tool}", sys.argv[1:])' in text


def test_multirun_runs_every_combination(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visionkit"])
    typed = ["seed=1,2", "optim.lr=0.1,0.2", "data=coco", "data.root=/a=b", "head.detection.bins=8"]
    assert cli.main(["train", "--multirun", *typed]) == 0
    assert [(cfg.seed, cfg.optim.lr) for cfg in runs.seen] == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2)]
    assert all(cfg.data.root == "/a=b" and cfg.head.detection.bins == 8 for cfg in runs.seen)


def test_multirun_checks_every_value_first(runs, capsys):
    assert cli.main(["train", "--multirun", "engine.epochs=1,2,none", "+modle.x=1"]) == 2
    assert runs.seen == []
    assert capsys.readouterr().err.splitlines() == [
        "modle: there is no such key (did you mean 'model'?)",
        "engine.epochs=none: a whole number or null is wanted",
        "  [key-unknown] correct the name; visionkit TOOL --help lists the keys",
        "  [value-unfit] give a value of the kind that the line asks for",
    ]


def test_multirun_mixes_no_data_sets(runs, capsys):
    assert cli.main(["train", "--multirun", "data=[shapes,bccd]", "seed=0,1"]) == 2
    assert runs.seen == []
    assert capsys.readouterr().err.startswith("data=[…]: --multirun mixes no data sets")


# --------------------------------------------------------------------------------------------------------- check_data
def make_folder(root: Path) -> None:
    cv2, np = pytest.importorskip("cv2"), pytest.importorskip("numpy")
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            assert cv2.imwrite(str(root / split / name / "1.png"), np.zeros((8, 8, 3), "uint8"))


def test_check_data_looks_at_every_split(tmp_path, capsys):
    make_folder(tmp_path)
    assert cli.main(["check_data", "data=folder", f"data.root={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "== train" in shown
    assert "== val" in shown
    (tmp_path / "val" / "dog" / "2.png").write_bytes(b"")
    assert cli.main(["check_data", "data=folder", f"data.root={tmp_path}"]) == 2
    assert "2.png" in capsys.readouterr().out


def test_check_data_looks_at_several_sets_and_does_not_stop_at_their_faults(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "set"
    make_folder(root)
    (root / "train" / "dog" / "2.png").write_bytes(b"")
    typed = ["check_data", "data=[folder,shapes]", f"data.sets.folder.root={root}", "image_size=32"]
    typed.append("data.sets.shapes.reader.count={train: 1, val: 1}")
    assert cli.main([*typed, "data.split=val"]) == 0
    assert "images: 3 " in capsys.readouterr().out
    assert cli.main(typed) == 2
    shown = capsys.readouterr().out
    assert "2.png" in shown
    assert "== val" in shown


def test_check_data_writes_one_split_as_coco(tmp_path, capsys):
    make_folder(tmp_path)
    typed = ["check_data", "data=folder", f"data.root={tmp_path}", f"fix={tmp_path}/out.json"]
    assert cli.main(typed) == 2
    assert "choose it with data.split (train, val)" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
    assert cli.main([*typed, "data.split=val"]) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["images"]) == 2
