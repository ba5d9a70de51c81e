"""Every bad input of the files bad_*.py beside this one is found, by the full check and by what opens data to train on.

A case is a name, what builds the data set in a folder, the rule that is broken, the one line that says so ({root} is
the folder, {*} what a library says in its own words), and further arguments. No case ends in a traceback, and none
passes in silence.
"""

from __future__ import annotations

import functools
import re
import runpy
from pathlib import Path

import pytest

from visionkit import cli
from visionkit.config import compose
from visionkit.data.rules import RULES
from visionkit.engine.run_data import open_readers, remarks
from visionkit.errors import UserError

WARNINGS = {
    "area-missing", "class-absent", "image-in-splits", "images-empty", "iscrowd-missing", "size-exif",
}  # fmt: skip
ONLY_IN_FULL = {"image-in-splits", "images-empty", "size-exif"}
HARMLESS = re.escape("fix=OUT.json")
"""Stands in errors of which the full check alone tells, since training does well with them: a copy mends them all."""
CASES = {
    f"{file.stem.removeprefix('bad_')}-{case[0]}": (module["ARGUMENTS"], *case[1:])
    for file in sorted(Path(__file__).parent.glob("bad_*.py"))
    for module in [runpy.run_path(str(file))]
    for case in module["CASES"]
}


@functools.cache
def composed(tool, arguments):
    """Composing takes longer than checking a small set; the folder is put in afterwards."""
    return compose(tool, [*arguments, "data.root=/somewhere"])


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """What gives the configuration of a tool, the rule, and the message."""
    arguments, build, rule, message, *more = CASES[request.param]
    root = tmp_path / "set"
    build(root)

    def configured(tool):
        cfg = composed(tool, (*arguments, *more))
        cfg.data.root = str(root)
        return cfg

    return configured, rule, _pattern(message, root)


def _pattern(message, root):
    return re.escape(message).replace(re.escape("{root}"), re.escape(str(root))).replace(re.escape("{*}"), ".*")


def test_the_corpus_is_large() -> None:
    assert len(CASES) >= 60


def test_every_rule_is_known() -> None:
    assert {case[2] for case in CASES.values()} <= set(RULES)


def test_the_full_check_finds_it(case, capsys) -> None:
    configured, rule, message = case
    code = cli.check_data_run(configured("check_data"))
    output = capsys.readouterr().out
    kind = "warning" if rule in WARNINGS else "error"
    line = re.compile(re.escape(f"{kind} [{rule}] ") + message)
    assert any(map(line.fullmatch, output.splitlines()))
    assert code == (0 if rule in WARNINGS else 2)
    assert "\x1b" not in output


def test_training_finds_it(case) -> None:
    configured, rule, message = case
    cfg = configured("train")
    if HARMLESS in message:
        _read_all(cfg)
        return
    if rule in WARNINGS:
        told = [line for role, reader in open_readers(cfg).items() for line in remarks(role, reader)]
        assert rule in ONLY_IN_FULL or any(re.search(message, line) for line in told)
        return
    with pytest.raises(UserError) as refused:
        _read_all(cfg)
    assert re.search(message, str(refused.value))


def _read_all(cfg) -> None:
    reader = open_readers(cfg)["train"]
    for index in range(len(reader)):
        reader.read(index)


@pytest.mark.parametrize("tool", ["check_data", "train"])
@pytest.mark.parametrize("name", ["coco-negative_width", "yolo-yaml_broken", "coco-no_such_folder"])
def test_the_tools_end_with_two_and_no_traceback(tool, name, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, build, _, message = CASES[name]
    build(tmp_path / "set")
    assert cli.main([tool, *arguments, f"data.root={tmp_path / 'set'}"]) == 2
    output = capsys.readouterr()
    assert re.search(_pattern(message, tmp_path / "set"), output.out + output.err)
    assert "Traceback" not in output.out + output.err
    assert not (tmp_path / "runs").exists()
