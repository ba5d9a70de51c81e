"""A .pt2 file could make torch run code in a dozen ways; a file that tries is refused before torch sees it."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest

import visionkit
from tests.export.conftest import build
from visionkit.errors import CheckpointError
from visionkit.export import export_model


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A small one, for what is refused is refused before torch reads it."""
    file = tmp_path_factory.mktemp("package") / "model.pt2"
    export_model(build("semantic"), file, images={}, format="torch")
    return file


@pytest.fixture
def changed(package, tmp_path):
    """changed("models/model.json", change): the package with one part changed."""

    def make(part, change):
        file = tmp_path / "changed.pt2"
        with zipfile.ZipFile(package) as old, zipfile.ZipFile(file, "w") as new:
            for info in old.infolist():
                content = old.read(info.filename)
                new.writestr(info.filename, change(content) if info.filename.endswith(part) else content)
        return file

    return make


def in_json(change):
    def changed(content):
        told = json.loads(content)
        change(told)
        return json.dumps(told).encode()

    return changed


def nodes(told):
    return told["graph_module"]["graph"]["nodes"]


def first_config(told):
    return next(iter(told["config"].values()))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("models/model.json", lambda told: nodes(told)[3].update(target="torch.os.system"), "calls torch.os.system"),
        ("models/model.json", lambda told: nodes(told)[3].update(target="_operator.attrgetter"), "calls _operator"),
        ("models/model.json", lambda told: nodes(told)[3].update(target="torch.ops.aten.x.y.__init__"), "calls"),
        ("models/model.json", lambda told: told.update(guards_code=["__import__('os').system('x')"]), "guards by"),
        ("models/model.json", lambda told: told.update(more={"expr_str": "exec(chr(105))"}), "computes exec"),
        ("models/model.json", lambda told: nodes(told)[0].update(as_custom_obj={"name": "x"}), "custom_obj"),
        ("weights_config.json", lambda told: first_config(told).update(use_pickle=True), "a pickled object"),
        ("constants_config.json", lambda told: first_config(told).update(path_name="opaque_obj_0"), "a pickled"),
        ("weights_config.json", lambda told: first_config(told).update(path_name="../x"), "a pickled"),
        ("weights_config.json", lambda told: told.update(config=[]), "a pickled"),
    ],
)
def test_what_torch_would_run_is_refused(changed, part, change, message):
    with pytest.raises(CheckpointError, match=message):
        visionkit.load(changed(part, in_json(change)))


def test_a_pickle_in_place_of_the_samples_runs_nothing(changed, tmp_path):
    buffer = io.BytesIO()
    pickle.dump(Touch(tmp_path / "touched"), buffer)
    with pytest.raises(CheckpointError):
        visionkit.load(changed("sample_inputs/model.pt", lambda _: buffer.getvalue()))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["data/aotinductor/model/x.so", "data/weights/model.pt", "extra/other", "../x"])
def test_parts_that_no_export_has_are_refused(changed, name):
    file = changed("nothing", bytes)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/{name}", b"x")
    with pytest.raises(CheckpointError, match="which no export of visionkit has"):
        visionkit.load(file)


def test_an_archive_that_grows_is_refused(changed, tmp_path):
    small = tmp_path / "small.pt2"
    whole = changed("nothing", bytes)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="compressed"):
        visionkit.load(small)
