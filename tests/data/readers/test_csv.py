"""CSV: columns, images, faults, splits, real data."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from visionkit.build import build_reader
from visionkit.config import compose
from visionkit.data.readers import Csv
from visionkit.errors import ConfigError, DataError

SHARED = Path(__file__).parents[3] / "../shared/data"
BOXES = "b.png,1,2,30,20,dog\na.png,0,0,10.5,5,cat\nb.png,5,5,6,6,cat\n"


def write(root: Path, rows: str, *, name: str = "train.csv", images: tuple[str, ...] = ("a.png", "b.png")) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(rows)
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(root / image)


def refusal(root: Path, kind: type[Exception] = DataError, **arguments: object) -> str:
    with pytest.raises(kind) as error:
        Csv(root, "train", **arguments)
    return str(error.value)


def test_rows_of_one_image_are_its_objects_in_their_order(tmp_path: Path) -> None:
    write(tmp_path, BOXES + "c.png,,,,,\n", images=("a.png", "b.png", "c.png"))
    reader = Csv(tmp_path, "train")
    assert reader.classes == ("cat", "dog") and list(reader.category_ids) == [1, 2] and reader.fields == {"boxes"}
    assert reader.file_names == ["b.png", "a.png", "c.png"] and reader.image_ids == [1, 2, 3]
    labels = reader.labels(0)
    assert labels.size == (40, 60)
    assert labels.boxes.tolist() == [[1, 2, 30, 20], [5, 5, 6, 6]] and labels.labels.tolist() == [1, 0]
    assert reader.labels(1).boxes.tolist() == [[0, 0, 10.5, 5]]
    assert reader.labels(2).boxes.shape == (0, 4)  # known to be empty
    assert reader.class_counts().tolist() == [2, 1]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ("class;ymin;xmin;ymax;xmax;filename;width\ncat;2;1;20;30;a.png;60\n", None),
        ("\ufeffimage,label,x1,y1,x2,y2\na.png,cat,1,2,30,20\n", None),
        ("a.png\tcat\t60\t40\t1\t2\t30\t20\n", ["file", "label", "width", "height", "x1", "y1", "x2", "y2"]),
        (
            "photo,kind,l,t,r,b\n\na.png , cat,1,2,30,20\n",
            {"file": "photo", "label": "kind", "x1": "l", "y1": "t", "x2": "r", "y2": "b"},
        ),
    ],
)
def test_columns_may_be_named_ordered_and_separated_otherwise(tmp_path: Path, rows: str, columns: object) -> None:
    write(tmp_path, rows)
    reader = Csv(tmp_path, "train", columns=columns)
    assert reader.file_names == ["a.png"] and reader.classes == ("cat",)
    assert reader.labels(0).boxes.tolist() == [[1, 2, 30, 20]]


def test_rows_without_box_label_whole_images_with_several_classes_if_there_are(tmp_path: Path) -> None:
    write(tmp_path, "a.png,cat\nb.png,dog\na.png,dog\n")
    reader = Csv(tmp_path, "train")
    assert reader.fields == {"class_scores"} and reader.labels(0).known == {"class_scores"}
    assert reader.labels(0).class_scores.tolist() == [1, 1] and reader.labels(1).class_scores.tolist() == [0, 1]
    assert Csv(tmp_path, "train", classes=["cat"]).file_names == ["a.png"]  # b is of no wanted class


def test_objects_of_other_classes_are_left_out_and_the_image_stays(tmp_path: Path) -> None:
    write(tmp_path, BOXES)
    reader = Csv(tmp_path, "train", classes=["dog"])
    assert len(reader) == 2 and reader.labels(1).boxes.shape == (0, 4)
    assert reader.notes == ["objects of classes that data.classes does not list were left out: cat 2"]


def test_faults_are_named_with_file_and_line(tmp_path: Path) -> None:
    rows = (
        "a.png,1,2,30,20,cat\na.png,1,9,30,9,cat\nb.png,1,2,x,20,cat\nb.png,1,2,,20,cat\nb.png,1,2,3,4,\n"
        "../c.png,1,2,3,4,cat\nlost.png,1,2,3,4,cat\na.png,,,,,cat\n,1,2,3,4,cat\n"
    )
    write(tmp_path, rows)
    said = refusal(tmp_path)
    for line, fault in {
        2: "the box has no area: (1.0, 9.0, 30.0, 9.0); correct the row",
        3: "'x' is not a number",
        4: "a number of the box is missing",
        5: "the box has no label",
        6: "'../c.png' leaves the folder",
        7: "'lost.png' is not there; looked for lost.png, images/lost.png",
        8: "'cat' has no box",
        9: "the row names no image",
    }.items():
        assert f"{tmp_path}/train.csv: line {line}: {fault}" in said
    assert said.startswith("8 problems")
    reader = Csv(tmp_path, "train", on_error="skip")
    # Nothing certain is known of b.png, all of whose rows are faulty.
    assert reader.file_names == ["a.png"] and len(reader.labels(0).boxes) == 1 and len(reader.problems) == 8


def test_images_are_found_by_usual_places_or_a_template(tmp_path: Path) -> None:
    write(tmp_path / "1", BOXES, images=("images/a.png", "images/b.png"))
    assert Csv(tmp_path / "1", "train").file_names == ["images/b.png", "images/a.png"]
    images = ("images/cat/a.png", "images/dog/a.png")
    write(tmp_path / "2", "a.png,1,2,3,4,cat\na.png,1,2,3,4,dog\n", images=images)
    assert Csv(tmp_path / "2", "train").file_names == list(images)
    write(tmp_path / "3", BOXES, images=("pics/train/a.png", "pics/train/b.png"))
    assert len(Csv(tmp_path / "3", "train", images="pics/{split}/{file}")) == 2
    assert "a path with {file}" in refusal(tmp_path / "3", ConfigError, images="pics")


def test_files_called_by_splits_are_the_splits(tmp_path: Path) -> None:
    write(tmp_path, BOXES)
    write(tmp_path, "c.png,1,2,3,4,bird\n", name="val.csv", images=("c.png",))
    train, val = Csv(tmp_path, "train"), Csv(tmp_path, "val")
    assert len(train) == 2 and val.file_names == ["c.png"]
    assert train.classes == val.classes == ("bird", "cat", "dog")
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        Csv(tmp_path, "test")
    assert Csv(tmp_path, "test", annotations="val.csv").file_names == ["c.png"]
    every = Csv(tmp_path, "all", fractions={"all": 1})  # what is given counts for the images of all files
    assert every.file_names == ["a.png", "b.png", "c.png"]
    assert "the source's own splits are not used: train, val" in every.notes


def test_a_column_or_positions_or_fractions_divide_other_files(tmp_path: Path) -> None:
    write(tmp_path, "file,label,split\na.png,cat,train\nb.png,dog,test\n", name="labels.csv")
    assert Csv(tmp_path, "test").file_names == ["b.png"]
    with pytest.raises(DataError, match="no split 'val'; it has test, train"):
        Csv(tmp_path, "val")
    write(tmp_path, "file,label,split\na.png,cat,train\na.png,dog,test\nb.png,dog,test\n", name="labels.csv")
    assert "line 3: the image is in split 'test' here and in 'train' elsewhere" in refusal(tmp_path)
    assert Csv(tmp_path, "val", positions={"val": [0, None, 2], "train": "rest"}).file_names == ["a.png"]
    write(tmp_path, BOXES, name="labels.csv")
    both = [
        name
        for split in ("train", "val")
        for name in Csv(tmp_path, split, fractions={"train": 0.5, "val": 0.5}, seed=5).file_names
    ]
    assert sorted(both) == ["a.png", "b.png"]


def test_a_file_that_makes_no_sense_is_told(tmp_path: Path) -> None:
    write(tmp_path, "a,b,c\n")
    assert "3 columns without names" in refusal(tmp_path)
    write(tmp_path, "file,x1,label\n")
    assert "no column for y1, x2, y2" in refusal(tmp_path)
    write(tmp_path, "\n")
    assert "there are no rows" in refusal(tmp_path)
    write(tmp_path, BOXES)
    assert "no column 'photo'" in refusal(tmp_path, columns={"file": "photo"})
    assert "no such meaning (did you mean 'label'?)" in refusal(tmp_path, ConfigError, columns={"labels": "x"})
    assert "no file fits data.reader.files=x/*.csv" in refusal(tmp_path, files="x/*.csv")


def test_caltech101(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (SHARED / "caltech101_loc").is_dir():
        pytest.skip("caltech101_loc is not there")
    monkeypatch.setenv("VISIONKIT_DATA", str(SHARED))
    data = compose("train", ["data=caltech101_loc"]).data
    train, val = build_reader(data, "train"), build_reader(data, "val")
    assert len(val) == 407 and len(train) == 2033 - 407 - 1
    assert (train.class_counts() + val.class_counts()).tolist() == [799, 435, 798]
    assert train.classes == ("airplane", "face", "motorcycle")
    (problem,) = train.problems
    assert problem.file.endswith("annotations/airplane.csv") and problem.where == "line 118" and not val.problems
    assert "images/airplane/image_0118.jpg" not in train.file_names
    every = sorted([*train.file_names, *val.file_names, "images/airplane/image_0118.jpg"])
    assert val.file_names == every[::5]
