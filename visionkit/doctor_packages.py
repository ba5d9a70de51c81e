"""Which packages are installed, and do they belong together? Told from their metadata: nothing is imported here."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from visionkit.doctor_findings import Check, Finding

OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")
"""Four packages with one folder cv2, which the last one installed writes over."""
EXTRAS = {
    "timm": "the convolutional networks of timm as backbones: backbone=timm",
    "probe": "visionkit probe with kind=linear or knn",
    "fast-eval": "COCO's numbers about ten times faster",
    "export": "ONNX files: visionkit export format=onnx",
    "track": "curves in TensorBoard: track=[tensorboard]",
    "slurm": "sweeps as jobs of a Slurm cluster: hydra/launcher=submitit_slurm",
    "sweep": "sweeps that search by themselves: hydra/sweeper=optuna",
    "demo": "the page to try a model in a browser: visionkit demo",
    "dev": "the tests and linters of visionkit itself",
}
"""What each extra of pyproject.toml is for."""


def package_checks() -> Mapping[str, Check]:
    """The checks by name."""
    return {"python": _python, "visionkit": _visionkit, "requirements": _requirements, "opencv": _opencv}


def extra_checks() -> Mapping[str, Check]:
    """The one check of what is optional."""
    return {"extras": _extras}


def _python() -> Iterator[Finding]:
    have = sys.version.split()[0]
    wanted = _declared().get("requires-python", "")
    within = not wanted or _allows(wanted, have)
    why = " (hydra-core fails with 3.14)" if sys.version_info >= (3, 14) else ""
    if within:
        yield Finding("python", "ok", have)
    else:
        mend = "make a virtual environment with Python 3.11, 3.12 or 3.13 and install visionkit there"
        yield Finding("python", "fault", f"{have}; {wanted} is needed{why}", mend)


def _visionkit() -> Iterator[Finding]:
    folder = Path(__file__).resolve().parent
    try:
        version = metadata.version("visionkit")
    except metadata.PackageNotFoundError:
        said = f"not installed, only used from {folder}"
        yield Finding("visionkit", "warning", said, "pip install -e . in the folder above it")
        return
    from visionkit import __version__

    if version != __version__:
        said = f"the code in {folder} is {__version__}, but what is installed calls itself {version}"
        yield Finding("visionkit", "warning", said, "install it again: pip install -e . (or pip install -U visionkit)")
    else:
        yield Finding("visionkit", "ok", version)


def _requirements() -> Iterator[Finding]:
    for requirement in _declared()["dependencies"]:
        name, specifier = _taken_apart(requirement)
        if name.startswith("opencv"):
            continue
        have = _version(name)
        if have is None:
            yield Finding(name, "fault", "not installed", f'pip install "{requirement}"')
        elif not _allows(specifier, have):
            mend = f'pip install "{requirement}"'
            yield Finding(name, "fault", f"{have}, where {specifier} is needed", mend)
        else:
            yield Finding(name, "ok", have)


def _opencv() -> Iterator[Finding]:
    have = {name: version for name in OPENCV if (version := _version(name)) is not None}
    if not have:
        yield Finding("opencv", "fault", "not installed", f"pip install {OPENCV[0]}")
        return
    told = " and ".join(f"{name} {version}" for name, version in have.items())
    if len(have) == 1:
        yield Finding("opencv", "ok", told)
        return
    said = f"{told} write into one folder, cv2: which files are whose depends on the order of installing"
    mend = f"pip uninstall -y {' '.join(have)} && pip install {OPENCV[0]}"
    yield Finding("opencv", "warning", said, mend)


def _extras() -> Iterator[Finding]:
    for extra, requirements in _declared()["optional-dependencies"].items():
        lacking = []
        for requirement in requirements:
            name, specifier = _taken_apart(requirement)
            have = _version(name)
            if have is None or not _allows(specifier, have):
                lacking.append(name)
        purpose = f" ({EXTRAS[extra]})" if extra in EXTRAS else ""
        get = f"; {', '.join(lacking)}: pip install 'visionkit[{extra}]'" if lacking else ""
        yield Finding(extra, "ok", f"{'absent' if lacking else 'installed'}{purpose}{get}")


def _declared() -> dict[str, Any]:
    """What visionkit needs, as in pyproject.toml: from there in a checkout, else from what was installed."""
    file = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        if project.get("name") == "visionkit":
            return dict(project)
    installed = metadata.metadata("visionkit")
    extras: dict[str, list[str]] = {name: [] for name in installed.get_all("Provides-Extra") or []}
    dependencies: list[str] = []
    for line in installed.get_all("Requires-Dist") or []:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        (extras.setdefault(extra[1], []) if extra else dependencies).append(requirement.strip())
    python = installed["Requires-Python"]
    return {"requires-python": python, "dependencies": dependencies, "optional-dependencies": extras}


def _taken_apart(requirement: str) -> tuple[str, str]:
    """Return the name and the limits of a requirement such as "hydra-core>=1.3.8,<1.4"."""
    match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)", requirement)
    assert match is not None
    return match[1], match[2].strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _allows(specifier: str, version: str) -> bool:
    """Whether a version is within limits such as ">=1.3.8,<1.4" (of ==, !=, >=, >, <=, < on released versions)."""
    have = _numbers(version)
    for limit in filter(None, (part.strip() for part in specifier.split(","))):
        sign, wanted = re.match(r"(==|!=|>=|<=|>|<|~=)\s*(.*)", limit).groups()  # type: ignore[union-attr]
        other = _numbers(wanted)
        size = max(len(have), len(other))
        one, two = (numbers + (0,) * (size - len(numbers)) for numbers in (have, other))
        fits = {"==": one == two, "!=": one != two, ">=": one >= two, ">": one > two, "<=": one <= two, "<": one < two}
        if not fits.get(sign, one >= two):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version without what marks its build: 2.11.0+cu128 is (2, 11, 0), 3.14.0rc1 is (3, 14, 0)."""
    released = re.split(r"\+|(?<=\d)(?:a|b|rc|\.dev|\.post)", version)[0]
    return tuple(int(number) for number in re.findall(r"\d+", released))
