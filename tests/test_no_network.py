"""No network connection is opened by importing, training, evaluating or predicting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GUARD = """
import os, socket, sys

attempts = []

class Blocked(Exception):
    pass

def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        if arguments[0].family == getattr(socket, "AF_UNIX", None):
            return
    elif event not in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"):
        return
    attempts.append(f"{event} {arguments[1:]}" if event != "socket.getaddrinfo" else f"{event} {arguments}")
    raise Blocked(attempts[-1])

sys.addaudithook(hook)
os.environ.pop("NO_ALBUMENTATIONS_UPDATE", None)
"""
"""Raises where a connection is tried, and remembers it, since the one who tried may pass over the exception."""

ALL = """
import importlib, pkgutil
import visionkit

for module in pkgutil.walk_packages(visionkit.__path__, "visionkit."):
    importlib.import_module(module.name)
"""

RUN = """
from pathlib import Path
from visionkit.cli import main

run, out = Path("run"), Path("out")
tiny = ["debug=tiny", "device=cpu", "seed=1"]
assert main(["train", "task=detect", *tiny, f"run_dir={run}"]) == 0
assert main(["evaluate", f"checkpoint={run}", "device=cpu", "run_dir=scored"]) == 0
import cv2, numpy
cv2.imwrite("picture.png", numpy.full((50, 70, 3), 90, numpy.uint8))
assert main(["predict", f"checkpoint={run}", "source=picture.png", f"out={out}", "device=cpu"]) == 0
"""

END = """
import json
print("ATTEMPTS " + json.dumps(attempts))
"""


def attempts(code, folder: Path):
    environment = {**os.environ, "VISIONKIT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", GUARD + code + END],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.rpartition("ATTEMPTS ")[2])


@pytest.mark.parametrize(
    "call",
    [
        "socket.create_connection(('127.0.0.1', 9), 1)",
        "socket.getaddrinfo('localhost', 80)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
    ],
)
def test_the_guard_sees_what_is_tried(call, tmp_path):
    lines = "\n    ".join(call.split("; "))
    assert attempts(f"\ntry:\n    {lines}\nexcept Exception:\n    pass\n", tmp_path)


def test_importing_everything_and_a_whole_run_open_no_connection(tmp_path):
    assert attempts(ALL + RUN, tmp_path) == []
    assert (tmp_path / "run/checkpoints/last").exists()
    assert (tmp_path / "scored/metrics.json").exists()
    assert list((tmp_path / "out").iterdir())
