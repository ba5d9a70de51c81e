"""docs/concepts.md and docs/conceptos.md: every block runs, every key is there, every picture comes from the blocks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from visionkit import cli
from visionkit.backbones.plain_layers import LAYERS
from visionkit.config import compose
from visionkit.engine import training_run

DOCS = Path(__file__).parents[1] / "docs"
SHORT = (
    "data.reader.count={train: 12, val: 4, test: 4}", "data.batch_size=4", "data.workers=0", "engine.epochs=1",
    "engine.max_steps=2", "device=cpu",
)  # fmt: skip
SOURCES = {
    "scene.png": "scene.png",
    "filters-by-hand.png": "filters-by-hand.png",
    "maps-by-hand.png": "maps-by-hand.png",
    "steps.png": "steps.png",
    "network.png": "network.png",
    "learning-rate.png": "runs/rate/plots/learning_rate.png",
    "batch.jpg": "runs/plain/plots/training-batches.png",
    "loss.png": "runs/plain/plots/loss.png",
    "train-val.png": "runs/plain/plots/train-val.png",
    "answer.png": "predicted/scene.png",
    "filters.png": "seen/filters.png",
    "maps.png": "seen/maps.png",
    "evidence.jpg": "seen/cam-classification.png",
    "overfitting.png": "runs/few/plots/train-val.png",
    "strong-augmentation.jpg": "runs/strong/plots/training-batches.png",
    "transfer.png": "runs/frozen/plots/train-val.png",
    "csp.png": "csp.png",
    "tasks.jpg": "runs/tasks/plots/training-batches.png",
    "knobs.jpg": "knobs.png",
    "confusion.png": "runs/viewpoint/plots/classification-confusion.png",
}
"""The file that the page's blocks write, by the picture made of it."""

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="docs/ is not part of the installed package")


def page(name):
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text):
    """(language, content) of the fenced blocks, in their order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def pictures(text):
    return re.findall(r"!\[[^\]]+\]\(pictures/([^)]+)\)", text)


def keys(text):
    """What stands between backquotes outside of the blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def test_both_languages_show_the_same():
    english, spanish = page("concepts.md"), page("conceptos.md")
    assert blocks(english) == blocks(spanish)
    assert pictures(english) == pictures(spanish)
    others = {"concepts.md", "conceptos.md"}
    assert [key for key in keys(english) if key not in others] == [key for key in keys(spanish) if key not in others]
    heads = [re.findall(r"^## (\d+)\.", text, re.MULTILINE) for text in (english, spanish)]
    assert heads[0] == heads[1] == [str(number + 1) for number in range(len(heads[0]))]
    figures = [re.findall(r"\d[.,]\d{3}\b|(?<![\d:,])[.,]\d{3}\b", text) for text in (english, spanish)]
    shared = [sorted(found[-3:] for found in one if not found.endswith("000")) for one in figures]
    assert shared[0]
    assert set(shared[1]) <= set(shared[0])


def test_every_picture_is_small_and_used():
    there = {name: (DOCS / "pictures" / name).stat().st_size for name in SOURCES}
    assert set(pictures(page("concepts.md"))) == set(SOURCES)
    assert max(there.values()) < 60_000
    assert sum(there.values()) < 800_000


def typed_keys(text):
    """For each backbone, lists of what is typed in the page as key=value, no key twice in a list."""
    lists = {}
    for line in text.splitlines():
        mine = [key for key in keys(line) if re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)*=.+", key)]
        backbone = next((key for key in mine if key.startswith("backbone=")), "backbone=plain")
        for key in mine:
            name = key.split("=")[0]
            places = lists.setdefault(backbone, [])
            if not any(key in place.values() for place in places):
                free = next((place for place in places if name not in place), None)
                if free is None:
                    places.append(free := {"task": "task=classify", "backbone": backbone} if name != "task" else {})
                free[name] = key
    return lists


def test_every_key_is_one_of_the_configuration():
    text = page("concepts.md")
    typed = typed_keys(text)
    assert sum(len(place) for places in typed.values() for place in places) > 40
    for place in (place for places in typed.values() for place in places):
        compose("train", list(place.values()))
    whole = OmegaConf.to_container(compose("train", ["task=classify", "backbone=plain"]))
    dotted = [key for key in keys(text) if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key) and not key.endswith(".md")]
    assert dotted
    for key in dotted:
        found = whole
        for part in key.split("."):
            found = found[part]


def test_every_layer_is_one_of_the_plain_network():
    layers = [key for key in keys(page("concepts.md")) if re.fullmatch(r"[a-z_]+: .+", key)]
    assert len(layers) > 5
    for told in layers:
        ((kind, options),) = yaml.safe_load(told).items()
        fields = LAYERS[kind].__dataclass_fields__
        assert fields
        assert not isinstance(options, dict) or set(options) <= set(fields), told


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_block_runs_and_the_pictures_come_of_it(runs, capsys, monkeypatch, with_report):
    report = training_run.write_result_report
    shown = {str(Path(source).parent.parent) for source in SOURCES.values()}
    monkeypatch.setattr(
        training_run, "write_result_report", lambda folder, *given: str(folder) in shown and report(folder, *given)
    )
    session: dict[str, object] = {}
    for language, content in blocks(page("concepts.md")):
        capsys.readouterr()
        if language == "python":
            exec(compile(content, "concepts.md", "exec"), session)
            told = re.findall(r"^print\(.*\)  # (.*)$", content, re.MULTILINE)
            assert capsys.readouterr().out.splitlines() == told
            continue
        for line in content.splitlines():
            python, tool, *typed = shlex.split(line)
            assert python == "python"
            name = re.fullmatch(r"tools/(\w+)\.py", tool).group(1)
            short = {"train": SHORT, "evaluate": SHORT[:1]}.get(name, ())
            assert cli.main([name, *typed, *short]) == 0, line
    for source in SOURCES.values():
        assert cv2.imread(source) is not None, source
    drawn, shown = cv2.imread("scene.png"), cv2.imread(str(DOCS / "pictures" / "scene.png"))
    assert np.abs(drawn.astype(int) - shown).mean() < 2


def test_what_is_said_of_the_taught_network(capsys):
    assert cli.main(["inspect_model", "task=classify", "backbone=plain"]) == 0
    rows = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    rows = [row for row in rows if "Conv2d" in row or "MaxPool2d" in row]
    assert [row[4] for row in rows] == ["5", "6", "14", "16", "32", "60"]
    assert rows[0][5] == "1,216"
    text = page("concepts.md")
    assert "5 for the first convolution, + 1 for pooling by 2 = 6, + 4 · 2 = 14, + 1 · 2 = 16, + 4 · 4 = 32" in text
    assert "16 · 76 = 1,216 parameters" in text
