from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import visionkit.predict_files
from visionkit.backbones import Plain
from visionkit.errors import DataError, UserError
from visionkit.heads import DenseDetection, DenseInstance, LinearClassification, PanopticMerge, SemanticSegmentation
from visionkit.model import VisionModel
from visionkit.predict_files import drawing_files, predict_run
from visionkit.predictions import Classification, Detections, Prediction
from visionkit.predictor import Predictor, to_array
from visionkit.preprocess import Preprocess
from visionkit.result_files import folder_name
from visionkit.structures import Geometry


class Head(nn.Module):
    def __init__(self, *classes: str) -> None:
        super().__init__()
        self.classes = classes


class BrightBox(nn.Module):
    """Stands in for a `VisionModel`: detects the one bright red box, and tells red from blue pictures by their mean."""

    def __init__(self, *heads: str) -> None:
        super().__init__()
        self.preprocess = Preprocess(64)
        self.heads = nn.ModuleDict({name: Head("red", "blue") for name in heads or ("detection",)})
        self.merges: dict[str, object] = {}
        self.batches: list[int] = []
        self.canvases: list[Tensor] = []

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        return {name: head.classes for name, head in self.heads.items()}

    def predict(self, images: Tensor, sizes: Tensor, geometries: Sequence[Geometry]) -> list[dict[str, Prediction]]:
        assert not self.training
        assert images.dtype == torch.uint8
        assert [tuple(size) for size in sizes.tolist()] == [geometry.size for geometry in geometries]
        self.batches.append(len(images))
        self.canvases += list(images)
        return [self._one(image, geometry) for image, geometry in zip(images, geometries, strict=True)]

    def _one(self, image: Tensor, geometry: Geometry) -> dict[str, Prediction]:
        rows, columns = torch.where((image[0] > 200) & (image[1] < 100))
        boxes = np.zeros((0, 4))
        if len(rows):
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            boxes = geometry.to_original(np.array([[float(corner) for corner in corners]]))
        # A second detection, under every drawing's threshold.
        boxes, scores = np.concatenate([boxes, [[0, 0, 1, 1]]]), np.array([0.9] * len(boxes) + [0.01])
        red = 0.75 if image[0].float().mean() > image[2].float().mean() else 0.25
        answers = {
            "detection": Detections(
                boxes.astype(np.float32), scores.astype(np.float32), np.zeros(len(boxes), np.int64)
            ),
            "classification": Classification(np.array([red, 1 - red], np.float32)),
        }
        return {name: answers[name] for name in self.heads}


def photograph(height: int = 100, width: int = 200, box: tuple[int, int, int, int] = (40, 20, 120, 80)) -> np.ndarray:
    image = np.full((height, width, 3), (30, 30, 90), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = (250, 20, 20)
    return image


@pytest.fixture
def model() -> BrightBox:
    return BrightBox()


# ----------------------------------------------------------------------------------------------------------- predict
def test_every_kind_of_image_gives_the_same_in_original_pixels(model: BrightBox, tmp_path: Path) -> None:
    image = photograph()
    Image.fromarray(image).save(tmp_path / "a.png")
    kinds = [
        image,
        torch.from_numpy(image).permute(2, 0, 1),
        Image.fromarray(image),
        Image.fromarray(image).convert("RGBA"),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ]
    predictor = Predictor(model, device="cpu")
    assert predictor.classes == {"detection": ("red", "blue")}
    for prediction in [predictor.predict(kind)[0] for kind in kinds] + predictor.predict(kinds):
        np.testing.assert_allclose(prediction["detection"].boxes[0], [40, 20, 120, 80], atol=3.2)
    assert model.batches == [1] * 6 + [6]


def test_batches_keep_the_order_and_do_not_change_results(model: BrightBox) -> None:
    images = [photograph(60 + 7 * k, 90 + 5 * k, (10 + k, 10, 50, 50)) for k in range(5)]
    predictor = Predictor(model, device="cpu")
    batched = predictor.predict(images, batch_size=2)
    assert model.batches == [2, 2, 1]
    for image, prediction in zip(images, batched, strict=True):
        np.testing.assert_array_equal(predictor.predict(image)[0]["detection"].boxes, prediction["detection"].boxes)
    assert predictor.predict([]) == []


def test_canvases_are_padded_right_and_below(model: BrightBox) -> None:
    Predictor(model, device="cpu").predict(photograph(100, 200))
    (canvas,) = model.canvases
    assert canvas.shape == (3, 64, 64)
    assert (canvas[:, 32:] == model.preprocess.fill).all()
    assert (canvas[2, :30, :5] == 90).all()


def test_a_turned_photograph_is_predicted_upright(model: BrightBox, tmp_path: Path) -> None:
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(photograph())))  # a quarter to the left
    exif = turned.getexif()
    exif[0x0112] = 6  # to be shown after a quarter to the right
    turned.save(tmp_path / "turned.png", exif=exif)
    predictor = Predictor(model, device="cpu")
    for image in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        np.testing.assert_allclose(predictor.predict(image)[0]["detection"].boxes[0], [40, 20, 120, 80], atol=3.2)


def test_transparency_lies_over_white_and_16_bits_are_cut() -> None:
    assert (to_array(Image.new("RGBA", (4, 4), (0, 0, 0, 0))) == 255).all()
    assert (to_array(Image.fromarray(np.full((4, 4), 0x80FF, np.uint16))) == 0x80).all()
    with pytest.raises(UserError, match="PIL mode F has no known range"):
        to_array(Image.new("F", (4, 4)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5, 3)), r"\(4, 5, 3\) float64: .*\(image \* 255\)\.round\(\)\.astype\(np\.uint8\)"),
        (np.zeros((4, 5, 3), np.uint16), r"\(4, 5, 3\) uint16: scale it to 0\.\.255"),
        (np.zeros((4, 5), np.uint8), r"\(4, 5\) uint8: repeat the grey channel, as by np\.stack"),
        (np.zeros((4, 5, 1), np.uint8), "repeat the grey channel"),
        (np.zeros((4, 5, 4), np.uint8), "keep three channels"),
        (np.zeros((3, 4, 5), np.uint8), r"image\.transpose\(1, 2, 0\)"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"list\(images\)"),
        (np.zeros((0, 5, 3), np.uint8), "it is empty"),
        (torch.zeros(3, 4, 5), r"\(3, 4, 5\) float32: .*\.to\(torch\.uint8\)"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), r"image\.permute\(2, 0, 1\)"),
        (torch.zeros(2, 3, 4, 5, dtype=torch.uint8), r"list\(images\)"),
        (None, "not NoneType"),
    ],
)
def test_other_things_are_refused_with_the_way_to_convert_them(model: BrightBox, image: object, message: str) -> None:
    with pytest.raises(UserError, match=f"^image 1: .*{message}"):
        Predictor(model, device="cpu").predict([photograph(), image])


def test_an_unreadable_file_is_named(model: BrightBox, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        Predictor(model, device="cpu").predict(tmp_path / "broken.jpg")


# ------------------------------------------------------------------------------------------------------- predict_run
@pytest.fixture
def run(model: BrightBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Call predict_run on paths under tmp_path, with `model` for a checkpoint."""

    def call(source: str, out: str = "out", **more: object) -> int:
        keys = {"checkpoint": "checkpoint", "device": "cpu", "score": 0.3, "batch_size": 2}
        keys |= {"tile": None, "overlap": 0.2, "tta": False, "classes": None, "on_error": "auto"}
        keys |= {"precision": "fp32", "compile": False, "allow": [], **more}
        keys = {"save": ["drawings", "predictions"], "features": SimpleNamespace(level=None, pool=True), **keys}
        return predict_run(SimpleNamespace(source=str(tmp_path / source), out=str(tmp_path / out), **keys))

    monkeypatch.setattr(visionkit.predict_files, "load", lambda _checkpoint, device, *_, **__: Predictor(model, device))
    return call


def rows_of(folder: Path) -> list[dict[str, object]]:
    return json.loads((folder / "predictions.json").read_text())


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    for name in ("b.png", "a.jpg", "inner/c.png", "inner/.hidden.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph()).save(folder / name, quality=95)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_is_drawn_and_written_down(run, photographs: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in photographs.rglob("*") if file.is_file()}
    assert run("photographs") == 0
    out = tmp_path / "out"
    drawn = sorted(file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file())
    assert drawn == ["a.jpg", "b.png", "inner/c.png", "predictions.json"]
    assert np.asarray(Image.open(out / "b.png")).shape == (100, 200, 3)
    assert (np.asarray(Image.open(out / "b.png")) != photograph()).any()
    rows = rows_of(out)
    assert [(row["image_id"], row["file_name"]) for row in rows[::2]] == [
        (1, "a.jpg"),
        (2, "b.png"),
        (3, "inner/c.png"),
    ]
    assert rows[2]["category_id"] == 1
    assert rows[2]["bbox"] == pytest.approx([40, 20, 80, 60], abs=6)
    assert [row["score"] for row in rows] == pytest.approx([0.9, 0.01] * 3)  # also what is not drawn
    assert {file: file.read_bytes() for file in before} == before


def test_patterns_and_single_files(run, photographs: Path, tmp_path: Path) -> None:
    assert run("photographs/**/*.png", "by_pattern") == 0
    assert [row["file_name"] for row in rows_of(tmp_path / "by_pattern")[::2]] == ["b.png", "inner/c.png"]
    assert run("photographs/inner/c.png", "one") == 0
    assert (tmp_path / "one" / "c.png").is_file()
    photographs.joinpath("b.png").rename(photographs / "b.dat")
    assert run("photographs/b.dat", "one") == 0
    assert (tmp_path / "one" / "b.dat.png").is_file()


def test_only_what_is_asked_for_is_saved(run, photographs: Path, tmp_path: Path) -> None:
    for save, wanted in (["drawings"], ["b.png"]), (["predictions"], ["predictions.json"]):
        assert run("photographs/b.png", save[0], save=save) == 0
        assert [file.name for file in (tmp_path / save[0]).iterdir()] == wanted


@pytest.mark.usefixtures("photographs")
def test_several_heads_have_a_list_each(run, model: BrightBox, tmp_path: Path) -> None:
    model.heads["classification"] = Head("red", "blue")
    assert run("photographs/b.png") == 0
    rows = rows_of(tmp_path / "out")
    assert set(rows) == {"detection", "classification"}
    expected = {"image_id": 1, "category_id": 1, "score": 0.75, "file_name": "b.png"}
    assert rows["classification"] == [expected]


def test_unreadable_files_among_others_are_reported(
    run, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photographs / "aa.png").write_bytes(b"nothing")
    assert run("photographs") == 0
    assert [row["image_id"] for row in rows_of(tmp_path / "out")[::2]] == [1, 3, 4]
    said = capsys.readouterr()
    assert "3 of 4 images predicted" in said.out
    assert "aa.png" in said.err


def test_a_single_unreadable_file_is_refused_before_anything_is_written(run, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        run("broken.jpg")
    whole = cv2.imencode(".png", photograph())[1].tobytes()
    damaged = whole[:60] + bytes(40) + whole[100:]  # the header is fine, the pixels are not
    (tmp_path / "damaged.png").write_bytes(damaged)
    with pytest.raises(DataError, match=r"damaged\.png"):
        run("damaged.png")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("absent", "out", "absent: no such file, folder or pattern"),
        ("empty", "out", "empty: no images there; known are .bmp, .gif, .jpeg"),
        ("photographs/*.bmp", "out", "no images there"),
        ("photographs", "photographs", "would overwrite the source"),
        ("photographs/*.png", "photographs", "would overwrite the source"),
        ("photographs/b.png", "photographs", "b.png would overwrite the source"),
        ("photographs/inner/c.png", "photographs/inner/../inner", "would overwrite the source"),
        ("photographs", "photographs/notes.txt", "is a file; give a folder"),
    ],
)
@pytest.mark.usefixtures("photographs")
def test_bad_places_are_refused(run, tmp_path: Path, source: str, out: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=message):
        run(source, out)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_drawings_inside_the_source_are_not_predicted_again(run, photographs: Path) -> None:
    for _ in range(2):
        assert run("photographs", "photographs/drawn") == 0
        assert len(rows_of(photographs / "drawn")) == 6


def test_a_video_is_drawn_frame_by_frame(run, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (200, 100))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no videos")
    for k in range(5):
        writer.write(cv2.cvtColor(photograph(box=(40 + 10 * k, 20, 120, 80)), cv2.COLOR_RGB2BGR))
    writer.release()
    assert run("clip.avi") == 0
    rows = [row for row in rows_of(tmp_path / "out") if row["score"] > 0.5]
    assert [(row["image_id"], row["frame"], row["file_name"]) for row in rows] == [
        (k, k, "clip.avi") for k in range(1, 6)
    ]
    assert [row["bbox"][0] for row in rows] == pytest.approx([40, 50, 60, 70, 80], abs=3.2)
    capture = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    assert capture.read()[1].shape == (100, 200, 3)


def test_a_video_s_table_and_crops_name_the_frame(run, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (200, 100))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no videos")
    for _ in range(3):
        writer.write(cv2.cvtColor(photograph(), cv2.COLOR_RGB2BGR))
    writer.release()
    assert run("clip.avi", save=["csv", "crops"]) == 0
    rows = table(tmp_path / "out")
    assert [(row["file"], row["frame"]) for row in rows] == [("clip.avi", str(k)) for k in (1, 2, 3)]
    crops = sorted(file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.jpg"))
    assert crops == ["crops/red/clip-1-1.jpg", "crops/red/clip-2-1.jpg", "crops/red/clip-3-1.jpg"]
    assert not list((tmp_path / "out").rglob("*.mp4"))


def test_a_video_that_cannot_be_read_is_refused(run, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"clip\.mp4: no frame can be read"):
        run("clip.mp4")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"clip\.mp4 would overwrite the source"):
        run("clip.mp4", ".")


# ------------------------------------------------------------------------------------------------- tables and crops
def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_lists_what_is_shown(run, model: BrightBox, photographs: Path, tmp_path: Path) -> None:
    model.heads["classification"] = Head("red", "blue")
    assert run("photographs", save=["csv"]) == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["predictions.csv"]
    rows = table(tmp_path / "out")
    assert [(row["file"], row["head"], row["class"]) for row in rows[:4]] == [
        ("a.jpg", "detection", "red"),
        ("a.jpg", "classification", "red"),
        ("b.png", "detection", "red"),
        ("b.png", "classification", "red"),
    ]
    assert [float(rows[2][edge]) for edge in ("x1", "y1", "x2", "y2")] == pytest.approx([40, 20, 120, 80], abs=3.2)
    assert (rows[2]["score"], rows[2]["frame"], rows[3]["score"], rows[3]["x1"]) == ("0.9", "", "0.75", "")


def test_crops_of_equal_names_do_not_overwrite_each_other(run, tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    names = ("a.png", "a.jpg", "sub/a.png", "zażółć 猫 #1.png", "p[1].png")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph()).save(folder / name)
    assert run("photographs", save=["crops", "drawings"]) == 0
    crops = {
        file.relative_to(tmp_path / "out/crops/red").as_posix() for file in (tmp_path / "out/crops").rglob("*.jpg")
    }
    assert crops == {f"{name}-1.jpg" for name in names}
    drawings = {
        file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*") if file.is_file()
    }
    assert drawings - {f"crops/red/{crop}" for crop in crops} == set(names)
    crop = np.asarray(Image.open(tmp_path / "out/crops/red/a.png-1.jpg"))
    assert crop.shape[:2] == pytest.approx((60, 80), abs=7)
    assert crop[20:40, 20:60].mean(axis=(0, 1)) == pytest.approx([250, 20, 20], abs=12)
    assert run("photographs/p[1].png", "one") == 0  # a name that reads like a pattern


def test_drawings_of_files_that_are_no_pictures_find_names_of_their_own(tmp_path: Path) -> None:
    names = ["x.dat", "x.dat.png", "x.npy", "y.jpg"]
    targets = drawing_files(tmp_path, names)
    assert [target.name for target in targets.values()] == ["x.dat-drawn.png", "x.dat.png", "x.npy.png", "y.jpg"]


def test_a_class_is_a_folder_on_any_system() -> None:
    assert [folder_name(name) for name in ("a/b", "..", "red fox", "x:y*", " ", "猫")] == [
        "a_b", "_", "red fox", "x_y_", "_", "猫",
    ]  # fmt: skip


@pytest.mark.usefixtures("photographs")
def test_classes_and_scores_choose_what_is_shown(run, tmp_path: Path) -> None:
    assert run("photographs/b.png", "all", save=["csv"], score={"red": 0.005}) == 0
    assert len(table(tmp_path / "all")) == 2
    assert run("photographs/b.png", "blue", save=["csv", "predictions"], classes=["blue"]) == 0
    assert table(tmp_path / "blue") == rows_of(tmp_path / "blue") == []
    with pytest.raises(UserError, match=r"classes: there is no class 'rad' \(did you mean 'red'\?\)"):
        run("photographs/b.png", "none", classes=["rad"])
    assert not (tmp_path / "none").exists()


def test_the_first_unreadable_file_ends_a_run_that_is_told_to_stop(run, photographs: Path, tmp_path: Path) -> None:
    (photographs / "aa.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"aa\.png"):
        run("photographs", on_error="stop", save=["predictions"])
    assert not (tmp_path / "out" / "predictions.json").exists()
    assert run("photographs/aa.png", on_error="skip", save=["predictions"]) == 0


@pytest.mark.usefixtures("photographs")
def test_tiles_of_answers_about_whole_images_are_refused(run, model: BrightBox, tmp_path: Path) -> None:
    model.heads["detection"].finishing = SimpleNamespace(kind="classification")
    with pytest.raises(UserError, match=r"tile=64: the model's answers .* leave tile out"):
        run("photographs", tile=64)
    with pytest.raises(UserError, match="tile=5: a number of pixels"):
        run("photographs", tile=5)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------- tiles and views
def test_tiles_and_views_of_a_real_model_give_typed_predictions() -> None:
    torch.manual_seed(0)
    backbone = Plain([{"conv": {"filters": 8, "stride": 2}}] * 3, image_size=64)
    level = list(backbone.out_specs)[-1]
    specs = backbone.out_specs
    heads = {
        "detection": DenseDetection(specs, classes=["a", "b"], levels=[level], depth=1),
        "instance": DenseInstance(specs, classes=["a", "b"], levels=[level, level], depth=1, prototypes=4),
        "semantic": SemanticSegmentation(specs, classes=["sky", "a", "b"], levels=[level], depth=0),
        "classification": LinearClassification(specs, classes=["a", "b"], levels=[level]),
    }
    merges = {"panoptic": PanopticMerge(heads, score_threshold=0.0)}
    model = VisionModel(backbone, None, heads, preprocess=Preprocess(64), merges=merges)
    predictor = Predictor(model, "cpu")
    image = np.random.default_rng(0).integers(0, 255, (150, 220, 3)).astype(np.uint8)
    plain = predictor.predict([image, image[:40]])
    for arguments in ({"tile": 96}, {"tta": True}, {"tile": 96, "tta": True, "batch_size": 3}):
        for one, usual in zip(predictor.predict([image, image[:40]], **arguments), plain, strict=True):
            assert {name: type(it) for name, it in one.items()} == {name: type(it) for name, it in usual.items()}
            assert one["semantic"].classes.shape == one["panoptic"].ids.shape == usual["semantic"].classes.shape
            assert (np.diff(one["detection"].scores) <= 0).all()
            assert one["panoptic"].names == ("sky", "a", "b")
            for head in one:
                assert one[head].draw(image if usual["semantic"].classes.shape[0] == 150 else image[:40]).ndim == 3
            assert all(
                mask.shape == usual["semantic"].classes.shape for mask in one["instance"].select(np.arange(2)).masks()
            )
    # An image that is no larger than a tile is seen as a whole, and only so.
    small = predictor.predict(image[:40, :90], tile=96)[0]
    usual = predictor.predict(image[:40, :90])[0]
    np.testing.assert_array_equal(small["semantic"].classes, usual["semantic"].classes)
    np.testing.assert_array_equal(small["detection"].boxes, usual["detection"].boxes)
