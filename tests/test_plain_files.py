"""What is meant is read as it stands; hostile files are in tests/security."""

from __future__ import annotations

import json

import pytest

from visionkit.plain_files import DEEPEST, MOST_VALUES, Unreadable, check_regular, read_json, read_yaml


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.yaml"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("names: [cat, dog]\nval: images/val  # here\n", {"names": ["cat", "dog"], "val": "images/val"}),
        ("\ufeffa: 1", {"a": 1}),
        ("", None),
        ("train: &images a/b\nval: *images\ntest: *images\n", {"train": "a/b", "val": "a/b", "test": "a/b"}),
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
        ("a: &a [1, 2]\nb: [*a, *a]\n", {"a": [1, 2], "b": [[1, 2], [1, 2]]}),
        ("3: cat\n7: dog\n", {3: "cat", 7: "dog"}),
        ("a: 1.0e-05\nb: yes\nc: ~\nd: 'no'\n", {"a": 1e-5, "b": True, "c": None, "d": "no"}),
        (f"a: '{'x' * 5000}'", {"a": "x" * 5000}),
    ],
)  # fmt: skip
def test_yaml_is_read(text, value, file):
    file.write_text(text, encoding="utf-8")
    assert read_yaml(file) == value


def test_imagenets_names_are_read(file):
    """The largest class list in use."""
    names = {number: f"n{number:08d}, a synset of several words" for number in range(21841)}
    file.write_text(json.dumps({"names": names}))
    assert len(read_yaml(file)["names"]) == 21841


def test_the_limits_are_where_they_are_said_to_be(file):
    """Lists of lists to just the depth; a list written out by aliases to just the number of values."""
    deepest = DEEPEST - 1
    file.write_text("[" * deepest + "]" * deepest)
    assert read_yaml(file) is not None
    file.write_text("[" * (deepest + 1) + "]" * (deepest + 1))
    with pytest.raises(Unreadable, match=f"nested deeper than {DEEPEST}"):
        read_yaml(file)
    # The list counts 100 with itself; so does each alias. One more is the list around them.
    aliases = MOST_VALUES // 100 - 2
    file.write_text(f"- &a [{', '.join('x' * 99)}]\n" + "- *a\n" * aliases)
    assert len(read_yaml(file)) == aliases + 1
    file.write_text(f"- &a [{', '.join('x' * 99)}]\n" + "- *a\n" * (aliases + 1))
    with pytest.raises(Unreadable, match=f"more than {MOST_VALUES} values"):
        read_yaml(file)


@pytest.mark.parametrize(
    "text", ["a: [", "a: !!float x", "a: !!binary é", "a: 1\n---\nb: 2", "a: 2020-13-41", "? [a]\n: b", "a: !x y"]
)
def test_the_reason_is_one_line(text, file):
    file.write_text(text)
    with pytest.raises(Unreadable) as error:
        read_yaml(file)
    assert str(error.value).isprintable()


def test_json_is_read(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"a": [1, {"b": null}], "c": 1e5}', encoding="utf-8")
    assert read_json(file) == {"a": [1, {"b": None}], "c": 1e5}
    file.write_text("{")
    with pytest.raises(Unreadable, match="line 1 column 2"):
        read_json(file)
    file.write_text("[" * DEEPEST + "]" * DEEPEST)
    assert read_json(file) is not None
    file.write_text("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))
    with pytest.raises(Unreadable, match=f"nested deeper than {DEEPEST}"):
        read_json(file)


@pytest.mark.parametrize("read", [read_yaml, read_json])
def test_what_is_no_file(read, tmp_path):
    with pytest.raises(Unreadable, match="No such file"):
        read(tmp_path / "gone")
    with pytest.raises(Unreadable, match="directory"):
        read(tmp_path)
    (tmp_path / "bytes").write_bytes(b"a: \xff")
    with pytest.raises(Unreadable, match="decode"):
        read(tmp_path / "bytes")
    (tmp_path / "endless").symlink_to("/dev/zero")
    with pytest.raises(Unreadable, match="a pipe or a device, no file"):
        read(tmp_path / "endless")


def test_folders_and_files_are_regular(tmp_path):
    check_regular(tmp_path)  # whoever opens it says what it is
    (tmp_path / "a").touch()
    check_regular(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "gone")
