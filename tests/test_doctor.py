"""`visionkit doctor` tells what is broken, and does not break with it."""

from __future__ import annotations

import json
import os
import resource
import shutil
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import pytest

from visionkit import cli, doctor, doctor_machine, doctor_packages, doctor_trials
from visionkit.doctor_findings import Finding, lines, run_checks
from visionkit.doctor_trials import trials


def by_name(findings):
    return {one.name: one for one in findings}


# ----------------------------------------------------------------------------------------------------------- packages
@pytest.fixture
def installed(monkeypatch):
    """installed(**{"opencv-python": "4.10.0"}): these packages alone."""

    def say(**versions):
        monkeypatch.setattr(doctor_packages, "_version", versions.get)

    return say


def packages(name):
    return by_name(run_checks({name: doctor_packages.package_checks()[name]}))


def test_opencv_packages_side_by_side_are_told_with_the_mend(installed):
    installed(**{"opencv-python-headless": "5.0.0.93", "opencv-python": "4.10.0.84"})
    found = packages("opencv")["opencv"]
    assert found.state == "warning"
    assert "opencv-python-headless 5.0.0.93 and opencv-python 4.10.0.84" in found.said
    assert found.mend == ("pip uninstall -y opencv-python-headless opencv-python && pip install opencv-python-headless")


def test_one_opencv_of_any_name_is_enough(installed):
    installed(**{"opencv-contrib-python": "4.10.0.84"})
    assert packages("opencv")["opencv"] == Finding("opencv", "ok", "opencv-contrib-python 4.10.0.84")
    installed()
    assert packages("opencv")["opencv"].state == "fault"


def test_requirements_of_another_version_or_absent_are_faults(installed):
    installed(albumentations="2.0.5", torch="2.11.0+cu128", torchvision="0.25.9")
    found = packages("requirements")
    assert found["albumentations"].state == "fault"
    assert found["albumentations"].said == "2.0.5, where ==2.0.8 is needed"
    assert found["albumentations"].mend == 'pip install "albumentations==2.0.8"'
    assert found["torch"] == Finding("torch", "ok", "2.11.0+cu128")
    assert found["torchvision"].said == "0.25.9, where >=0.26 is needed"
    assert found["hydra-core"] == Finding(
        "hydra-core", "fault", "not installed", 'pip install "hydra-core>=1.3.8,<1.4"'
    )


@pytest.mark.parametrize(
    ("limits", "version", "allowed"),
    [
        (">=3.11,<3.14", "3.13.2", True), (">=3.11,<3.14", "3.14.0rc1", False), (">=3.11,<3.14", "3.10.9", False),
        ("==2.0.8", "2.0.8", True), ("==2.0.8", "2.0.8.post1", True), ("==2.0", "2.0.0", True), ("", "1", True),
        (">=2.11", "2.9.1", False), ("!=1.2", "1.2.0", False), ("<=1.2,>1.0", "1.2", True),
    ],
)  # fmt: skip
def test_limits_of_versions(limits, version, allowed):
    assert doctor_packages._allows(limits, version) is allowed


def test_a_python_that_hydra_fails_with(monkeypatch):
    monkeypatch.setattr(doctor_packages, "sys", SimpleNamespace(version="3.14.1 (main)", version_info=(3, 14, 1)))
    found = packages("python")["python"]
    assert found.state == "fault"
    assert found.said == "3.14.1; >=3.11,<3.14 is needed (hydra-core fails with 3.14)"
    assert "Python 3.11, 3.12 or 3.13" in found.mend


def test_an_installed_wheel_tells_the_requirements_itself(monkeypatch, tmp_path):
    written = Message()
    for key, value in (
        ("Requires-Python", "<3.14,>=3.11"), ("Requires-Dist", "torch>=2.11"), ("Provides-Extra", "timm"),
        ("Requires-Dist", "timm>=1.0; extra == 'timm'"),
    ):  # fmt: skip
        written[key] = value
    monkeypatch.setattr(doctor_packages.metadata, "metadata", lambda name: written)
    monkeypatch.setattr(doctor_packages, "__file__", str(tmp_path / "site-packages" / "visionkit" / "x.py"))
    assert doctor_packages._declared() == {
        "requires-python": "<3.14,>=3.11", "dependencies": ["torch>=2.11"],
        "optional-dependencies": {"timm": ["timm>=1.0"]},
    }  # fmt: skip


def test_every_extra_says_what_it_is_for_and_how_to_get_it(installed):
    installed(timm="1.0.2")
    found = by_name(run_checks(doctor_packages.extra_checks()))
    assert set(found) == set(doctor_packages.EXTRAS)
    assert found["timm"].said.startswith("installed (the convolutional networks of timm")
    assert found["demo"].said.endswith("gradio: pip install 'visionkit[demo]'")
    assert {one.state for one in found.values()} == {"ok"}


# --------------------------------------------------------------------------------------------------- machine, folders
def test_the_checks_of_this_machine_find_no_fault():
    found = by_name(run_checks(doctor_machine.machine_checks()))
    assert {"system", "processor", "memory", "environment"} <= set(found)
    assert all(one.state in ("ok", "warning") for one in found.values())


def test_little_shared_memory_and_few_open_files_are_warnings(monkeypatch):
    if not Path("/dev/shm").is_dir():
        pytest.skip("a machine without /dev/shm")
    small = SimpleNamespace(total=64 << 20, used=0, free=64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: small)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 4096))
    found = by_name(run_checks(doctor_machine.machine_checks()))
    assert found["shared memory"].state == "warning"
    assert "--shm-size=2g" in found["shared memory"].mend
    assert found["open files"].mend == "ulimit -n 4096"


def folder(path):
    return by_name(run_checks(doctor_machine.folder_checks(path)))["runs"]


def test_folders_are_tried_and_left_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache" / "deep"))
    found = by_name(run_checks(doctor_machine.folder_checks(tmp_path / "runs")))
    assert {one.state for one in found.values()} <= {"ok", "warning"}
    assert "(to be made in" in found["cache"].said
    assert list(tmp_path.iterdir()) == []


def test_what_a_folder_cannot_do_is_a_fault(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    assert folder(tmp_path / "file" / "runs").said.endswith("file is a file, no folder")

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", refuse)
        assert "making a symbolic link fails (Operation not permitted)" in folder(tmp_path / "runs").said
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        assert "syncing fails" in folder(tmp_path / "runs").said
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=1 << 30, used=0, free=50 << 20))
        assert (folder(tmp_path).state, "50 MiB free" in folder(tmp_path).said) == ("fault", True)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


# ------------------------------------------------------------------------------------------------------------- trials
@pytest.fixture
def broken(tmp_path, monkeypatch):
    """broken(cv2="raise …"): packages of these names whose import runs these lines."""

    def make(**lines):
        for name, code in lines.items():
            (tmp_path / "broken" / name).mkdir(parents=True)
            (tmp_path / "broken" / name / "__init__.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))

    return make


def test_packages_that_cannot_be_imported_are_told_and_the_others_tried(broken):
    broken(
        torch="raise ImportError('libcudart.so.13: cannot open shared object file')",
        cv2="import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        pycocotools="print('noise'); raise ValueError('numpy.dtype size changed')",
    )
    names = ["torch", "torchvision", "opencv", "pycocotools", "training step"]
    found = by_name(trials(names=names))
    assert list(found) == names
    assert {one.state for one in found.values()} == {"fault"}
    assert found["torch"].said == "ImportError: libcudart.so.13: cannot open shared object file"
    assert "pip install --force-reinstall torch torchvision" in found["torch"].mend
    assert found["opencv"].said == "the trial ends its process: signal SIGSEGV"
    assert found["pycocotools"].said == "ValueError: numpy.dtype size changed"


def test_a_trial_that_never_answers_is_told(broken):
    broken(cv2="import time; time.sleep(60)")
    (found,) = trials(names=["opencv"], seconds=1)
    assert (found.state, found.said) == ("fault", "the trial ends its process: no answer within 1 s")


def test_a_torchvision_that_misses_them_at_import(broken):
    broken(torchvision="raise RuntimeError('operator torchvision::nms does not exist')")
    (found,) = trials(names=["torchvision"])
    assert found.state == "fault"
    assert "lacks its operators (torchvision::nms): it was built for another torch than" in found.said


def test_a_torchvision_without_its_operators(monkeypatch):
    import torchvision

    def lacking(*_):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", lacking)
    (found,) = doctor_trials.TRIALS["torchvision"]("cpu")
    assert found.state == "fault"
    assert "lacks its operators (torchvision::nms): it was built for another torch than" in found.said
    assert "torch torchvision" in found.mend


def test_a_driver_whose_cards_torch_cannot_use(monkeypatch):
    import torch

    monkeypatch.setattr(doctor_trials.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (found,) = doctor_trials.TRIALS["torch"]("auto")
    assert found.state == "warning"
    assert found.mend


def test_a_device_that_computes_something_else_is_a_fault(monkeypatch):
    steps = {"cpu": (1.0, 2.0), "meta": (1.0, 2.5)}
    monkeypatch.setattr(doctor_trials, "_small_step", steps.get)
    monkeypatch.setattr("visionkit.engine.device.resolve_device", lambda name: SimpleNamespace(
        type=name, __str__=lambda self: name))  # fmt: skip
    monkeypatch.setattr(doctor_trials, "str", lambda device: device.type, raising=False)
    (found,) = doctor_trials.TRIALS["training step"]("meta")
    assert found.state == "fault"
    assert "gives loss 1 and gradient 2.5, the processor loss 1 and gradient 2" in found.said


# -------------------------------------------------------------------------------------------------------------- whole
@pytest.fixture
def finding(monkeypatch):
    """finding(…): what the trials find; the other checks are left out."""
    for name in ("package_checks", "machine_checks", "extra_checks"):
        monkeypatch.setattr(doctor, name, dict)
    monkeypatch.setattr(doctor, "folder_checks", lambda path: {})

    def say(*findings):
        monkeypatch.setattr(doctor, "trials", lambda device: iter(findings))

    return say


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warning", 0), ("fault", 1)])
def test_only_a_fault_is_a_failure(finding, capsys, state, code):
    finding(Finding("a", "ok", "fine"), Finding("b", state, "so", "this way" if state != "ok" else ""))
    assert cli.main(["doctor"]) == code
    told = capsys.readouterr().out
    assert "\x1b" not in told
    last = {
        "ok": "nothing is at fault",
        "warning": "nothing is at fault, 1 warning",
        "fault": "1 fault: mend the faults first",
    }
    assert told.splitlines()[-1] == last[state]
    assert cli.main(["doctor", "json=true"]) == code
    assert json.loads(capsys.readouterr().out)["state"] == state


def test_a_wrong_key_is_the_users_fault(capsys):
    assert cli.main(["doctor", "jsn=true", "json=maybe"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "jsn=true: there is no such key (did you mean 'json'?); known: json, device, run_dir",
        "json=maybe: true or false is wanted",
        "  [key-unknown] correct the name; visionkit TOOL --help lists the keys",
        "  [value-unfit] give a value of the kind that the line asks for",
    ]


def test_a_check_that_fails_is_told_and_ends_nothing():
    def failing():
        raise KeyError("MemAvailable")
        yield

    found = list(run_checks({"memory": failing, "next": lambda: [Finding("next", "ok", "here")]}))
    assert [one.state for one in found] == ["warning", "ok"]
    assert "KeyError" in found[0].said


def test_lines_are_aligned_and_mends_stand_below():
    findings = [Finding("a", "ok", "fine"), Finding("longer", "fault", "broken\x1b[31m", "mend it")]
    assert lines(findings, colour=False) == [
        "  ok       a       fine",
        "  fault    longer  broken\\x1b[31m",
        "                   mend: mend it",
    ]
    assert lines(findings[:1], colour=True) == ["  \x1b[32mok     \x1b[0m  a  fine"]


@pytest.mark.slow
def test_the_whole_on_this_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONKIT_CACHE", str(tmp_path / "cache"))
    code = cli.main(["doctor", "--json", "device=cpu"])
    told = json.loads(capsys.readouterr().out)
    assert code == int(told["state"] == "fault")
    assert [one["name"] for one in told["findings"]["trials"] if one["state"] == "ok"] == [
        "torch", "torchvision", "opencv", "albumentations", "pycocotools", "configuration", "training step",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []
