"""What the tests against hostile files share: a marker that no payload may make, limits, and the tools' own door."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from visionkit import cli

SECONDS, MEBIBYTES = 5, 500


@pytest.fixture
def marker(tmp_path):
    """The folder that each payload makes when it runs; a test ends with it absent."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists(), "code ran"


@pytest.fixture
def bounded():
    """Within `with bounded():` five seconds have to do, and 500 MiB beside what is taken already."""

    @contextlib.contextmanager
    def limits():
        def late(*_):
            raise TimeoutError(f"more than {SECONDS} s")

        status = Path("/proc/self/status").read_text().split()
        taken = int(status[status.index("VmData:") + 1]) << 10
        before = resource.getrlimit(resource.RLIMIT_DATA)
        handler = signal.signal(signal.SIGALRM, late)
        resource.setrlimit(resource.RLIMIT_DATA, (taken + (MEBIBYTES << 20), before[1]))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        begun = time.monotonic()
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
            resource.setrlimit(resource.RLIMIT_DATA, before)
        assert time.monotonic() - begun < SECONDS  # where something took the alarm for a fault of the file

    return limits


@pytest.fixture
def here(tmp_path, monkeypatch, scene_cache):
    """An empty folder to run tools in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("VISIONKIT_CACHE", str(scene_cache))
    return folder


@pytest.fixture
def refused(here, capsys):
    """refused("evaluate", "checkpoint=…"): the tool ends with 2, a line and its mend; the line is returned, and nothing
    is written.
    """

    def run(*typed):
        before = sorted(here.rglob("*"))
        capsys.readouterr()
        code = cli.main(list(typed))
        output = capsys.readouterr()
        lines = output.err.splitlines()
        assert code == 2, f"{code}: {output.err}"
        assert len(lines) == 2 and lines[1].startswith("  ["), output.err
        assert lines[0].isprintable()
        assert sorted(here.rglob("*")) == before, "something was written"
        return lines[0]

    return run


@pytest.fixture
def checkpoint(finished, tmp_path):
    """A whole checkpoint of its own, alone in a folder."""
    return Path(shutil.copytree(finished / "checkpoints" / "best", tmp_path / "checkpoint"))


@pytest.fixture
def put():
    """put(checkpoint, "model.json", content): replace a file, manifest and all, as somebody with bad intentions would.

    content: bytes, or what is written as JSON. more: further files of the manifest; files: what it has in their place.
    """

    def replace(folder, name, content, *, more=(), files=...):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name).write_bytes(content)
        manifest = json.loads((folder / "manifest.json").read_text())
        told = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["files"] = {**manifest["files"], name: told, **dict(more)} if files is ... else files
        if manifest.pop("sha256", None):
            manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return replace


@pytest.fixture
def run_of_one(finished, tmp_path):
    """A run folder of its own, with its last checkpoint alone."""
    folder = Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))
    last = (folder / "checkpoints" / "last").resolve()
    for other in (folder / "checkpoints").glob("step-*"):
        if other != last:
            shutil.rmtree(other)
    (folder / "checkpoints" / "best").unlink()
    (folder / "checkpoints" / "best").symlink_to(last.name)
    return folder


@pytest.fixture
def resume_refused(train, run_of_one, capsys):
    """resume_refused(): the run is refused with 2, a line and its mend; the line is returned."""

    def run():
        capsys.readouterr()
        assert train(f"resume={run_of_one}") == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2 and lines[1].startswith("  ["), lines
        assert lines[0].isprintable()
        return lines[0]

    return run


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (64, 64)).save(path)
    return path
