from __future__ import annotations

import cv2
import numpy as np
import pytest

from visionkit.inspection.evidence import Evidence
from visionkit.report import learned
from visionkit.report.learned import (
    evidence_picture,
    filter_picture,
    filter_sheet,
    most_varying,
    plot_evidence,
    plot_filters,
    plot_maps,
)


@pytest.fixture
def figures(monkeypatch):
    kept, save = [], learned.save
    monkeypatch.setattr(learned, "save", lambda figure, path: kept.append(figure) or save(figure, path))
    return kept


def images_of(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def fits(figure):
    renderer = figure.canvas.get_renderer()
    texts = [*figure.texts, *(axes.title for axes in figure.axes)]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    inside = all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= figure.bbox.x1 and b.y1 <= figure.bbox.y1 for b in boxes)
    return inside and not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_a_filter_is_scaled_to_its_largest_weight_around_grey():
    weights = np.zeros((3, 2, 2))
    weights[0, 0, 0], weights[2, 1, 1] = 4.0, -2.0
    picture = filter_picture(weights)
    assert picture.shape == (2, 2, 3)
    assert picture[0, 0].tolist() == [1.0, 0.5, 0.5]
    assert picture[1, 1].tolist() == [0.5, 0.5, 0.25]
    assert filter_picture(np.zeros((3, 2, 2))).tolist() == np.full((2, 2, 3), 0.5).tolist()


def test_filters_of_other_channels_are_the_mean_in_grey():
    weights = np.array([[[1.0]], [[3.0]], [[-1.0]], [[1.0]]])
    assert filter_picture(weights).tolist() == [[[1.0, 1.0, 1.0]]]
    assert filter_picture(weights[:1]).tolist() == [[[1.0, 1.0, 1.0]]]


def test_filters_are_laid_out_in_rows_of_sixteen():
    sheet = filter_sheet([np.full((5, 5, 3), k / 20) for k in range(17)])
    assert sheet.shape == (50 + 8 + 50, 16 * 58 - 8, 3)
    assert sheet[0, 0, 0] == sheet[49, 49, 2] == 0
    assert sheet[20, 53].tolist() == [1.0, 1.0, 1.0]  # the gap
    assert sheet[25, 15 * 58 + 49, 1] == 15 / 20
    assert sheet[58, 0, 1] == 16 / 20
    assert filter_sheet([np.zeros((2, 4, 3))]).shape == (24, 48, 3)


def test_of_many_filters_the_strongest_are_drawn_in_their_order(figures, tmp_path, monkeypatch):
    sheets, lay_out = [], learned.filter_sheet
    monkeypatch.setattr(learned, "filter_sheet", lambda pictures: sheets.append(pictures) or lay_out(pictures))
    weights = np.ones((100, 3, 5, 5)) * np.linspace(-1, 1, 100)[:, None, None, None]
    path = plot_filters(weights, "backbone.conv", tmp_path / "filters.png")
    assert [picture.mean() for picture in sheets[0]] == [0.0] * 32 + [1.0] * 32  # the weak ones are left out
    assert figures[0].texts[0].get_text() == "backbone.conv: 64 strongest of 100 filters of 3 × 5 × 5"
    assert fits(figures[0])
    assert cv2.imread(str(path)) is not None


def test_the_maps_that_vary_most():
    maps = np.stack([np.full((4, 4), 9.0), np.eye(4), 5 * np.eye(4), np.zeros((4, 4))])
    assert most_varying(maps, 2) == [2, 1]
    assert most_varying(maps, 9) == [2, 1, 0, 3]


def test_a_row_of_maps_for_each_level(figures, tmp_path):
    levels = {"c2": np.random.default_rng(0).normal(size=(24, 12, 20)), "c3": np.zeros((4, 6, 10))}
    plot_maps(np.zeros((96, 160, 3), np.uint8), levels, tmp_path / "maps.png")
    shown = images_of(figures[0])
    assert [image.shape[:2] for image in shown] == [(96, 160), *[(12, 20)] * 8, (96, 160), *[(6, 10)] * 4]
    best = most_varying(levels["c2"], 8)
    assert [axes.get_title() for axes in figures[0].axes[1:9]] == [str(channel) for channel in best]
    np.testing.assert_array_equal(shown[1], levels["c2"][best[0]])
    assert fits(figures[0])


def told(**more):
    heat = np.zeros((40, 80), np.float32)
    heat[30:, 60:] = 2.0
    return Evidence(1, 0.75, heat, **more)


def test_heat_is_bright_where_the_evidence_is():
    picture = evidence_picture(np.full((40, 80, 3), 90, np.uint8), told())
    assert picture.shape == (160, 320, 3)
    assert picture[150, 310].sum() > 2 * picture[10, 10].sum()
    weak = told()
    weak.heat[:] *= 1e-3
    np.testing.assert_array_equal(evidence_picture(np.full((40, 80, 3), 90, np.uint8), weak), picture)


def test_no_evidence_at_all_is_dark_and_said(figures, tmp_path):
    nothing = Evidence(0, 0.5, np.zeros((40, 80), np.float32))
    image = np.full((40, 80, 3), 90, np.uint8)
    assert len(np.unique(evidence_picture(image, nothing).reshape(-1, 3), axis=0)) == 1
    plot_evidence(image, [nothing], ["a"], "classification", tmp_path / "cam.png")
    assert figures[0].axes[1].get_title() == "a 0.50 (nothing)"


def test_box_and_region_are_drawn_where_they_are():
    image = np.full((40, 80, 3), 90, np.uint8)
    plain = evidence_picture(image, told()).astype(int)
    region = np.zeros((40, 80), bool)
    region[:20] = True
    for more, changed, same in (
        ({"box": np.array([10, 10, 30, 30], np.float32)}, (slice(60, 100), slice(36, 44)), (20, 200)),
        ({"region": region}, (slice(76, 84), slice(100, 200)), (120, 100)),
    ):
        drawn = evidence_picture(image, told(**more)).astype(int)
        assert abs(drawn - plain)[changed].sum() > 0
        assert abs(drawn - plain)[same].sum() == 0


@pytest.mark.parametrize("shape", [(64, 64), (40, 320), (320, 40)])
def test_panels_beside_the_image(figures, tmp_path, shape):
    heat = np.random.default_rng(0).random(shape).astype(np.float32)
    found = [Evidence(k, 0.9 - k / 10, heat) for k in range(3)]
    names = ["cat", "a name that is far too long for any panel of this picture", "dog"]
    plot_evidence(np.zeros((*shape, 3), np.uint8), found, names, "detection", tmp_path / "cam.png")
    assert len(images_of(figures[0])) == 5  # image, three classes, the scale
    assert [axes.get_title() for axes in figures[0].axes[1:4:2]] == ["cat 0.90", "dog 0.70"]
    assert fits(figures[0])
