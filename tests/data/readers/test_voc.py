"""Pascal VOC: values, faults and what is said of them, splits, real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit.data.readers import Voc
from visionkit.errors import ConfigError, DataError

BCCD = Path(__file__).parents[3] / "../shared/data/bccd"


def write(
    root: Path, name: str, objects: str = "", *, size: str = "", image: tuple[int, int] | None = (40, 60)
) -> Path:
    """Write one image of (height, width) and its XML; no image when None."""
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    (root / "JPEGImages").mkdir(exist_ok=True)
    if image is not None:
        Image.new("RGB", image[::-1]).save(root / "JPEGImages" / f"{name}.jpg")
    file = root / "Annotations" / f"{name}.xml"
    file.write_text(f"<annotation>{size}{objects}</annotation>")
    return file


def thing(name: str = "cat", box: tuple[object, object, object, object] = (1, 2, 30, 20), extra: str = "") -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{extra}<bndbox>{sides}</bndbox></object>"


def listed(root: Path, *names: str, split: str = "train") -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))


def refusal(root: Path, **arguments: object) -> str:
    with pytest.raises(DataError) as error:
        Voc(root, "train", **arguments)
    return str(error.value)


def test_numbers_are_taken_as_they_stand(tmp_path: Path) -> None:
    write(tmp_path, "b", thing("dog", (1, 2.5, 30, 20)) + thing("cat", extra="<difficult>1</difficult>"))
    write(tmp_path, "a")
    listed(tmp_path, "b", "a")
    reader = Voc(tmp_path, "train")
    assert reader.classes == ("cat", "dog") and list(reader.category_ids) == [1, 2]
    assert reader.image_ids == [1, 2] and reader.file_names == ["JPEGImages/b.jpg", "JPEGImages/a.jpg"]
    labels = reader.labels(0)
    assert labels.size == (40, 60)
    assert labels.boxes.tolist() == [[1, 2.5, 30, 20], [1, 2, 30, 20]]
    assert labels.labels.tolist() == [1, 0]
    assert labels.ignore.tolist() == [False, True] and not labels.crowd.any()
    assert labels.areas.tolist() == [29 * 17.5, 29 * 18]
    assert reader.labels(1).boxes.shape == (0, 4)  # known to be empty
    assert reader.class_counts().tolist() == [1, 1]


def test_nested_parts_are_no_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    write(tmp_path, "a", thing(extra=part))
    listed(tmp_path, "a")
    reader = Voc(tmp_path, "train")
    assert reader.classes == ("cat",) and reader.labels(0).boxes.tolist() == [[1, 2, 30, 20]]


def test_every_split_has_the_classes_of_all(tmp_path: Path) -> None:
    write(tmp_path, "a", thing("dog"))
    write(tmp_path, "b", thing("cat"))
    listed(tmp_path, "a")
    assert Voc(tmp_path, "train").classes == ("cat", "dog")
    assert Voc(tmp_path, "train", classes=["cat"]).classes == ("cat",)  # occurs in the other split alone


def test_classes_choose_and_order(tmp_path: Path) -> None:
    write(tmp_path, "a", thing("dog") + thing("cat") + thing("cow", (5, 5, 5, 5)))
    listed(tmp_path, "a")
    reader = Voc(tmp_path, "train", classes=["dog", "cat"])
    assert reader.labels(0).labels.tolist() == [0, 1]
    assert reader.notes == ["objects of classes that data.classes does not list were left out: cow 1"]
    message = refusal(tmp_path, classes=["dgo"])
    assert "no class 'dgo' (did you mean 'dog'?); it has cat, cow, dog" in message
    assert "more than once" in refusal(tmp_path, classes=["dog", "dog"])


FAULTS = {
    "no area": (thing(box=(5, 5, 5, 9)), "bndbox: the box has no area (xmin 5, ymin 5, xmax 5, ymax 9); correct"),
    "reversed": (thing(box=(9, 5, 5, 9)), "bndbox: the box has no area"),
    "outside": (thing(box=(60, 5, 70, 9)), "bndbox: the box is outside the image of 60 x 40"),
    "nan": (thing(box=("nan", 5, 5, 9)), "bndbox/xmin: 'nan' is not a number"),
    "words": (thing(box=(1, 5, "wide", 9)), "bndbox/xmax: 'wide' is not a number"),
    "no box": ("<object><name>cat</name></object>", "bndbox/xmin: the number is missing"),
    "no name": (thing(name=" "), "name: the object has no name"),
    "difficult": (thing(extra="<difficult>maybe</difficult>"), "difficult: must be 0 or 1, not 'maybe'"),
}


@pytest.mark.parametrize("case", sorted(FAULTS))
def test_faulty_object_stops_or_is_left_out(tmp_path: Path, case: str) -> None:
    objects, said = FAULTS[case]
    file = write(tmp_path, "a", thing() + objects)
    listed(tmp_path, "a")
    message = refusal(tmp_path)
    assert f"{file}: object[2]/{said}" in message and "data.on_error=skip" in message
    reader = Voc(tmp_path, "train", on_error="skip")
    assert len(reader.problems) == 1 and reader.labels(0).boxes.tolist() == [[1, 2, 30, 20]]


def test_box_over_the_edge(tmp_path: Path) -> None:
    write(tmp_path, "a", thing(box=(-1, 0, 61, 40)) + thing(box=(-8, -9, 70, 20)))
    listed(tmp_path, "a")
    reader = Voc(tmp_path, "train")
    assert reader.labels(0).boxes.tolist() == [[-1, 0, 61, 40], [0, 0, 60, 20]]  # up to 1 px is rounding
    assert reader.notes == ["boxes that reach over the image's edge by more than 1 px were clipped: 1"]


def test_faulty_images_are_named_all_at_once(tmp_path: Path) -> None:
    write(tmp_path, "good", thing())
    write(tmp_path, "lost", image=None)
    write(tmp_path, "size", thing(), size="<size><width>40</width><height>60</height></size>")
    (write(tmp_path, "broken")).write_text("<annotation><object>")
    (write(tmp_path, "bomb")).write_text('<!DOCTYPE a [<!ENTITY b "bb">]><annotation>&b;</annotation>')
    cut = write(tmp_path, "cut").parents[1] / "JPEGImages" / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[:-20])
    write(tmp_path, "twice")
    Image.new("RGB", (60, 40)).save(tmp_path / "JPEGImages" / "twice.png")
    listed(tmp_path, "good", "lost", "size", "broken", "bomb", "cut", "gone", "twice", "good", "../x")
    message = refusal(tmp_path)
    folder = tmp_path / "Annotations"
    for said in (
        "9 problems in the data",
        f"{folder / 'lost.xml'}: no image of that name in",
        f"{folder / 'size.xml'}: size: the recorded size is 40 x 60 but size.jpg is 60 x 40, turned",
        f"{folder / 'broken.xml'}: not well-formed XML",
        f"{folder / 'bomb.xml'}: a DOCTYPE declaration is not allowed",
        f"{cut}: the file ends too early",
        f"{folder / 'gone.xml'}: no such annotation file",
        "2 images of that name",
        "train.txt: line 9: 'good' stands in line 1 already",
        "line 10: '../x' leaves the folder",
    ):
        assert said in message
    reader = Voc(tmp_path, "train", on_error="skip")
    assert reader.file_names == ["JPEGImages/good.jpg"] and len(reader.problems) == 9


def test_ids_do_not_shift_when_an_image_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a", image=None)
    write(tmp_path, "b", thing())
    listed(tmp_path, "a", "b")
    assert Voc(tmp_path, "train", on_error="skip").image_ids == [2]


def test_unrecorded_size_is_no_fault(tmp_path: Path) -> None:
    write(tmp_path, "a", thing(), size="<size><width>0</width><height>0</height></size>")
    listed(tmp_path, "a")
    assert Voc(tmp_path, "train").labels(0).size == (40, 60)


def test_only_ten_problems_are_shown(tmp_path: Path) -> None:
    write(tmp_path, "a", thing(box=(5, 5, 5, 5)) * 13)
    listed(tmp_path, "a")
    message = refusal(tmp_path)
    assert "13 problems" in message and message.count("object[") == 10 and "and 3 more" in message


def test_division_by_fractions(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path, f"i{number:02}", thing(), image=(40, 60))
    shares = {"train": 0.5, "val": 0.25, "test": 0.25}
    parts = {split: set(Voc(tmp_path, split, fractions=shares).file_names) for split in shares}
    assert sum(map(len, parts.values())) == 40 == len(set.union(*parts.values()))
    assert 12 <= len(parts["train"]) <= 28
    assert set(Voc(tmp_path, "train", fractions=shares, seed=1).file_names) != parts["train"]
    for number in range(20):  # an image never changes sides when others go
        (tmp_path / "Annotations" / f"i{number:02}.xml").unlink()
    fewer = set(Voc(tmp_path, "train", fractions=shares).file_names)
    assert fewer == {name for name in parts["train"] if name >= "JPEGImages/i20"}
    by_default = Voc(tmp_path, "val")
    assert "divided by name into {'train': 0.8, 'val': 0.2}" in by_default.notes[0]
    with pytest.raises(ConfigError, match="sum to at most 1"):
        Voc(tmp_path, "train", fractions={"train": 0.8, "val": 0.8})
    with pytest.raises(DataError, match=r"no split 'test'.*it has train, val"):
        Voc(tmp_path, "test")


# ----------------------------------------------------------------------------------------------------- segmentations
CLASS = np.array([[0, 8, 8, 8, 255, 0], [0, 8, 8, 12, 12, 0], [0, 0, 12, 12, 12, 0], [0, 0, 0, 0, 0, 8]], np.uint8)
OBJECT = np.array([[0, 1, 1, 1, 255, 0], [0, 1, 1, 2, 2, 0], [0, 0, 2, 2, 2, 0], [0, 0, 0, 0, 0, 3]], np.uint8)


def write_masks(
    root: Path, name: str, classes: np.ndarray = CLASS, objects: np.ndarray | None = OBJECT, *, xml: str | None = None
) -> None:
    """Write an image of the masks' size, its masks as palette PNGs, and its XML if there is one."""
    if xml is not None:
        write(root, name, xml)
    folders = {"SegmentationClass": classes, "SegmentationObject": objects}
    for folder, mask in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        if mask is not None:
            picture = Image.fromarray(mask)
            picture.putpalette([(7 * value + shift) % 256 for value in range(256) for shift in (0, 90, 180)])
            picture.save(root / folder / f"{name}.png")
    (root / "JPEGImages").mkdir(exist_ok=True)
    Image.new("RGB", classes.shape[::-1]).save(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
    with (root / "ImageSets/Segmentation/train.txt").open("a") as file:
        file.write(f"{name}\n")


def test_classes_of_pixels_with_void_ignored(tmp_path: Path) -> None:
    write_masks(tmp_path, "a", objects=None)
    reader = Voc(tmp_path, "train", kind="semantic")
    assert reader.fields == {"semantic"} and len(reader.semantic_classes) == 21 and reader.classes == ()
    assert reader.semantic_classes[8] == "cat" and list(reader.semantic_category_ids) == list(range(21))
    assert reader.labels(0).semantic.tolist() == CLASS.tolist()
    chosen = Voc(tmp_path, "train", kind="semantic", classes=["dog", "cat"])
    assert list(chosen.semantic_category_ids) == [12, 8]
    assert chosen.labels(0).semantic[1].tolist() == [255, 1, 1, 0, 0, 255]


def test_objects_of_pixels_without_xml(tmp_path: Path) -> None:
    write_masks(tmp_path, "a")
    reader = Voc(tmp_path, "train", kind="instances")
    assert reader.fields == {"boxes", "masks"} and len(reader.classes) == 20 and "background" not in reader.classes
    labels = reader.labels(0)
    assert [reader.classes[label] for label in labels.labels] == ["cat", "dog", "cat"]
    assert [reader.category_ids[label] for label in labels.labels] == [8, 12, 8]
    assert labels.boxes.tolist() == [[1, 0, 4, 2], [2, 1, 5, 3], [5, 3, 6, 4]] and labels.areas.tolist() == [5, 5, 1]
    assert labels.bitmaps()[1].tolist() == (OBJECT == 2).astype(int).tolist()
    chosen = Voc(tmp_path, "train", kind="instances", classes=["dog"]).labels(0)
    assert chosen.boxes.tolist() == [[2, 1, 5, 3]] and chosen.labels.tolist() == [0]


def test_boxes_and_difficult_come_from_the_xml_where_it_has_the_object(tmp_path: Path) -> None:
    xml = (
        thing("dog", (2, 1, 4.5, 3), "<difficult>1</difficult>")  # the second object, whatever its place
        + thing("dog", (1, 0, 4, 2))  # overlaps the first object, which is a cat
        + thing("cat", (1, 1, 2, 2))  # overlaps it by less than half
        + thing("cow", (0, 0, 1, 1))
    )
    write_masks(tmp_path, "a", xml=xml)
    reader = Voc(tmp_path, "train", kind="all")
    assert reader.fields == {"boxes", "masks", "semantic"}
    labels = reader.labels(0)
    assert labels.boxes.tolist() == [[1, 0, 4, 2], [2, 1, 4.5, 3], [5, 3, 6, 4]]
    assert labels.ignore.tolist() == [False, True, False] and labels.semantic.tolist() == CLASS.tolist()
    assert "objects of the XML files that are none in SegmentationObject, left out: 3" in reader.notes


@pytest.mark.parametrize(
    ("classes", "objects", "kind", "rule", "said"),
    [
        (CLASS, None, "instances", "mask-missing", "SegmentationObject/a.png: there is no such mask"),
        (np.zeros_like(CLASS), OBJECT, "instances", "mask-class", "a.png: object 1 has no pixel with a class in"),
        (
            CLASS,
            OBJECT[:2],
            "instances",
            "mask-size",
            "SegmentationObject/a.png: the mask is 6 x 2 but its image is 6 x 4",
        ),
        (
            np.full_like(CLASS, 30),
            OBJECT,
            "all",
            "mask-value",
            "SegmentationClass/a.png: value 30 is outside the class",
        ),
        (np.full_like(CLASS, 30), OBJECT, "semantic", "mask-value", "a.png: value 30 is outside the class list"),
    ],
)
def test_faulty_masks_are_named(tmp_path: Path, classes, objects, kind: str, rule: str, said: str) -> None:
    write_masks(tmp_path, "a", classes, objects)
    write_masks(tmp_path, "b")
    assert said in refusal(tmp_path, kind=kind)
    reader = Voc(tmp_path, "train", kind=kind, on_error="skip")
    assert reader.file_names == ["JPEGImages/b.jpg"] and reader.image_ids == [2]
    assert [problem.rule for problem in reader.problems] == [rule]


def test_a_semantic_mask_of_another_size_is_named(tmp_path: Path) -> None:
    write_masks(tmp_path, "a")
    Image.new("RGB", (5, 4)).save(tmp_path / "JPEGImages/a.jpg")
    said = refusal(tmp_path, kind="semantic")
    assert "SegmentationClass/a.png: the mask is 6 x 4 but JPEGImages/a.jpg is 5 x 4" in said


def test_colours_of_a_labelmap(tmp_path: Path) -> None:
    write_masks(tmp_path, "a")
    colours = {"background": [0, 0, 0], "cat": [64, 0, 0], "dog": [64, 0, 128]}
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in colours.items()]
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines) + "\n")
    by_value = {0: [0, 0, 0], 8: colours["cat"], 12: colours["dog"], 255: [224, 224, 192]}
    pixels = np.array([[by_value[value] for value in row] for row in CLASS.tolist()], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "SegmentationClass/a.png")
    ids = {0: [0, 0, 0], 1: [128, 0, 0], 2: [0, 128, 0], 3: [0, 0, 9], 255: [224, 224, 192]}
    pixels = np.array([[ids[value] for value in row] for row in OBJECT.tolist()], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "SegmentationObject/a.png")
    reader = Voc(tmp_path, "train", kind="all")
    assert reader.semantic_classes == ("background", "cat", "dog") and reader.classes == ("cat", "dog")
    assert reader.labels(0).semantic[1].tolist() == [0, 1, 1, 2, 2, 0] and reader.labels(0).semantic[0, 4] == 255
    found = sorted(zip(reader.labels(0).labels.tolist(), reader.labels(0).boxes.tolist(), strict=True))
    assert found == [(0, [1, 0, 4, 2]), (0, [5, 3, 6, 4]), (1, [2, 1, 5, 3])]
    (tmp_path / "labelmap.txt").write_text("cat:64,0\n")
    with pytest.raises(DataError, match=r"labelmap\.txt: line 1: 'cat:64,0' is not name:red,green,blue"):
        Voc(tmp_path, "train", kind="all")


def test_names_of_the_masks_may_be_given(tmp_path: Path) -> None:
    write_masks(tmp_path, "a")
    reader = Voc(tmp_path, "train", kind="all", names={"ground": 0, "sheep": 8, "goat": 12})
    assert reader.semantic_classes == ("ground", "sheep", "goat") and list(reader.category_ids) == [8, 12]
    with pytest.raises(ConfigError, match=r"data\.reader\.names: boxes have the names of their XML"):
        Voc(tmp_path, "train", names=["a"])
    with pytest.raises(ConfigError, match=r"data\.reader\.kind=box: .*did you mean 'boxes'"):
        Voc(tmp_path, "train", kind="box")


def test_masks_need_no_lists(tmp_path: Path) -> None:
    write_masks(tmp_path, "a")
    (tmp_path / "ImageSets/Segmentation/train.txt").unlink()
    (tmp_path / "ImageSets/Segmentation").rmdir()
    assert Voc(tmp_path, "all", kind="semantic", fractions={"all": 1.0}).file_names == ["JPEGImages/a.jpg"]
    write(tmp_path / "boxes", "a", thing())
    said = refusal(tmp_path / "boxes", kind="semantic")
    assert "no folder SegmentationClass, which data.reader.kind=semantic reads" in said


def test_bad_root_and_choice(tmp_path: Path) -> None:
    write(tmp_path / "cells", "a")
    assert "no such folder (did you mean 'cells'?); give the data set's folder as data.root" in refusal(
        tmp_path / "cell"
    )
    assert "for Pascal VOC data.root holds Annotations" in refusal(tmp_path)
    assert "a file, not a folder" in refusal(tmp_path / "cells" / "Annotations" / "a.xml")
    listed(tmp_path / "cells")
    assert "the list is empty" in refusal(tmp_path / "cells")
    with pytest.raises(ConfigError, match=r"data\.on_error=skipp: must be stop or skip \(did you mean 'skip'\?\)"):
        Voc(tmp_path / "cells", "train", on_error="skipp")


@pytest.mark.skipif(not BCCD.is_dir(), reason="bccd is not beside the project")
def test_bccd() -> None:
    sizes = {split: len(Voc(BCCD, split, on_error="skip")) for split in ("train", "val", "test", "trainval")}
    assert sizes == {"train": 205, "val": 87, "test": 72, "trainval": 292}
    message = refusal_of_trainval()
    assert "2 problems" in message
    assert "BloodImage_00338.xml: object[13]/bndbox: the box has no area" in message
    assert "BloodImage_00343.xml: object[4]/bndbox: the box has no area" in message
    reader = Voc(BCCD, "trainval", on_error="skip")
    rest = Voc(BCCD, "test")
    assert reader.classes == rest.classes == ("Platelets", "RBC", "WBC")
    assert len(reader.problems) == 2 and int(reader.class_counts().sum() + rest.class_counts().sum()) == 4888 - 2
    assert reader.image_ids[reader.file_names.index("JPEGImages/BloodImage_00338.jpg")]
    assert np.isfinite(reader.read(0).labels.boxes).all()


def refusal_of_trainval() -> str:
    with pytest.raises(DataError) as error:
        Voc(BCCD, "trainval")
    return str(error.value)
