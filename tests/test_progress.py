from __future__ import annotations

import visionkit.progress
from visionkit.progress import Progress


def test_plain_lines_where_there_is_no_terminal_and_not_too_many(capsys, monkeypatch):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(visionkit.progress.time, "monotonic", lambda: next(clock))
    with Progress(40, "images") as progress:
        for done in range(10, 50, 10):
            progress(done)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "20 of 40 images (1.7/s)\n40 of 40 images (1.7/s)\n"


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(visionkit.progress.sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(0, "frames") as progress:
        progress(3)
    assert "\n3 of" not in capsys.readouterr().err
