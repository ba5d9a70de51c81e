"""Label files changed at random: what reads them succeeds, or says in a named error what is wrong, and nothing else."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from visionkit.data.check import check_split
from visionkit.data.readers import Coco, Voc, Yolo
from visionkit.data.rules import RULES
from visionkit.data.validate import found_in
from visionkit.errors import DataError, UserError

HERE = Path(__file__).parent
BOUNDED = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
NUMBERS = st.one_of(st.integers(-(10**20), 10**20), st.floats(), st.sampled_from([0, -1, 0.5, 1e999, 2**63]))
WORDS = st.one_of(st.text(max_size=6), st.sampled_from(["", "0", "nan", "-1", "1e400", "../a", "\0", "<b>", "٣"]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """make("coco") builds the sound set from which the bad ones of bad_coco.py are made."""

    def build(name):
        root = tmp_path_factory.mktemp(name) / "set"
        sound = runpy.run_path(str(HERE / f"bad_{name}.py"))["_sound"](root)
        if sound is not None:
            (root / "train.json").write_text(json.dumps(sound))
        return root

    return build


def judge(reader, root: Path) -> None:
    """Open the set in both ways and read all that is in it."""
    account = check_split(lambda: reader(root, "train", on_error="skip"), "train")
    assert {problem.rule for problem in account.findings} <= set(RULES)
    for problem in account.findings:
        assert "\n" not in str(problem) and problem.mend
    refused = None
    try:
        opened = reader(root, "train")
        for index in range(len(opened)):
            opened.read(index)
    except UserError as error:
        refused = error
    if isinstance(refused, DataError):
        assert all(problem.fault and problem.rule in RULES for problem in found_in(refused))


def paths_of(node, path=()):
    """The place of every value inside a JSON document."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from paths_of(value, (*path, key))


@BOUNDED
@given(data=st.data())
def test_coco_with_other_values(make, data) -> None:
    root = make("coco")
    document = json.loads((root / "train.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(paths_of(document))[1:] or [()]))
        if not path:
            break
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        if data.draw(st.booleans()):
            parent[path[-1]] = data.draw(VALUES)
        else:
            del parent[path[-1]]
    (root / "train.json").write_text(json.dumps(document))
    judge(Coco, root)


@BOUNDED
@given(data=st.data())
def test_voc_with_other_texts(make, data) -> None:
    root = make("voc")
    file = root / "Annotations/a.xml"
    text = file.read_text()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.one_of(WORDS, NUMBERS.map(str))) + text[end:]
    file.write_text(text, errors="surrogatepass")
    judge(Voc, root)


@BOUNDED
@given(lines=st.lists(st.lists(st.one_of(NUMBERS, st.floats(-0.1, 1.1), WORDS), max_size=9), max_size=4))
def test_yolo_with_other_lines(make, lines) -> None:
    root = make("yolo")
    text = "\n".join(" ".join([str(line[0]) if line else "", *map(str, line[1:])]) for line in lines)
    (root / "labels/train/a.txt").write_text(text, errors="surrogatepass")
    judge(Yolo, root)


@BOUNDED
@given(data=st.binary(max_size=60), name=st.sampled_from(["coco", "voc", "yolo"]), place=st.integers(0, 10**6))
def test_label_files_with_other_bytes(make, data, name, place) -> None:
    root = make(name)
    reader, file = {
        "coco": (Coco, "train.json"), "voc": (Voc, "Annotations/a.xml"), "yolo": (Yolo, "labels/train/a.txt"),
    }[name]  # fmt: skip
    sound = (root / file).read_bytes()
    place %= len(sound) + 1
    (root / file).write_bytes(sound[:place] + data + sound[place + len(data) :])
    judge(reader, root)
