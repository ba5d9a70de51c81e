"""Mask images: every way to store classes and instances, layouts, divisions, faults, real data."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from visionkit.build import build_reader
from visionkit.config import compose
from visionkit.data.readers import Masks
from visionkit.data.readers.mask_files import instances, read_values
from visionkit.errors import ConfigError, DataError

SHARED = Path(__file__).parents[3] / "../shared/data"
MAP = np.array([[0, 1, 1, 2], [0, 0, 1, 2], [5, 5, 5, 5]], np.uint8)
PALETTE = [9, 9, 9, 200, 0, 0, 0, 200, 0, *([7, 7, 7] * 253)]


def write(root: Path, name: str, mask: object = MAP, *, folder: str = "", size: tuple[int, int] = (3, 4)) -> None:
    """Write root/images/<folder>/<name>.jpg and its mask: an array or a ready image."""
    for kind in ("images", "masks"):
        (root / kind / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1]).save(root / "images" / folder / f"{name}.jpg")
    picture = Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask
    picture.save(root / "masks" / folder / f"{name}.png")


def one(root: Path, **arguments: object) -> Masks:
    return Masks(root, "train", positions={"train": [0, None]}, **arguments)


def refusal(root: Path, error_type: type[Exception] = DataError, /, **arguments: object) -> str:
    with pytest.raises(error_type) as error:
        one(root, **arguments)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------ class numbers
def test_values_are_class_numbers_and_the_ignored_one_becomes_255(tmp_path: Path) -> None:
    write(tmp_path, "a")
    reader = one(tmp_path, classes=["sky", "road", "tree"], ignore_index=5)
    assert reader.semantic_classes == ("sky", "road", "tree") and reader.classes == ()
    assert reader.semantic_category_ids == (0, 1, 2)
    labels = reader.labels(0)
    assert labels.known == {"semantic"} and labels.size == (3, 4)
    assert labels.semantic.tolist() == [[0, 1, 1, 2], [0, 0, 1, 2], [255] * 4]


def test_numbers_with_gaps_are_taken_by_name_and_classes_choose_and_order(tmp_path: Path) -> None:
    write(tmp_path, "a")
    names = {"tree": 2, "sky": 0, "road": 1, "car": 5}
    reader = one(tmp_path, names=names)
    assert reader.semantic_classes == ("tree", "sky", "road", "car")
    assert reader.labels(0).semantic.tolist() == [[1, 2, 2, 0], [1, 1, 2, 0], [3] * 4]
    chosen = one(tmp_path, names=names, classes=["car", "sky"])
    assert chosen.labels(0).semantic.tolist() == [[1, 255, 255, 255], [1, 1, 255, 255], [0] * 4]
    assert chosen.semantic_category_ids == (5, 0)
    assert "pixels of classes that data.classes does not list are ignored: tree, road" in chosen.notes


def test_names_come_from_a_yaml_file_without_the_ignored_one(tmp_path: Path) -> None:
    write(tmp_path, "a")
    (tmp_path / "set.yaml").write_text("classes:\n  0: unlabeled\n  1: road\n  2: tree\n  5: car\n")
    reader = one(tmp_path, names="set.yaml", ignore_index=0)
    assert reader.semantic_classes == ("road", "tree", "car")
    assert reader.labels(0).semantic.tolist() == [[255, 0, 0, 1], [255, 255, 0, 1], [2] * 4]


def test_a_palette_counts_by_its_indices_whatever_its_colours(tmp_path: Path) -> None:
    palette = Image.fromarray(MAP, "L").convert("P")
    palette.putdata(MAP.ravel().tolist())
    palette.putpalette(PALETTE)
    write(tmp_path, "a", palette)
    assert Image.open(tmp_path / "masks/a.png").mode == "P"
    assert one(tmp_path, classes=["a", "b", "c"], ignore_index=5).labels(0).semantic.tolist()[0] == [0, 1, 1, 2]


def test_colours_are_classes_where_names_give_colours(tmp_path: Path) -> None:
    colours = {"sky": [128, 128, 128], "road": [128, 64, 128], "tree": [0, 0, 192]}
    void = [1, 2, 3]
    mask = np.array([[colours["sky"], colours["tree"]], [void, colours["road"]]], np.uint8)
    write(tmp_path, "a", mask, size=(2, 2))
    reader = one(tmp_path, names=colours, classes=["road", "sky"], ignore_values=[void])
    assert reader.labels(0).semantic.tolist() == [[1, 255], [255, 0]]
    assert reader.semantic_category_ids == (1, 2)
    said = refusal(tmp_path, names=colours)
    assert "masks/a.png: colour [1, 2, 3] is outside the class list" in said


def test_colours_without_a_list_of_them_are_refused_but_grey_in_three_channels_is_not(tmp_path: Path) -> None:
    write(tmp_path, "a", np.repeat(MAP[..., None], 3, axis=2))
    assert one(tmp_path, classes=["a", "b", "c"], ignore_index=5).labels(0).semantic[0, 3] == 2
    write(tmp_path, "a", np.array([[[9, 9, 9], [9, 8, 9]]], np.uint8), size=(1, 2))
    assert "masks/a.png: a colour mask; give the colour of each class" in refusal(tmp_path, classes=["a"])


def test_a_value_outside_the_list_is_refused_with_file_and_value(tmp_path: Path) -> None:
    write(tmp_path, "a", np.zeros((3, 4), np.uint8))
    write(tmp_path, "b")
    said = refusal(tmp_path, classes=["sky", "road"])
    assert "1 problem in the data" in said
    assert f"{tmp_path}/masks/b.png: values 2, 5 are outside the class list; name it in data.reader.names" in said
    reader = one(tmp_path, classes=["sky", "road"], on_error="skip")
    assert reader.file_names == ["images/a.jpg"] and reader.image_ids == [1] and len(reader.problems) == 1


def test_a_value_that_the_first_look_missed_is_refused_when_it_is_read(tmp_path: Path) -> None:
    for number in range(70):
        write(tmp_path, f"{number:02}", np.full((3, 4), 0, np.uint8))
    reader = one(tmp_path, classes=["sky"])
    Image.fromarray(MAP).save(tmp_path / "masks/33.png")
    with pytest.raises(DataError, match=r"masks/33\.png: values 1, 2, 5 are outside the class list"):
        reader.read(33)


def test_without_a_class_list_the_error_shows_what_the_masks_hold(tmp_path: Path) -> None:
    write(tmp_path, "a")
    said = refusal(tmp_path, ConfigError)
    assert "masks/a.png holds the values 0, 1, 2, 5" in said and "data.classes=[sky, road]" in said


def test_values_of_few_and_many_bits_are_not_stretched(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, 3]], np.uint8)
    rows = b"\0" + bytes([0b00011011])  # filter none, then four pixels of 2 bits
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    (tmp_path / "two.png").write_bytes(data)
    assert read_values(tmp_path / "two.png").tolist() == values.tolist()
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(tmp_path / "sixteen.png")
    assert read_values(tmp_path / "sixteen.png").tolist() == [[0, 300]]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "one.png")
    assert read_values(tmp_path / "one.png").tolist() == [[1, 0]]


# ---------------------------------------------------------------------------------------------------------- instances
def test_instances_give_boxes_areas_and_masks(tmp_path: Path) -> None:
    write(tmp_path, "a", np.array([[0, 7, 7, 0], [0, 7, 0, 2], [7, 0, 0, 2]], np.uint8))
    write(tmp_path, "b", np.zeros((3, 4), np.uint8))
    reader = one(tmp_path, kind="instances", classes=["cell"])
    assert reader.classes == ("cell",) and list(reader.category_ids) == [1] and reader.fields == {"boxes", "masks"}
    labels = reader.labels(0)
    assert labels.boxes.tolist() == [[3, 1, 4, 3], [0, 0, 3, 3]]  # by rising id
    assert labels.areas.tolist() == [2, 4] and labels.labels.tolist() == [0, 0]
    assert labels.bitmaps()[1].tolist() == [[0, 1, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    empty = reader.labels(1)
    assert empty.known == {"boxes", "masks"} and len(empty.boxes) == 0
    assert reader.class_counts().tolist() == [2]


def test_ignored_values_are_no_instance(tmp_path: Path) -> None:
    write(tmp_path, "a", np.array([[0, 255, 3, 3]], np.uint8), size=(1, 4))
    assert one(tmp_path, kind="instances", ignore_index=255).labels(0).boxes.tolist() == [[2, 0, 4, 1]]


def test_run_lengths_are_those_of_pycocotools() -> None:
    ids = np.random.default_rng(0).integers(0, 5, (13, 17)).astype(np.uint16) * 100
    found = instances(ids)
    counts, boxes, areas = found.counts, found.boxes, found.areas
    assert len(counts) == 4
    for place, number in enumerate((100, 200, 300, 400)):
        encoded = coco_mask.encode(np.asfortranarray(ids == number).astype(np.uint8))
        assert counts[place] == encoded["counts"] and areas[place] == coco_mask.area(encoded)
        x, y, across, down = coco_mask.toBbox(encoded)
        assert boxes[place].tolist() == [x, y, x + across, y + down]


def test_instances_are_of_one_class(tmp_path: Path) -> None:
    write(tmp_path, "a")
    assert "name one class" in refusal(tmp_path, ConfigError, kind="instances", classes=["a", "b"])
    assert "(did you mean 'instances'?)" in refusal(tmp_path, ConfigError, kind="instance")


def test_a_mask_as_jpeg_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a")
    Image.fromarray(MAP).save(tmp_path / "masks/a.jpg")
    (tmp_path / "masks/a.png").unlink()
    said = refusal(tmp_path, classes=["sky"])
    assert "masks/a.jpg: a mask as JPEG, which blurs its values; make it again as PNG [mask-jpeg]" in said


def write_ids(root: Path, ids: list[list[int]], city: str = "ulm") -> None:
    """Write a photograph and its ids in folders of cities, as Cityscapes has them."""
    mask = np.array(ids, np.uint16)
    for kind, ending, pixels in (("left", "photo", np.zeros((*mask.shape, 3), np.uint8)), ("fine", "ids", mask)):
        (root / kind / "train" / city).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / kind / "train" / city / f"{city}_0_{ending}.png")


CITIES = {"images": "left/{split}/*/{name}_photo.png", "masks": "fine/{split}/*/{name}_ids.png"}


def test_ids_that_tell_class_and_object(tmp_path: Path) -> None:
    write_ids(tmp_path, [[7, 7, 26, 26], [26003, 26003, 24000, 24000]])
    write_ids(tmp_path, [[7, 7], [7, 7]], "bonn")
    names = {"car": 26, "person": 24}
    reader = Masks(tmp_path, "train", kind="instances", divisor=1000, names=names, **CITIES)
    assert reader.file_names == ["left/train/bonn/bonn_0_photo.png", "left/train/ulm/ulm_0_photo.png"]
    assert list(reader.category_ids) == [26, 24] and len(reader.labels(0).boxes) == 0
    labels = reader.labels(1)  # by rising id: a group of cars, a person, a car
    assert labels.labels.tolist() == [0, 1, 0] and labels.crowd.tolist() == [True, False, False]
    assert labels.boxes.tolist() == [[2, 0, 4, 1], [2, 1, 4, 2], [0, 1, 2, 2]]
    chosen = Masks(tmp_path, "train", kind="instances", divisor=1000, names=names, classes=["person"], **CITIES)
    assert list(chosen.category_ids) == [24] and chosen.labels(1).labels.tolist() == [0]
    assert chosen.notes == ["objects of classes that data.classes does not list were left out: car 2"]
    with pytest.raises(DataError, match=r"ids\.png: id 26003 is of class 26, which is outside the class list"):
        Masks(tmp_path, "train", kind="instances", divisor=1000, names={"person": 24}, **CITIES)
    with pytest.raises(ConfigError, match=r"a number from 2, with data\.reader\.kind=instances"):
        Masks(tmp_path, "train", divisor=1000, names=names, **CITIES)


def test_folders_of_any_name_are_part_of_the_name(tmp_path: Path) -> None:
    for city in ("ulm", "bonn"):
        write_ids(tmp_path, [[0, 1]], city)
        (tmp_path / f"fine/train/{city}/{city}_0_ids.png").rename(tmp_path / f"fine/train/{city}/0_ids.png")
        (tmp_path / f"left/train/{city}/{city}_0_photo.png").rename(tmp_path / f"left/train/{city}/0_photo.png")
    Image.new("RGB", (2, 1)).save(tmp_path / "left/train/0_photo.png")  # a star stands for a folder, not for none
    reader = Masks(tmp_path, "train", classes=["a", "b"], **CITIES)
    assert reader.mask_names == ["fine/train/bonn/0_ids.png", "fine/train/ulm/0_ids.png"]
    assert not reader.notes
    (tmp_path / "fine/train/ulm/0_ids.png").unlink()
    with pytest.raises(DataError, match=r"fine/train/ulm/0_ids\.png: there is no such mask.*\[mask-missing\]"):
        Masks(tmp_path, "train", classes=["a", "b"], **CITIES)
    with pytest.raises(ConfigError, match=r"as many folders \* as in"):
        Masks(tmp_path, "train", classes=["a"], images=CITIES["images"], masks="fine/{split}/{name}_ids.png")
    for wrong in ("*/{split}/{name}", "left/**/{name}"):
        with pytest.raises(ConfigError, match=r"data\.reader\.images="):
            Masks(tmp_path, "train", classes=["a"], images=wrong, masks="fine/*/{name}")


# ------------------------------------------------------------------------------------------------- files and splits
def test_image_and_mask_of_different_sizes_are_refused_naming_both(tmp_path: Path) -> None:
    write(tmp_path, "a", size=(4, 3))
    said = refusal(tmp_path, classes=["a", "b", "c"], ignore_index=5)
    assert "masks/a.png: the mask is 4 x 3 but images/a.jpg is 3 x 4; give the mask the size of its image" in said


def test_an_image_without_mask_is_a_fault_unless_such_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a")
    write(tmp_path, "b")
    (tmp_path / "masks/b.png").unlink()
    (tmp_path / "masks/c.png").write_bytes((tmp_path / "masks/a.png").read_bytes())
    names = {"names": ["a", "b", "c"], "ignore_index": 5}
    assert "masks/b: there is no such mask" in refusal(tmp_path, **names)
    reader = one(tmp_path, **names, unlabelled="skip")
    assert len(reader) == 1 and reader.problems == []
    assert reader.notes == ["images without a mask were left out: 1", "masks without an image: 1"]


def test_usual_layouts_are_found_and_others_told(tmp_path: Path) -> None:
    names = {"classes": ["a", "b", "c"], "ignore_index": 5}
    write(tmp_path / "1", "x", folder="train")
    assert Masks(tmp_path / "1", "train", **names).file_names == ["images/train/x.jpg"]
    write(tmp_path / "2", "x")
    (tmp_path / "2/images").rename(tmp_path / "2/train")
    (tmp_path / "2/masks").rename(tmp_path / "2/trainannot")
    assert Masks(tmp_path / "2", "train", **names).mask_names == ["trainannot/x.png"]
    for kind, name in (("left/train/city", "x_photo.jpg"), ("fine/train/city", "x_ids.png")):
        (tmp_path / "3" / kind).mkdir(parents=True)
        Image.fromarray(MAP).save(tmp_path / "3" / kind / name)
    templates = {"images": "left/{split}/{name}_photo.jpg", "masks": "fine/{split}/{name}_ids.png"}
    reader = Masks(tmp_path / "3", "train", **names, **templates)
    assert reader.file_names == ["left/train/city/x_photo.jpg"]
    (tmp_path / "4").mkdir()
    with pytest.raises(DataError, match=r"looked for images/<split>/ with masks/<split>/; .*data.reader.images"):
        Masks(tmp_path / "4", "train", **names)


def test_a_split_of_which_a_copy_lacks_the_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path, "x", folder="train")
    with pytest.raises(DataError, match=r"no split 'val'; it has train; choose one with data\.splits"):
        Masks(tmp_path, "val", classes=["a"])


def test_a_list_file_says_which_images_in_which_order(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path, name)
    (tmp_path / "train.txt").write_text("/somewhere/else/c.png /foreign/c.png\na\n")
    names = {"classes": ["a", "b", "c"], "ignore_index": 5, "lists": "{split}.txt"}
    reader = Masks(tmp_path, "train", **names)
    assert reader.file_names == ["images/c.jpg", "images/a.jpg"] and reader.image_ids == [1, 2]
    with pytest.raises(DataError, match=r"no split 'trein' \(did you mean 'train'\?\)"):
        Masks(tmp_path, "trein", **names)


@pytest.mark.parametrize(
    ("positions", "train", "val"),
    [
        ({"train": [0, 3], "val": [3, None]}, "abc", "de"),
        ({"val": [0, None, 2], "train": "rest"}, "bd", "ace"),
        ({"train": "rest", "val": [-1, None]}, "abcd", "e"),
    ],
)
def test_positions_divide_the_sorted_names(tmp_path: Path, positions: dict, train: str, val: str) -> None:
    for name in "cabed":
        write(tmp_path, name)
    for split, expected in (("train", train), ("val", val)):
        reader = Masks(tmp_path, split, classes=["a", "b", "c"], ignore_index=5, positions=positions)
        assert [Path(name).stem for name in reader.file_names] == list(expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"positions": {"train": [0, 3], "val": [2, None]}}, "train and val both hold image 2 ('c')"),
        ({"positions": {"train": "0:3"}}, "positions.train=0:3: [start, stop]"),
        ({"positions": {"train": [0, 3, 0]}}, "positions.train=[0, 3, 0]: [start, stop]"),
        ({"positions": {"train": "rest", "val": "rest"}}, "only one split can be the rest"),
        ({"positions": {"train": [0, 3]}, "fractions": {"train": 0.5}}, "give one of them"),
        ({"images": "images/{name}"}, "data.reader.masks: give images and masks both"),
        ({"images": "images/*.jpg", "masks": "masks/{name}"}, "data.reader.images=images/*.jpg: a path"),
        ({"classes": [f"c{i}" for i in range(256)]}, "256 classes; a semantic map holds at most 255"),
        ({"names": {"a": 0, "b": [1, 2, 3]}}, "'[1, 2, 3]' among whole numbers"),
        ({"names": ["a", "a"]}, "'a' or its number 1 stands there twice"),
    ],
)
def test_wrong_arguments_are_told(tmp_path: Path, arguments: dict, said: str) -> None:
    for name in "abcd":
        write(tmp_path, name)
    with pytest.raises(ConfigError) as error:
        Masks(tmp_path, "train", **{"classes": ["a"], **arguments})
    assert said in str(error.value)


# ---------------------------------------------------------------------------------------------------------- real data
@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch):
    """real("camvid", "train") opens a split of a ready configuration; the test is skipped where the set is absent."""

    def open_split(name: str, split: str, *typed: str):
        if not (SHARED / name).is_dir():
            pytest.skip(f"{name} is not there")
        monkeypatch.setenv("VISIONKIT_DATA", str(SHARED))
        return build_reader(compose("train", [f"data={name}", *typed]).data, split)

    return open_split


def test_camvid(real) -> None:
    counts = {}
    for split in ("train", "val", "test"):
        reader = real("camvid", split)
        counts[split] = len(reader)
    assert counts == {"train": 367, "val": 101, "test": 233}
    assert len(reader.semantic_classes) == 11 and reader.semantic_classes[8] == "Car"
    labels = reader.read(5).labels
    assert labels.size == (360, 480) and set(np.unique(labels.semantic)) <= {*range(11), 255}
    file = reader.root / reader.mask_names[5]
    assert ((np.asarray(Image.open(file)) == 11) == (labels.semantic == 255)).all()


def test_camvid_with_a_validation_split_of_null(real) -> None:
    reader = real("camvid", "test", "data.splits={train: train, val: null, test: test}")
    assert len(reader) == 233


def test_pennfudan(real) -> None:
    train, val = real("pennfudan", "train"), real("pennfudan", "val")
    assert (len(train), len(val)) == (120, 50) and train.classes == ("person",)
    assert train.class_counts()[0] + val.class_counts()[0] == 423
    assert train.file_names[0] == "JPEGImages/FudanPed00001.jpg" and not {*train.file_names} & {*val.file_names}
    labels = train.labels(0)  # PASCAL 1.00's own boxes, corners counted from 1: (160, 182) - (302, 431), (420, 171) - …
    assert labels.boxes.tolist() == [[159, 181, 302, 431], [419, 170, 535, 486]]
