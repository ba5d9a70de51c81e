from __future__ import annotations

import base64
import hashlib
import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionkit.interfaces import Metric
from visionkit.metrics.classification import TopK
from visionkit.metrics.coco import CocoDetection
from visionkit.metrics.coco_instances import CocoInstances
from visionkit.metrics.localization import LocalizationAccuracy
from visionkit.metrics.panoptic import PanopticQuality
from visionkit.metrics.semantic import SemanticScores
from visionkit.predictions import (
    Classification,
    Detections,
    Instances,
    Localization,
    PanopticMap,
    Prediction,
    Segment,
    SemanticMap,
)
from visionkit.report import Shown, Sources, embedding, pictures, write_report
from visionkit.report.label_statistics import LabelSource
from visionkit.report.pictures import per_class
from visionkit.structures import Geometry, ImageId, Labels

SIZE = (40, 60)
THINGS, STUFF = ("cat", "dog <b>&"), ("road", "sky", "cat", "dog <b>&")
HEADS: dict[str, tuple[type, tuple[str, ...]]] = {
    "classification": (TopK, THINGS),
    "localization": (LocalizationAccuracy, THINGS),
    "detection": (CocoDetection, THINGS),
    "instance": (CocoInstances, THINGS),
    "semantic": (SemanticScores, STUFF),
}


def shown(index: int) -> Shown:
    """A cat (0) in the sky, or an image of a dog (1) taken for a cat."""
    label = index % 2
    mask = np.zeros(SIZE, bool)
    mask[10:30, 10:40] = True
    semantic = np.where(mask, 2 + label, 1).astype(np.uint8)
    scores = np.array([0.8, 0.2], np.float32)
    box = np.array([[10, 10, 40, 30]], np.float32)
    row = {"boxes": box, "scores": np.full(1, 0.9, np.float32), "labels": np.zeros(1, np.int64)}
    predictions: dict[str, Prediction] = {
        "classification": Classification(scores),
        "localization": Localization(scores, box.repeat(2, 0)),
        "detection": Detections(**row),
        "instance": Instances(
            **row,
            coefficients=np.ones((1, 1), np.float32),
            prototypes=np.where(mask, 3.0, -3.0)[None].astype(np.float32),
            geometry=Geometry(SIZE, SIZE, (1, 1)),
            stride=1,
        ),
        "semantic": SemanticMap(semantic),
        "panoptic": PanopticMap(mask + np.int32(1), (Segment(1, 1, False, 1.0, 1800), Segment(2, 2, True, 0.9, 600))),
    }
    truth = Labels(
        size=SIZE,
        boxes=box.astype(np.float64),
        labels=np.array([label]),
        masks=(coco_mask.encode(np.asfortranarray(mask.view(np.uint8))),),
        class_scores=np.eye(2, dtype=np.float32)[label],
        box=box[0].astype(np.float64),
        semantic=semantic,
    )
    return Shown(np.full((*SIZE, 3), 90, np.uint8), f"folder/<{index}>.jpg", truth, predictions)


def sources_of(samples: list[Shown]) -> Sources:
    def look(ids: Sequence[ImageId]) -> Iterator[tuple[ImageId, Shown]]:
        return ((index, samples[int(index)]) for index in ids)

    source = LabelSource(len(samples), lambda index: samples[index].truth, THINGS, THINGS, STUFF)
    return Sources(shown=range(len(samples)), look=look, labels={"val": source} if samples else {})


def metrics_of(samples: list[Shown], heads: list[str]) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {
        name: PanopticQuality(STUFF, THINGS) if name == "panoptic" else HEADS[name][0](HEADS[name][1]) for name in heads
    }
    for index, one in enumerate(samples):
        for name, metric in metrics.items():
            metric.update(index, one.predictions[name], one.truth)
    return metrics


def write_numbers(folder: Path, metrics: dict[str, Metric], **more: object) -> None:
    told: dict[str, object] = {"split": "val", **more}
    reasons: dict[str, str] = {}
    for name, metric in metrics.items():
        told |= {f"{name}/{key}": None if math.isnan(value) else value for key, value in metric.compute().items()}
        reasons |= {f"{name}/{key}": reason for key, reason in metric.reasons.items()}
    (folder / "metrics.json").write_text(json.dumps(told | {"reasons": reasons}))


def report(folder: Path, heads: list[str], count: int = 4) -> str:
    samples = [shown(index) for index in range(count)]
    metrics = metrics_of(samples, heads)
    write_numbers(folder, metrics)
    classes = {name: STUFF if name == "panoptic" else HEADS[name][1] for name in heads}
    write_report(folder, metrics=metrics, classes=classes, sources=sources_of(samples))
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("visionkit")
    before, logger.propagate = logger.propagate, True
    with caplog.at_level(logging.WARNING, "visionkit"):
        yield caplog
    logger.propagate = before


def test_every_head_has_its_pictures(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    page = report(tmp_path, [*HEADS, "panoptic"])
    assert log.messages == []
    written = {file.stem for file in (tmp_path / "plots").iterdir()}
    for head in (*HEADS, "panoptic"):
        assert {f"{head}-images", f"{head}-classes"} <= written
        assert (f"{head}-confusion" in written) == (head != "panoptic")
        assert (f"{head}-f1" in written) == (head not in ("semantic", "panoptic"))
        assert (f"{head}-worst" in written) == (head != "semantic")  # whose maps are all right
    assert "localization-box-errors" in written
    assert "labels-val" in written
    assert page.count("with what was predicted: ") >= 6


def test_a_run_s_page_holds_all_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    lines = [{"step": 1, "detection/box": 2.0, "total": 3.0, "lr": 0.01}, {"step": 1, "epoch": 1, "detection/AP": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "config.yaml").write_text("task: detect\nname: '</pre><script>alert(1)</script>'\n")
    environment = {"visionkit": "0.1.0", "packages": {"torch": "2.11", "timm": None}, "command": ["a b.py", "task=x"]}
    (tmp_path / "env.json").write_text(json.dumps(environment))
    page = report(tmp_path, ["detection"])
    tags: list[str] = []
    sources: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            sources.extend(value or "" for name, value in attrs if name in ("src", "href"))

    Reader().feed(page)
    assert tags.count("script") == 1
    assert page.count("dog &lt;b&gt;&amp;") >= 1
    assert "dog <b>" not in page
    assert "<script>alert" not in page
    assert "folder/&lt;1&gt;.jpg" in page
    assert "folder/<" not in page
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    written = {file.stem for file in (tmp_path / "plots").iterdir()}
    assert {"loss", "rate", "metrics", "detection-images", "detection-worst", "detection-confusion"} <= written
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        content = re.search(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    for told in ("&#39;a b.py&#39; task=x", "2.11", "not installed", "task: detect", "split “val”"):
        assert told in page


def test_numbers_that_cannot_be_are_told_with_their_reason(tmp_path: Path) -> None:
    page = report(tmp_path, ["detection"])
    row = re.search(r"AP_large</th><td[^>]*>([^<]*)</td><td>([^<]*)<", page)
    assert row is not None
    assert row.groups() == ("n/a", "no labelled object of at least 96² pixels")
    assert re.search(r"detection/AP<b>0\.\d{4}</b>", page)


def test_of_each_class_several_numbers_are_told(tmp_path: Path) -> None:
    page = report(tmp_path, ["detection"], count=1)
    best = ("best F1", "at score", "precision there", "recall there")
    columns = re.findall(r'<th scope="col" class="number">([^<]*)</th>', page[: page.index("</thead>")])
    assert columns == ["AP", "AP50", "AP75", "AR100", *best, "objects"]
    cat, dog = (re.search(f'row">{name}</th>(.*)</tr>', page).group(1) for name in ("cat", "dog &lt;b&gt;&amp;"))
    assert re.findall(r">([^<]+)<", cat) == ["1.0000"] * 5 + ["0.9000", "1.0000", "1.0000", "1"]
    assert re.findall(r">([^<]+)<", dog) == ["n/a"] * 8 + ["0", "no labelled object to be found"]


def test_a_headline_that_cannot_be_says_why(tmp_path: Path) -> None:
    page = report(tmp_path, ["detection"], count=0)
    assert "detection/AP<b>n/a</b><small>no labelled object to be found</small>" in page


def test_a_run_without_anything_to_judge_on_has_a_page(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"split": "none"}))
    write_report(tmp_path, metrics={}, classes={})
    assert "no split to score on" in (tmp_path / "report.html").read_text()
    assert log.messages == []


@pytest.mark.parametrize("head", [*HEADS, "panoptic"])
def test_nothing_labelled_and_one_image_are_no_fault(head: str, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    page = report(tmp_path, [head], count=0)
    assert "n/a" in page
    assert log.messages == []
    report(tmp_path, [head], count=1)
    unlabelled = Shown(np.zeros((*SIZE, 3), np.uint8), "x", Labels(size=SIZE), shown(0).predictions)
    metrics = metrics_of([unlabelled], [head])
    write_numbers(tmp_path, metrics)
    classes = {head: STUFF if head in ("semantic", "panoptic") else THINGS}
    write_report(tmp_path, metrics=metrics, classes=classes, sources=sources_of([unlabelled]))
    assert log.messages == []


def test_a_thousand_classes_are_no_fault(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    classes = [f"class {k}" for k in range(1000)]
    metric = TopK(classes)
    for k in range(50):
        truth = Labels(size=SIZE, class_scores=np.eye(1000, dtype=np.float32)[k])
        metric.update(k, Classification(np.eye(1000, dtype=np.float32)[2 * k % 90]), truth)
    write_numbers(tmp_path, {"classification": metric})
    write_report(tmp_path, metrics={"classification": metric}, classes={"classification": classes})
    assert log.messages == []
    names = {file.name for file in (tmp_path / "plots").iterdir()}
    assert names == {f"classification-{name}.png" for name in ("classes", "confusion", "f1")}
    page = (tmp_path / "report.html").read_text()
    assert len(page) < 1_000_000
    assert "50 of 1000 classes: those that have numbers; metrics.json has all" in page
    assert page.count('<th scope="row">class ') == 50


def test_a_plot_that_fails_is_told_of_and_the_rest_is_drawn(
    tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise RuntimeError("odd\ndata")

    monkeypatch.setattr(pictures, "plot_bars", fail)
    (tmp_path / "metrics.jsonl").write_text("no JSON\n")
    report(tmp_path, ["semantic"])
    first, second, third = log.messages
    assert first.startswith("plots/loss.png could not be drawn (DataError: ")
    assert second == "plots/semantic-classes.png could not be drawn (RuntimeError: odd data); the run goes on"
    assert third.startswith("metrics.jsonl could not be read (DataError: ")
    written = {file.stem for file in (tmp_path / "plots").iterdir()}
    assert written == {"semantic-images", "semantic-confusion", "labels-val"}


def test_a_page_that_cannot_be_written_fails_no_run(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    (tmp_path / "report.html").mkdir()
    write_report(tmp_path, metrics={}, classes={})
    assert log.messages[0].startswith("report.html could not be written (IsADirectoryError")


def test_a_metric_that_has_precision_over_recall_gets_its_curves(tmp_path: Path) -> None:
    class Precise(TopK):
        def precision(self) -> np.ndarray:
            return np.full((10, 101, 2), 0.5)

    write_report(tmp_path, metrics={"own": Precise(THINGS)}, classes={"own": THINGS})
    assert "own-precision-recall" in {file.stem for file in (tmp_path / "plots").iterdir()}


def test_which_metric_is_shown_class_by_class() -> None:
    numbers = {"a/mIoU": 0.5, "a/acc/x": 0.1, "a/IoU/x/y": 0.4, "a/IoU/z": 0.6, "ab/IoU/x": 0.9}
    assert per_class("a", SemanticScores(["x/y", "z"]), ["x/y", "z"], numbers) == ("IoU", {"x/y": 0.4, "z": 0.6})
    samples = [shown(index) for index in range(4)]
    for head in ("classification", "localization"):
        name, values = per_class(head, metrics_of(samples, [head])[head], THINGS, {})
        assert (name, values) == ("accuracy", {THINGS[0]: 1.0, THINGS[1]: 0.0})
    assert per_class("m", TopK(THINGS, multi_label=True), THINGS, {"m/mAP": 0.5}) == ("", {})


def test_the_page_says_how_the_headline_moved(tmp_path: Path) -> None:
    lines = [{"step": k, "epoch": k, "detection/AP": value} for k, value in enumerate((0.1, 0.6, 0.3), start=1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = report(tmp_path, ["detection"])
    assert "on validation images 0.100 in epoch 1, 0.300 in epoch 3, best 0.600 in epoch 2" in page
    assert 'points="0.0,22.7 50.0,1.0 100.0,14.0"' in page


def test_the_worst_images_come_with_what_is_wrong(tmp_path: Path) -> None:
    page = report(tmp_path, ["detection", "semantic", "classification"])
    assert page.count("<strong>dog &lt;b&gt;&amp; taken for cat at 0.90</strong>folder/&lt;1&gt;.jpg") == 1
    assert "<strong>dog &lt;b&gt;&amp; taken for cat at 0.80</strong>folder/&lt;3&gt;.jpg" in page
    assert re.search(r'row">dog &lt;b&gt;&amp;</th><td>cat</td><td class="number">2 of 2<', page)


def test_pictures_stop_where_the_page_is_full_and_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding.Album.__init__, "__defaults__", (40_000,))
    page = report(tmp_path, ["detection"], count=8)
    assert len(page) < 40_000 + 40_000
    assert re.search(r"\d+ pictures were left out: there was no more room", page)


def test_images_that_cannot_be_read_lose_neither_numbers_nor_plots(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    def look(ids: Sequence[ImageId]) -> Iterator[tuple[ImageId, Shown]]:
        raise OSError("gone")

    metrics = metrics_of([shown(0)], ["detection"])
    write_numbers(tmp_path, metrics)
    sources = Sources(shown=[0], look=look)
    write_report(tmp_path, metrics=metrics, classes={"detection": THINGS}, sources=sources)
    assert log.messages == ["the report's images could not be drawn (OSError: gone); the run goes on"]
    assert "detection/AP<b>" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "plots/detection-confusion.png").is_file()
