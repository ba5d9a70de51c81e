"""The page of a data check."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from visionkit.data.check import check_split
from visionkit.data.readers import Folder, Masks
from visionkit.data.validate import Problem
from visionkit.report.check_page import write_page

EVIL = "<script>alert(1)</script>\x1b[2J"


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.sources: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.sources += [value for key, value in attributes if key in ("src", "href")]


def make_folder(root: Path, images: int = 3) -> Folder:
    for name in ("cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
        for number in range(images):
            Image.new("RGB", (60, 40), (90, 120, 20 * number)).save(root / f"train/{name}/{number}.png")
    return Folder(root, "train", on_error="skip")


def test_one_file_without_scripts_or_links(tmp_path: Path) -> None:
    make_folder(tmp_path / "set")
    (tmp_path / "set/train/cat/bad.jpg").write_bytes(b"")
    account = check_split(lambda: Folder(tmp_path / "set", "train", on_error="skip"), "train")
    write_page(tmp_path / "new/check.html", [account], [])
    page = (tmp_path / "new/check.html").read_text()
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    tags = Tags(page)
    assert not {"script", "link", "iframe", "object", "form", "a"} & set(tags.names)
    assert len(tags.sources) == 6 and all(source.startswith("data:image/jpeg;base64,") for source in tags.sources)
    assert re.search(r"errors<b>1</b>", page) and re.search(r"warnings<b>0</b>", page)
    assert "image-unreadable" in page and "the file is empty" in page
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["check.html"]


def test_names_cannot_harm(tmp_path: Path) -> None:
    account = check_split(lambda: make_folder(tmp_path / "set", 1), EVIL)
    account.findings.append(Problem(EVIL, EVIL, EVIL, EVIL, "name-unsafe"))
    account.notes.append(EVIL)
    account.reader.file_names[0] = EVIL
    write_page(tmp_path / "check.html", [account], [Problem(EVIL, "", EVIL, EVIL, EVIL, warning=True)])
    page = (tmp_path / "check.html").read_text()
    assert "<script" not in page and "\x1b" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J" in page


def test_labels_are_drawn(tmp_path: Path) -> None:
    """A map of two classes over a black image: the halves of the picture differ from each other and from black."""
    for folder in ("images/train", "masks/train"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(tmp_path / "images/train/1.png")
    Image.fromarray(np.repeat([[0, 1]], 30, axis=1).repeat(40, axis=0).astype(np.uint8)).save(
        tmp_path / "masks/train/1.png"
    )
    account = check_split(lambda: Masks(tmp_path, "train", classes=["sky", "road"]), "train")
    write_page(tmp_path / "check.html", [account], [])
    (source,) = Tags((tmp_path / "check.html").read_text()).sources
    data = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert picture.shape == (320, 480, 3)
    left, right = picture[160, 60].astype(int), picture[160, 420].astype(int)
    assert left.max() > 30 and right.max() > 30 and abs(left - right).max() > 30


def test_images_with_findings_come_first(tmp_path: Path) -> None:
    reader = make_folder(tmp_path / "set", 20)
    account = check_split(lambda: reader, "train")
    account.findings.append(Problem("labels/13.txt", "line 2", "the box has no area", "remove it", "box-zero-area"))
    write_page(tmp_path / "check.html", [account], [])
    page = (tmp_path / "check.html").read_text()
    first = page[page.index("<figure>") :]
    assert re.search(r"<figcaption>train/\w+/13.png<strong>line 2: the box has no area</strong>", first[:200])
    assert len(Tags(page).sources) == 12


def test_many_findings_of_a_rule_are_cut_and_counted(tmp_path: Path) -> None:
    account = check_split(lambda: make_folder(tmp_path / "set", 1), "train")
    account.findings.extend(Problem(f"{n}.txt", "", "no area", "remove it", "box-zero-area") for n in range(150))
    write_page(tmp_path / "check.html", [account], [])
    page = (tmp_path / "check.html").read_text()
    assert "99.txt" in page and "100.txt" not in page and "… and 50 more" in page and "× 150" in page


def test_a_set_that_could_not_be_opened_has_a_page(tmp_path: Path) -> None:
    account = check_split(lambda: Folder(tmp_path / "none", "train"), "train")
    write_page(tmp_path / "check.html", [account], [])
    assert "no such folder" in (tmp_path / "check.html").read_text()
