from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from visionkit import cli
from visionkit.backbones import CSP
from visionkit.inspection.run import _short
from visionkit.inspection.table import COLUMNS

TINY = ("task=detect", "image_size=64", "model.width=0.25", "device=cpu")


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photograph.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8))
    return path


@pytest.fixture
def inspect(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *typed: cli.main(["inspect_model", *typed])


def files(folder="."):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def size_of(name):
    return cv2.imread(str(name)).shape[:2]


def test_the_table_of_a_configuration(inspect, capsys):
    assert inspect(*TINY) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "layer"
    places = [lines[0].index(column) for column in COLUMNS]
    assert COLUMNS == ("output size", "stride", "receptive field", "parameters", "MACs", "activation memory")
    assert places == sorted(places)
    assert lines[2].startswith("backbone.stem ")
    assert any(line.startswith("total ") for line in lines)
    assert files() == []


def test_depth_and_size_are_as_asked(inspect, capsys):
    assert inspect(*TINY, "depth=1", "image_size=[96, 64]") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:5]]
    assert names == ["backbone", "neck", "heads.detection"]
    assert inspect(*TINY, "image_size=[96, 64]") == 0
    assert "8 × 48 × 32" in capsys.readouterr().out.splitlines()[2]


def test_the_parts_are_drawn(inspect, capsys):
    assert inspect(*TINY, "out=new/model.png") == 0
    assert files() == ["new/model.png"]
    assert min(size_of("new/model.png")) > 300
    assert capsys.readouterr().out.endswith("written: new/model.png\n")


def test_what_a_checkpoint_has_learned(inspect, finished, photograph, capsys):
    assert inspect(f"checkpoint={finished}", f"image={photograph}", "out=pictures", "device=cpu") == 0
    told = capsys.readouterr().out
    expected = ["model.png", "filters.png", "maps.png", "cam-detection.png"]
    assert files("pictures") == sorted(expected)
    assert told.splitlines()[-1] == f"written: {', '.join(f'pictures/{name}' for name in expected)}"


def test_weights_of_a_run_are_not_random(inspect, finished, photograph, capsys):
    assert inspect(*TINY, f"weights={finished}", f"image={photograph}", "out=pictures") == 0
    assert "random weights" not in capsys.readouterr().out
    state = CSP("nano", width=0.25).state_dict()
    torch.save(state, "backbone.pth")
    assert inspect(*TINY, "weights=backbone.pth", f"image={photograph}", "out=pictures") == 0
    assert "random weights: neck, detection;" in capsys.readouterr().out


def test_a_checkpoint_at_another_size(inspect, finished, capsys):
    assert inspect(f"checkpoint={finished}", "image_size=128") == 0
    at_128 = capsys.readouterr().out.splitlines()
    assert inspect(f"checkpoint={finished}") == 0
    assert "64 × 64" in at_128[2]
    assert "32 × 32" in capsys.readouterr().out.splitlines()[2]


def test_of_random_weights_it_is_said_that_nothing_was_learned(inspect, photograph, capsys):
    assert inspect("task=classify", *TINY[1:], f"image={photograph}", "out=pictures") == 0
    told = (
        "random weights: backbone, classification; the pictures show what was learned with checkpoint=DIR or weights=…"
    )
    assert capsys.readouterr().out.splitlines()[-1] == told
    assert files("pictures") == ["cam-classification.png", "filters.png", "maps.png", "model.png"]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["out=model.jpg"], "out=model.jpg: a file name that ends in .png is wanted; a folder needs image=FILE, too"),
        (["out=folder.png"], "out=folder.png: is a folder; give the name of a file in it"),
        (["image=photograph.png"], "image=photograph.png: give out=DIR, the folder for its pictures"),
        (["image=photograph.png", "out=model.png"],
         "out=model.png: a folder is wanted beside image=FILE, for several pictures"),
        (["image=lost.png", "out=pictures"], "image=lost.png: no such file"),
        (["image=broken.png", "out=pictures"], "broken.png: "),
        (["depth=0"], "depth=0: 1 or more is wanted"),
        (["depth=deep"], "depth=deep: a whole number or null is wanted"),
        (["backbone=resnet5"], "backbone=resnet5: there is no such backbone (did you mean 'resnet50'?)"),
        (["dept=1"], "dept: there is no such key (did you mean 'depth'?)"),
        (["checkpoint=lost"], "checkpoint=lost: there is no such folder"),
    ],
)  # fmt: skip
def test_faults_are_one_line_and_nothing_is_written(inspect, photograph, capsys, typed, line):
    Path("broken.png").write_bytes(photograph.read_bytes()[:60])
    Path("folder.png").mkdir()
    before = files()
    start = [] if any(one.startswith("checkpoint=") for one in typed) else TINY
    assert inspect(*start, *typed) == 2
    output = capsys.readouterr()
    assert output.err.splitlines()[0].startswith(line)
    assert output.err.splitlines()[1].startswith("  [")
    assert len(output.err.splitlines()) == 2
    assert output.out == ""
    assert files() == before


def test_beside_a_checkpoint_nothing_else_says_what_the_model_is(inspect, finished, capsys):
    assert inspect(f"checkpoint={finished}", "backbone=resnet50", "heads=[detection]", "data.root=/x") == 2
    assert capsys.readouterr().err.splitlines() == [
        "backbone=resnet50: inspect_model with checkpoint= takes no backbone",
        "heads: this is a key of training, not of this tool",
        "data: this is a key of training, not of this tool",
        "  [key-not-taken] leave the key out, or choose what takes it",
    ]


def test_the_image_is_not_overwritten(inspect, photograph, capsys):
    Path("pictures").mkdir()
    photograph.rename("pictures/maps.png")
    content = Path("pictures/maps.png").read_bytes()
    assert inspect(*TINY, "image=pictures/maps.png", "out=pictures") == 2
    line, _mend = capsys.readouterr().err.splitlines()
    assert line == "out=pictures: maps.png would overwrite the image; give another folder"
    assert Path("pictures/maps.png").read_bytes() == content
    assert files() == ["pictures/maps.png"]


def test_a_place_that_cannot_be_written_is_said(inspect, capsys):
    Path("taken").write_text("a file")
    assert inspect(*TINY, "out=taken/model.png") == 2
    assert capsys.readouterr().err.startswith("out=taken: cannot be written (")


def test_large_numbers_in_short():
    assert [_short(count) for count in (7, 999, 1000, 201_634, 999_600, 25_557_032, 4_089_184_256)] == [
        "7", "999", "1.00 k", "202 k", "1.00 M", "25.6 M", "4.09 G"
    ]  # fmt: skip


def test_grey_images_are_drawn_by_their_one_channel(inspect, photograph):
    typed = ["task=classify", *TINY[1:], "data=folder", "data.root=set", "data.channels=1"]
    for name in ("a", "b"):
        for k in range(4):
            path = Path(f"set/{name}/{k}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photograph.read_bytes())
    assert inspect(*typed, f"image={photograph}", "out=pictures") == 0
    assert files("pictures") == ["cam-classification.png", "filters.png", "maps.png", "model.png"]


def test_the_plain_network_by_hand(inspect, capsys):
    """8 filters on 32 x 32, half the side, 16 filters without padding, and the scores of ten classes."""
    layers = (
        "[{conv: {filters: 8, kernel: 3, padding: same, activation: relu}}, {pool: {kind: max, size: 2}}, "
        "{conv: {filters: 16, kernel: 3, padding: valid, activation: none}}, flatten, dense, softmax]"
    )
    assert inspect("task=classify", "backbone=plain", "image_size=32", f"model.backbone.layers={layers}") == 0
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()[2:8]]
    found = [[cell.strip() for cell in row if cell.strip()][1:] for row in rows]
    assert found == [
        ["Conv2d", "8 × 32 × 32", "1", "3", "224", "221,184", "32.0 KiB"],  # 8 * (27 + 1); 8 * 27 * 1024
        ["ReLU", "8 × 32 × 32", "1", "3", "0", "0", "32.0 KiB"],
        ["MaxPool2d", "8 × 16 × 16", "2", "4", "0", "0", "8.0 KiB"],
        ["Conv2d", "16 × 14 × 14", "2", "8", "1,168", "225,792", "12.2 KiB"],  # 16 * (72 + 1); 16 * 72 * 196
        ["Flatten", "3136", "–", "8", "0", "0", "0 B"],
        ["Linear", "10", "–", "all", "31,370", "31,360", "40 B"],
    ]
