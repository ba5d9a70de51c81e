"""What is said about a data set as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from visionkit.data.readers import Folder
from visionkit.data.validate import Problem, check_images, class_warnings, fast_check, report, settle
from visionkit.errors import ConfigError, DataError


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(root / name)
    return root


def test_a_problem_is_one_line() -> None:
    assert (
        str(Problem("a.json", "images[3].id", "9 is taken", "renumber it"))
        == "a.json: images[3].id: 9 is taken; renumber it"
    )
    assert str(Problem("a.jpg", "", "is empty", "remove it")) == "a.jpg: is empty; remove it"


def test_report_counts_and_cuts() -> None:
    problems = [Problem(f"{number}.jpg", "", "is empty", "remove it") for number in range(12)]
    lines = report(problems).splitlines()
    assert lines[0] == "12 problems in the data:" and lines[-1] == "  … and 2 more" and len(lines) == 12
    assert report(problems[:1]).startswith("1 problem in the data:\n  0.jpg: is empty")


def test_settle_stops_or_goes_on() -> None:
    problems = [Problem("a.jpg", "", "is empty", "remove it")]
    settle(problems, "skip")
    settle([], "stop")
    with pytest.raises(DataError, match=r"a\.jpg: is empty; remove it\n.*data\.on_error=skip"):
        settle(problems, "stop")


def test_images_are_checked_in_order(tmp_path: Path) -> None:
    folder(tmp_path, *(f"{number}.png" for number in range(20)))
    (tmp_path / "7.png").write_bytes(b"")
    (tmp_path / "11.png").unlink()
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    recorded = [None] * 20
    recorded[3], recorded[4], recorded[5] = (4, 6), (6, 4), (4, 7)
    found = list(check_images(paths, recorded, lambda index: ("labels.json", f"images[{index}]")))
    assert [index for index, row in enumerate(found) if row != (4, 6)] == [4, 5, 7, 11]
    assert str(found[4]).startswith("labels.json: images[4]: the recorded size is 4 x 6 but 4.png is 6 x 4, turned by")
    assert str(found[5]).startswith("labels.json: images[5]: the recorded size is 7 x 4 but 5.png is 6 x 4; correct")
    assert str(found[7]).startswith(f"{paths[7]}: the file is empty; save it again")
    assert str(found[11]).startswith(f"{paths[11]}: no such file; restore it")


def test_an_empty_split_is_a_problem(tmp_path: Path) -> None:
    folder(tmp_path, "train/cat/1.png", "val/cat/1.png")
    (tmp_path / "val/cat/1.png").write_text("no picture")
    assert fast_check(Folder(tmp_path, "train")) == []
    (problem,) = fast_check(Folder(tmp_path, "val", on_error="skip"))
    assert str(problem).startswith(f"{tmp_path} (val): the split holds no usable image; choose another")


def test_classes_without_examples_are_told(tmp_path: Path) -> None:
    folder(tmp_path, "train/ant/1.png", "train/cat/1.png", "val/cat/1.png", "val/dog/1.png")
    reader = Folder(tmp_path, "val")
    assert fast_check(reader) == []
    (line,) = class_warnings(reader)
    assert line == f"{tmp_path} (val): no example of ant; what is absent cannot be learned or judged"


def test_on_error_takes_two_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.on_error=ignore: must be stop or skip"):
        Folder(folder(tmp_path, "train/cat/1.png"), "train", on_error="ignore")
