"""What is exported predicts what the model predicts, in original pixels, and a file that does not is not written."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import visionkit
from visionkit import Predictor, VisionModel
from visionkit.backbones import CSP, Torchvision
from visionkit.errors import CheckpointError, ConfigError, RunError, UserError
from visionkit.export import export_model
from visionkit.export import files as files_module
from visionkit.export.parity import BOUNDS, Parity
from visionkit.heads import LinearClassification
from visionkit.preprocess import Preprocess

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"


def compared(model, exported, images):
    """Hold an exported one against the model on all images together; returns what was found."""
    wanted = Predictor(model, "cpu").predict(list(images.values()))
    found = exported.predict(list(images.values()))
    parity = Parity(BOUNDS["fp32"])
    for one, other in zip(wanted, found, strict=True):
        parity.add(one, other, 5.0)
    return parity


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_every_kind_of_answer_is_the_same_for_batches_of_any_size(every_head, opened, photographed, kind):
    images = photographed(4) | {"thread": np.full((200, 1, 3), 90, np.uint8)}
    for names in (list(images)[:1], list(images)[:3], list(images)):
        found = compared(every_head, opened[kind], {name: images[name] for name in names})
        assert found.images == len(names)
    assert found.objects > 50
    assert found.tied == 0
    counts = [len(one["detection"]) for one in opened[kind].predict(list(images.values()))]
    assert (max(counts), counts[-1]) == (every_head.heads["detection"].most, 0)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_the_same_api(every_head, opened, photographed, kind):
    predictor = opened[kind]
    assert predictor.classes == every_head.classes
    assert predictor.decoding == every_head.preprocess.decoding
    assert set(predictor.predict(next(iter(photographed().values())))[0]) == set(every_head.classes)
    with pytest.raises(ConfigError, match="an exported file gives predictions alone"):
        predictor.features(next(iter(photographed().values())))
    assert {name: head.needs for name, head in predictor.model.heads.items()} == {
        name: head.needs for name, head in every_head.heads.items()
    }
    assert predictor.model.heads["detection"].thresholds["iou_threshold"] == pytest.approx(0.7)


def test_onnx_suppresses_as_torch_does(tmp_path):
    from visionkit.ops.boxes import non_maximum_suppression

    class Suppress(torch.nn.Module):
        def forward(self, boxes, labels, candidates):
            return non_maximum_suppression(boxes, labels, candidates, 0.5, 40)

    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3, 200, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 5 + torch.rand(3, 200, 2, generator=generator) * 40], -1)
    labels = torch.randint(0, 4, (3, 200), generator=generator)
    candidates = torch.rand(3, 200, generator=generator) > 0.1
    candidates[2] = False
    wanted = non_maximum_suppression(boxes, labels, candidates, 0.5, 40)
    assert wanted.sum(1).tolist()[0] == 40
    from visionkit.export.onnx_operators import translations

    batch = torch.export.Dim("batch")
    followed = torch.export.export(Suppress(), (boxes, labels, candidates), dynamic_shapes=({0: batch},) * 3)
    made = torch.onnx.export(followed, (), dynamo=True, custom_translation_table=translations(), verbose=False)
    made.save(tmp_path / "nms.onnx", external_data=False)
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "nms.onnx")
    names = [one.name for one in session.get_inputs()]
    for rows in (slice(0, 3), slice(2, 3), slice(1, 2)):
        given = zip(names, (boxes[rows], labels[rows], candidates[rows]), strict=True)
        (found,) = session.run(None, {name: value.numpy() for name, value in given})
        np.testing.assert_array_equal(found, wanted[rows].numpy())


def test_a_network_of_layers_and_images_of_other_kinds(builds, tmp_path, photographed):
    export_model(builds.plain(), tmp_path / "plain.onnx", images=photographed(3))
    more = {"mean": (0.4,) * 5, "std": (0.2,) * 5, "bit_depth": 16}
    model = builds.model("classification", canvas=(64, 96), policy="resize_crop", **more)
    images = {name: image.astype(np.uint16) * 257 for name, image in photographed(3, channels=5).items()}
    export_model(model, tmp_path / "five.pt2", images=images, format="torch")
    assert visionkit.load(tmp_path / "five.pt2").decoding == model.preprocess.decoding


def test_half_precision_takes_half_the_room_and_keeps_its_bounds(builds, tmp_path, photographed):
    model = builds.model("semantic")
    found = export_model(model, tmp_path / "half.onnx", images=photographed(2), precision="fp16")
    assert 0 <= found.maps <= BOUNDS["fp16"].maps
    weights = [one for one in onnx.load(tmp_path / "half.onnx").graph.initializer if len(one.dims) == 4]
    halves = [one.data_type == onnx.TensorProto.FLOAT16 for one in weights if len(one.raw_data) > 64]
    assert len(halves) > 5
    assert all(halves)
    with pytest.raises(ConfigError, match="fp16: is for format=onnx"):
        export_model(model, tmp_path / "m.pt2", images={}, format="torch", precision="fp16")


def test_another_canvas(builds, tmp_path, photographed):
    model = builds.model("classification")
    export_model(model, tmp_path / "m.pt2", images=photographed(1), format="torch", image_size=(64, 96))
    assert visionkit.load(tmp_path / "m.pt2").model.preprocess.canvas == (64, 96)
    assert model.preprocess.canvas == (128, 128)


def test_a_file_that_disagrees_is_not_written(builds, tmp_path, photographed, monkeypatch):
    model = builds.model("localization", "classification")
    whole = files_module.exported

    def spoilt(model, card):
        with torch.no_grad():
            model.heads["localization"].offset.bias[0] += 0.1
        return whole(model, card)

    original = files_module._compare
    monkeypatch.setattr(files_module, "exported", spoilt)
    monkeypatch.setattr(files_module, "_compare", lambda _, *rest: original(model, *rest))
    with pytest.raises(RunError, match=r"m\.pt2: not written, for it disagrees .* on photograph 0: "):
        export_model(model, tmp_path / "m.pt2", images=photographed(), format="torch")
    assert list(tmp_path.iterdir()) == []


def test_a_head_of_ones_own_is_told_what_it_lacks(tmp_path):
    class Own(LinearClassification):
        finishing = None

    class Counting(LinearClassification):
        def forward(self, features, sizes):
            return super().forward(features, sizes).view(len(sizes), -1)

    backbone = CSP("nano", width=0.25)
    for kind, error, said in ((Own, ConfigError, "give the class an attribute"), (Counting, RunError, "x.shape")):
        head = kind(backbone.out_specs, classes=["a", "b"])
        model = VisionModel(backbone, None, {"mine": head}, preprocess=Preprocess(64))
        with pytest.raises(error, match=said):
            export_model(model, tmp_path / "m.pt2", images={}, format="torch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "more", "message"),
    [
        ("m.pt2", {}, r"ends in \.onnx"),
        ("m.onnx", {"format": "torch"}, r"ends in \.pt2"),
        ("m.onnx", {"format": "onxn"}, "format=onxn: one of onnx, torch"),
        ("m.onnx", {"precision": "int8"}, "precision=int8: one of fp32, fp16"),
        ("m.onnx", {"image_size": 0}, "image_size=0"),
    ],
)
def test_what_cannot_be_is_refused_at_once(builds, tmp_path, out, more, message):
    with pytest.raises(UserError, match=message):
        export_model(builds.plain(), tmp_path / out, images={}, **more)


def test_no_file_tells_folders_of_whoever_exported(files):
    for file in files.values():
        assert b"/visionkit/" not in file.read_bytes()


# ------------------------------------------------------------------------------------------------------ damaged files
def test_what_is_no_exported_file_is_refused_in_a_line(files, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(files["onnx"].read_bytes()[:5000])
    (tmp_path / "broken.pt2").write_bytes(files["torch"].read_bytes()[:5000])
    (tmp_path / "other.onnx").write_bytes(b"nothing")
    for name in ("broken.onnx", "broken.pt2", "other.onnx", "absent.onnx", "absent.pt2"):
        with pytest.raises(CheckpointError, match=name) as caught:
            visionkit.load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_onnx_that_refers_to_other_files_is_refused(files, tmp_path):
    model = onnx.load(files["onnx"])
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(CheckpointError, match="refers to data in other files"):
        visionkit.load(tmp_path / "m.onnx")


def test_onnx_of_somebody_else_is_refused(files, tmp_path):
    model = onnx.load(files["onnx"])
    del model.metadata_props[:]
    onnx.save_model(model, tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match="was not exported by visionkit"):
        visionkit.load(tmp_path / "m.onnx")


# --------------------------------------------------------------------------------------------------- docs/deployment.md
@pytest.fixture
def blocks():
    if not PAGE.exists():
        pytest.skip("docs/ is not part of the installed package")
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def run(code):
    told = io.StringIO()
    with redirect_stdout(told):
        exec(compile(code, "deployment.md", "exec"), {})
    return told.getvalue()


def test_the_examples_of_the_page_run_and_agree(blocks, files, opened, photographed, tmp_path, monkeypatch):
    """docs/deployment.md: what it shows runs as it stands, and gives what visionkit gives."""
    monkeypatch.chdir(tmp_path)
    for kind, name in (("onnx", "detector.onnx"), ("torch", "detector.pt2")):
        Path(name).symlink_to(files[kind])
    image = photographed()["photograph 3"]
    Image.fromarray(image).save("photograph.jpg", format="PNG")
    alone = next(code for code in blocks if "InferenceSession" in code)
    lines = run(alone).splitlines()
    (wanted,) = opened["onnx"].predict("photograph.jpg")
    wanted = wanted["detection"].above(0.3)
    assert len(lines) == len(wanted) > 0
    for line, box, score in zip(lines, wanted.boxes, wanted.scores, strict=True):
        shown = [float(number) for number in re.findall(r"-?\d+\.\d+", line)]
        assert shown[0] == pytest.approx(score, abs=1e-3)
        np.testing.assert_allclose(np.clip(shown[1:], 0, [400, 300] * 2), box, atol=0.06)
    other = next(code for code in blocks if "torch.export.load" in code)
    assert "'semantic.logits': (1, 4, 32, 32)" in run(other.replace("640", "128"))
    with_visionkit = next(code for code in blocks if "visionkit.load" in code)
    assert run(with_visionkit).startswith("[[")


# ----------------------------------------------------------------------------------------------- larger networks, slow
@pytest.mark.slow
def test_larger_networks_in_half_precision(builds, tmp_path, photographed):
    model = builds.model("detection", backbone=lambda: CSP("nano", width=0.25))
    found = export_model(model, tmp_path / "half.onnx", images=photographed(), precision="fp16")
    assert 1e-4 < found.pixels < BOUNDS["fp16"].pixels


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch"])
@pytest.mark.parametrize(
    ("network", "names"),
    [
        ("csp", ("detection", "instance", "semantic", "localization", "labels")),
        ("resnet18", ("deeplab", "detection")),
        ("mobilenet_v2", ("fcn", "classification")),
    ],
)
def test_larger_networks(builds, tmp_path, photographed, kind, network, names):
    backbone = (lambda: CSP("nano", width=0.25)) if network == "csp" else (lambda: Torchvision(network))
    model = builds.model(*names, backbone=backbone)
    file = tmp_path / f"m.{'onnx' if kind == 'onnx' else 'pt2'}"
    export_model(model, file, images=photographed(4), format=kind)
    compared(model, visionkit.load(file, "cpu"), photographed(3))
