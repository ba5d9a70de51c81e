"""Divisions: by list, by position, by fraction; the same for every reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from visionkit.data.readers import Coco, Csv, Folder, Masks, Voc, Yolo
from visionkit.data.readers.splits import Division
from visionkit.errors import ConfigError, DataError

IMAGES = {name: name for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/3.png", "c.d.jpg")}


def listed(root: Path, text: str, images: dict[str, str] | None = None) -> tuple[list[str], list[str]]:
    (root / "list.txt").write_text(text)
    chosen = Division("train", lists={"train": "list.txt"}).choose(images or IMAGES, root)
    assert all(problem.rule == "list-entry" for problem in chosen.problems)
    return chosen.names, [f"{problem.where}: {problem.fault}" for problem in chosen.problems]


@pytest.mark.parametrize(
    ("line", "image"),
    [
        ("a/1.jpg", "a/1.jpg"),  # the path
        ("a/2", "a/2.jpg"),  # without ending
        ("2.jpg", "a/2.jpg"),  # the file name
        ("3", "b/3.png"),  # the stem
        ("b/3.jpg", "b/3.png"),  # another ending
        ("c.d", "c.d.jpg"),  # a stem with a dot
        ("./a/1.jpg", "a/1.jpg"),
        ("a\\1.jpg", "a/1.jpg"),
        ("/home/somebody/set/b/1.jpg", "b/1.jpg"),  # a foreign prefix
        ("a/1.jpg masks/a/1.png", "a/1.jpg"),  # a second word
    ],
)
def test_a_line_names_an_image(tmp_path: Path, line: str, image: str) -> None:
    assert listed(tmp_path, f"\ufeff{line}\r\n\n") == ([image], [])


def test_the_order_is_that_of_the_list(tmp_path: Path) -> None:
    assert listed(tmp_path, "b/3.png\na/1.jpg\n") == (["b/3.png", "a/1.jpg"], [])


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("4.jpg\n", ["line 1: '4.jpg' is no image of the data set"]),
        ("2.jpg\n\na/2.jpg\n", ["line 3: 'a/2.jpg' stands in line 1 already"]),
        ("1.jpg\n", ["line 1: '1.jpg' may be a/1.jpg, b/1.jpg; give the path"]),
        ("c/2.jpg\n", ["line 1: 'c/2.jpg' is no image of the data set"]),  # the image of another folder is not it
        ("../a/9.jpg\n", ["line 1: '../a/9.jpg' is no image of the data set"]),
    ],
)
def test_a_line_that_names_none_or_one_again_is_a_fault(tmp_path: Path, text: str, faults: list[str]) -> None:
    assert listed(tmp_path, text)[1] == faults


def test_the_ending_decides_between_two_of_a_name(tmp_path: Path) -> None:
    images = {name: name for name in ("a/1.jpg", "a/1.png")}
    assert listed(tmp_path, "a/1.png\n", images) == (["a/1.png"], [])
    assert listed(tmp_path, "a/1\n", images)[1] == ["line 1: 'a/1' may be a/1.jpg, a/1.png; give the path"]


def test_lists_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file, seen from .*; correct data\.reader\.lists\.train"):
        Division("train", lists={"train": "none.txt"}).choose(IMAGES, tmp_path)
    (tmp_path / "train.txt").write_text("\n")
    with pytest.raises(DataError, match="the list is empty"):
        Division("train", lists="{split}.txt").choose(IMAGES, tmp_path)
    with pytest.raises(DataError, match=r"no split 'trian' \(did you mean 'train'\?\)"):
        Division("trian", lists="{split}.txt").choose(IMAGES, tmp_path)
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="one image name per line"):
        Division("train", lists="{split}.txt").choose(IMAGES, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"lists": "train.txt"}, r"lists=train.txt: a path with \{split\}"),
        ({"lists": {}}, "a file per split"),
        ({"lists": {"train": 3}}, "a file per split"),
        ({"lists": {"train": "a"}, "fractions": {"train": 1.0}}, "lists and fractions both divide"),
        ({"fractions": {"train": 0.8, "val": 0.8}}, "sum to at most 1"),
    ],
)
def test_divisions_that_cannot_be_meant_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Division("train", **arguments)


def test_a_split_that_the_division_lacks_is_named() -> None:
    with pytest.raises(DataError, match=r"data\.reader\.lists: no split 'val'; it has train"):
        Division("val", lists={"train": "a"})


# ----------------------------------------------------------------------------------------------------- every reader
SHAPE = (8, 6)


def save(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB" if "mask" not in name else "L", SHAPE).save(root / name)


def make_coco(root: Path) -> str:
    save(root, *(f"images/{n}.jpg" for n in range(4)))
    rows = ", ".join(f'{{"id": {n}, "file_name": "{n}.jpg", "height": 6, "width": 8}}' for n in range(4))
    (root / "all.json").write_text(
        f'{{"images": [{rows}], "annotations": [], "categories": [{{"id": 1, "name": "a"}}]}}'
    )
    return "images/{}.jpg"


def make_csv(root: Path) -> str:
    save(root, *(f"{n}.jpg" for n in range(4)))
    (root / "train.csv").write_text("0.jpg,cat\n1.jpg,dog\n2.jpg,cat\n")
    (root / "test.csv").write_text("3.jpg,dog\n")
    return "{}.jpg"


def make_folder(root: Path) -> str:
    save(root, "train/cat/0.jpg", "train/cat/1.jpg", "train/cat/2.jpg", "test/cat/3.jpg")
    return "cat/{}.jpg"


def make_masks(root: Path) -> str:
    for n in range(4):
        split = "train" if n < 3 else "test"
        save(root, f"images/{split}/{n}.jpg", f"masks/{split}/{n}.png")
    return "{}.jpg"


def make_voc(root: Path) -> str:
    save(root, *(f"JPEGImages/{n}.jpg" for n in range(4)))
    (root / "Annotations").mkdir()
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    for n in range(4):
        (root / f"Annotations/{n}.xml").write_text(f"<annotation><object><name>a</name>{box}</object></annotation>")
    return "JPEGImages/{}.jpg"


def make_yolo(root: Path) -> str:
    for n in range(4):
        save(root, f"{'train' if n < 3 else 'test'}/images/{n}.jpg")
    (root / "data.yaml").write_text("names: [a]\ntrain: train/images\ntest: test/images\n")
    return "images/{}.jpg"


READERS = {
    "coco": (make_coco, Coco, {}),
    "csv": (make_csv, Csv, {}),
    "folder": (make_folder, Folder, {}),
    "masks": (make_masks, Masks, {"classes": ["a"]}),
    "voc": (make_voc, Voc, {}),
    "yolo": (make_yolo, Yolo, {}),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_is_divided_by_lists_positions_and_fractions(tmp_path: Path, name: str) -> None:
    make, reader, arguments = READERS[name]
    template = make(tmp_path)

    def images(split: str, **division: object) -> set[str]:
        return {Path(one).stem for one in reader(tmp_path, split, **arguments, **division).file_names}

    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.txt").write_text(f"{template.format(3)}\n0\n")
    (tmp_path / "lists/val.txt").write_text(f"./{template.format(1)}\n")
    by_list = {"train": "lists/train.txt", "val": "lists/val.txt"}
    assert (images("train", lists=by_list), images("val", lists="lists/{split}.txt")) == ({"0", "3"}, {"1"})
    every_second = {"val": [0, None, 2], "train": "rest"}
    halves = [images(split, positions=every_second) for split in ("train", "val")]
    assert [len(half) for half in halves] == [2, 2] and set.union(*halves) == {"0", "1", "2", "3"}
    assert images("all", fractions={"all": 1.0}) == {"0", "1", "2", "3"}
    (tmp_path / "lists/val.txt").write_text("0\n9.jpg\n")
    with pytest.raises(DataError, match=r"val\.txt: line 2: '9\.jpg' is no image of the data set.* \[list-entry\]"):
        reader(tmp_path, "val", **arguments, lists=by_list)
    skipped = reader(tmp_path, "val", **arguments, lists=by_list, on_error="skip")
    assert len(skipped) == 1 and [problem.rule for problem in skipped.problems] == ["list-entry"]
