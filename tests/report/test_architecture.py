from __future__ import annotations

from itertools import combinations, pairwise

import cv2
import pytest

from visionkit.report import architecture
from visionkit.report.architecture import Answer, Level, Parts, plot_model


def levels(letter, channels, numbers, side=640):
    return [
        Level(f"{letter}{k}", count, (-(-side // 2**k), -(-side // 2**k)), 2**k)
        for k, count in zip(numbers, channels, strict=True)
    ]


IMAGE = Level("image", 3, (640, 640), 1)
HEADS = [
    Answer("classification", "LinearClassification", ("c5",), "1000 classes"),
    Answer("localization", "ObjectLocalization", ("c4", "c5"), "20 classes"),
    Answer("detection", "DenseDetection", ("p3", "p4", "p5"), "80 classes"),
    Answer("semantic", "SemanticSegmentation", ("pixels",), "150 classes"),
    Answer("instance", "DenseInstance", ("p3", "p4", "p5", "pixels"), "80 classes"),
]
MANY = Parts(
    "many heads",
    {
        "backbone CSP": [IMAGE, *levels("c", (64, 256, 512, 1024, 2048), range(1, 6))],
        "neck PAFPN": [Level("pixels", 96, (160, 160), 4), *levels("p", (256,) * 5, range(3, 8))],
    },
    HEADS,
    [Answer("panoptic", "PanopticMerge", ("semantic", "instance"), "150 classes")],
)
CASES = {
    "many": MANY,
    "no neck": Parts("a classifier", {"backbone ResNet": [IMAGE, *levels("c", (256, 2048), (4, 5))]}, HEADS[:1]),
    "two of a stride": Parts(
        "x" * 90,
        {
            "backbone Csp": [IMAGE, *levels("c", (8, 16, 32), (3, 4, 5))],
            "neck FPN": [Level("pixels", 8, (80, 80), 8), *levels("p", (8, 8), (3, 4))],
        },
        [Answer("semantic", "a_class_with_a_very_long_name_" * 3, ("pixels", "c5", "p3"), "2 classes")],
    ),
    "wide": Parts("w", {"backbone Wide": [Level("image", 3, (64, 2048), 1), Level("c5", 4096, (2, 64), 32)]}, []),
}


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    kept, save = [], architecture.save
    monkeypatch.setattr(architecture, "save", lambda figure, path: kept.append(figure) or save(figure, path))
    return kept


@pytest.mark.parametrize("name", CASES)
def test_labels_are_inside_and_do_not_overlap(name, figures, tmp_path):
    path = plot_model(CASES[name], tmp_path / "model.png")
    (figure,) = figures
    renderer = figure.canvas.get_renderer()
    texts = [text for text in figure.axes[0].texts if text.get_text().strip()]
    boxes = {id(text): text.get_window_extent(renderer) for text in texts}
    bodies = [patch.get_window_extent(renderer) for patch in figure.axes[0].patches]
    for text in texts:
        box = boxes[id(text)]
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    for one, other in combinations(texts, 2):
        assert not boxes[id(one)].overlaps(boxes[id(other)]), (one.get_text(), other.get_text())
    for body in bodies:
        assert body.x0 >= 0 and body.x1 <= figure.bbox.x1 and body.y0 >= 0 and body.y1 <= figure.bbox.y1
    assert cv2.imread(str(path)).shape[:2] == pytest.approx((figure.bbox.height, figure.bbox.width), abs=1)


@pytest.mark.parametrize("name", ["many", "two of a stride"])
def test_lines_go_past_bodies_and_labels(name, figures, tmp_path):
    plot_model(CASES[name], tmp_path / "model.png")
    axes = figures[0].axes[0]
    renderer = figures[0].canvas.get_renderer()
    said = {level.name for row in CASES[name].rows.values() for level in row}
    texts = [text.get_window_extent(renderer) for text in axes.texts if text.get_text() in said]
    bodies = [patch.get_window_extent(renderer) for patch in axes.patches]
    assert len(axes.lines) == sum(len(head.reads) for head in (*CASES[name].heads, *CASES[name].merges))
    for line in axes.lines:
        points = axes.transData.transform(line.get_xydata())
        for (x0, y0), (x1, y1) in pairwise(points):
            for box in [*texts, *bodies]:
                crosses = min(x0, x1) < box.x1 - 1 and max(x0, x1) > box.x0 + 1
                assert not (crosses and min(y0, y1) < box.y1 - 1 and max(y0, y1) > box.y0 + 1)


def test_maps_shrink_and_channels_grow_by_their_square_roots():
    drawing = architecture._Drawing(MANY)
    first, *_, last = [drawing._body(level) for level in MANY.rows["backbone CSP"]]
    assert first[1] / last[1] == pytest.approx((640 / 20) ** 0.5)
    assert first[2] / last[2] == pytest.approx((640 / 20) ** 0.5)
    assert last[0] == architecture._THICKEST
    assert drawing._body(MANY.rows["backbone CSP"][2])[0] == pytest.approx((256 / 2048) ** 0.5)


def test_levels_stand_under_those_of_their_stride():
    drawing = architecture._Drawing(MANY)
    assert drawing.centres["pixels"] == drawing.centres["c2"]
    assert [drawing.centres[f"p{k}"] == drawing.centres[f"c{k}"] for k in (3, 4, 5)] == [True] * 3
    assert drawing.centres["c5"] < drawing.centres["p6"] < drawing.centres["p7"]


def test_heads_have_colours_of_their_own(figures, tmp_path):
    plot_model(MANY, tmp_path / "model.png")
    assert len({line.get_color() for line in figures[0].axes[0].lines}) == len(HEADS)
