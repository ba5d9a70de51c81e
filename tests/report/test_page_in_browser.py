"""The page as a browser shows it: in an iframe as wide as a phone, from a page that measures it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visionkit.metrics.classification import TopK
from visionkit.metrics.coco import CocoDetection
from visionkit.predictions import Classification, Detections
from visionkit.report import Shown, Sources, write_report
from visionkit.report.label_statistics import LabelSource
from visionkit.structures import ImageId, Labels

CLASSES = ("cat", "dog <b>&")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTH = 390
_PROBE = """<!doctype html><body style="margin:0"><iframe id="page" src="report.html" width="%d" height="900"
style="border:0"></iframe><pre id="found"></pre><script>
const frame = document.getElementById("page");
frame.onload = () => {
  const page = frame.contentDocument, found = {};
  for (const one of page.querySelectorAll("details")) one.open = true;
  const inside = (one) => one.closest(".scroll, pre, svg");
  found.wide = [...page.body.querySelectorAll("*")]
    .filter((one) => !inside(one) && one.getBoundingClientRect().right > frame.clientWidth + 0.5)
    .map((one) => one.outerHTML.slice(0, 80));
  found.scrolls = page.documentElement.scrollWidth;
  found.broken = [...page.images].filter((one) => one.loading !== "lazy" && !one.naturalWidth).length;
  found.unnamed = [...page.images].filter((one) => !one.alt).length;
  const links = [...page.querySelectorAll("nav a")];
  found.dead = links.filter((one) => !page.querySelector(one.getAttribute("href"))).length;
  const table = page.querySelector("table.sortable");
  const names = () => [...table.tBodies[0].rows].map((one) => one.cells[0].textContent);
  found.before = names();
  const click = (column) => table.tHead.rows[0].cells[column].querySelector("button").click();
  click(1); found.best = names();
  click(1); found.least = names();
  click(0); found.named = names();
  found.sorted = [...table.tHead.rows[0].cells].map((one) => one.getAttribute("aria-sort"));
  found.blue = getComputedStyle(page.querySelector("h2")).borderBottomStyle;
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script></body>"""


def shown(index: int) -> Shown:
    """Of two images one with a cat, and one with a dog that is taken for a cat."""
    box, label = np.array([[10, 10, 40, 30.0]]), index % 2
    said = Detections(box.astype(np.float32), np.full(1, 0.9, np.float32), np.zeros(1, np.int64))
    scores = np.array([0.8, 0.2], np.float32)
    truth = Labels(size=(40, 60), boxes=box, labels=np.array([label]), class_scores=np.eye(2, dtype=np.float32)[label])
    predictions = {"detection": said, "classification": Classification(scores)}
    return Shown(np.full((40, 60, 3), 90, np.uint8), f"{'folder' * 20}/<{index}>.jpg", truth, predictions)


def report(folder: Path) -> str:
    def look(ids: Sequence[ImageId]) -> Iterator[tuple[ImageId, Shown]]:
        return ((index, shown(int(index))) for index in ids)

    metrics = {"detection": CocoDetection(CLASSES), "classification": TopK(CLASSES)}
    for index in range(20):
        for name, metric in metrics.items():
            metric.update(index, shown(index).predictions[name], shown(index).truth)
    source = LabelSource(20, lambda index: shown(index).truth, CLASSES, CLASSES)
    sources = Sources(shown=range(4), look=look, labels={"val": source})
    write_report(folder, metrics=metrics, classes=dict.fromkeys(metrics, CLASSES), sources=sources)
    return (folder / "report.html").read_text(encoding="utf-8")


def probed(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What the probe found, and what the browser's console said."""
    assert CHROMIUM is not None
    (folder / "probe.html").write_text(_PROBE % WIDTH)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={folder / 'browser'}", "--allow-file-access-from-files", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=4000", "--dump-dom", f"file://{folder / 'probe.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told is not None, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert told.group(1), console
    return json.loads(html.unescape(told.group(1))), console


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_phone_shows_the_whole_page_and_its_tables_sort(tmp_path: Path) -> None:
    lines = [{"step": k, "epoch": k, "detection/AP": 0.2 * k} for k in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "env.json").write_text(json.dumps({"command": ["tools/train.py", "run_dir=" + "long" * 60]}))
    (tmp_path / "config.yaml").write_text("name: " + "long" * 200)
    report(tmp_path)
    found, console = probed(tmp_path)
    assert console == []
    assert found["wide"] == []
    assert found["scrolls"] <= WIDTH
    assert (found["broken"], found["unnamed"], found["dead"]) == (0, 0, 0)
    assert found["before"] == ["cat", "dog <b>&"]
    assert found["best"] == ["cat", "dog <b>&"]
    assert found["least"] == ["dog <b>&", "cat"]
    assert found["named"] == ["cat", "dog <b>&"]
    assert found["sorted"][:2] == ["ascending", None]
    assert found["blue"] == "solid"  # the style is let through


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_script_that_gets_into_the_page_does_not_run_and_the_console_would_say_so(tmp_path: Path) -> None:
    page = report(tmp_path)
    (tmp_path / "report.html").write_text(page.replace("</main>", "<script>document.title = 'x'</script></main>"))
    _, console = probed(tmp_path)
    assert any("Content Security Policy" in line for line in console)
