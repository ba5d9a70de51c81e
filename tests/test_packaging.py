"""The wheel and the source archive hold what they should, and the wheel works away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import cv2
import numpy as np
import pytest

from visionkit import __version__, cli
from visionkit.doctor_packages import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def of_tree(folder):
    found = (file.relative_to(ROOT) for file in (ROOT / folder).rglob("*") if file.is_file())
    return {file.as_posix() for file in found if "__pycache__" not in file.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the source archive, the first made of the second alone."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def test_the_wheel_holds_the_package_and_its_configurations_and_nothing_else(built):
    names = zipfile.ZipFile(built[0]).namelist()
    inside = {name for name in names if not name.startswith(f"visionkit-{__version__}.dist-info/")}
    assert inside == of_tree("visionkit") | {f"visionkit/{name}" for name in of_tree("configs")}
    assert {"visionkit/py.typed", "visionkit/report/report.html.j2", "visionkit/configs/task/detect.yaml"} <= inside
    assert f"visionkit-{__version__}.dist-info/licenses/LICENSE" in names
    weights = {f"visionkit/pretrained/{name}_csp_nano.safetensors" for name in ("detector", "segmenter")}
    assert {
        name for name in names if name.endswith((".jpg", ".jpeg", ".png", ".pt", ".safetensors", ".onnx"))
    } == weights
    assert all(zipfile.ZipFile(built[0]).getinfo(name).file_size < 8_000_000 for name in weights)


def test_the_wheel_says_what_it_needs(built):
    archive = zipfile.ZipFile(built[0])
    told = Parser().parsestr(archive.read(f"visionkit-{__version__}.dist-info/METADATA").decode())
    assert (told["Version"], told["License-Expression"]) == (__version__, "Apache-2.0")
    assert set(told["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    assert set(told.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    entry = archive.read(f"visionkit-{__version__}.dist-info/entry_points.txt").decode()
    assert "visionkit = visionkit.cli:main" in entry


def test_the_source_archive_holds_what_a_builder_needs_and_no_pictures_of_others(built):
    with tarfile.open(built[1]) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("visionkit", "configs", "tools", "tests"):
        assert of_tree(folder) <= inside
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"} <= inside
    assert not [name for name in inside if name.startswith(("runs/", ".data", ".git/", ".whl"))]
    weights = sum(file.stat().st_size for file in (ROOT / "visionkit" / "pretrained").iterdir())
    assert built[1].stat().st_size - weights < 8 << 20


def test_the_version_is_one_and_every_extra_is_explained():
    assert PROJECT["version"] == __version__
    assert set(PROJECT["optional-dependencies"]) == set(EXTRAS)


# ------------------------------------------------------------------------------------ the wheel, away from the checkout
class Installed:
    """The wheel in a virtual environment of its own, beside this one's other packages, and a folder to work in."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.scripts = folder / "venv" / "bin"
        self.python = self.scripts / "python"
        packages = next((folder / "venv" / "lib").glob("python*/site-packages"))
        # Other packages are found here; what a .pth file among them adds, such as this checkout, is not.
        (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install"]
        subprocess.run([*pip, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        own = {"VISIONKIT_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | own
        asked = [str(self.scripts / command[0]), *command[1:]]
        return subprocess.run(asked, capture_output=True, text=True, cwd=self.folder, env=environment)


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    return Installed(built[0], tmp_path_factory.mktemp("installed"))


SMALL = ("debug=tiny", "device=cpu", "data.reader.count={train: 12, val: 6, test: 4}")
STEPS = {
    "train": ("task=detect", *SMALL, "run_dir=run"),
    "evaluate": ("checkpoint=run", "device=cpu", "run_dir=judged"),
    "predict": ("checkpoint=run", "device=cpu", "source=photo.png", "out=drawn"),
    "export": ("checkpoint=run", "out=model.onnx", "check=false"),  # two steps teach nothing that could be compared
    "benchmark": ("task=detect", "debug=tiny", "device=cpu", "run_dir=timed"),
    "benchmark loader": ("task=detect", *SMALL[:2], "run_dir=loaded"),
    "check_data": ("data=shapes", "image_size=64", "data.split=val", "data.reader.count={val: 4}", "page=check.html"),
    "probe": (*SMALL[:2], "debug.images=48", "data.reader.count={train: 48, val: 8}", "kind=knn", "run_dir=probed"),
    "inspect_model": ("checkpoint=run", "device=cpu"),
    "doctor": ("device=cpu", "json=true"),
    "list": ("heads", "optimizers"),
}
LEAVES = {
    "train": "run/metrics.json", "evaluate": "judged/metrics.json", "predict": "drawn/predictions.json",
    "export": "model.onnx", "check_data": "check.html",
}  # fmt: skip


@pytest.mark.slow
def test_what_is_installed_is_the_wheel(installed):
    done = installed.run("python", "-c", "import visionkit; print(visionkit.__file__)")
    assert Path(done.stdout.strip()).is_relative_to(installed.python.parents[1])
    assert installed.run("visionkit", "--version").stdout == f"{__version__}\n"
    assert installed.run("visionkit").stdout.startswith("usage: visionkit TOOL")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_tool_runs_as_a_subcommand(installed):
    assert {*STEPS, "demo"} >= {*cli.TOOLS, *cli.COMMANDS}
    photo = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    assert cv2.imwrite(str(installed.folder / "photo.png"), photo)
    for tool in [name for name in STEPS if name in {**cli.TOOLS, **cli.COMMANDS}]:
        if tool == "export":
            pytest.importorskip("onnxscript")
            pytest.importorskip("onnxruntime")
        done = installed.run("visionkit", *tool.split(), *STEPS[tool])
        assert done.returncode == 0, f"{tool}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
        assert tool not in LEAVES or (installed.folder / LEAVES[tool]).is_file(), tool
        assert "\x1b" not in done.stdout + done.stderr, tool
        if tool == "doctor":
            packages = {one["name"]: one for one in json.loads(done.stdout)["findings"]["packages"]}
            assert packages["visionkit"] == {"name": "visionkit", "state": "ok", "said": __version__, "mend": ""}
    shutil.rmtree(installed.folder)
