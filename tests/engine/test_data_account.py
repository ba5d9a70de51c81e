"""data.json: what a run has used of its data, and what was left out."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from visionkit.data.readers import Folder
from visionkit.engine.run_data import left_out, write_data_account
from visionkit.report import write_report


def test_left_out_images_are_counted_in_file_log_and_report(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "set/train" / name).mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (6, 4)).save(tmp_path / f"set/train/cat/{number}.png")
    (tmp_path / "set/train/cat/1.png").write_bytes(b"")
    reader = Folder(tmp_path / "set", "train", on_error="skip")
    run = tmp_path / "run"
    run.mkdir()
    write_data_account(run, {"train": reader})
    told = {"images": 2, "left_out": {"image-unreadable": 1}, "warnings": {"class-absent": 1}}
    assert json.loads((run / "data.json").read_text()) == {"train": told}
    (line,) = left_out("train", reader)
    assert line.startswith("train: left out by data.on_error=skip: 1 problem in the data:\n") and "cat/1.png" in line
    write_report(run, metrics={}, classes={})
    page = (run / "report.html").read_text()
    assert '<th scope="row">train</th><td class="number">2</td><td>image-unreadable × 1</td>' in page
