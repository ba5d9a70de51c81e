"""Image folders: layouts, classes, faults, real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionkit.data.readers import Folder
from visionkit.errors import DataError

HYMENOPTERA = Path(__file__).parents[3] / "../shared/data/hymenoptera"


def save(root: Path, *names: str, size: tuple[int, int] = (6, 4)) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(root / name)


def test_split_folders(tmp_path: Path) -> None:
    save(tmp_path, "train/dog/2.png", "train/dog/1.PNG", "train/cat/deep/x.jpg", "val/dog/3.png")
    reader = Folder(tmp_path, "train")
    assert reader.classes == ("cat", "dog") and list(reader.category_ids) == [1, 2]
    assert reader.file_names == ["train/cat/deep/x.jpg", "train/dog/1.PNG", "train/dog/2.png"]
    assert reader.image_ids == [1, 2, 3]
    labels = reader.labels(0)
    assert labels.size == (4, 6) and labels.boxes is None
    assert labels.class_scores.tolist() == [1, 0] and labels.class_scores.dtype == np.float32
    assert reader.labels(2).class_scores.tolist() == [0, 1]
    assert reader.class_counts().tolist() == [1, 2]


def test_every_split_has_the_classes_of_all(tmp_path: Path) -> None:
    save(tmp_path, "train/cat/1.png", "val/dog/1.png")
    (tmp_path / "docs" / "pictures").mkdir(parents=True)  # no split by its name
    for split in ("train", "val"):
        assert Folder(tmp_path, split).classes == ("cat", "dog")


def test_class_folders_alone_are_divided(tmp_path: Path) -> None:
    save(tmp_path, *(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(20)))
    parts = [Folder(tmp_path, split) for split in ("train", "val")]
    assert sorted(name for part in parts for name in part.file_names) == sorted(
        f"{name}/{number}.png" for name in ("cat", "dog") for number in range(20)
    )
    assert len(parts[0]) > len(parts[1]) > 0 and "divided by name" in parts[0].notes[0]
    assert parts[0].labels(0).class_scores.tolist() == [1, 0]
    assert len(Folder(tmp_path, "all", fractions={"all": 1.0})) == 40
    with pytest.raises(DataError, match=r"change data\.reader\.fractions or data\.seed"):
        Folder(tmp_path, "rare", fractions={"rare": 1e-9})


def test_classes_choose_and_order(tmp_path: Path) -> None:
    save(tmp_path, "train/ant/1.png", "train/cat/1.png", "train/dog/1.png")
    reader = Folder(tmp_path, "train", classes=["dog", "cat"])
    assert reader.file_names == ["train/cat/1.png", "train/dog/1.png"]
    assert reader.image_ids == [2, 3]  # as in the whole split
    assert [reader.labels(i).class_scores.tolist() for i in range(2)] == [[0, 1], [1, 0]]
    assert reader.notes == ["images of classes that data.classes does not list were left out: ant 1"]
    with pytest.raises(DataError, match=r"no class 'cow'; it has ant, cat, dog; correct data\.classes"):
        Folder(tmp_path, "train", classes=["cow"])


def test_only_files_that_claim_to_be_images_count(tmp_path: Path) -> None:
    save(tmp_path, "train/cat/1.png", "train/cat/.2.png", "train/.hidden/3.png", "train/cat/.thumbs/4.png")
    (tmp_path / "train/cat/notes.txt").write_text("none")
    (tmp_path / "train/cat/5.jpg").write_text("no picture")
    with pytest.raises(DataError) as error:
        Folder(tmp_path, "train")
    assert "1 problem in the data" in str(error.value)
    assert f"{tmp_path / 'train/cat/5.jpg'}: not an image; save it again as JPEG or PNG" in str(error.value)
    reader = Folder(tmp_path, "train", on_error="skip")
    assert reader.file_names == ["train/cat/1.png"] and len(reader.problems) == 1 and reader.classes == ("cat",)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no class folders; put the images of each class into one, as in cats/1\.jpg"):
        Folder(tmp_path, "train")
    save(tmp_path, "train/cat/1.png")
    with pytest.raises(DataError, match=r"no split 'val'; it has train; choose one with data\.splits"):
        Folder(tmp_path, "val")


@pytest.mark.skipif(not HYMENOPTERA.is_dir(), reason="hymenoptera is not beside the project")
def test_hymenoptera() -> None:
    train, val = (Folder(HYMENOPTERA, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (243, 153) and train.classes == val.classes == ("ants", "bees")
    assert val.class_counts().tolist() == [70, 83]
    assert val.read(0).image.shape[:2] == val.labels(0).size
