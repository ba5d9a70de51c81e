"""What is said about a data set as a whole."""

from __future__ import annotations

import ast
import pickle
import re
import time
from pathlib import Path

import pytest
from PIL import Image

from visionkit.data import validate
from visionkit.data.readers import Folder
from visionkit.data.rules import RULES, is_of_object
from visionkit.data.validate import (
    Problem,
    check_images,
    check_skipped,
    class_warnings,
    errors_of,
    fast_check,
    found_in,
    refusal,
    report,
    settle,
    unsafe,
    warnings_of,
)
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
    assert str(found[4]).startswith(
        "labels.json: images[4]: the recorded size is 4 x 6 but 4.png is 6 x 4, turned by EXIF or by hand; turn"
    )
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
    assert line.warning and line.rule == "class-absent"
    assert str(line) == f"{tmp_path} (val): no example of ant; what is absent cannot be learned or judged"


def test_on_error_takes_two_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.on_error=ignore: must be stop or skip"):
        Folder(folder(tmp_path, "train/cat/1.png"), "train", on_error="ignore")


# -------------------------------------------------------------------------------------------------- rules and warnings
def test_every_problem_names_a_known_rule() -> None:
    """Wherever the package makes a Problem or a DataError with a rule, the rule is in the list."""
    package = Path(validate.__file__).parents[1]
    named = 0
    for file in sorted(package.rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "Problem":
                continue
            given = [word.value for word in call.keywords if word.arg == "rule"] + call.args[4:5]
            assert given or any(word.arg is None for word in call.keywords), f"{file}:{call.lineno} names no rule"
            for rule in given:
                if isinstance(rule, ast.Constant):
                    assert rule.value in RULES, f"{file}:{call.lineno}: {rule.value}"
                    named += 1
    assert named > 20


def test_rules_are_short_words_with_a_meaning() -> None:
    for code, meaning in RULES.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", code) and meaning and not meaning.endswith(".")
    assert is_of_object("box-zero-area") and is_of_object("image-unknown") and not is_of_object("image-missing")


def test_warnings_stop_nothing() -> None:
    warning = Problem("a.json", "", "12 of 20 lack 'area'", "add it", "area-missing", warning=True)
    error = Problem("a.jpg", "", "is empty", "remove it", "image-unreadable")
    settle([warning], "stop")
    with pytest.raises(DataError) as refused:
        settle([warning, error], "stop")
    assert "1 problem in the data" in str(refused.value) and "lack" not in str(refused.value)
    assert found_in(refused.value) == [warning, error]
    assert errors_of([warning, error]) == [error] and warnings_of([warning, error]) == [warning]


def test_an_error_tells_of_its_finding() -> None:
    problem = Problem("a.json", "images[0]", "is taken", "renumber it", "id-duplicate")
    assert found_in(refusal(problem)) == [problem]
    told = found_in(DataError("a.yaml: cannot be read (line 2: x); correct it; or not", code="file-unreadable"))
    assert told == [Problem("a.yaml", "", "cannot be read (line 2: x)", "correct it; or not", "file-unreadable")]
    assert found_in(DataError("gone")) == [Problem("", "", "gone", "correct it", "set-unusable")]
    again = pickle.loads(pickle.dumps(DataError("x: y; z", [problem], code="file-format")))
    assert str(again) == "x: y; z" and found_in(again) == [problem] and again.code == "file-format"


@pytest.mark.parametrize(
    "name", ["a\x1b[2J", "a\nb", "a\x00", "a\x9bm", "x\u202egpj.exe", "<b>", "</p", "<!--", "\udce9"]
)
def test_names_that_would_harm(name: str, tmp_path: Path) -> None:
    assert unsafe(name)
    problem = Problem(name, name, unsafe(name), "rename it", "name-unsafe")
    assert str(problem).isprintable()


@pytest.mark.parametrize("name", ["a < b", "<3", "naïve café.jpg", "猫", "R&D", "a'b\"c", "x>y", "{{ a }}", "किताब"])
def test_names_that_harm_nobody(name: str) -> None:
    assert not unsafe(name)


def test_a_file_name_that_would_harm_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, "train/cat/1.png", "train/cat/\x1b[31m.png")
    with pytest.raises(
        DataError, match=r"cat/\\x1b\[31m\.png: the name '\\x1b\[31m\.png' holds '\\x1b'; rename the file"
    ):
        Folder(tmp_path, "train")
    (tmp_path / "train/cat/\x1b[31m.png").rename(tmp_path / "train/cat/2.png")
    (tmp_path / "train/cat").rename(tmp_path / "train/c\x1bat")
    rules = [problem.rule for problem in fast_check(Folder(tmp_path, "train"))]
    assert rules == ["name-unsafe"] * 3  # the class, and the two files in its folder


def test_what_is_skipped_has_a_cap(tmp_path: Path) -> None:
    folder(tmp_path, *(f"train/cat/{number}.png" for number in range(10)))
    for number in range(3):
        (tmp_path / f"train/cat/{number}.png").write_bytes(b"")
    reader = Folder(tmp_path, "train", on_error="skip")
    check_skipped(reader, 0.3)
    with pytest.raises(DataError) as refused:
        check_skipped(reader, 0.29)
    first, *rest = str(refused.value).splitlines()
    assert first.startswith(
        f"{tmp_path} (train): 3 of 10 images (30.0%) would be left out, more than data.max_skipped=0.29"
    )
    assert rest[0] == "3 problems in the data:" and len(rest) == 4
    check_skipped(Folder(tmp_path, "train", on_error="skip"), 1.0)


def test_the_fast_part_takes_no_time(tmp_path: Path) -> None:
    class Large:
        classes, semantic_classes = ("cat", "dog"), ()
        file_names = tuple(f"images/{number:012}.jpg" for number in range(118_000))

        def __len__(self):
            return len(self.file_names)

    begun = time.perf_counter()
    assert fast_check(Large()) == []
    assert time.perf_counter() - begun < 1
