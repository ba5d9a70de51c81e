"""What the pages tell to type is typed: the blocks of each page in their order, with small data and short runs."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from visionkit import cli

PARSER = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "pages.py")))
SHORT = (
    "image_size=64", "model.width=0.25", "device=cpu", "data.workers=0", "data.batch_size=3", "engine.precision=fp32",
    "schedule.epochs=1", "engine.max_steps=2", "engine.train_slice=0",
)  # fmt: skip
SCENES = "data.reader.count={train: 12, val: 4, test: 4}"
ELSEWHERE = {
    "demo": "serves a page until it is stopped: tests/test_demo.py",
    "doctor": "judges the machine, not the page: tests/test_doctor.py",
    "benchmark": "times: tests/engine",
}
"""Tools whose commands are only read (`test_pages.py`), and why."""
TOLD = {"coco128", "[bccd,camvid]"}
"""Sets that are not here; their commands are only read."""
LONG = {"docs/tasks.md": 8, "docs/configuration.md": 8, "docs/deployment.md": 2}
"""The pages whose commands take longer, and how many run at least."""
BESIDE = {
    "README.md": "test_the_readme",
    "docs/library.md": "test_the_library",
    "docs/data.md": "test_each_format_is_read_recognised_and_trained_on",
    "docs/extending.md": "test_parts_of_ones_own",
    "docs/concepts.md": "tests/test_concepts.py",
    "docs/conceptos.md": "tests/test_concepts.py",
    "docs/slurm.md": "tests/test_slurm.py",
}
"""Where the commands of the other pages run."""


def shortened(tool, typed):
    """The command with tiny networks and few steps; its own values win where it gives them, but not for sizes."""
    if tool in ("predict", "export", "evaluate"):
        extra = ["device=cpu"] if tool != "export" else ["check=false"]  # whole images score alike in an untrained net
        return [*typed, *extra]
    if tool == "probe":
        return [*typed, "image_size=64", "device=cpu", "data.workers=0", "data.batch_size=3"]
    if tool != "train":
        return typed
    given = {one.split("=")[0] for one in typed}
    kept = [
        one for one in typed if one.split("=")[0] not in ("image_size", "model.width", "data.batch_size", "schedule")
    ]
    keys = [one for one in SHORT if one.split("=")[0] not in given - {"image_size", "model.width", "data.batch_size"}]
    own = [SCENES] if not given & {"data", "data.root", "data.reader._target_"} else []
    wide = ["model.width=0.25"] if any("model.backbone._target_" in one for one in typed) else []
    return [*kept, *(one for one in keys if one not in wide), *wide, *own]


def is_told_alone(tool, typed):
    return tool in ELSEWHERE or any(one.split("=", 1)[-1] in TOLD for one in typed if one.startswith("data="))


def typed_at(folder, words, of_task):
    """Run one command as it is typed in `folder`; return its exit code, None where it is only told."""
    tool, typed = PARSER.tool_of(words) or (None, ())
    if tool is None or is_told_alone(tool, typed):
        return None
    if "data.root=DIR" in typed and of_task is not None:
        task = next((one.removeprefix("task=") for one in typed if one.startswith("task=")), "detect")
        of_task(folder / "DIR", "classify" if tool == "probe" else task)
    return cli.main([tool, *(typed if "--help" in typed else shortened(tool, typed))])


def played(blocks, folder, session, of_task):
    """Type and run blocks in their order; return how many commands ran."""
    count = 0
    for block in blocks:
        if block.not_run or block.file or "#!" in block.content:
            continue
        if block.language == "python":
            exec(compile(block.content, block.name, "exec"), session)
        for words in PARSER.commands_of(block) if block.language == "sh" else ():
            code = typed_at(folder, words, of_task)
            assert code in (0, None), f"{block.name}: {words} ended with {code}"
            count += code == 0
    return count


@pytest.fixture
def of_task(request):
    return runpy.run_path(str(Path(__file__).parent / "conftest.py"))["of_task"]


def test_the_readme(desk, of_task):
    shutil.rmtree(desk / "runs" / "mine")  # the page makes its own
    assert played(PARSER.blocks_of("README.md"), desk, {"batches": []}, of_task) >= 6
    assert (desk / "drawn-by-onnx" / "predictions.json").is_file()
    assert (desk / "check.html").is_file()


def test_the_fault_that_the_readme_shows(capsys):
    (block,) = [block for block in PARSER.blocks_of("README.md") if block.content.startswith("$ ")]
    typed, *told = block.content.splitlines()
    tool, words = PARSER.tool_of(typed[2:].split())
    assert cli.main([tool, *words]) == 2
    assert capsys.readouterr().err.splitlines()[: len(told)] == told


def test_the_library(desk, capsys):
    session = {}
    assert played(PARSER.blocks_of("docs/library.md"), desk, session, None) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "1.0"
    assert session["drawn"].shape == (48, 64, 3)


@pytest.mark.slow
@pytest.mark.parametrize("page", LONG)
def test_the_longer_pages(page, desk, of_task):
    if page == "docs/deployment.md":
        (desk / "runs" / "detect").mkdir()
        (desk / "runs" / "detect" / "latest").symlink_to("../mine")
    blocks = [block for block in PARSER.blocks_of(page) if block.language == "sh"]  # its Python: tests/export
    assert played(blocks, desk, {}, of_task) >= LONG[page]


def test_every_block_of_commands_is_run_or_says_why_not():
    for page in PARSER.PAGES:
        for block in PARSER.blocks_of(page):
            if re.search(r"^(PYTHONPATH=\S+ )?(python|pip|visionkit|torchrun) ", block.content, re.MULTILINE):
                assert block.language == "sh" or "concepts" in BESIDE.get(page, ""), f"{block.name}: ```sh is wanted"
                assert block.not_run or page in LONG or page in BESIDE, f"{block.name}: no test runs it"


def test_what_is_not_run_says_why():
    for page in PARSER.PAGES:
        for block in PARSER.blocks_of(page):
            assert block.not_run is None or len(block.not_run) > 15, block.name
    reasons = [block for page in PARSER.PAGES for block in PARSER.blocks_of(page) if block.not_run]
    assert 3 <= len(reasons) <= 20


# ------------------------------------------------------------------------------------------------- one's own data
FORMATS = [block.section for block in PARSER.blocks_of("docs/data.md") if block.language == "text" and not block.file]


def written(folder, blocks, picture):
    """Write the files of a section: those of its list that are images, and those whose content is shown."""
    for block in blocks:
        if block.file:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.content)
        elif block.language == "text":
            for seed, name in enumerate(block.content.split()):
                if Path(name).suffix in (".jpg", ".png"):
                    picture(folder / name, seed)


@pytest.mark.parametrize("section", FORMATS)
def test_each_format_is_read_recognised_and_trained_on(section, runs, capsys):
    picture = runpy.run_path(str(Path(__file__).parent / "conftest.py"))["picture"]
    blocks = [block for block in PARSER.blocks_of("docs/data.md") if block.section == section]
    written(runs / "DIR", blocks, picture)
    listed = {name for block in blocks if block.language == "text" and not block.file for name in block.content.split()}
    assert listed == {path.relative_to(runs / "DIR").as_posix() for path in (runs / "DIR").rglob("*") if path.is_file()}
    if section != "masks":  # what a mask's values mean has to be said
        assert cli.main(["check_data", "data.root=DIR"]) == 0
        assert f"is read as data={section}" in capsys.readouterr().out
    trained = [
        PARSER.tool_of(words) for block in blocks if block.language == "sh" for words in PARSER.commands_of(block)
    ]
    assert trained
    for number, (tool, typed) in enumerate(trained):
        assert f"data={section}" in typed
        assert cli.main([tool, *shortened(tool, typed), f"run_dir=run-{number}"]) == 0


def test_a_mended_copy(runs, of_task):
    of_task(runs / "DIR", "detect")
    fix = next(words for block in PARSER.blocks_of("docs/data.md") for words in PARSER.commands_of(block)
               if block.language == "sh" and "fix=mended.json" in words)  # fmt: skip
    assert typed_at(runs, fix, None) == 0
    assert (runs / "mended.json").is_file()


# ------------------------------------------------------------------------------------------------ one's own parts
PARTS = ["A backbone", "A head", "A reader", "A metric"]


@pytest.mark.parametrize("section", PARTS)
def test_parts_of_ones_own(section, runs, monkeypatch):
    picture = runpy.run_path(str(Path(__file__).parent / "conftest.py"))["picture"]
    blocks = [block for block in PARSER.blocks_of("docs/extending.md") if block.section == section]
    written(runs / "DIR", [block for block in blocks if block.language == "text"], picture)
    written(runs, [block for block in blocks if block.language == "python"], picture)
    monkeypatch.syspath_prepend(str(runs))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names = [Path(block.file).stem for block in blocks if block.language == "python"]
    for block in blocks:
        for words in PARSER.commands_of(block) if block.language == "sh" else ():
            assert words[0] == "PYTHONPATH=."
            assert typed_at(runs, words, None) == 0, words
    for name in names:
        sys.modules.pop(name, None)


def test_a_checkpoint_of_ones_own_parts_is_refused_unless_allowed(runs, monkeypatch, capsys):
    blocks = [block for block in PARSER.blocks_of("docs/extending.md") if block.section == "A backbone"]
    written(runs, [block for block in blocks if block.language == "python"], None)
    monkeypatch.syspath_prepend(str(runs))
    first, *_ = [words for block in blocks if block.language == "sh" for words in PARSER.commands_of(block)]
    assert typed_at(runs, first, None) == 0
    runpy.run_path(str(Path(__file__).parent / "conftest.py"))["picture"](runs / "a.jpg")
    for tool, *typed in (("evaluate",), ("export", "out=a.onnx"), ("predict", "source=a.jpg", "out=b")):
        assert cli.main([tool, "checkpoint=runs/strided", *typed]) == 2
        assert "allow=['mybackbone']" in capsys.readouterr().err
    sys.modules.pop("mybackbone", None)
    assert not (runs / "a.onnx").exists()
